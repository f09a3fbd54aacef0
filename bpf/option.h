/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The socket options: what a proxy asks and sets, and what legacy proxies ask. */
#ifndef SIDETRACK_OPTION_H
#define SIDETRACK_OPTION_H

#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80   /* the same number at both levels */
#define OPTION_SEEN_MAX 4096 /* bytes of a buffer that eBPF is shown */

#define ANSWERED 1
#define FAILED 0

static __always_inline int option_fail(int error)
{
	bpf_set_retval(-error);
	return FAILED;
}

static __always_inline int option_done(struct bpf_sockopt *ctx, int length)
{
	ctx->optlen = length;
	apart();
	ctx->retval = 0;
	count(SIDETRACK_COUNT_QUERIED);
	return ANSWERED;
}

/*
 * Copies whole 8-byte words into the option's buffer, from offset at, as far as buffer and source
 * go. The caller has seen to it that they go far enough.
 */
static __always_inline void option_write(struct bpf_sockopt *ctx, __u32 at, const __u64 *words,
					 __u32 wanted)
{
	void *end = ctx->optval_end;
	__u64 *to = ctx->optval + at;

	for (__u32 i = 0; i < SIDETRACK_CONTEXT_SIZE_MAX / 8; i++) {
		if (i >= wanted || (void *)(to + 1) > end)
			break;
		*to++ = words[i];
	}
}

/* The last bytes of a context whose length is no multiple of eight. */
static __always_inline void option_write_tail(struct bpf_sockopt *ctx, __u32 at, const __u8 *bytes,
					      __u32 length)
{
	void *end = ctx->optval_end;
	__u8 *to = ctx->optval + at;

	for (__u32 i = 0; i < 7; i++) {
		if (i >= length || (void *)(to + 1) > end)
			break;
		*to++ = bytes[i];
	}
}

/* ---- Contexts ---------------------------------------------------------------------------- */

static __always_inline __u32 context_length(const struct sidetrack_flow *flow,
					    struct sidetrack_context **fixed)
{
	__u32 id = flow->context_id;

	*fixed = NULL;
	if (!id)
		return 0;
	if (id == SIDETRACK_CONTEXT_AUTO)
		return sizeof(struct sidetrack_auto_context);
	*fixed = bpf_map_lookup_elem(&sidetrack_contexts, &id);
	return *fixed ? (*fixed)->length : 0;
}

/* The caller has seen to it that the buffer has room. */
static __always_inline void context_write_auto(struct sidetrack_auto_context *to,
					       const struct sidetrack_flow *flow,
					       const struct sidetrack_executable *executable)
{
	to->version = SIDETRACK_ABI_VERSION;
	to->size = sizeof(*to);
	to->flow_id = flow->id;
	__builtin_memcpy(to->remote_addr, flow->remote_addr, sizeof(to->remote_addr));
	to->remote_port = flow->remote_port;
	to->protocol = flow->protocol;
	to->family = flow->family;
	to->pid = flow->pid;
	to->uid = flow->uid;
	to->reserved = 0;
	if (executable)
		__builtin_memcpy(to->executable, executable->path, sizeof(to->executable));
	else
		__builtin_memset(to->executable, 0, sizeof(to->executable));
}

/* Returns the bytes written: all, or 0 if the buffer has no room. */
static __noinline int context_write(struct bpf_sockopt *ctx, __u32 at,
				    const struct sidetrack_flow *flow,
				    const struct sidetrack_executable *executable,
				    struct sidetrack_context *fixed)
{
	struct sidetrack_auto_context *automatic;
	__u32 length, whole;

	if (at > sizeof(struct sidetrack_info))
		return 0;
	automatic = ctx->optval + at;
	if (!fixed) {
		if ((void *)(automatic + 1) > ctx->optval_end)
			return 0;
		context_write_auto(automatic, flow, executable);
		return sizeof(*automatic);
	}
	length = fixed->length;
	whole = length & ~7U & 0xfff;
	if (length > SIDETRACK_CONTEXT_SIZE_MAX || ctx->optval + at + length > ctx->optval_end)
		return 0;
	option_write(ctx, at, (const __u64 *)fixed->bytes, whole / 8);
	if (whole <= SIDETRACK_CONTEXT_SIZE_MAX - 8)
		option_write_tail(ctx, at + whole, fixed->bytes + whole, length & 7);
	return length;
}

/* ---- Getting ----------------------------------------------------------------------------- */

static __always_inline void info_write_names(struct sidetrack_info *info,
					     const struct sidetrack_flow *flow)
{
	for (int i = 0; i < SIDETRACK_CHAIN_MAX; i++) {
		__u32 number = flow->chain[i];
		struct sidetrack_service *service;

		if (i >= flow->chain_length)
			break;
		service = bpf_map_lookup_elem(&sidetrack_services, &number);
		if (service)
			__builtin_memcpy(info->names[i], service->name, SIDETRACK_NAME_SIZE);
	}
}

static __always_inline void info_write_executable(struct sidetrack_info *info,
						  const struct sidetrack_executable *known)
{
	if (known)
		__builtin_memcpy(&info->executable, known, sizeof(*known));
	else
		__builtin_memset(&info->executable, 0, sizeof(info->executable));
}

static __always_inline int get_info(struct bpf_sockopt *ctx,
				    const struct sidetrack_flow_entry *entry)
{
	const struct sidetrack_flow *flow = &entry->flow;
	struct sidetrack_info *info = ctx->optval;
	__u64 number = entry->executable;
	struct sidetrack_executable *executable;
	struct sidetrack_context *context;
	struct sidetrack_records token;
	__u32 length, given;

	if ((void *)(info + 1) > ctx->optval_end)
		return option_fail(ENOBUFS);
	length = context_length(flow, &context);
	token_make(flow->id, &token);
	info->version = SIDETRACK_ABI_VERSION;
	info->size = sizeof(*info);
	info->state = SIDETRACK_REDIRECTED_BY_SELF;
	info->context_length = length;
	info->records_length = sizeof(token);
	if (flow->protocol == IPPROTO_UDP)
		datagram_address(flow, (union address *)info->target_addr);
	else
		address_from_socket((union address *)info->target_addr, ctx->sk);
	info->target_port = bpf_htons(ctx->sk->src_port);
	__builtin_memcpy(&info->flow, flow, sizeof(*flow));
	executable = bpf_map_lookup_elem(&sidetrack_executables, &number);
	info_write_executable(info, executable);
	info->records = token;
	info_write_names(info, flow);
	given = length ? context_write(ctx, sizeof(*info), flow, executable, context) : 0;
	info = ctx->optval;
	if ((void *)(info + 1) > ctx->optval_end)
		return option_fail(ENOBUFS); /* cannot be; the verifier has forgotten */
	info->context_given = given != 0;
	return option_done(ctx, sizeof(*info) + given);
}

static __always_inline int get_context(struct bpf_sockopt *ctx,
				       const struct sidetrack_flow_entry *entry)
{
	__u64 number = entry->executable;
	struct sidetrack_context *fixed;
	__u32 length = context_length(&entry->flow, &fixed);

	if (!length)
		return option_fail(ENODATA);
	if (!context_write(ctx, 0, &entry->flow,
			   bpf_map_lookup_elem(&sidetrack_executables, &number), fixed))
		return option_fail(ENOBUFS);
	return option_done(ctx, length);
}

static __always_inline int get_records(struct bpf_sockopt *ctx, const struct sidetrack_flow *flow)
{
	struct sidetrack_records *to = ctx->optval, token;

	if ((void *)(to + 1) > ctx->optval_end)
		return option_fail(ENOBUFS);
	token_make(flow->id, &token);
	*to = token;
	return option_done(ctx, sizeof(token));
}

/* Legacy proxies take what conntrack would say: the original destination as a sockaddr. */
static __always_inline int get_original_dst(struct bpf_sockopt *ctx,
					    const struct sidetrack_flow *flow)
{
	const union address *remote = (const union address *)flow->remote_addr;

	if (ctx->level == SOL_IP) {
		struct sockaddr_in *to = ctx->optval;

		if (flow->family != AF_INET)
			return ANSWERED; /* not an IPv4 connection: the kernel's own answer */
		if ((void *)(to + 1) > ctx->optval_end)
			return option_fail(EINVAL);
		__builtin_memset(to, 0, sizeof(*to));
		to->sin_family = AF_INET;
		to->sin_port = flow->remote_port;
		to->sin_addr.s_addr = remote->words[3];
		return option_done(ctx, sizeof(*to));
	}
	struct sockaddr_in6 *to6 = ctx->optval;

	if (flow->family != AF_INET6)
		return ANSWERED;
	if ((void *)(to6 + 1) > ctx->optval_end)
		return option_fail(EINVAL);
	to6->sin6_family = AF_INET6;
	to6->sin6_port = flow->remote_port;
	to6->sin6_flowinfo = 0;
	for (int i = 0; i < 4; i++)
		to6->sin6_addr.in6_u.u6_addr32[i] = remote->words[i];
	to6->sin6_scope_id = 0;
	return option_done(ctx, sizeof(*to6));
}

static __always_inline int not_ours(struct bpf_sockopt *ctx)
{
	if (ctx->optlen > OPTION_SEEN_MAX)
		ctx->optlen = 0; /* we were shown only a part: let the kernel's own stand */
	return ANSWERED;
}

/* ---- Which flow of datagrams -------------------------------------------------------------- */

/* Did the flow's client send this? Returns 0 if it did; then the flow has its address in full. */
static __always_inline int client_check(struct sidetrack_flow_entry *entry, __u64 netns_cookie,
					const union address *client, __be16 port)
{
	union address *local = (union address *)entry->flow.local_addr;

	if (entry->flow.netns_cookie != netns_cookie)
		return -1;
	client_learn(entry);
	if (!port || entry->flow.local_port != port)
		return -1;
	if (address_is_any(local))
		*local = *client;
	if (!address_is_equal(local, client))
		return -1;
	if (!__sync_lock_test_and_set(&entry->handed_over, 1))
		count(SIDETRACK_COUNT_HANDED_OVER);
	return 0;
}

/*
 * The flow that a UDP socket asks about: which a listener has named, or that of the address to
 * which a socket of the service's own is bound. NULL if there is none.
 */
static __noinline struct sidetrack_flow_entry *
datagram_of_socket(struct bpf_sockopt *ctx, const struct sidetrack_socket *socket)
{
	struct sidetrack_flow_entry *entry;
	union address own, peer;

	if (socket && socket->role == SOCKET_LISTENER)
		return socket->selected ? flow_find(socket->selected) : NULL;
	if (!ctx->sk || ctx->sk->state != BPF_TCP_ESTABLISHED)
		return NULL;
	address_from_socket(&own, ctx->sk);
	address_from_peer(&peer, ctx->sk);
	entry = datagram_at(&own);
	if (!entry || program_service() != flow_service(&entry->flow) ||
	    client_check(entry, bpf_get_netns_cookie(ctx), &peer, ctx->sk->dst_port))
		return NULL;
	return entry;
}

static __always_inline int is_ours_to_answer(struct bpf_sockopt *ctx)
{
	return ctx->sk && (ctx->sk->protocol == IPPROTO_TCP || ctx->sk->protocol == IPPROTO_UDP);
}

static __always_inline int get_option(struct bpf_sockopt *ctx)
{
	int original_dst =
		ctx->optname == SO_ORIGINAL_DST && (ctx->level == SOL_IP || ctx->level == SOL_IPV6);
	struct sidetrack_flow_entry *entry;
	__u32 state;

	if (ctx->level != SOL_SIDETRACK && !original_dst)
		return not_ours(ctx);
	if (!is_ours_to_answer(ctx))
		return original_dst ? not_ours(ctx) : option_fail(EPROTONOSUPPORT);
	if (ctx->sk->protocol == IPPROTO_UDP)
		entry = datagram_of_socket(
			ctx, bpf_sk_storage_get(&sidetrack_sockets, ctx->sk, NULL, 0));
	else
		entry = accepted_flow(ctx->sk, ctx->sk->src_ip4);
	if (original_dst)
		return entry ? get_original_dst(ctx, &entry->flow) : not_ours(ctx);
	if (!entry && !ctx->retval)
		return ANSWERED; /* another engine's, and answered */
	if (!entry) {
		state = ctx->sk->state;
		return option_fail(state == BPF_TCP_LISTEN || state == BPF_TCP_CLOSE ||
						   state == BPF_TCP_SYN_SENT ?
					   ENOTCONN :
					   ENODATA);
	}
	switch (ctx->optname) {
	case SIDETRACK_INFO:
		return get_info(ctx, entry);
	case SIDETRACK_CONTEXT:
		return get_context(ctx, entry);
	case SIDETRACK_RECORDS:
		return get_records(ctx, &entry->flow);
	}
	return ANSWERED; /* no such option: ENOPROTOOPT, as the kernel has said */
}

/* ---- Setting ----------------------------------------------------------------------------- */

static __always_inline int set_done(struct bpf_sockopt *ctx)
{
	ctx->optlen = -1; /* the kernel's own handler, which knows no such level, is left out */
	return ANSWERED;
}

static __always_inline int set_records(struct bpf_sockopt *ctx)
{
	struct sidetrack_records *token = ctx->optval, copy;
	struct sidetrack_flow_entry *entry;
	struct sidetrack_socket *socket;
	__u64 before;

	if (ctx->sk->state != BPF_TCP_CLOSE)
		return option_fail(EISCONN);
	if ((void *)(token + 1) > ctx->optval_end || ctx->optlen != sizeof(*token))
		return option_fail(EINVAL);
	copy = *token;
	entry = token_is_ours(&copy) ? flow_find(copy.flow_id) : NULL;
	if (!entry || flow_get(entry, copy.flow_id)) {
		count(SIDETRACK_COUNT_BAD_TOKEN);
		return option_fail(EINVAL);
	}
	socket = bpf_sk_storage_get(&sidetrack_sockets, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!socket) {
		flow_put(copy.flow_id);
		return option_fail(ENOMEM);
	}
	socket->role = SOCKET_OUTGOING;
	before = __sync_lock_test_and_set(&socket->linked, copy.flow_id);
	if (before)
		flow_put(before);
	count(SIDETRACK_COUNT_LINKED);
	return set_done(ctx);
}

/* UDP: bound to a port of the wildcard address, as each flow comes to an address of its own. */
static __always_inline int may_listen(struct bpf_sock *sk)
{
	union address own;

	if (sk->protocol == IPPROTO_TCP)
		return sk->state == BPF_TCP_LISTEN;
	address_from_socket(&own, sk);
	return sk->state == BPF_TCP_CLOSE && sk->src_port && address_is_any(&own);
}

static __always_inline int set_listen(struct bpf_sockopt *ctx)
{
	struct sidetrack_listen *listen = ctx->optval;
	const __u64 *theirs, *ours;
	struct sidetrack_service *service;
	struct sidetrack_socket *socket;
	__u32 number;
	int error;

	if ((void *)(listen + 1) > ctx->optval_end || ctx->optlen != sizeof(*listen))
		return option_fail(EINVAL);
	number = listen->service;
	service = bpf_map_lookup_elem(&sidetrack_services, &number);
	theirs = (const __u64 *)listen->secret;
	ours = service ? (const __u64 *)service->secret : theirs;
	if (!service || !number || listen->version != SIDETRACK_ABI_VERSION ||
	    listen->engine_id != engine_id || !(ours[0] | ours[1]) ||
	    ((theirs[0] ^ ours[0]) | (theirs[1] ^ ours[1]))) {
		count(SIDETRACK_COUNT_BAD_SECRET);
		return option_fail(EINVAL);
	}
	if (!may_listen(ctx->sk))
		return option_fail(EINVAL);
	socket = bpf_sk_storage_get(&sidetrack_sockets, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!socket)
		return option_fail(ENOMEM);
	if (socket->role == SOCKET_LISTENER && !listener_is_stale(socket))
		return option_fail(EALREADY);
	socket->role = SOCKET_LISTENER;
	socket->service = number;
	socket->epoch = service->epoch;
	if (ctx->sk->protocol == IPPROTO_UDP)
		error = datagram_listener_add(ctx->sk, service, bpf_get_netns_cookie(ctx));
	else
		error = listener_add(ctx->sk, service, number);
	if (!error && owner_add(socket, service)) {
		listener_count(ctx->sk, service, -1);
		error = -ENOSPC;
	}
	if (error) {
		socket->role = socket->linked ? SOCKET_OUTGOING : 0;
		bpf_set_retval(error);
		return FAILED;
	}
	return set_done(ctx);
}

/* A service says which datagram it is going to ask about. */
static __noinline int set_datagram(struct bpf_sockopt *ctx, struct sidetrack_socket *socket)
{
	struct sidetrack_datagram *datagram = ctx->optval;
	struct sidetrack_flow_entry *entry;
	struct sidetrack_datagram d;

	if ((void *)(datagram + 1) > ctx->optval_end || ctx->optlen != sizeof(d))
		return option_fail(EINVAL);
	d = *datagram;
	if (!socket || socket->role != SOCKET_LISTENER || listener_is_stale(socket))
		return option_fail(EINVAL);
	socket->selected = 0;
	entry = datagram_at((const union address *)d.flow_addr);
	if (!entry || flow_service(&entry->flow) != socket->service ||
	    client_check(entry, bpf_get_netns_cookie(ctx), (const union address *)d.client_addr,
			 d.client_port)) {
		count(SIDETRACK_COUNT_DATAGRAMS_FORGED);
		return option_fail(ENODATA);
	}
	socket->selected = entry->flow.id;
	return set_done(ctx);
}

static __always_inline int set_option(struct bpf_sockopt *ctx)
{
	if (ctx->level != SOL_SIDETRACK)
		return not_ours(ctx);
	if (!is_ours_to_answer(ctx))
		return option_fail(EPROTONOSUPPORT);
	if (ctx->optname == SIDETRACK_RECORDS)
		return set_records(ctx);
	if (ctx->optname == SIDETRACK_DATAGRAM && ctx->sk->protocol == IPPROTO_UDP)
		return set_datagram(ctx, bpf_sk_storage_get(&sidetrack_sockets, ctx->sk, NULL, 0));
	if (ctx->optname == SIDETRACK_LISTEN)
		return set_listen(ctx);
	return ANSWERED;
}

/* ---- Closing ----------------------------------------------------------------------------- */

static __always_inline void service_release(struct bpf_sock *sk)
{
	struct sidetrack_socket *socket = bpf_sk_storage_get(&sidetrack_sockets, sk, NULL, 0);
	struct sock *kept = (struct sock *)sk; /* the hook does not show a socket's own address */
	__u64 accepted, linked;

	accepted =
		sk->protocol == IPPROTO_TCP ?
			accepted_detach_flow(sk, BPF_CORE_READ(kept, __sk_common.skc_rcv_saddr)) :
			0;
	if (accepted)
		flow_put(accepted);
	if (!socket)
		return;
	if (socket->role == SOCKET_LISTENER)
		listener_remove(sk, socket);
	linked = __sync_lock_test_and_set(&socket->linked, 0);
	if (linked)
		flow_put(linked);
}

#endif /* SIDETRACK_OPTION_H */
