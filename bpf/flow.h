/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A flow's life: made at SYN, handed to the accepted socket, kept while tied, forgotten after
 * grace. */
#ifndef SIDETRACK_FLOW_H
#define SIDETRACK_FLOW_H

static __always_inline void flow_forget(__u64 id)
{
	if (!bpf_map_delete_elem(&sidetrack_flows, &id))
		__sync_fetch_and_sub(&flows_live, 1);
}

/* The service that a flow was diverted to: the chain's last. */
static __always_inline __u32 flow_service(const struct sidetrack_flow *flow)
{
	return flow->chain[(flow->chain_length - 1) & (SIDETRACK_CHAIN_MAX - 1)];
}

/* ---- The grave: closed flows whose tokens are still good --------------------------------- */

/* Is this flow still as closed as when its grave was dug? A later tie may have revived it. */
static __always_inline void grave_clear(const struct sidetrack_grave *grave)
{
	struct sidetrack_flow_entry *entry = bpf_map_lookup_elem(&sidetrack_flows, &grave->flow_id);

	if (entry && entry->ties == 0 && entry->closed_at == grave->closed_at)
		flow_forget(grave->flow_id);
}

/* Clears flows whose grace has ended, at most two, so that the work keeps up with new flows. */
static __always_inline void graves_tend(void)
{
	struct sidetrack_grave grave;
	__u64 now = bpf_ktime_get_ns();

	for (int i = 0; i < 2; i++) {
		if (bpf_map_peek_elem(&sidetrack_graves, &grave) ||
		    now - grave.closed_at < grace_ns)
			return;
		if (bpf_map_pop_elem(&sidetrack_graves, &grave))
			return;
		if (now - grave.closed_at < grace_ns) { /* another CPU took the one we saw */
			bpf_map_push_elem(&sidetrack_graves, &grave, 0);
			return;
		}
		grave_clear(&grave);
	}
}

/* Room for one more flow? The oldest closed one gives way, never a live one. */
static __always_inline int flows_have_room(void)
{
	struct sidetrack_grave grave;

	graves_tend();
	for (int i = 0; i < 4; i++) {
		if (flows_live < (__s64)flows_max)
			return 1;
		if (bpf_map_pop_elem(&sidetrack_graves, &grave))
			return 0;
		grave_clear(&grave);
		count(SIDETRACK_COUNT_GRACE_CUT);
	}
	return flows_live < (__s64)flows_max;
}

/* ---- Ties: sockets that keep a flow alive ------------------------------------------------ */

static __always_inline void flow_tie(struct sidetrack_flow_entry *entry)
{
	__sync_fetch_and_add(&entry->ties, 1);
	entry->closed_at = 0;
}

static __always_inline void flow_untie(__u64 id)
{
	struct sidetrack_flow_entry *entry = bpf_map_lookup_elem(&sidetrack_flows, &id);
	struct sidetrack_grave grave = { .flow_id = id };

	if (!entry || __sync_fetch_and_add(&entry->ties, -1) != 1)
		return;
	grave.closed_at = bpf_ktime_get_ns();
	entry->closed_at = grave.closed_at;
	if (bpf_map_push_elem(&sidetrack_graves, &grave, 0)) {
		flow_forget(id);
		count(SIDETRACK_COUNT_GRACE_CUT);
	}
}

/* ---- From the client's SYN to the accepted socket ---------------------------------------- */

/* The four-tuple as the client sees it; the accepted socket has it the other way round. */
static __always_inline void pair_of_client(struct sidetrack_pair *pair, struct bpf_sock_ops *ops)
{
	union address *client = (union address *)pair->client_addr;
	union address *target = (union address *)pair->target_addr;

	__builtin_memset(pair, 0, sizeof(*pair));
	pair->netns_cookie = bpf_get_netns_cookie(ops);
	if (ops->family == AF_INET) {
		address_from_v4(client, ops->local_ip4);
		address_from_v4(target, ops->remote_ip4);
	} else {
		for (int i = 0; i < 4; i++) {
			client->words[i] = ops->local_ip6[i];
			target->words[i] = ops->remote_ip6[i];
		}
	}
	pair->client_port = ops->local_port;
	pair->target_port = bpf_htons(bpf_ntohl(ops->remote_port));
}

static __always_inline void pair_of_accepted(struct sidetrack_pair *pair, struct bpf_sock_ops *ops)
{
	union address *client = (union address *)pair->client_addr;
	union address *target = (union address *)pair->target_addr;

	__builtin_memset(pair, 0, sizeof(*pair));
	pair->netns_cookie = bpf_get_netns_cookie(ops);
	if (ops->family == AF_INET) {
		address_from_v4(client, ops->remote_ip4);
		address_from_v4(target, ops->local_ip4);
	} else {
		for (int i = 0; i < 4; i++) {
			client->words[i] = ops->remote_ip6[i];
			target->words[i] = ops->local_ip6[i];
		}
	}
	pair->client_port = bpf_ntohl(ops->remote_port);
	pair->target_port = bpf_htons(ops->local_port);
}

static __always_inline int flow_fill(struct sidetrack_desk *desk,
				     const struct sidetrack_client *client,
				     const struct sidetrack_pair *pair)
{
	struct sidetrack_flow *flow = &desk->entry.flow;
	struct sidetrack_flow_entry *parent;

	flow->id = client->flow_id;
	flow->origin_id = client->flow_id;
	flow->filter_id = client->filter_id;
	flow->connected_at = bpf_ktime_get_ns();
	flow->netns_cookie = pair->netns_cookie;
	flow->opener_pid = program_pid();
	flow->bound_ifindex = client->bound_ifindex;
	__builtin_memcpy(flow->remote_addr, client->remote_addr, sizeof(flow->remote_addr));
	__builtin_memcpy(flow->local_addr, pair->client_addr, sizeof(flow->local_addr));
	flow->remote_port = client->remote_port;
	flow->local_port = bpf_htons(pair->client_port);
	flow->protocol = IPPROTO_TCP;
	flow->family = client->family;
	flow->chain_length = client->chain_length;
	__builtin_memcpy(flow->chain, client->chain, sizeof(flow->chain));
	flow->context_id = client->context_id;
	flow->flags = client->flags;
	if (!client->parent_id) {
		program_describe(desk);
		return 0;
	}
	parent = bpf_map_lookup_elem(&sidetrack_flows, &client->parent_id);
	if (!parent)
		return -1;
	program_inherit(&desk->entry, parent);
	return 0;
}

static __always_inline int flow_record(struct sidetrack_desk *desk,
				       const struct sidetrack_client *client,
				       const struct sidetrack_pair *pair)
{
	__u64 id = client->flow_id;

	__builtin_memset(&desk->entry, 0, sizeof(desk->entry));
	if (flow_fill(desk, client, pair) ||
	    bpf_map_update_elem(&sidetrack_flows, &id, &desk->entry, BPF_NOEXIST))
		return -1;
	__sync_fetch_and_add(&flows_live, 1);
	if (!bpf_map_update_elem(&sidetrack_pairs, pair, &id, BPF_ANY))
		return 0;
	flow_forget(id);
	return -1;
}

/* sockops, TCP_CONNECT: the client has its source port, and the SYN has not left yet. */
static __always_inline void flow_begin(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct sidetrack_client *client;
	struct sidetrack_desk *desk;
	struct sidetrack_pair pair;
	int error = -1;

	if (!sk)
		return;
	client = bpf_sk_storage_get(&sidetrack_clients, sk, NULL, 0);
	if (!client)
		return;
	pair_of_client(&pair, ops);
	desk = desk_take();
	if (desk) {
		error = flow_record(desk, client, &pair);
		desk_give(desk);
	}
	if (error)
		count(SIDETRACK_COUNT_FLOWS_LOST);
	else
		bpf_sock_ops_cb_flags_set(ops,
					  ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* A client reaches CLOSE: if nobody accepted it, there is nothing left to keep. */
static __always_inline void flow_abandon(struct bpf_sock_ops *ops, __u64 id)
{
	struct sidetrack_flow_entry *entry = bpf_map_lookup_elem(&sidetrack_flows, &id);
	struct sidetrack_pair pair;
	__u64 *carried;

	if (!entry || __sync_val_compare_and_swap(&entry->state, FLOW_PENDING, FLOW_ABANDONED) !=
			      FLOW_PENDING)
		return;
	pair_of_client(&pair, ops);
	carried = bpf_map_lookup_elem(&sidetrack_pairs, &pair);
	if (carried && *carried == id)
		bpf_map_delete_elem(&sidetrack_pairs, &pair);
	flow_forget(id);
}

/* The flow that a new connection carries, taken out of the map; 0 if none. */
static __always_inline __u64 pair_take(struct bpf_sock_ops *ops)
{
	struct sidetrack_pair pair;
	__u64 *carried, id;

	pair_of_accepted(&pair, ops);
	carried = bpf_map_lookup_elem(&sidetrack_pairs, &pair);
	if (!carried) {
		if (address_is_spread((union address *)pair.target_addr))
			count(SIDETRACK_COUNT_FLOWS_LOST);
		return 0;
	}
	id = *carried;
	bpf_map_delete_elem(&sidetrack_pairs, &pair);
	return id;
}

/* sockops, PASSIVE_ESTABLISHED: runs before accept returns; the new socket takes its flow. */
static __always_inline void flow_hand_over(struct bpf_sock_ops *ops)
{
	struct sidetrack_flow_entry *entry;
	struct bpf_sock *sk = ops->sk;
	struct sidetrack_socket *socket;
	__u64 id;

	if (!sk)
		return;
	socket = bpf_sk_storage_get(&sidetrack_sockets, sk, NULL, 0);
	if (!socket)
		return;
	socket->linked = 0; /* of the listener's own, if it ever had one */
	if (socket->role != SOCKET_LISTENER) {
		socket->role = 0;
		return;
	}
	socket->role = SOCKET_ACCEPTED;
	id = pair_take(ops);
	entry = id ? bpf_map_lookup_elem(&sidetrack_flows, &id) : NULL;
	if (!entry || flow_service(&entry->flow) != socket->service)
		return; /* nobody's, or of another service that had the port: not its flow */
	flow_tie(entry);
	if (__sync_val_compare_and_swap(&entry->state, FLOW_PENDING, FLOW_ESTABLISHED) !=
	    FLOW_PENDING) {
		__sync_fetch_and_add(&entry->ties, -1);
		return; /* the client has just gone */
	}
	socket->accepted = id;
	count(SIDETRACK_COUNT_HANDED_OVER);
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/*
 * sockops, an accepted socket reaches CLOSE. If no program ever held it (its listener closed with
 * it still in the queue), no release will come.
 */
static __always_inline void flow_drop_unaccepted(struct bpf_sock *sk,
						 struct sidetrack_socket *socket)
{
	struct tcp_sock *tcp;
	__u64 id;

	if (!socket->accepted)
		return;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp || ((struct sock *)tcp)->sk_socket)
		return;
	id = __sync_lock_test_and_set(&socket->accepted, 0);
	if (id)
		flow_untie(id);
}

/* sockops, a socket of either side reaches CLOSE. */
static __always_inline void flow_end(struct bpf_sock_ops *ops)
{
	struct sidetrack_socket *socket;
	struct sidetrack_client *client;
	struct bpf_sock *sk = ops->sk;

	if (!sk)
		return;
	client = bpf_sk_storage_get(&sidetrack_clients, sk, NULL, 0);
	if (client)
		flow_abandon(ops, client->flow_id);
	socket = bpf_sk_storage_get(&sidetrack_sockets, sk, NULL, 0);
	if (socket)
		flow_drop_unaccepted(sk, socket);
}

#endif /* SIDETRACK_FLOW_H */
