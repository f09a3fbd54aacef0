/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A flow's life: made at SYN, handed to the accepted socket, kept while tied, forgotten after
 * grace. */
#ifndef SIDETRACK_FLOW_H
#define SIDETRACK_FLOW_H

/* The service that a flow was diverted to: the chain's last. */
static __always_inline __u32 flow_service(const struct sidetrack_flow *flow)
{
	return flow->chain[(flow->chain_length - 1) & (SIDETRACK_CHAIN_MAX - 1)];
}

/* ---- A flow's life ------------------------------------------------------------------------ */

#define LIFE_RETRIES 16	    /* of a change that others raced */
#define FLOW_TRIES_MAX 4096 /* slots looked at for a free one */
#define FLOW_TRIES_GRACE 4  /* of them, before a closed flow must give way */

static __always_inline struct sidetrack_flow_entry *flow_slot(__u64 id)
{
	__u32 slot = id % flows_max;

	return bpf_map_lookup_elem(&sidetrack_flows, &slot);
}

/* The flow of this id, if its slot is still its own. */
static __always_inline struct sidetrack_flow_entry *flow_find(__u64 id)
{
	struct sidetrack_flow_entry *entry = flow_slot(id);

	return entry && LIFE_ID(entry->life) == id ? entry : NULL;
}

static __always_inline int life_change(struct sidetrack_flow_entry *entry, __u64 from, __u64 to)
{
	return __sync_val_compare_and_swap(&entry->life, from, to) == from;
}

/* May another flow have this slot? A closed one's token must have had its time. */
static __always_inline int life_is_over(const struct sidetrack_flow_entry *entry, __u64 life,
					__u64 now)
{
	return !life || (LIFE_STAGE(life) == FLOW_CLOSED && now - entry->closed_at >= grace_ns);
}

/* One look for a slot. */
struct flow_search {
	__u64 now;
	__u64 found;  /* the id that has got one */
	__u64 closed; /* the first that could be had by cutting a token's time short */
};

static long flow_search_step(__u32 i, struct flow_search *search)
{
	__u64 id = __sync_fetch_and_add(&flow_last, 1) + 1;
	struct sidetrack_flow_entry *entry = flow_slot(id);
	__u64 life;

	if (!entry)
		return 1;
	life = entry->life;
	if (life_is_over(entry, life, search->now)) {
		if (!life_change(entry, life, LIFE(id, FLOW_TAKEN, 0)))
			return 0;
		search->found = id;
		return 1;
	}
	if (LIFE_STAGE(life) == FLOW_CLOSED && !search->closed)
		search->closed = id;
	return search->closed && i + 1 >= FLOW_TRIES_GRACE;
}

/* A slot for a new flow. Returns its id; 0 if there is none. */
static __noinline __u64 flow_take_slot(void)
{
	__u32 tries = flows_max < FLOW_TRIES_MAX ? flows_max : FLOW_TRIES_MAX;
	struct flow_search search = { .now = bpf_ktime_get_ns() };
	struct sidetrack_flow_entry *entry;
	__u64 life;

	bpf_loop(tries, flow_search_step, &search, 0);
	if (search.found || !search.closed)
		return search.found;
	entry = flow_slot(search.closed);
	life = entry ? entry->life : 0;
	if (LIFE_STAGE(life) != FLOW_CLOSED ||
	    !life_change(entry, life, LIFE(search.closed, FLOW_TAKEN, 0)))
		return 0;
	count(SIDETRACK_COUNT_GRACE_CUT);
	return search.closed;
}

static __always_inline int flows_have_room(void)
{
	return flows_live < (__s64)flows_max && flows_pending < SIDETRACK_PENDING_MAX;
}

/* ---- Ties: sockets that keep a flow alive ------------------------------------------------ */

/* Ties one more socket to an accepted flow. Fails if the flow is gone, or closed too long ago. */
static __always_inline int flow_tie(struct sidetrack_flow_entry *entry, __u64 id)
{
	for (int i = 0; i < LIFE_RETRIES; i++) {
		__u64 life = entry->life;
		__u32 stage = LIFE_STAGE(life);

		if (LIFE_ID(life) != id || stage < FLOW_ESTABLISHED ||
		    life_is_over(entry, life, bpf_ktime_get_ns()) || LIFE_TIES(life) == 0xffff)
			return -1;
		if (!life_change(entry, life, LIFE(id, FLOW_ESTABLISHED, LIFE_TIES(life) + 1)))
			continue;
		if (stage == FLOW_CLOSED)
			__sync_fetch_and_add(&flows_live, 1);
		return 0;
	}
	return -1;
}

static __always_inline void flow_untie(__u64 id)
{
	struct sidetrack_flow_entry *entry = flow_slot(id);

	for (int i = 0; entry && i < LIFE_RETRIES; i++) {
		__u64 life = entry->life;
		__u32 ties = LIFE_TIES(life);

		if (LIFE_ID(life) != id || !ties)
			return;
		if (ties == 1)
			entry->closed_at = bpf_ktime_get_ns();
		if (!life_change(entry, life,
				 LIFE(id, ties == 1 ? FLOW_CLOSED : FLOW_ESTABLISHED, ties - 1)))
			continue;
		if (ties == 1)
			__sync_fetch_and_sub(&flows_live, 1);
		return;
	}
}

/* ---- From the client's SYN to the accepted socket ---------------------------------------- */

/* The four-tuple as the client sees it; the accepted socket has it the other way round. */
static __always_inline void pair_read(struct sidetrack_pair *pair, struct bpf_sock_ops *ops,
				      int accepted)
{
	union address *client = (union address *)pair->client_addr;
	union address *target = (union address *)pair->target_addr;
	union address *local = accepted ? target : client;
	union address *remote = accepted ? client : target;
	__u16 remote_port = bpf_ntohl(ops->remote_port);

	__builtin_memset(pair, 0, sizeof(*pair));
	pair->netns_cookie = bpf_get_netns_cookie(ops);
	if (ops->family == AF_INET) {
		address_from_v4(local, ops->local_ip4);
		address_from_v4(remote, ops->remote_ip4);
	} else {
		for (int i = 0; i < 4; i++) {
			local->words[i] = ops->local_ip6[i];
			remote->words[i] = ops->remote_ip6[i];
		}
	}
	pair->client_port = accepted ? remote_port : ops->local_port;
	pair->target_port = bpf_htons(accepted ? ops->local_port : remote_port);
}

static __always_inline int flow_fill(struct sidetrack_flow_entry *entry,
				     const struct sidetrack_client *client,
				     const struct sidetrack_pair *pair, __u64 id)
{
	struct sidetrack_flow *flow = &entry->flow;
	struct sidetrack_flow_entry *parent;

	flow->id = id;
	flow->origin_id = id;
	flow->filter_id = client->filter_id;
	flow->connected_at = bpf_ktime_get_ns();
	flow->netns_cookie = pair->netns_cookie;
	flow->opener_pid = program_pid();
	flow->bound_ifindex = client->bound_ifindex;
	flow->flags = client->flags;
	__builtin_memcpy(flow->remote_addr, client->remote_addr, sizeof(flow->remote_addr));
	__builtin_memcpy(flow->local_addr, pair->client_addr, sizeof(flow->local_addr));
	flow->remote_port = client->remote_port;
	flow->local_port = bpf_htons(pair->client_port);
	flow->protocol = IPPROTO_TCP;
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

/* Records the flow, and where it is to be found. Its slot is ours until it is pending. */
static __always_inline int flow_record(struct sidetrack_client *client,
				       const struct sidetrack_pair *pair)
{
	__u64 id = flow_take_slot();
	struct sidetrack_flow_entry *entry = flow_slot(id);

	client->flow_id = id;
	if (!id || !entry)
		return -1;
	if (flow_fill(entry, client, pair, id) ||
	    bpf_map_update_elem(&sidetrack_pairs, pair, &id, BPF_ANY)) {
		entry->life = 0;
		return -1;
	}
	__sync_fetch_and_add(&flows_live, 1);
	__sync_fetch_and_add(&flows_pending, 1);
	__sync_lock_test_and_set(&entry->life, LIFE(id, FLOW_PENDING, 0));
	return 0;
}

/* sockops, TCP_CONNECT: the client has its source port, and the SYN has not left yet. */
static __always_inline void flow_begin(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct sidetrack_client *client;
	struct sidetrack_pair pair;

	if (!sk)
		return;
	client = bpf_sk_storage_get(&sidetrack_clients, sk, NULL, 0);
	if (!client)
		return;
	pair_read(&pair, ops, 0);
	if (flow_record(client, &pair))
		count(SIDETRACK_COUNT_FLOWS_LOST);
	else
		bpf_sock_ops_cb_flags_set(ops,
					  ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* A client reaches CLOSE: if nobody accepted it, there is nothing left to keep. */
static __always_inline void flow_abandon(struct bpf_sock_ops *ops, __u64 id)
{
	struct sidetrack_flow_entry *entry = flow_find(id);
	struct sidetrack_pair pair;
	__u64 *carried;

	if (!entry || !life_change(entry, LIFE(id, FLOW_PENDING, 0), LIFE(id, FLOW_TAKEN, 0)))
		return;
	pair_read(&pair, ops, 0);
	carried = bpf_map_lookup_elem(&sidetrack_pairs, &pair);
	if (carried && *carried == id)
		bpf_map_delete_elem(&sidetrack_pairs, &pair);
	__sync_fetch_and_sub(&flows_pending, 1);
	__sync_fetch_and_sub(&flows_live, 1);
	__sync_lock_test_and_set(&entry->life, 0);
}

/* The flow that a new connection carries, taken out of the map; 0 if none. */
static __always_inline __u64 pair_take(struct bpf_sock_ops *ops)
{
	struct sidetrack_pair pair;
	__u64 *carried, id;

	pair_read(&pair, ops, 1);
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
	entry = id ? flow_find(id) : NULL;
	if (!entry || flow_service(&entry->flow) != socket->service)
		return; /* nobody's, or of another service that had the port: not its flow */
	if (!life_change(entry, LIFE(id, FLOW_PENDING, 0), LIFE(id, FLOW_ESTABLISHED, 1)))
		return; /* the client has just gone */
	__sync_fetch_and_sub(&flows_pending, 1);
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
