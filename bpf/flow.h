/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flow of a TCP connection: made at connect or when the SYN is sent, handed over to the
 * accepted socket, and released when the sockets close.
 */
#ifndef SIDETRACK_FLOW_H
#define SIDETRACK_FLOW_H

/* ---- From the connect to the accepted socket --------------------------------------------- */

/* Fills in a flow. Fails if its parent flow is gone. */
static __always_inline int flow_fill(struct sidetrack_flow_entry *entry,
				     const struct sidetrack_client *client, __u64 id, __u64 now)
{
	struct sidetrack_flow *flow = &entry->flow;
	struct sidetrack_flow_entry *parent;

	flow->id = id;
	flow->origin_id = id;
	flow->filter_id = client->filter_id;
	flow->connected_at = now;
	flow->opener_pid = program_pid();
	flow->bound_ifindex = client->bound_ifindex;
	flow->flags = client->flags;
	__builtin_memcpy(flow->remote_addr, client->remote_addr, sizeof(flow->remote_addr));
	flow->remote_port = client->remote_port;
	flow->protocol = client->protocol;
	flow->family = client->family;
	flow->chain_length = client->chain_length;
	__builtin_memcpy(flow->chain, client->chain, sizeof(flow->chain));
	flow->context_id = client->context_id;
	flow->reserved = 0;
	if (!client->parent_id)
		return program_describe(entry);
	parent = flow_find(client->parent_id);
	if (!parent)
		return -1;
	program_inherit(entry, parent);
	return 0;
}

/*
 * Makes a flow with everything that is known before the SYN. It is in the stage filling, so its
 * slot belongs to the caller, who sets the next stage. Returns its id; 0 if no slot is free or the
 * parent flow is gone.
 */
__noinline __u64 flow_make(const struct sidetrack_client *client, __u64 socket_cookie)
{
	struct sidetrack_flow_entry *entry;
	__u64 now = bpf_ktime_get_ns(), id;

	if (!client)
		return 0;
	id = flow_acquire_slot(now);
	entry = flow_slot(id);
	if (!id || !entry)
		return 0;
	entry->idle_since = now;
	entry->client_cookie = socket_cookie;
	entry->socket_pointer = 0;
	entry->parent_id = client->parent_id;
	entry->handed_over = 0;
	__builtin_memcpy(entry->name_addr, client->bound_addr, sizeof(entry->name_addr));
	entry->name_port = 0;
	if (!flow_fill(entry, client, id, now))
		return id;
	entry->state = 0;
	return 0;
}

/*
 * connect: makes the flow in the stage reserved. Returns the address of its slot, by which the
 * later hooks find it; 0 if no flow could be made.
 */
static __always_inline __be32 flow_reserve(struct bpf_sock_addr *ctx,
					   const struct sidetrack_client *client)
{
	__u64 id = flow_make(client, bpf_get_socket_cookie(ctx));
	struct sidetrack_flow_entry *entry = flow_slot(id);

	if (!id || !entry)
		return 0;
	__sync_fetch_and_add(&flows_reserved, 1);
	__sync_lock_test_and_set(&entry->state, FLOW_STATE(id, SIDETRACK_STAGE_RESERVED, 0));
	return address_of_slot(id % flows_max);
}

/* The SYN is about to be sent: the flow is connecting, and its client refers to it. */
static __always_inline void flow_start(struct bpf_sock_ops *ops, struct sidetrack_flow_entry *entry)
{
	union address *local = (union address *)entry->flow.local_addr;
	struct bpf_sock *sk = ops->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;

	entry->sequence =
		tcp ? tcp->write_seq : 0; /* the SYN takes the next number to be written */
	if (ops->family == AF_INET)
		address_from_v4(local, ops->local_ip4);
	else
		for (int i = 0; i < 4; i++)
			local->words[i] = ops->local_ip6[i];
	entry->flow.local_port = bpf_htons(ops->local_port);
	entry->flow.netns_cookie = bpf_get_netns_cookie(ops);
	__sync_fetch_and_add(&flows_live, 1);
	__sync_lock_test_and_set(&entry->state,
				 FLOW_STATE(entry->flow.id, SIDETRACK_STAGE_CONNECTING, 1));
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* The client was diverted to the address of its flow's slot. */
static __always_inline void flow_begin_reserved(struct bpf_sock_ops *ops,
						struct sidetrack_flow_entry *entry)
{
	__u64 id = FLOW_STATE_ID(entry->state);

	if (!flow_state_exchange(entry, FLOW_STATE(id, SIDETRACK_STAGE_RESERVED, 0),
				 FLOW_STATE(id, SIDETRACK_STAGE_FILLING, 0)))
		return;
	__sync_fetch_and_sub(&flows_reserved, 1);
	flow_start(ops, entry);
}

/* The client was diverted to an address that identifies no slot, so it needs a four-tuple. */
static __always_inline int flow_begin_by_four_tuple(struct bpf_sock_ops *ops,
						    struct sidetrack_client *client)
{
	__u64 id = flow_make(client, bpf_get_socket_cookie(ops));
	struct sidetrack_flow_entry *entry = flow_slot(id);

	client->flow_id = id;
	if (!id || !entry)
		return -1;
	if (four_tuple_add(ops, client->flow_id)) {
		entry->state = 0;
		return -1;
	}
	flow_start(ops, entry);
	return 0;
}

/* sockops, TCP_CONNECT: the client has its source port, and the SYN is not sent yet. */
static __always_inline void flow_begin(struct bpf_sock_ops *ops)
{
	struct sidetrack_flow_entry *entry;
	struct bpf_sock *sk = ops->sk;
	struct sidetrack_client *client;

	if (!sk)
		return;
	entry = flow_at_address(ops->remote_ip4);
	if (entry && entry->client_cookie == bpf_get_socket_cookie(ops)) {
		flow_begin_reserved(ops, entry);
		return;
	}
	client = bpf_sk_storage_get(&sidetrack_clients, sk, NULL, 0);
	if (client && flow_begin_by_four_tuple(ops, client))
		count(SIDETRACK_COUNT_FLOWS_LOST);
}

/* Is this the connection of the slot's flow? No other connection has the same four-tuple. */
static __always_inline int flow_has_four_tuple(const struct sidetrack_flow *flow,
					       struct bpf_sock_ops *ops)
{
	const union address *local = (const union address *)flow->local_addr;

	return local->words[3] == ops->remote_ip4 &&
	       bpf_ntohs(flow->local_port) == bpf_ntohl(ops->remote_port) &&
	       flow->netns_cookie == bpf_get_netns_cookie(ops);
}

/* The id of the flow that a new accepted socket carries; 0 if it carries none. */
static __always_inline __u64 flow_of_accepted(struct bpf_sock_ops *ops)
{
	struct sidetrack_flow_entry *entry = flow_at_address(ops->local_ip4);
	__u64 id;

	if (!entry)
		return four_tuple_take(ops);
	id = FLOW_STATE_ID(entry->state);
	if (id && flow_has_four_tuple(&entry->flow, ops))
		return id;
	accepted_forget(entry, ops->sk);
	count(SIDETRACK_COUNT_FLOWS_LOST);
	return 0;
}

/* Does the service listen where this socket was accepted? It may be gone, or listen elsewhere. */
static __always_inline int service_listens_at(__u32 number, struct bpf_sock_ops *ops)
{
	struct sidetrack_service *service = bpf_map_lookup_elem(&sidetrack_services, &number);
	__be16 port = bpf_htons(ops->local_port);

	if (!service)
		return 0;
	return ops->family == AF_INET ? service->listeners4 && service->port4 == port :
					service->listeners6 && service->port6 == port;
}

/* Has no socket of this flow been accepted yet? */
static __always_inline int flow_is_unaccepted(__u64 state)
{
	__u32 stage = FLOW_STATE_STAGE(state);

	return stage == SIDETRACK_STAGE_CONNECTING || stage == SIDETRACK_STAGE_PENDED ||
	       stage == SIDETRACK_STAGE_COMPLETED;
}

/*
 * The flow has an accepted socket, which takes a reference to it. Fails if the client has closed.
 * A flow that is still pended comes by another listener of its service, which does not pend.
 */
static __noinline int flow_establish(struct sidetrack_flow_entry *entry, __u64 id)
{
	for (int i = 0; entry && i < FLOW_STATE_RETRIES; i++) {
		__u64 state = entry->state;

		if (FLOW_STATE_ID(state) != id || !flow_is_unaccepted(state))
			return -1;
		if (flow_state_exchange(entry, state,
					FLOW_STATE(id, SIDETRACK_STAGE_ESTABLISHED,
						   FLOW_STATE_REFCOUNT(state) + 1)))
			return 0;
	}
	return -1;
}

/* sockops, PASSIVE_ESTABLISHED: gives the accepted socket its flow, before accept returns. */
static __always_inline void flow_hand_over(struct bpf_sock_ops *ops)
{
	struct sidetrack_flow_entry *entry;
	struct bpf_sock *sk = ops->sk;
	__u64 id;

	if (!sk || !accepted_is_marked(ops, sk))
		return;
	id = flow_of_accepted(ops);
	entry = id ? flow_find(id) : NULL;
	if (!entry || !service_listens_at(flow_service(&entry->flow), ops))
		return; /* no flow, or that of a service that had the port before */
	if (flow_establish(entry, id))
		return; /* the client has just closed */
	if (accepted_attach_flow(sk, ops->local_ip4, entry, id)) {
		flow_put(id);
		count(SIDETRACK_COUNT_FLOWS_LOST);
		return;
	}
	count(SIDETRACK_COUNT_HANDED_OVER);
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* ---- Closing ------------------------------------------------------------------------------ */

/* The client reaches CLOSE. If its connection was not accepted, its slot is free at once. */
static __always_inline void flow_client_closed(struct sidetrack_flow_entry *entry,
					       __u64 socket_cookie)
{
	__u64 id = FLOW_STATE_ID(entry->state);

	if (__sync_val_compare_and_swap(&entry->client_cookie, socket_cookie, 0) != socket_cookie)
		return;
	if (flow_state_exchange(entry, FLOW_STATE(id, SIDETRACK_STAGE_CONNECTING, 1), 0))
		__sync_fetch_and_sub(&flows_live, 1);
	else if (flow_state_exchange(entry, FLOW_STATE(id, SIDETRACK_STAGE_RESERVED, 0), 0))
		__sync_fetch_and_sub(&flows_reserved, 1);
	else if (!pended_client_closed(entry, id))
		flow_put(id);
}

/* sockops: a socket reaches CLOSE. If it is the client of a flow, drops its reference to the flow.
 */
static __always_inline void flow_end_client(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct sidetrack_flow_entry *entry = flow_at_address(ops->remote_ip4);
	__u64 socket_cookie = bpf_get_socket_cookie(ops);
	struct sidetrack_client *client;

	if (!entry || entry->client_cookie != socket_cookie) {
		client = bpf_sk_storage_get(&sidetrack_clients, sk, NULL, 0);
		entry = client ? flow_find(client->flow_id) : NULL;
		if (!entry)
			return;
		if (flow_is_unaccepted(entry->state))
			four_tuple_delete(ops, client->flow_id);
	}
	flow_client_closed(entry, socket_cookie);
}

/*
 * sockops: a socket reaches CLOSE. Drops the reference of an accepted socket that accept has not
 * returned: its client has reset it, or its listener is closing, and then sock_release never runs
 * for it. Accept may still return it, so it keeps its flow, about which the proxy can ask.
 */
static __always_inline void flow_drop_unaccepted(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct tcp_sock *tcp;
	__u64 id;

	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp || ((struct sock *)tcp)->sk_socket)
		return;
	id = accepted_close(sk, ops->local_ip4);
	if (id)
		flow_put(id);
}

/* sockops: a socket reaches CLOSE, a client or an accepted socket. */
static __always_inline void flow_end(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (!sk)
		return;
	flow_end_client(ops, sk);
	flow_drop_unaccepted(ops, sk);
}

#endif /* SIDETRACK_FLOW_H */
