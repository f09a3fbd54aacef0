/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The options of pended connects: COMPLETE, and LISTEN on a sender. Errors as in sidetrack.h. */
#ifndef SIDETRACK_PENDED_OPTION_H
#define SIDETRACK_PENDED_OPTION_H

/* ---- The end of each option ----------------------------------------------------------------- */

/*
 * Return values of the hooks. After PROCEED, getsockopt returns ctx->retval, which the kernel's own
 * handler has set before, and setsockopt calls the kernel's own handler. After FAILED, the call
 * fails with the errno of bpf_set_retval.
 */
#define OPTION_PROCEED 1
#define OPTION_FAILED 0

static __always_inline int option_fail(int error)
{
	bpf_set_retval(-error);
	return OPTION_FAILED;
}

static __always_inline int set_done(struct bpf_sockopt *ctx)
{
	ctx->optlen = -1; /* skips the kernel's own handler, which does not know this level */
	return OPTION_PROCEED;
}

/* ---- Senders and pended listeners ------------------------------------------------------------ */

/* Makes a raw socket a sender of a service, which may then only send about its pended flows. */
static __always_inline int set_sender(struct bpf_sockopt *ctx,
				      const struct sidetrack_service *service, __u32 number)
{
	struct sidetrack_socket *socket;

	if (!bpf_map_lookup_elem(&sidetrack_notices, &number))
		return option_fail(EPERM);
	socket = bpf_sk_storage_get(&sidetrack_sockets, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!socket)
		return option_fail(ENOMEM);
	socket->service = number;
	socket->epoch = service->epoch;
	socket->netns_cookie = bpf_get_netns_cookie(ctx);
	socket->role = SIDETRACK_SOCKET_SENDER;
	return set_done(ctx);
}

/* May this listener pend? Only if its service has a ring buffer. */
static __always_inline int may_pend(struct bpf_sock *sk, __u32 number)
{
	return sk->protocol == IPPROTO_TCP && bpf_map_lookup_elem(&sidetrack_notices, &number);
}

/* ---- COMPLETE ------------------------------------------------------------------------------- */

/*
 * Changes a pended flow to completed. Returns 0, or the error: ENOTCONN if its client has given up
 * or it is not held, EALREADY if it was completed before.
 */
static __noinline int flow_complete(struct sidetrack_flow_entry *entry, __u64 id)
{
	for (int i = 0; entry && i < FLOW_STATE_RETRIES; i++) {
		__u64 state = entry->state;
		__u32 stage = FLOW_STATE_STAGE(state);

		if (FLOW_STATE_ID(state) != id)
			return ENOTCONN;
		if (stage != SIDETRACK_STAGE_PENDED)
			return stage == SIDETRACK_STAGE_COMPLETED ? EALREADY : ENOTCONN;
		if (flow_state_exchange(
			    entry, state,
			    FLOW_STATE(id, SIDETRACK_STAGE_COMPLETED, FLOW_STATE_REFCOUNT(state))))
			return 0;
	}
	return ENOTCONN;
}

/* COMPLETE: the next SYN of this flow's client is accepted. */
static __noinline int set_complete(struct bpf_sockopt *ctx, const struct sidetrack_socket *listener)
{
	struct sidetrack_complete *complete = ctx->optval, copy;
	struct sidetrack_flow_entry *entry;
	struct name_walk walk = {};
	int error;

	if ((void *)(complete + 1) > ctx->optval_end || ctx->optlen != sizeof(copy))
		return option_fail(EINVAL);
	copy = *complete;
	if (!listener || listener->role != SIDETRACK_SOCKET_LISTENER || listener_is_stale(listener))
		return option_fail(EINVAL);
	if (!token_is_ours(&copy.records)) {
		count(SIDETRACK_COUNT_BAD_TOKEN);
		return option_fail(EINVAL);
	}
	entry = flow_find(copy.records.flow_id);
	if (entry && flow_service(&entry->flow) != listener->service)
		return option_fail(EINVAL);
	error = flow_complete(entry, copy.records.flow_id);
	if (error)
		return option_fail(error);
	__builtin_memcpy(walk.address.bytes, copy.local_addr, sizeof(walk.address));
	walk.port = copy.local_port;
	walk.flow_id = copy.records.flow_id;
	name_set(&walk);
	count(SIDETRACK_COUNT_COMPLETED);
	return set_done(ctx);
}

#endif /* SIDETRACK_PENDED_OPTION_H */
