/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A flow's state: its slot, the sockets tied to it, and when it is over. */
#ifndef SIDETRACK_FLOW_STATE_H
#define SIDETRACK_FLOW_STATE_H

/* The service that a flow was diverted to: the chain's last. */
static __always_inline __u32 flow_service(const struct sidetrack_flow *flow)
{
	return flow->chain[(flow->chain_length - 1) & (SIDETRACK_CHAIN_MAX - 1)];
}

/* ---- The client of datagrams --------------------------------------------------------------- */

/*
 * Nobody tells when an unconnected UDP socket closes: it is looked at when somebody wants to know.
 * Its memory may be another's by now, so it is read as such, and known by its cookie, which no
 * other socket ever has.
 */
static __always_inline int client_is_open(const struct sidetrack_flow_entry *entry)
{
	struct sock *sk = (struct sock *)entry->socket;

	return sk && (__u64)BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) == entry->client &&
	       BPF_CORE_READ(sk, sk_socket);
}

static __always_inline __be32 datagram_address4(__u64 id)
{
	return bpf_htonl(DATAGRAM_ADDRESS_FIRST +
			 id % (DATAGRAM_ADDRESSES / flows_max * flows_max));
}

static __always_inline void datagram_address6(__u64 id, union address *to)
{
	to->halves[0] = bpf_cpu_to_be64(DATAGRAM_PREFIX6 << 40 | engine_id >> 24);
	to->halves[1] = bpf_cpu_to_be64(id);
}

/* Where the client's datagrams come from, as far as it is known: a connect is before its port. */
static __always_inline void client_learn(struct sidetrack_flow_entry *entry)
{
	struct sock *sk = (struct sock *)entry->socket;
	struct sidetrack_flow *flow = &entry->flow;
	__be32 v4;

	if (flow->local_port || !client_is_open(entry))
		return;
	if (flow->family == AF_INET) {
		v4 = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		address_from_v4((union address *)flow->local_addr, v4);
	} else {
		BPF_CORE_READ_INTO(&flow->local_addr, sk, __sk_common.skc_v6_rcv_saddr);
	}
	flow->local_port = bpf_htons(BPF_CORE_READ(sk, __sk_common.skc_num));
}

/* Is the socket still connected to its flow? It may have been connected elsewhere, or nowhere. */
static __always_inline int client_is_connected(const struct sidetrack_flow_entry *entry)
{
	struct sock *sk = (struct sock *)entry->socket;
	__u64 id = entry->flow.id;
	union address remote, own;

	if (entry->flow.family == AF_INET)
		return BPF_CORE_READ(sk, __sk_common.skc_daddr) == datagram_address4(id);
	BPF_CORE_READ_INTO(&remote, sk, __sk_common.skc_v6_daddr);
	datagram_address6(id, &own);
	return address_is_equal(&remote, &own);
}

/* A connected socket keeps its flow however long it is silent. */
static __always_inline int datagrams_are_over(const struct sidetrack_flow_entry *entry, __u64 now)
{
	if (now - entry->closed_at < idle_ns)
		return 0;
	return !(entry->flow.flags & SIDETRACK_FLOW_CONNECTED) || !client_is_open(entry) ||
	       !client_is_connected(entry);
}

static __always_inline void destination_of(const struct sidetrack_flow_entry *entry,
					   struct sidetrack_destination *to)
{
	__builtin_memset(to, 0, sizeof(*to));
	to->client = entry->client;
	to->parent = entry->parent;
	__builtin_memcpy(to->remote_addr, entry->flow.remote_addr, sizeof(to->remote_addr));
	to->remote_port = entry->flow.remote_port;
}

/* A flow of datagrams is over: its destination has none any more, or another one. */
__noinline int destination_delete(const struct sidetrack_flow_entry *entry, __u64 id)
{
	struct sidetrack_destination destination;
	__u64 *known;

	if (!entry)
		return 0;
	__sync_fetch_and_sub(&flows_datagram, 1);
	destination_of(entry, &destination);
	known = bpf_map_lookup_elem(&sidetrack_destinations, &destination);
	if (known && *known == id)
		bpf_map_delete_elem(&sidetrack_destinations, &destination);
	return 0;
}

/* ---- A flow's state ------------------------------------------------------------------------ */

#define FLOW_STATE_RETRIES 16 /* of a change that others raced */
#define FLOW_TRIES_MAX 4096   /* slots looked at for a free one */
#define FLOW_TRIES_GRACE 4    /* of them, before a closed flow must give way */

static __always_inline struct sidetrack_flow_entry *flow_slot(__u64 id)
{
	__u32 slot = id % flows_max;

	return bpf_map_lookup_elem(&sidetrack_flows, &slot);
}

/* Whatever is in the slot that this address tells; NULL if it tells none. */
static __always_inline struct sidetrack_flow_entry *flow_at_address(__be32 address)
{
	__u32 slot = slot_of_address(address);

	return slot < SLOT_ADDRESSES ? bpf_map_lookup_elem(&sidetrack_flows, &slot) : NULL;
}

/* The flow of this id, if its slot is still its own. */
static __always_inline struct sidetrack_flow_entry *flow_find(__u64 id)
{
	struct sidetrack_flow_entry *entry = flow_slot(id);

	return entry && FLOW_STATE_ID(entry->state) == id ? entry : NULL;
}

static __always_inline int flow_state_exchange(struct sidetrack_flow_entry *entry, __u64 from,
					       __u64 to)
{
	return __sync_val_compare_and_swap(&entry->state, from, to) == from;
}

/*
 * May another flow have this slot? A closed one's token must have had its time; and as long we wait
 * for the SYN of a connect that was judged: nobody tells when it has failed before.
 */
static __always_inline int slot_is_reusable(const struct sidetrack_flow_entry *entry, __u64 state,
					    __u64 now)
{
	__u32 stage = FLOW_STATE_STAGE(state);

	if (stage == FLOW_DATAGRAM)
		return !FLOW_STATE_REFCOUNT(state) && datagrams_are_over(entry, now);
	return !state || ((stage == FLOW_CLOSED || stage == FLOW_RESERVED) &&
			  now - entry->closed_at >= grace_ns);
}

/* Only its token is still good: its time may be cut short. */
static __always_inline int slot_is_reclaimable(const struct sidetrack_flow_entry *entry,
					       __u64 state)
{
	__u32 stage = FLOW_STATE_STAGE(state);

	return stage == FLOW_CLOSED ||
	       (stage == FLOW_DATAGRAM && !FLOW_STATE_REFCOUNT(state) && !client_is_open(entry));
}

/* Whoever has taken a slot does away with what an earlier flow left. */
static __always_inline void slot_reclaim(struct sidetrack_flow_entry *entry, __u64 state)
{
	if (FLOW_STATE_STAGE(state) == FLOW_RESERVED)
		__sync_fetch_and_sub(&flows_reserved, 1);
	if (FLOW_STATE_STAGE(state) == FLOW_DATAGRAM)
		destination_delete(entry, FLOW_STATE_ID(state));
}

/* One look for a slot. */
struct flow_search {
	__u64 now;
	__u64 found;  /* the id that has got one */
	__u64 before; /* the state that was in it */
	__u64 closed; /* the first that could be had by cutting a token's time short */
};

static long flow_search_step(__u32 i, struct flow_search *search)
{
	__u64 id = __sync_fetch_and_add(&flow_last, 1) + 1;
	struct sidetrack_flow_entry *entry = flow_slot(id);
	__u64 state;

	if (!entry)
		return 1;
	state = entry->state;
	if (slot_is_reusable(entry, state, search->now)) {
		if (!flow_state_exchange(entry, state, FLOW_STATE(id, FLOW_FILLING, 0)))
			return 0;
		search->found = id;
		search->before = state;
		return 1;
	}
	if (!search->closed && slot_is_reclaimable(entry, state))
		search->closed = id;
	return search->closed && i + 1 >= FLOW_TRIES_GRACE;
}

/*
 * The next slot was used long ago, and reading it would wait for memory. A store does not wait: so
 * it is on its way into the cache until somebody takes it.
 */
static __always_inline void flow_prefetch(__u64 id)
{
	struct sidetrack_flow_entry *next = flow_slot(id + 1);

	if (next)
		*(volatile __u32 *)&next->prefetched = 0;
}

/* A slot for a new flow. Returns its id; 0 if there is none. */
__noinline __u64 flow_acquire_slot(__u64 now)
{
	__u32 tries = flows_max < FLOW_TRIES_MAX ? flows_max : FLOW_TRIES_MAX;
	struct flow_search search = { .now = now };
	struct sidetrack_flow_entry *entry;
	__u64 state;

	if (!flow_search_step(0, &search))
		bpf_loop(tries, flow_search_step, &search, 0);
	entry = flow_slot(search.found ? search.found : search.closed);
	if (!entry)
		return 0;
	if (search.found || !search.closed) {
		slot_reclaim(entry, search.before);
		flow_prefetch(search.found);
		return search.found;
	}
	state = entry->state;
	if (!slot_is_reclaimable(entry, state) ||
	    !flow_state_exchange(entry, state, FLOW_STATE(search.closed, FLOW_FILLING, 0)))
		return 0;
	slot_reclaim(entry, state);
	flow_prefetch(search.closed);
	count(SIDETRACK_COUNT_GRACE_CUT);
	return search.closed;
}

static __always_inline int flows_have_room(void)
{
	return flows_live + flows_reserved < (__s64)flows_max &&
	       flows_by_four_tuple < SIDETRACK_FOUR_TUPLES_MAX;
}

/* ---- Ties: sockets that keep a flow alive ------------------------------------------------ */

/* The same state with so many ties. */
static __always_inline __u64 flow_state_with_refcount(__u64 state, __u32 refcount)
{
	__u32 stage = FLOW_STATE_STAGE(state) == FLOW_DATAGRAM ? FLOW_DATAGRAM :
		      refcount				       ? FLOW_ESTABLISHED :
								 FLOW_CLOSED;

	return FLOW_STATE(FLOW_STATE_ID(state), stage, refcount);
}

/* Ties one more socket to an accepted flow. Fails if the flow is gone, or closed too long ago. */
static __always_inline int flow_get(struct sidetrack_flow_entry *entry, __u64 id)
{
	for (int i = 0; i < FLOW_STATE_RETRIES; i++) {
		__u64 state = entry->state;
		__u32 stage = FLOW_STATE_STAGE(state);

		if (FLOW_STATE_ID(state) != id || stage < FLOW_ESTABLISHED ||
		    slot_is_reusable(entry, state, bpf_ktime_get_ns()) ||
		    FLOW_STATE_REFCOUNT(state) == 0xffff)
			return -1;
		if (!flow_state_exchange(
			    entry, state,
			    flow_state_with_refcount(state, FLOW_STATE_REFCOUNT(state) + 1)))
			continue;
		if (stage == FLOW_CLOSED)
			__sync_fetch_and_add(&flows_live, 1);
		return 0;
	}
	return -1;
}

static __always_inline void flow_put(__u64 id)
{
	struct sidetrack_flow_entry *entry = flow_slot(id);

	for (int i = 0; entry && i < FLOW_STATE_RETRIES; i++) {
		__u64 state = entry->state;
		__u32 refcount = FLOW_STATE_REFCOUNT(state);

		if (FLOW_STATE_ID(state) != id || !refcount)
			return;
		if (refcount == 1)
			entry->closed_at = bpf_ktime_get_ns();
		if (!flow_state_exchange(entry, state,
					 flow_state_with_refcount(state, refcount - 1)))
			continue;
		if (refcount == 1 && FLOW_STATE_STAGE(state) != FLOW_DATAGRAM)
			__sync_fetch_and_sub(&flows_live, 1);
		return;
	}
}

#endif /* SIDETRACK_FLOW_STATE_H */
