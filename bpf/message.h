/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The message hooks: sendmsg classifies and diverts datagrams of unconnected sockets, and recvmsg
 * restores the source address of answers. Also the end of UDP flows.
 */
#ifndef SIDETRACK_MESSAGE_H
#define SIDETRACK_MESSAGE_H

/* ---- sendmsg -------------------------------------------------------------------------------- */

/* Shortest interval, in nanoseconds, between two updates of a flow's idle_since. */
#define IDLE_RESOLUTION_NS 1000000000ULL

/*
 * Diverts to the existing flow of the destination, if there is one and its service listens.
 * Otherwise returns UNDECIDED.
 */
static __noinline int datagram_to_existing_flow(struct bpf_sock_addr *ctx,
						const struct connection *c, __u64 parent_id,
						struct target *target)
{
	struct sidetrack_destination destination = { .parent_id = parent_id };
	__u64 now = bpf_ktime_get_ns();
	struct sidetrack_flow_entry *entry;
	struct sidetrack_service *service;
	__u32 number;
	int error;

	destination.client_cookie = bpf_get_socket_cookie(ctx);
	__builtin_memcpy(destination.remote_addr, c->remote.bytes, sizeof(destination.remote_addr));
	destination.remote_port = c->port;
	entry = destination_find(&destination, now);
	if (!entry)
		return UNDECIDED;
	number = flow_service(&entry->flow);
	service = bpf_map_lookup_elem(&sidetrack_services, &number);
	if (!service || !datagram_sockets(service, c->family))
		return UNDECIDED;
	error = datagram_lift_device(ctx, c);
	if (error)
		return refuse_unrouted(error);
	if (now - entry->idle_since >= IDLE_RESOLUTION_NS)
		entry->idle_since = now;
	return datagram_target(&entry->flow, service, target);
}

/*
 * Does the datagram go to the socket's own flow already? For an IPv6 socket that is connected to an
 * IPv4 address, the sendmsg hook runs with the address that the connect was diverted to.
 */
static __always_inline int is_diverted_already(struct bpf_sock_addr *ctx,
					       const struct connection *c)
{
	struct sidetrack_flow_entry *entry = datagram_flow_at(&c->remote);

	return entry && entry->client_cookie == bpf_get_socket_cookie(ctx);
}

/* Decides about the first datagram to a destination, or one whose verdict is not cached. */
static __always_inline int decide_first_datagram(struct bpf_sock_addr *ctx, struct connection *c,
						 __u64 parent_id, struct target *target)
{
	struct classify_context classify = {};
	int decision;

	if (!policy_applies(&classify, c, parent_id) || sender_is_cached(ctx, c, parent_id))
		return proceed_undiverted(ctx);
	c->cacheable = prefilter_excludes(&classify, c, parent_id);
	decision = c->cacheable ? proceed_undiverted(ctx) :
				  decide_by_policy(ctx, &classify, c, parent_id, target);
	if (decision != PROCEED)
		return decision;
	if (!peer_sent_first(ctx, c, parent_id))
		verdict_cache_add(bpf_get_socket_cookie(ctx), CACHED_SENT, c);
	if (c->cacheable)
		sender_cache_add(ctx, c, parent_id);
	return PROCEED;
}

/* Decides about a datagram. */
static __always_inline int decide_datagram(struct bpf_sock_addr *ctx, struct connection *c,
					   struct target *target)
{
	struct sidetrack_socket *socket = bpf_sk_storage_get(&sidetrack_sockets, ctx->sk, NULL, 0);
	__u64 parent_id = socket ? socket->parent_id : 0;
	int decision;

	if (socket && socket->role == SIDETRACK_SOCKET_LISTENER && !listener_is_stale(socket))
		return PROCEED; /* an answer of a service */
	if (is_diverted_already(ctx, c))
		return PROCEED;
	decision = datagram_to_existing_flow(ctx, c, parent_id, target);
	return decision == UNDECIDED ? decide_first_datagram(ctx, c, parent_id, target) : decision;
}

static __always_inline int sendmsg4(struct bpf_sock_addr *ctx)
{
	return divert4(ctx, 1, decide_datagram);
}

static __always_inline int sendmsg6(struct bpf_sock_addr *ctx)
{
	return divert6(ctx, 1, decide_datagram);
}

/* ---- recvmsg: an answer appears to come from the original destination ---------------------- */

/* Layers whose classification depends on which side sent first. */
#define LAYERS_BY_FIRST_SENDER                                                                     \
	(3U << SIDETRACK_LAYER_CONNECT_REDIRECT | 3U << SIDETRACK_LAYER_AUTH_RECV_ACCEPT)

/*
 * The socket has received a datagram that belongs to no flow. Records that the peer sent first,
 * unless the socket has sent to it before.
 */
static __noinline int note_received_first(struct bpf_sock_addr *ctx, const union address *from)
{
	struct connection c = { .port = ctx->user_port, .remote = *from };
	__u64 client_cookie = bpf_get_socket_cookie(ctx);
	void *policy = policy_in_force();
	struct sidetrack_socket *socket;

	if (!policy || !(layers_in_force(policy) & LAYERS_BY_FIRST_SENDER) || !ctx->sk ||
	    ctx->sk->state == BPF_TCP_ESTABLISHED)
		return 0;
	socket = bpf_sk_storage_get(&sidetrack_sockets, ctx->sk, NULL, 0);
	if (socket && socket->role == SIDETRACK_SOCKET_LISTENER)
		return 0; /* a service receives from all clients */
	if (verdict_cache_has(client_cookie, CACHED_SENT, &c) ||
	    verdict_cache_has(client_cookie, CACHED_RECEIVED_FIRST, &c))
		return 0;
	return verdict_cache_add(client_cookie, CACHED_RECEIVED_FIRST, &c);
}

/* The original destination from which this answer appears to come. Fails if it belongs to no flow.
 */
static __always_inline int sender_original(struct bpf_sock_addr *ctx, const union address *from,
					   struct target *original)
{
	struct sidetrack_flow_entry *entry = datagram_flow_at(from);
	struct sidetrack_service *service;
	__u32 number;

	if (!entry) {
		note_received_first(ctx, from);
		return -1;
	}
	if (entry->client_cookie != bpf_get_socket_cookie(ctx))
		return -1;
	number = flow_service(&entry->flow);
	service = bpf_map_lookup_elem(&sidetrack_services, &number);
	if (!service || ctx->user_port != datagram_port(service, entry->flow.family))
		return -1;
	return flow_original_destination(&entry->flow, original);
}

static __always_inline int recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore_original4(ctx, sender_original);
}

static __always_inline int recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore_original6(ctx, sender_original);
}

/* ---- sock_release, and sweep ---------------------------------------------------------------- */

/* A program closes a UDP socket. If it was connected to a flow, the flow is over. */
static __always_inline void client_release(struct bpf_sock *sk)
{
	struct sidetrack_flow_entry *entry;
	union address connected;

	if (sk->protocol != IPPROTO_UDP || sk->state != BPF_TCP_ESTABLISHED)
		return;
	address_from_peer(&connected, sk);
	entry = datagram_flow_at(&connected);
	if (!entry || entry->client_cookie != bpf_get_socket_cookie(sk))
		return;
	client_learn_address(entry);
	entry->idle_since = bpf_ktime_get_ns();
	datagram_flow_end(entry, FLOW_STATE_ID(entry->state));
}

/* One slot: ends its flow if that is a UDP flow that is over. */
static long sweep_step(__u32 slot, __u64 *now)
{
	struct sidetrack_flow_entry *entry = bpf_map_lookup_elem(&sidetrack_flows, &slot);
	__u64 state = entry ? entry->state : 0;

	if (FLOW_STATE_STAGE(state) == SIDETRACK_STAGE_DATAGRAM && !FLOW_STATE_REFCOUNT(state) &&
	    (datagram_flow_is_over(entry, *now) || !client_is_open(entry)))
		datagram_flow_end(entry, FLOW_STATE_ID(state));
	return 0;
}

/* Ends the UDP flows that are over, so that they are not counted any more. The engine runs it. */
static __always_inline int sweep(void)
{
	__u64 now = bpf_ktime_get_ns();

	bpf_loop(flows_max, sweep_step, &now, 0);
	return 0;
}

#endif /* SIDETRACK_MESSAGE_H */
