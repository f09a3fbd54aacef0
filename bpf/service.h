/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The listeners of a service, and the processes that belong to it. */
#ifndef SIDETRACK_SERVICE_H
#define SIDETRACK_SERVICE_H

/* Changes the number of listeners of the socket's protocol and family. */
static __always_inline void listener_count_change(struct bpf_sock *sk,
						  struct sidetrack_service *service, int change)
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

/* A search for a service that listens at a port. */
struct port_search {
	__u32 except; /* number of the service that does not count */
	__u32 found;  /* 1 once there is one */
	__u8 family;
	__be16 port;
};

static long port_search_step(__u32 number, struct port_search *search)
{
	struct sidetrack_service *service = bpf_map_lookup_elem(&sidetrack_services, &number);

	if (!service || number == search->except)
		return 0;
	search->found = search->family == AF_INET ?
				service->listeners4 && service->port4 == search->port :
				service->listeners6 && service->port6 == search->port;
	return search->found;
}

/*
 * Does the listener share its port with a listener of another service? Listeners that share a port
 * (SO_REUSEPORT) receive each other's connections, so listeners of two services must not share one.
 */
static __always_inline int port_is_shared(struct bpf_sock *sk, __u32 number)
{
	struct port_search search = {
		.except = number,
		.family = sk->family,
		.port = bpf_htons(sk->src_port),
	};
	int shared = 0;

	if (bpf_getsockopt(sk, SOL_SOCKET, SO_REUSEPORT, &shared, sizeof(shared)) || !shared)
		return 0;
	bpf_loop(SIDETRACK_SERVICES_MAX, port_search_step, &search, 0);
	return search.found;
}

/* Adds a TCP listener. All TCP listeners of a service have one address and port for each family. */
static __always_inline int listener_add(struct bpf_sock *sk, struct sidetrack_service *service,
					__u32 number)
{
	union address *addr6 = (union address *)service->addr6, local;
	__be16 port = bpf_htons(sk->src_port);

	if (port_is_shared(sk, number))
		return -EADDRINUSE;
	if (listener_mark_accepted(sk))
		return -ENOMEM;
	address_from_socket(&local, sk);
	if (sk->family == AF_INET) {
		if (service->listeners4 &&
		    (service->addr4 != local.words[3] || service->port4 != port))
			return -EADDRINUSE;
		service->addr4 = local.words[3];
		service->port4 = port;
	} else {
		if (service->listeners6 &&
		    (!address_is_equal(addr6, &local) || service->port6 != port))
			return -EADDRINUSE;
		*addr6 = local;
		service->port6 = port;
	}
	listener_count_change(sk, service, 1);
	return 0;
}

/* Adds a UDP socket. All of a service's UDP sockets of one family are bound to the same port. */
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
	listener_count_change(sk, service, 1);
	return 0;
}

/* Counts one more owner in a cgroup. Fails if the map is full. */
static __always_inline int owner_cgroup_add(__u64 cgroup)
{
	struct sidetrack_owner_cgroup first = { .owners = 1 }, *entry;

	if (!bpf_map_update_elem(&sidetrack_owner_cgroups, &cgroup, &first, BPF_NOEXIST))
		return 0;
	entry = bpf_map_lookup_elem(&sidetrack_owner_cgroups, &cgroup);
	if (!entry)
		return -1;
	__sync_fetch_and_add(&entry->owners, 1);
	return 0;
}

/* Counts one owner less, and deletes the entry if nothing is left in it. */
static __always_inline void owner_cgroup_remove(__u64 cgroup)
{
	struct sidetrack_owner_cgroup *entry;

	entry = bpf_map_lookup_elem(&sidetrack_owner_cgroups, &cgroup);
	if (entry && __sync_fetch_and_add(&entry->owners, -1) == 1 && !entry->service)
		bpf_map_delete_elem(&sidetrack_owner_cgroups, &cgroup);
}

/*
 * LISTEN makes the calling process, with its descendants, an owner: it knows the service's secret.
 * For a legacy proxy it does nothing: there the engine sets LISTEN, and adds the owners itself.
 * Fails if a map is full.
 */
static __always_inline int owner_add(struct sidetrack_socket *socket,
				     const struct sidetrack_service *service)
{
	struct sidetrack_owner owner = { .service = socket->service, .listeners = 1 };
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct sidetrack_owner *existing;

	if (service->records == SIDETRACK_RECORDS_LEGACY)
		return 0;
	owner.cgroup_id = bpf_get_current_cgroup_id();
	owner.started = program_started(bpf_get_current_task_btf());
	socket->owner_pid = tgid;
	socket->owner_started = owner.started;
	existing = bpf_map_lookup_elem(&sidetrack_owners, &tgid);
	if (existing && existing->service == owner.service && existing->started == owner.started &&
	    existing->cgroup_id == owner.cgroup_id) {
		__sync_fetch_and_add(&existing->listeners, 1);
		return 0;
	}
	if (existing)
		owner_cgroup_remove(existing->cgroup_id);
	if (owner_cgroup_add(owner.cgroup_id))
		return -1;
	if (!bpf_map_update_elem(&sidetrack_owners, &tgid, &owner, BPF_ANY))
		return 0;
	owner_cgroup_remove(owner.cgroup_id);
	return -1;
}

/*
 * A listener has closed. A process stays an owner as long as a listener that it marked is open, no
 * matter which process closes it. A process that the engine named stays an owner until it closes
 * the service's last listener.
 */
static __always_inline void owner_remove(const struct sidetrack_socket *socket,
					 __u32 listeners_left)
{
	__u32 key =
		socket->owner_pid ? socket->owner_pid : owner_named_key(bpf_get_current_task_btf());
	struct sidetrack_owner *owner = bpf_map_lookup_elem(&sidetrack_owners, &key);

	if (!owner || owner->service != socket->service)
		return;
	if (socket->owner_pid) {
		if (owner->started != socket->owner_started ||
		    __sync_fetch_and_add(&owner->listeners, -1) != 1)
			return;
	} else if (listeners_left) {
		return;
	}
	owner_cgroup_remove(owner->cgroup_id);
	bpf_map_delete_elem(&sidetrack_owners, &key);
}

/* ---- The engine has removed a service -------------------------------------------------------- */

/* Is there no service of this number? The engine zeroes one that it removes. */
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

static long owner_cgroup_collect(void *map, __u64 *cgroup, struct sidetrack_owner_cgroup *entry,
				 void *none)
{
	__u64 key = *cgroup;

	if (!entry->service || !service_is_gone(entry->service))
		return 0;
	entry->service = 0;
	if (!entry->owners)
		bpf_map_delete_elem(&sidetrack_owner_cgroups, &key);
	return 0;
}

/* Removes the owners, and the ownership of cgroups, of services that no longer exist. */
static __always_inline int owners_collect(void)
{
	bpf_for_each_map_elem(&sidetrack_owners, owner_collect, NULL, 0);
	bpf_for_each_map_elem(&sidetrack_owner_cgroups, owner_cgroup_collect, NULL, 0);
	return 0;
}

/* The last pended listener has closed: the engine resets the clients that it held. */
static __noinline int pended_left(__u32 service)
{
	struct connection c = {
		.family = AF_INET,
		.protocol = IPPROTO_TCP,
		.layer = SIDETRACK_LAYER_CONNECT_REDIRECT,
		.not_by_current = 1,
	};

	address_from_v4(&c.remote, 0);
	address_from_v4(&c.local, 0);
	return event_emit(SIDETRACK_EVENT_PENDED_LEFT, &c, 0, service, NULL);
}

/* Was the service of this listener or sender removed? Then it belongs to no service. */
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
		return; /* its service was removed */
	listener_count_change(sk, service, -1);
	if (socket->pended && __sync_fetch_and_add(&service->pended_listeners, -1) == 1)
		pended_left(number);
	owner_remove(socket, service->listeners4 + service->listeners6 + service->datagrams4 +
				     service->datagrams6);
}

#endif /* SIDETRACK_SERVICE_H */
