/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * UDP flows. Each has its own address, to which its datagrams are diverted and from which the
 * service answers: so a service can distinguish its flows on a single socket.
 */
#ifndef SIDETRACK_DATAGRAM_H
#define SIDETRACK_DATAGRAM_H

/* ---- The address of a flow ---------------------------------------------------------------- */

static __always_inline struct sidetrack_flow_entry *datagram_flow_at4(__be32 address)
{
	__u32 number = bpf_ntohl(address) - DATAGRAM_ADDRESS_FIRST, slot = number % flows_max;
	struct sidetrack_flow_entry *entry;

	if (number >= DATAGRAM_ADDRESSES)
		return NULL;
	entry = bpf_map_lookup_elem(&sidetrack_flows, &slot);
	return entry && datagram_address4(FLOW_STATE_ID(entry->state)) == address ? entry : NULL;
}

/* The UDP flow with this address, open or closed; NULL if there is none. */
static __always_inline struct sidetrack_flow_entry *datagram_flow_at(const union address *address)
{
	struct sidetrack_flow_entry *entry;
	union address expected;
	__u64 id;

	if (address_is_mapped(address)) {
		entry = datagram_flow_at4(address->words[3]);
	} else {
		id = bpf_be64_to_cpu(address->halves[1]);
		datagram_address6(id, &expected);
		entry = expected.halves[0] == address->halves[0] ? flow_find(id) : NULL;
	}
	return entry && entry->flow.protocol == IPPROTO_UDP ? entry : NULL;
}

/* The id of that flow; 0 if there is none. */
static __noinline __u64 datagram_flow_id_at(const union address *address)
{
	struct sidetrack_flow_entry *entry = datagram_flow_at(address);

	return entry ? FLOW_STATE_ID(entry->state) : 0;
}

static __always_inline void datagram_address(const struct sidetrack_flow *flow, union address *to)
{
	if (flow->family == AF_INET)
		address_from_v4(to, datagram_address4(flow->id));
	else
		datagram_address6(flow->id, to);
}

static __always_inline __be16 datagram_port(const struct sidetrack_service *service, __u32 family)
{
	return family == AF_INET ? service->datagram_port4 : service->datagram_port6;
}

/* The number of UDP sockets that the service has for a family. */
static __always_inline __u32 datagram_sockets(const struct sidetrack_service *service, __u32 family)
{
	return family == AF_INET ? service->datagrams4 : service->datagrams6;
}

/* Would a datagram to this destination reach a UDP socket of the service? */
static __always_inline int datagrams_reach_service(const struct sidetrack_service *service,
						   const struct connection *c)
{
	return datagram_sockets(service, c->family) &&
	       c->port == datagram_port(service, c->family) &&
	       (address_is_loopback6(&c->remote) ||
		(address_is_mapped(&c->remote) && c->remote.bytes[12] == 127) ||
		datagram_flow_at(&c->remote));
}

/*
 * Is this an answer by the service to the client of a flow, from a socket that is bound to the
 * address of the flow?
 */
static __always_inline int is_service_reply(const struct connection *c, __u32 service)
{
	struct sidetrack_flow_entry *entry;
	const union address *client;

	if (c->protocol != IPPROTO_UDP)
		return 0;
	entry = datagram_flow_at(&c->local);
	if (!entry || flow_service(&entry->flow) != service)
		return 0;
	client_learn_address(entry);
	client = (const union address *)entry->flow.local_addr;
	return c->port == entry->flow.local_port &&
	       (address_is_any(client) || address_is_equal(client, &c->remote));
}

/* ---- The flow of a destination, and its end ------------------------------------------------ */

/* Ends a flow for its client. Outgoing sockets of proxies may still refer to it. */
__noinline int datagram_flow_end(struct sidetrack_flow_entry *entry, __u64 id)
{
	if (!entry)
		return 0;
	for (int i = 0; i < FLOW_STATE_RETRIES; i++) {
		__u64 state = entry->state;
		__u32 refcount = FLOW_STATE_REFCOUNT(state);

		if (FLOW_STATE_ID(state) != id ||
		    FLOW_STATE_STAGE(state) != SIDETRACK_STAGE_DATAGRAM)
			return 0;
		if (!flow_state_exchange(entry, state,
					 FLOW_STATE(id,
						    refcount ? SIDETRACK_STAGE_ESTABLISHED :
							       SIDETRACK_STAGE_CLOSED,
						    refcount)))
			continue;
		if (refcount)
			__sync_fetch_and_add(&flows_live, 1);
		destination_delete(entry, id);
		return 0;
	}
	return 0;
}

/* The flow of a destination; NULL if there is none, or if it is over. */
static __always_inline struct sidetrack_flow_entry *
destination_find(const struct sidetrack_destination *destination, __u64 now)
{
	__u64 *id = bpf_map_lookup_elem(&sidetrack_destinations, destination);
	struct sidetrack_flow_entry *entry = id ? flow_find(*id) : NULL;

	if (!entry || FLOW_STATE_STAGE(entry->state) != SIDETRACK_STAGE_DATAGRAM ||
	    now - entry->idle_since >= idle_ns)
		return NULL;
	return entry;
}

/*
 * Makes a new flow the flow of its destination. If another thread was faster, the other thread's
 * flow to the same service is used instead. Returns the flow in use; NULL if the map is full.
 */
static __always_inline struct sidetrack_flow_entry *
destination_set(struct sidetrack_flow_entry *entry, __u64 id)
{
	struct sidetrack_flow_entry *other;
	struct sidetrack_destination key;
	__u64 *current;

	destination_fill(entry, &key);
	if (!bpf_map_update_elem(&sidetrack_destinations, &key, &id, BPF_NOEXIST))
		return entry;
	other = destination_find(&key, entry->idle_since);
	if (other && flow_service(&other->flow) == flow_service(&entry->flow))
		return other;
	current = bpf_map_lookup_elem(&sidetrack_destinations, &key);
	other = current ? flow_find(*current) : NULL;
	if (other)
		datagram_flow_end(other, FLOW_STATE_ID(other->state));
	return bpf_map_update_elem(&sidetrack_destinations, &key, &id, BPF_ANY) ? NULL : entry;
}

/* Fills in what only UDP flows have, or what a TCP flow gets later. */
static __always_inline void datagram_fill(struct bpf_sock_addr *ctx,
					  struct sidetrack_flow_entry *entry,
					  const struct connection *c)
{
	struct sidetrack_client *lifted = bpf_sk_storage_get(&sidetrack_clients, ctx->sk, NULL, 0);

	if (lifted)
		entry->flow.bound_ifindex = lifted->bound_ifindex;
	entry->socket_pointer = (__u64)ctx->sk;
	entry->flow.netns_cookie = bpf_get_netns_cookie(ctx);
	__builtin_memcpy(entry->flow.local_addr, c->local.bytes, sizeof(c->local));
	entry->flow.local_port = c->local_port;
	if (!c->sending)
		entry->flow.flags |= SIDETRACK_FLOW_CONNECTED;
}

/* ---- Which side sent first ------------------------------------------------------------------- */

/*
 * Did the peer send to this socket before the socket sent to it? Then the program is a server, and
 * its answers are not diverted. A proxy's outgoing socket never counts as a server's.
 */
static __always_inline int peer_sent_first(struct bpf_sock_addr *ctx, const struct connection *c,
					   __u64 parent_id)
{
	return !parent_id &&
	       verdict_cache_has(bpf_get_socket_cookie(ctx), CACHED_RECEIVED_FIRST, c);
}

/* ---- Diverting ------------------------------------------------------------------------------ */

/*
 * Lifts the socket's binding to a device. The kernel chooses the route of a datagram before the
 * sendmsg hook runs, so the program must send again after that (EINTR); a datagram to a link-local
 * address cannot be diverted at all. A connect hook runs before the route is chosen. Returns an
 * errno, or 0.
 */
static __noinline int datagram_lift_device(struct bpf_sock_addr *ctx, const struct connection *c)
{
	struct sidetrack_client *client;
	int bound = ctx->sk->bound_dev_if;

	if (c->sending && c->family == AF_INET6 && address_is_link_local6(&c->remote))
		return ENETUNREACH;
	if (!bound || bound == LOOPBACK_IFINDEX)
		return 0;
	client = bpf_sk_storage_get(&sidetrack_clients, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!client)
		return ENOBUFS;
	if (lift_device(ctx, client))
		return ENETUNREACH;
	return c->sending ? EINTR : 0;
}

/* The datagram cannot be diverted because of its route. */
static __always_inline int refuse_unrouted(int error)
{
	count(SIDETRACK_COUNT_DATAGRAMS_UNROUTED);
	bpf_set_retval(-error);
	return REFUSE;
}

/* Sets the target to the address of a flow, and returns DIVERT. */
static __always_inline int datagram_target(const struct sidetrack_flow *flow,
					   const struct sidetrack_service *service,
					   struct target *target)
{
	datagram_address(flow, &target->address);
	target->port = datagram_port(service, flow->family);
	return DIVERT;
}

/* Diverts a connect or datagram to a new flow, unless the program is a server that answers. */
static __noinline int divert_datagram(struct bpf_sock_addr *ctx, const struct connection *c,
				      const struct sidetrack_service *service,
				      const struct sidetrack_client *client, struct target *target)
{
	struct sidetrack_flow_entry *entry, *chosen;
	__u64 id;
	int error;

	if (peer_sent_first(ctx, c, client->parent_id))
		return proceed_undiverted(ctx);
	error = datagram_lift_device(ctx, c);
	if (error)
		return refuse_unrouted(error);
	id = flow_make(client, bpf_get_socket_cookie(ctx));
	entry = flow_slot(id);
	if (!id || !entry)
		return NO_ROOM;
	datagram_fill(ctx, entry, c);
	__sync_fetch_and_add(&flows_datagram, 1);
	__sync_lock_test_and_set(&entry->state, FLOW_STATE(id, SIDETRACK_STAGE_DATAGRAM, 0));
	if (c->sending) {
		chosen = destination_set(entry, id);
		if (chosen != entry)
			datagram_flow_end(entry, id);
		if (!chosen)
			return NO_ROOM;
		entry = chosen;
	}
	return datagram_target(&entry->flow, service, target);
}

#endif /* SIDETRACK_DATAGRAM_H */
