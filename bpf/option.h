/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The socket options: those of SOL_SIDETRACK, and SO_ORIGINAL_DST for legacy proxies. Also the end
 * of a proxy's sockets. The errors are listed in sidetrack.h.
 */
#ifndef SIDETRACK_OPTION_H
#define SIDETRACK_OPTION_H

#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80	/* the same number at both levels */
#define OPTION_VISIBLE_MAX 4096 /* bytes of an option's buffer that eBPF can see */

static __always_inline int option_done(struct bpf_sockopt *ctx, int length)
{
	ctx->optlen = length;
	keep_separate();
	ctx->retval = 0;
	count(SIDETRACK_COUNT_QUERIED);
	return OPTION_PROCEED;
}

/*
 * Copies `wanted` words of 8 bytes to an offset of the option's buffer. The caller has checked that
 * source and buffer are large enough; the bounds in the loop are for the verifier.
 */
static __always_inline void option_write(struct bpf_sockopt *ctx, __u32 offset, const __u64 *words,
					 __u32 wanted)
{
	void *end = ctx->optval_end;
	__u64 *to = ctx->optval + offset;

	for (__u32 i = 0; i < SIDETRACK_CONTEXT_SIZE_MAX / 8; i++) {
		if (i >= wanted || (void *)(to + 1) > end)
			break;
		*to++ = words[i];
	}
}

/* Copies the last bytes of a context whose length is not a multiple of eight. */
static __always_inline void option_write_tail(struct bpf_sockopt *ctx, __u32 offset,
					      const __u8 *bytes, __u32 length)
{
	void *end = ctx->optval_end;
	__u8 *to = ctx->optval + offset;

	for (__u32 i = 0; i < 7; i++) {
		if (i >= length || (void *)(to + 1) > end)
			break;
		*to++ = bytes[i];
	}
}

/* ---- Contexts ---------------------------------------------------------------------------- */

/* The length of a flow's context, 0 if it has none. Sets `fixed` if the context is a fixed one. */
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

/* Writes an automatic context. The caller has checked that the buffer is large enough. */
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

/* Writes a context, automatic if `fixed` is NULL. Returns its length; 0 if it does not fit. */
static __noinline int context_write(struct bpf_sockopt *ctx, __u32 offset,
				    const struct sidetrack_flow *flow,
				    const struct sidetrack_executable *executable,
				    struct sidetrack_context *fixed)
{
	struct sidetrack_auto_context *automatic;
	__u32 length, whole;

	if (offset > sizeof(struct sidetrack_info))
		return 0;
	automatic = ctx->optval + offset;
	if (!fixed) {
		if ((void *)(automatic + 1) > ctx->optval_end)
			return 0;
		context_write_auto(automatic, flow, executable);
		return sizeof(*automatic);
	}
	length = fixed->length;
	whole = length & ~7U & 0xfff;
	if (length > SIDETRACK_CONTEXT_SIZE_MAX || ctx->optval + offset + length > ctx->optval_end)
		return 0;
	option_write(ctx, offset, (const __u64 *)fixed->bytes, whole / 8);
	if (whole <= SIDETRACK_CONTEXT_SIZE_MAX - 8)
		option_write_tail(ctx, offset + whole, fixed->bytes + whole, length & 7);
	return length;
}

/* ---- getsockopt -------------------------------------------------------------------------- */

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
						  const struct sidetrack_executable *executable)
{
	if (executable)
		__builtin_memcpy(&info->executable, executable, sizeof(*executable));
	else
		__builtin_memset(&info->executable, 0, sizeof(info->executable));
}

/*
 * Where the connection was diverted to. A socket that only has records is not accepted, so then it
 * is the listener of the service.
 */
static __noinline void info_write_target(struct bpf_sockopt *ctx, struct sidetrack_info *info,
					 const struct sidetrack_flow *flow)
{
	union address *address = (union address *)info->target_addr;
	__u32 number = flow_service(flow);
	struct sidetrack_service *service = bpf_map_lookup_elem(&sidetrack_services, &number);

	info->target_port = bpf_htons(ctx->sk->src_port);
	if (flow->protocol == IPPROTO_UDP) {
		datagram_address(flow, address);
	} else if (ctx->sk->state != BPF_TCP_CLOSE || !service) {
		address_from_socket(address, ctx->sk);
	} else if (flow->family == AF_INET) {
		address_from_v4(address, service->addr4 ? service->addr4 :
							  address_of_slot(flow->id % flows_max));
		info->target_port = service->port4;
	} else {
		__builtin_memcpy(address->bytes, service->addr6, sizeof(*address));
		info->target_port = service->port6;
	}
}

static __always_inline int get_info(struct bpf_sockopt *ctx,
				    const struct sidetrack_flow_entry *entry)
{
	const struct sidetrack_flow *flow = &entry->flow;
	struct sidetrack_info *info = ctx->optval;
	__u64 id = entry->executable_id;
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
	info_write_target(ctx, info, flow);
	__builtin_memcpy(&info->flow, flow, sizeof(*flow));
	executable = bpf_map_lookup_elem(&sidetrack_executables, &id);
	info_write_executable(info, executable);
	info->records = token;
	info_write_names(info, flow);
	given = length ? context_write(ctx, sizeof(*info), flow, executable, context) : 0;
	info = ctx->optval;
	if ((void *)(info + 1) > ctx->optval_end)
		return option_fail(ENOBUFS); /* impossible, but the verifier has lost the bounds */
	info->context_given = given != 0;
	return option_done(ctx, sizeof(*info) + given);
}

static __always_inline int get_context(struct bpf_sockopt *ctx,
				       const struct sidetrack_flow_entry *entry)
{
	__u64 id = entry->executable_id;
	struct sidetrack_context *fixed;
	__u32 length = context_length(&entry->flow, &fixed);

	if (!length)
		return option_fail(ENODATA);
	if (!context_write(ctx, 0, &entry->flow, bpf_map_lookup_elem(&sidetrack_executables, &id),
			   fixed))
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

/* SO_ORIGINAL_DST: the original destination as a sockaddr, as conntrack returns it. */
static __always_inline int get_original_dst(struct bpf_sockopt *ctx,
					    const struct sidetrack_flow *flow)
{
	const union address *remote = (const union address *)flow->remote_addr;

	if (ctx->level == SOL_IP) {
		struct sockaddr_in *to = ctx->optval;

		if (flow->family != AF_INET)
			return OPTION_PROCEED; /* not IPv4: the kernel's own answer stands */
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
		return OPTION_PROCEED;
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

/*
 * An option that is not ours. If eBPF can see only a part of the buffer, optlen 0 makes the kernel
 * go on with the caller's buffer and not with this part.
 */
static __always_inline int leave_to_kernel(struct bpf_sockopt *ctx)
{
	if (ctx->optlen > OPTION_VISIBLE_MAX)
		ctx->optlen = 0;
	return OPTION_PROCEED;
}

/* ---- UDP flows of a proxy's socket --------------------------------------------------------- */

/*
 * Returns 0 if the flow's client has this address and port. Then the flow's local address is
 * complete, and the flow counts as handed over to its service.
 */
static __always_inline int client_check(struct sidetrack_flow_entry *entry, __u64 netns_cookie,
					const union address *client, __be16 port)
{
	union address *local = (union address *)entry->flow.local_addr;

	if (entry->flow.netns_cookie != netns_cookie)
		return -1;
	client_learn_address(entry);
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
 * The flow that an option on a UDP socket is about: on a listener, the flow that DATAGRAM selected;
 * on another socket of the service, the flow of the address that the socket is bound to. NULL if
 * there is none.
 */
static __noinline struct sidetrack_flow_entry *
datagram_of_socket(struct bpf_sockopt *ctx, const struct sidetrack_socket *socket)
{
	struct sidetrack_flow_entry *entry;
	union address local, peer;

	if (socket && socket->role == SIDETRACK_SOCKET_LISTENER)
		return socket->datagram_flow_id ? flow_find(socket->datagram_flow_id) : NULL;
	if (!ctx->sk || ctx->sk->state != BPF_TCP_ESTABLISHED)
		return NULL;
	address_from_socket(&local, ctx->sk);
	address_from_peer(&peer, ctx->sk);
	entry = datagram_flow_at(&local);
	if (!entry || program_service() != flow_service(&entry->flow) ||
	    client_check(entry, bpf_get_netns_cookie(ctx), &peer, ctx->sk->dst_port))
		return NULL;
	return entry;
}

static __always_inline int is_supported_socket(struct bpf_sockopt *ctx)
{
	return ctx->sk && (ctx->sk->protocol == IPPROTO_TCP || ctx->sk->protocol == IPPROTO_UDP);
}

/*
 * The flow that an option on a TCP socket is about: the one that an accepted socket carries, or the
 * one whose records were set on a socket that is not connected yet. NULL if there is none.
 */
static __always_inline struct sidetrack_flow_entry *connection_of_socket(struct bpf_sockopt *ctx)
{
	struct sidetrack_flow_entry *entry = accepted_flow(ctx->sk, ctx->sk->src_ip4);
	__u64 id;

	if (entry || ctx->sk->state != BPF_TCP_CLOSE)
		return entry;
	id = parent_id_of(ctx->sk);
	return id ? flow_find(id) : NULL;
}

static __always_inline int get_option(struct bpf_sockopt *ctx)
{
	int original_dst =
		ctx->optname == SO_ORIGINAL_DST && (ctx->level == SOL_IP || ctx->level == SOL_IPV6);
	struct sidetrack_flow_entry *entry;
	__u32 state;

	if (ctx->level != SOL_SIDETRACK && !original_dst)
		return leave_to_kernel(ctx);
	if (!is_supported_socket(ctx))
		return original_dst ? leave_to_kernel(ctx) : option_fail(EPROTONOSUPPORT);
	if (ctx->sk->protocol == IPPROTO_UDP)
		entry = datagram_of_socket(
			ctx, bpf_sk_storage_get(&sidetrack_sockets, ctx->sk, NULL, 0));
	else
		entry = connection_of_socket(ctx);
	if (original_dst)
		return entry ? get_original_dst(ctx, &entry->flow) : leave_to_kernel(ctx);
	if (!entry && !ctx->retval)
		return OPTION_PROCEED; /* another engine has answered */
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
	return OPTION_PROCEED; /* no such option: the kernel's own error stands */
}

/* ---- setsockopt -------------------------------------------------------------------------- */

/* Gives an outgoing socket its parent flow, to which it refers from now on. */
static __always_inline int set_records(struct bpf_sockopt *ctx)
{
	struct sidetrack_records *token = ctx->optval, copy;
	struct sidetrack_flow_entry *entry;
	struct sidetrack_socket *socket;
	__u64 old_parent_id;

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
	socket->role = SIDETRACK_SOCKET_OUTGOING;
	old_parent_id = __sync_lock_test_and_set(&socket->parent_id, copy.flow_id);
	if (old_parent_id)
		flow_put(old_parent_id);
	count(SIDETRACK_COUNT_LINKED);
	return set_done(ctx);
}

/*
 * Can this socket be a listener? A TCP socket must be listening. A UDP socket must be bound to a
 * port of the wildcard address, since each flow arrives at a different address.
 */
static __always_inline int may_listen(struct bpf_sock *sk)
{
	union address local;

	if (sk->protocol == IPPROTO_TCP)
		return sk->state == BPF_TCP_LISTEN;
	address_from_socket(&local, sk);
	return sk->state == BPF_TCP_CLOSE && sk->src_port && address_is_any(&local);
}

/* The service of these credentials, whose number is copied; NULL, which is counted, if they are
 * wrong. */
static __always_inline struct sidetrack_service *
service_of_credentials(const struct sidetrack_listen *listen, __u32 *service_number)
{
	const __u64 *given, *secret;
	struct sidetrack_service *service;
	__u32 number = listen->service;

	*service_number = number;
	service = bpf_map_lookup_elem(&sidetrack_services, &number);
	given = (const __u64 *)listen->secret;
	secret = service ? (const __u64 *)service->secret : given;
	if (!service || !number || listen->version != SIDETRACK_ABI_VERSION ||
	    listen->engine_id != engine_id || !(secret[0] | secret[1]) ||
	    ((given[0] ^ secret[0]) | (given[1] ^ secret[1]))) {
		count(SIDETRACK_COUNT_BAD_SECRET);
		return NULL;
	}
	return service;
}

/* Marks a listener of a service, or a sender. */
static __always_inline int set_listen(struct bpf_sockopt *ctx, int pended)
{
	struct sidetrack_listen *listen = ctx->optval;
	struct sidetrack_service *service;
	struct sidetrack_socket *socket;
	__u32 number;
	int error;

	if ((void *)(listen + 1) > ctx->optval_end || ctx->optlen != sizeof(*listen))
		return option_fail(EINVAL);
	service = service_of_credentials(listen, &number);
	if (!service)
		return option_fail(EINVAL);
	if (ctx->sk->protocol == IPPROTO_RAW)
		return set_sender(ctx, service, number);
	if (!may_listen(ctx->sk))
		return option_fail(EINVAL);
	if (pended && !may_pend(ctx->sk, number))
		return option_fail(EPERM);
	socket = bpf_sk_storage_get(&sidetrack_sockets, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!socket)
		return option_fail(ENOMEM);
	if (socket->role == SIDETRACK_SOCKET_LISTENER && !listener_is_stale(socket))
		return option_fail(EALREADY);
	socket->role = SIDETRACK_SOCKET_LISTENER;
	socket->service = number;
	socket->epoch = service->epoch;
	socket->netns_cookie = bpf_get_netns_cookie(ctx);
	/* Before the service is present, so that its first client is held, too. */
	socket->pended = pended;
	if (ctx->sk->protocol == IPPROTO_UDP)
		error = datagram_listener_add(ctx->sk, service, bpf_get_netns_cookie(ctx));
	else
		error = listener_add(ctx->sk, service, number);
	if (!error && owner_add(socket, service)) {
		listener_count_change(ctx->sk, service, -1);
		error = -ENOSPC;
	}
	if (error) {
		socket->role = socket->parent_id ? SIDETRACK_SOCKET_OUTGOING : 0;
		socket->pended = 0;
		bpf_set_retval(error);
		return OPTION_FAILED;
	}
	if (pended)
		__sync_fetch_and_add(&service->pended_listeners, 1);
	return set_done(ctx);
}

/* Selects the flow of a datagram for the options that follow on this socket. */
static __noinline int set_datagram(struct bpf_sockopt *ctx, struct sidetrack_socket *socket)
{
	struct sidetrack_datagram *datagram = ctx->optval;
	struct sidetrack_flow_entry *entry;
	struct sidetrack_datagram d;

	if ((void *)(datagram + 1) > ctx->optval_end || ctx->optlen != sizeof(d))
		return option_fail(EINVAL);
	d = *datagram;
	if (!socket || socket->role != SIDETRACK_SOCKET_LISTENER || listener_is_stale(socket))
		return option_fail(EINVAL);
	socket->datagram_flow_id = 0;
	entry = datagram_flow_at((const union address *)d.flow_addr);
	if (!entry || flow_service(&entry->flow) != socket->service ||
	    client_check(entry, bpf_get_netns_cookie(ctx), (const union address *)d.client_addr,
			 d.client_port)) {
		count(SIDETRACK_COUNT_DATAGRAMS_FORGED);
		return option_fail(ENODATA);
	}
	socket->datagram_flow_id = entry->flow.id;
	return set_done(ctx);
}

static __always_inline int set_option(struct bpf_sockopt *ctx)
{
	if (ctx->level != SOL_SIDETRACK)
		return leave_to_kernel(ctx);
	if (ctx->sk && ctx->sk->protocol == IPPROTO_RAW && ctx->optname == SIDETRACK_LISTEN)
		return set_listen(ctx, 0);
	if (!is_supported_socket(ctx))
		return option_fail(EPROTONOSUPPORT);
	if (ctx->optname == SIDETRACK_COMPLETE && ctx->sk->protocol == IPPROTO_TCP)
		return set_complete(ctx, bpf_sk_storage_get(&sidetrack_sockets, ctx->sk, NULL, 0));
	if (ctx->optname == SIDETRACK_RECORDS)
		return set_records(ctx);
	if (ctx->optname == SIDETRACK_DATAGRAM && ctx->sk->protocol == IPPROTO_UDP)
		return set_datagram(ctx, bpf_sk_storage_get(&sidetrack_sockets, ctx->sk, NULL, 0));
	if (ctx->optname == SIDETRACK_LISTEN || ctx->optname == SIDETRACK_LISTEN_PENDED)
		return set_listen(ctx, ctx->optname == SIDETRACK_LISTEN_PENDED);
	return OPTION_PROCEED;
}

/* ---- sock_release ------------------------------------------------------------------------ */

#define PF_EXITING 0x4
#define EXIT_SIGNAL_MASK 0x7f

/*
 * Does the current process close its sockets because a signal has ended it? A process that ends
 * otherwise, as each child of a forking proxy does, has done what it wanted with them.
 */
static __always_inline int process_was_killed(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->flags & PF_EXITING && task->exit_code & EXIT_SIGNAL_MASK;
}

/* sock_release of a proxy's socket: a listener, an accepted or an outgoing one. */
static __always_inline void service_release(struct bpf_sock *sk)
{
	struct sidetrack_socket *socket = bpf_sk_storage_get(&sidetrack_sockets, sk, NULL, 0);
	struct sock *kernel_socket =
		(struct sock *)sk; /* the hook does not give the local address */
	__u64 accepted_id, parent_id;

	accepted_id = sk->protocol == IPPROTO_TCP ?
			      accepted_detach_flow(
				      sk, BPF_CORE_READ(kernel_socket, __sk_common.skc_rcv_saddr)) :
			      0;
	if (accepted_id) {
		flow_put(accepted_id);
		if (process_was_killed())
			count(SIDETRACK_COUNT_LOST_WITH_PROXY);
	}
	if (!socket)
		return;
	if (socket->role == SIDETRACK_SOCKET_LISTENER)
		listener_remove(sk, socket);
	parent_id = __sync_lock_test_and_set(&socket->parent_id, 0);
	if (parent_id)
		flow_put(parent_id);
}

#endif /* SIDETRACK_OPTION_H */
