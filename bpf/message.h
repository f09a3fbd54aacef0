/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The message hooks: datagrams of unconnected sockets, and who they say they come from. */
#ifndef SIDETRACK_MESSAGE_H
#define SIDETRACK_MESSAGE_H

/* ---- sendmsg -------------------------------------------------------------------------------- */

#define SEEN_AGAIN_NS 1000000000ULL /* a flow's last datagram is known to the second */

/*
 * The destination has a flow, and its service listens: the datagram follows the others.
 */
static __noinline int datagram_follow(struct bpf_sock_addr *ctx, const struct connection *c,
				      __u64 parent_id, struct target *target)
{
	struct sidetrack_destination destination = { .parent = parent_id };
	__u64 now = bpf_ktime_get_ns();
	struct sidetrack_flow_entry *entry;
	struct sidetrack_service *service;
	__u32 number;
	int error;

	destination.client = bpf_get_socket_cookie(ctx);
	__builtin_memcpy(destination.remote_addr, c->remote.bytes, sizeof(destination.remote_addr));
	destination.remote_port = c->port;
	entry = destination_find(&destination, now);
	if (!entry)
		return UNDECIDED;
	number = flow_service(&entry->flow);
	service = bpf_map_lookup_elem(&sidetrack_services, &number);
	if (!service || !datagram_sockets(service, c->family))
		return UNDECIDED;
	error = datagram_free_device(ctx, c);
	if (error)
		return refuse_unrouted(error);
	if (now - entry->closed_at >= SEEN_AGAIN_NS)
		entry->closed_at = now;
	return datagram_target(&entry->flow, service, target);
}

/*
 * An IPv6 socket that is connected to an IPv4 address names it with each datagram: its connect was
 * diverted already.
 */
static __always_inline int is_on_its_way(struct bpf_sock_addr *ctx, const struct connection *c)
{
	struct sidetrack_flow_entry *entry = datagram_at(&c->remote);

	return entry && entry->client == bpf_get_socket_cookie(ctx);
}

static __always_inline void sender_key_fill(struct sidetrack_verdict_key *key,
					    struct bpf_sock_addr *ctx, const struct connection *c,
					    __u64 parent_id)
{
	struct task_struct *task = bpf_get_current_task_btf();

	__builtin_memset(key, 0, sizeof(*key));
	key->client = bpf_get_socket_cookie(ctx);
	key->parent = parent_id;
	key->cgroup_id = bpf_get_current_cgroup_id();
	key->pid = process_number(task);
	key->uid = task->cred->uid.val;
	__builtin_memcpy(key->remote_addr, c->remote.bytes, sizeof(key->remote_addr));
	key->remote_port = c->port;
	key->generation = c->generation;
}

/* Was one like it let go by this policy? */
static __noinline int sender_is_cached(struct bpf_sock_addr *ctx, const struct connection *c,
				       __u64 parent_id)
{
	struct sidetrack_verdict_key key;

	sender_key_fill(&key, ctx, c, parent_id);
	return bpf_map_lookup_elem(&sidetrack_verdict_cache, &key) != NULL;
}

static __noinline int sender_cache(struct bpf_sock_addr *ctx, const struct connection *c,
				   __u64 parent_id)
{
	struct sidetrack_verdict_key key;
	__u8 one = 1;

	sender_key_fill(&key, ctx, c, parent_id);
	return bpf_map_update_elem(&sidetrack_verdict_cache, &key, &one, BPF_ANY);
}

/* Judges a datagram, unless one like it was let go by the policy in force. */
static __always_inline int judge_first(struct bpf_sock_addr *ctx, struct connection *c,
				       __u64 parent_id, struct target *target)
{
	struct classify_context classify = {};
	int verdict;

	if (!policy_applies(&classify, c, parent_id) || sender_is_cached(ctx, c, parent_id))
		return go_straight(ctx);
	c->cacheable = prefilter_excludes(&classify, c, parent_id);
	verdict = c->cacheable ? go_straight(ctx) : judge(ctx, &classify, c, parent_id, target);
	if (verdict != PROCEED)
		return verdict;
	if (!is_served(ctx, c, parent_id))
		verdict_cache_add(bpf_get_socket_cookie(ctx), CACHED_SENT, c);
	if (c->cacheable)
		sender_cache(ctx, c, parent_id);
	return PROCEED;
}

static __always_inline int judge_datagram(struct bpf_sock_addr *ctx, struct connection *c,
					  struct target *target)
{
	struct sidetrack_socket *socket = bpf_sk_storage_get(&sidetrack_sockets, ctx->sk, NULL, 0);
	__u64 parent_id = socket ? socket->linked : 0;
	int verdict;

	if (socket && socket->role == SOCKET_LISTENER && !listener_is_stale(socket))
		return PROCEED; /* a service's answers */
	if (is_on_its_way(ctx, c))
		return PROCEED;
	verdict = datagram_follow(ctx, c, parent_id, target);
	return verdict == UNDECIDED ? judge_first(ctx, c, parent_id, target) : verdict;
}

static __always_inline int sendmsg4(struct bpf_sock_addr *ctx)
{
	return divert4(ctx, 1, judge_datagram);
}

static __always_inline int sendmsg6(struct bpf_sock_addr *ctx)
{
	return divert6(ctx, 1, judge_datagram);
}

/* ---- recvmsg: an answer comes from where the program sent to ------------------------------- */

#define LAYERS_THAT_ASK_WHO_BEGAN                                                                  \
	(3U << SIDETRACK_LAYER_CONNECT_REDIRECT | 3U << SIDETRACK_LAYER_AUTH_RECV_ACCEPT)

/* A datagram of no flow has come: perhaps to a server, if the socket has not sent there before. */
static __noinline int hear(struct bpf_sock_addr *ctx, const union address *from)
{
	struct connection c = { .port = ctx->user_port, .remote = *from };
	__u64 client = bpf_get_socket_cookie(ctx);
	void *policy = policy_in_force();
	struct sidetrack_socket *socket;

	if (!policy || !(layers_in_force(policy) & LAYERS_THAT_ASK_WHO_BEGAN) || !ctx->sk ||
	    ctx->sk->state == BPF_TCP_ESTABLISHED)
		return 0;
	socket = bpf_sk_storage_get(&sidetrack_sockets, ctx->sk, NULL, 0);
	if (socket && socket->role == SOCKET_LISTENER)
		return 0; /* a service hears from everybody */
	if (verdict_cache_has(client, CACHED_SENT, &c) ||
	    verdict_cache_has(client, CACHED_RECEIVED_FIRST, &c))
		return 0;
	return verdict_cache_add(client, CACHED_RECEIVED_FIRST, &c);
}

/* Whom this socket thinks it hears from. Fails if that is who it is. */
static __always_inline int sender_read(struct bpf_sock_addr *ctx, const union address *from,
				       struct target *sender)
{
	struct sidetrack_flow_entry *entry = datagram_at(from);
	struct sidetrack_service *service;
	__u32 number;

	if (!entry) {
		hear(ctx, from);
		return -1;
	}
	if (entry->client != bpf_get_socket_cookie(ctx))
		return -1;
	number = flow_service(&entry->flow);
	service = bpf_map_lookup_elem(&sidetrack_services, &number);
	if (!service || ctx->user_port != datagram_port(service, entry->flow.family))
		return -1;
	return flow_remote(&entry->flow, sender);
}

static __always_inline int recvmsg4(struct bpf_sock_addr *ctx)
{
	return name4(ctx, sender_read);
}

static __always_inline int recvmsg6(struct bpf_sock_addr *ctx)
{
	return name6(ctx, sender_read);
}

/* ---- Closing -------------------------------------------------------------------------------- */

/* A program closes a UDP socket: if it was connected to a flow, that has no client any more. */
static __always_inline void client_release(struct bpf_sock *sk)
{
	struct sidetrack_flow_entry *entry;
	union address connected;

	if (sk->protocol != IPPROTO_UDP || sk->state != BPF_TCP_ESTABLISHED)
		return;
	address_from_peer(&connected, sk);
	entry = datagram_at(&connected);
	if (!entry || entry->client != bpf_get_socket_cookie(sk))
		return;
	client_learn(entry);
	entry->closed_at = bpf_ktime_get_ns();
	datagram_flow_end(entry, FLOW_STATE_ID(entry->state));
}

static long sweep_step(__u32 slot, __u64 *now)
{
	struct sidetrack_flow_entry *entry = bpf_map_lookup_elem(&sidetrack_flows, &slot);
	__u64 state = entry ? entry->state : 0;

	if (FLOW_STATE_STAGE(state) == FLOW_DATAGRAM && !FLOW_STATE_REFCOUNT(state) &&
	    (datagrams_are_over(entry, *now) || !client_is_open(entry)))
		datagram_flow_end(entry, FLOW_STATE_ID(state));
	return 0;
}

/* Ends the flows of datagrams that are over, so that who counts the flows counts none of them. */
static __always_inline int sweep(void)
{
	__u64 now = bpf_ktime_get_ns();

	bpf_loop(flows_max, sweep_step, &now, 0);
	return 0;
}

#endif /* SIDETRACK_MESSAGE_H */
