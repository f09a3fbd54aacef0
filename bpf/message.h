/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The message hooks: datagrams of unconnected sockets, and who they say they come from. */
#ifndef SIDETRACK_MESSAGE_H
#define SIDETRACK_MESSAGE_H

/* ---- sendmsg -------------------------------------------------------------------------------- */

#define SEEN_AGAIN_NS 1000000000ULL /* a flow's last datagram is known to the second */

/*
 * The destination has a flow, and its service listens: the datagram follows the others. Returns 0
 * if it must be judged.
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
		return 0;
	number = flow_service(&entry->flow);
	service = bpf_map_lookup_elem(&sidetrack_services, &number);
	if (!service || !(c->family == AF_INET ? service->datagrams4 : service->datagrams6))
		return 0;
	error = datagram_free_device(ctx, c);
	if (error)
		return refuse_unrouted(error), -1;
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

static __always_inline void passed_fill(struct sidetrack_passed *passed, struct bpf_sock_addr *ctx,
					const struct connection *c, __u64 parent_id)
{
	struct task_struct *task = bpf_get_current_task_btf();

	__builtin_memset(passed, 0, sizeof(*passed));
	passed->client = bpf_get_socket_cookie(ctx);
	passed->parent = parent_id;
	passed->cgroup_id = bpf_get_current_cgroup_id();
	passed->pid = task->tgid;
	passed->uid = task->cred->uid.val;
	__builtin_memcpy(passed->remote_addr, c->remote.bytes, sizeof(passed->remote_addr));
	passed->remote_port = c->port;
	passed->generation = c->generation;
}

/* Was one like it let go by this policy? */
static __noinline int passed_before(struct bpf_sock_addr *ctx, const struct connection *c,
				    __u64 parent_id)
{
	struct sidetrack_passed passed;

	passed_fill(&passed, ctx, c, parent_id);
	return bpf_map_lookup_elem(&sidetrack_passes, &passed) != NULL;
}

static __noinline int passed_remember(struct bpf_sock_addr *ctx, const struct connection *c,
				      __u64 parent_id)
{
	struct sidetrack_passed passed;
	__u8 one = 1;

	passed_fill(&passed, ctx, c, parent_id);
	return bpf_map_update_elem(&sidetrack_passes, &passed, &one, BPF_ANY);
}

/* Judges a datagram, unless one like it was let go by the policy in force. */
static __always_inline int datagram_judge(struct bpf_sock_addr *ctx, struct connection *c,
					  __u64 parent_id, struct target *target)
{
	void *policy = policy_in_force();
	struct sidetrack_policy *head = policy ? policy_line(policy, 0) : NULL;
	int verdict;

	if (!head || (!parent_id && !(head->layers & CONNECT_LAYERS(c->family == AF_INET6))))
		return go_straight(ctx);
	c->generation = head->generation;
	if (passed_before(ctx, c, parent_id))
		return go_straight(ctx);
	verdict = judge(ctx, c, target);
	if (verdict == PROCEED && c->settled)
		passed_remember(ctx, c, parent_id);
	return verdict;
}

static __always_inline int send_judge(struct bpf_sock_addr *ctx, struct connection *c,
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
	if (verdict)
		return verdict > 0 ? verdict : REFUSE;
	return datagram_judge(ctx, c, parent_id, target);
}

static __always_inline int send4(struct bpf_sock_addr *ctx)
{
	struct connection c = { .port = ctx->user_port, .family = AF_INET, .sending = 1 };
	struct target target = {};
	int verdict;

	if (!is_judged(ctx))
		return PROCEED;
	address_from_v4(&c.remote, ctx->user_ip4);
	connection_local(&c, ctx->sk);
	c.protocol = IPPROTO_UDP;
	verdict = send_judge(ctx, &c, &target);
	if (verdict != DIVERT)
		return verdict;
	ctx->user_ip4 = target.address.words[3];
	ctx->user_port = target.port;
	return PROCEED;
}

static __always_inline int send6(struct bpf_sock_addr *ctx)
{
	struct connection c = { .port = ctx->user_port, .family = AF_INET6, .sending = 1 };
	struct target target = {};
	int verdict;

	if (!is_judged(ctx))
		return PROCEED;
	for (int i = 0; i < 4; i++)
		c.remote.words[i] = ctx->user_ip6[i];
	connection_local(&c, ctx->sk);
	c.protocol = IPPROTO_UDP;
	verdict = send_judge(ctx, &c, &target);
	if (verdict != DIVERT)
		return verdict;
	write_address6(ctx, &target.address);
	ctx->user_port = target.port;
	return PROCEED;
}

/* ---- recvmsg: an answer comes from where the program sent to ------------------------------- */

/* Whom this socket thinks it hears from. Fails if that is who it is. */
static __always_inline int sender_read(struct bpf_sock_addr *ctx, const union address *from,
				       __be16 port, struct target *sender)
{
	struct sidetrack_flow_entry *entry = datagram_at(from);
	struct sidetrack_service *service;
	__u32 number;

	if (!entry || entry->client != bpf_get_socket_cookie(ctx))
		return -1;
	number = flow_service(&entry->flow);
	service = bpf_map_lookup_elem(&sidetrack_services, &number);
	if (!service || port != datagram_port(service, entry->flow.family))
		return -1;
	__builtin_memcpy(&sender->address, entry->flow.remote_addr, sizeof(sender->address));
	sender->port = entry->flow.remote_port;
	return 0;
}

static __always_inline int receive4(struct bpf_sock_addr *ctx)
{
	struct target sender;
	union address from;

	address_from_v4(&from, ctx->user_ip4);
	if (!ctx->sk || sender_read(ctx, &from, ctx->user_port, &sender))
		return PROCEED;
	ctx->user_ip4 = sender.address.words[3];
	ctx->user_port = sender.port;
	return PROCEED;
}

static __always_inline int receive6(struct bpf_sock_addr *ctx)
{
	struct target sender;
	union address from;

	for (int i = 0; i < 4; i++)
		from.words[i] = ctx->user_ip6[i];
	if (!ctx->sk || sender_read(ctx, &from, ctx->user_port, &sender))
		return PROCEED;
	write_address6(ctx, &sender.address);
	ctx->user_port = sender.port;
	return PROCEED;
}

/* ---- Closing -------------------------------------------------------------------------------- */

/* A program closes a UDP socket: if it was connected to a flow, that has no client any more. */
static __always_inline void leave(struct bpf_sock *sk)
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
	datagram_leave(entry, LIFE_ID(entry->life));
}

static long sweep_step(__u32 slot, __u64 *now)
{
	struct sidetrack_flow_entry *entry = bpf_map_lookup_elem(&sidetrack_flows, &slot);
	__u64 life = entry ? entry->life : 0;

	if (LIFE_STAGE(life) == FLOW_DATAGRAM && !LIFE_TIES(life) &&
	    (datagrams_are_over(entry, *now) || !client_is_open(entry)))
		datagram_leave(entry, LIFE_ID(life));
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
