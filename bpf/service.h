/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A service's listeners, and the processes that are its own. */
#ifndef SIDETRACK_SERVICE_H
#define SIDETRACK_SERVICE_H

static __always_inline void listener_count(struct bpf_sock *sk, struct sidetrack_service *service,
					   int change)
{
	if (sk->protocol == IPPROTO_UDP && sk->family == AF_INET)
		__sync_fetch_and_add(&service->datagrams4, change);
	else if (sk->protocol == IPPROTO_UDP)
		__sync_fetch_and_add(&service->datagrams6, change);
	else if (sk->family == AF_INET)
		__sync_fetch_and_add(&service->listeners4, change);
	else
		__sync_fetch_and_add(&service->listeners6, change);
}

#define SOL_SOCKET 1
#define SO_REUSEPORT 15

/* A look for the service that listens at a port. */
struct port_search {
	__u32 but; /* this one aside */
	__u32 found;
	__u8 family;
	__be16 port;
};

static long port_search_step(__u32 number, struct port_search *search)
{
	struct sidetrack_service *service = bpf_map_lookup_elem(&sidetrack_services, &number);

	if (!service || number == search->but)
		return 0;
	search->found = search->family == AF_INET ?
				service->listeners4 && service->port4 == search->port :
				service->listeners6 && service->port6 == search->port;
	return search->found;
}

/*
 * Listeners that share a port (SO_REUSEPORT) get each other's connections: a service's must not be
 * another's.
 */
static __always_inline int port_is_shared(struct bpf_sock *sk, __u32 number)
{
	struct port_search search = {
		.but = number,
		.family = sk->family,
		.port = bpf_htons(sk->src_port),
	};
	int shared = 0;

	if (bpf_getsockopt(sk, SOL_SOCKET, SO_REUSEPORT, &shared, sizeof(shared)) || !shared)
		return 0;
	bpf_loop(SIDETRACK_SERVICES_MAX, port_search_step, &search, 0);
	return search.found;
}

/* Takes the listener's address as the service's, or finds that it is another one. */
static __always_inline int listener_add(struct bpf_sock *sk, struct sidetrack_service *service,
					__u32 number)
{
	union address *addr6 = (union address *)service->addr6, own;
	__be16 port = bpf_htons(sk->src_port);

	if (port_is_shared(sk, number))
		return -EADDRINUSE;
	if (listener_mark_accepted(sk))
		return -ENOMEM;
	address_from_socket(&own, sk);
	if (sk->family == AF_INET) {
		if (service->listeners4 &&
		    (service->addr4 != own.words[3] || service->port4 != port))
			return -EADDRINUSE;
		service->addr4 = own.words[3];
		service->port4 = port;
	} else {
		if (service->listeners6 &&
		    (!address_is_equal(addr6, &own) || service->port6 != port))
			return -EADDRINUSE;
		*addr6 = own;
		service->port6 = port;
	}
	listener_count(sk, service, 1);
	return 0;
}

/* A UDP socket: all of a family are bound to one port, of the wildcard address. */
static __always_inline int
datagram_listener_add(struct bpf_sock *sk, struct sidetrack_service *service, __u64 netns_cookie)
{
	__be16 port = bpf_htons(sk->src_port);

	if (sk->family == AF_INET) {
		if (service->datagrams4 && service->datagram_port4 != port)
			return -EADDRINUSE;
		service->datagram_port4 = port;
	} else {
		if (!bpf_map_lookup_elem(&sidetrack_networks, &netns_cookie))
			return -EADDRNOTAVAIL;
		if (service->datagrams6 && service->datagram_port6 != port)
			return -EADDRINUSE;
		service->datagram_port6 = port;
	}
	listener_count(sk, service, 1);
	return 0;
}

/* A cgroup has one more process that is an owner. */
static __always_inline int owner_cgroup_add(__u64 cgroup)
{
	struct sidetrack_owner_cgroup first = { .owners = 1 }, *known;

	if (!bpf_map_update_elem(&sidetrack_owner_cgroups, &cgroup, &first, BPF_NOEXIST))
		return 0;
	known = bpf_map_lookup_elem(&sidetrack_owner_cgroups, &cgroup);
	if (!known)
		return -1; /* the map is full */
	__sync_fetch_and_add(&known->owners, 1);
	return 0;
}

static __always_inline void owner_cgroup_remove(__u64 cgroup)
{
	struct sidetrack_owner_cgroup *known;

	known = bpf_map_lookup_elem(&sidetrack_owner_cgroups, &cgroup);
	if (known && __sync_fetch_and_add(&known->owners, -1) == 1 && !known->service)
		bpf_map_delete_elem(&sidetrack_owner_cgroups, &cgroup);
}

/*
 * Whoever brings the secret speaks for the service, with all its children. Not so for a legacy
 * proxy: the engine brings it in its stead, and says itself whose the listener is.
 */
static __always_inline int owner_add(struct sidetrack_socket *socket,
				     const struct sidetrack_service *service)
{
	struct sidetrack_owner owner = { .service = socket->service, .listeners = 1 };
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct sidetrack_owner *known;

	if (service->records == SIDETRACK_RECORDS_LEGACY)
		return 0;
	owner.cgroup_id = bpf_get_current_cgroup_id();
	owner.started = program_started(bpf_get_current_task_btf());
	socket->owner = tgid;
	socket->owner_started = owner.started;
	known = bpf_map_lookup_elem(&sidetrack_owners, &tgid);
	if (known && known->service == owner.service && known->started == owner.started &&
	    known->cgroup_id == owner.cgroup_id) {
		__sync_fetch_and_add(&known->listeners, 1);
		return 0;
	}
	if (known)
		owner_cgroup_remove(known->cgroup_id);
	if (owner_cgroup_add(owner.cgroup_id))
		return -1;
	if (!bpf_map_update_elem(&sidetrack_owners, &tgid, &owner, BPF_ANY))
		return 0;
	owner_cgroup_remove(owner.cgroup_id);
	return -1;
}

/*
 * A process is its service's as long as a listener that it marked is open, whoever closes it. One
 * that the engine named: until it closes the service's last.
 */
static __always_inline void owner_remove(const struct sidetrack_socket *socket,
					 __u32 listeners_left)
{
	__u32 key = socket->owner ? socket->owner : owner_named(bpf_get_current_task_btf());
	struct sidetrack_owner *owner = bpf_map_lookup_elem(&sidetrack_owners, &key);

	if (!owner || owner->service != socket->service)
		return;
	if (socket->owner) {
		if (owner->started != socket->owner_started ||
		    __sync_fetch_and_add(&owner->listeners, -1) != 1)
			return;
	} else if (listeners_left) {
		return;
	}
	owner_cgroup_remove(owner->cgroup_id);
	bpf_map_delete_elem(&sidetrack_owners, &key);
}

/* ---- The engine has taken a service away ---------------------------------------------------- */

/* Nobody has this number: the engine has wiped it, and the secret with it. */
static __always_inline int service_is_gone(__u32 number)
{
	struct sidetrack_service *service = bpf_map_lookup_elem(&sidetrack_services, &number);
	const __u64 *secret;

	if (!service)
		return 1;
	secret = (const __u64 *)service->secret;
	return !(secret[0] | secret[1]);
}

static long owner_collect(void *map, __u32 *tgid, struct sidetrack_owner *owner, void *none)
{
	__u32 key = *tgid;

	if (!service_is_gone(owner->service))
		return 0;
	owner_cgroup_remove(owner->cgroup_id);
	bpf_map_delete_elem(&sidetrack_owners, &key);
	return 0;
}

static long owner_cgroup_collect(void *map, __u64 *cgroup, struct sidetrack_owner_cgroup *known,
				 void *none)
{
	__u64 key = *cgroup;

	if (!known->service || !service_is_gone(known->service))
		return 0;
	known->service = 0;
	if (!known->owners)
		bpf_map_delete_elem(&sidetrack_owner_cgroups, &key);
	return 0;
}

static __always_inline int owners_collect(void)
{
	bpf_for_each_map_elem(&sidetrack_owners, owner_collect, NULL, 0);
	bpf_for_each_map_elem(&sidetrack_owner_cgroups, owner_cgroup_collect, NULL, 0);
	return 0;
}

/* Its service was taken away: it is nobody's, and may be marked again. */
static __always_inline int listener_is_stale(const struct sidetrack_socket *socket)
{
	__u32 number = socket->service;
	struct sidetrack_service *service = bpf_map_lookup_elem(&sidetrack_services, &number);

	return !service || service->epoch != socket->epoch;
}

static __always_inline void listener_remove(struct bpf_sock *sk,
					    const struct sidetrack_socket *socket)
{
	__u32 number = socket->service;
	struct sidetrack_service *service = bpf_map_lookup_elem(&sidetrack_services, &number);

	if (!service || service->epoch != socket->epoch)
		return; /* it is of a service that was taken away */
	listener_count(sk, service, -1);
	owner_remove(socket, service->listeners4 + service->listeners6 + service->datagrams4 +
				     service->datagrams6);
}

#endif /* SIDETRACK_SERVICE_H */
