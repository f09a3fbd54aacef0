/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The state of a flow: its slot, its reference count, and when it is over. */
#ifndef SIDETRACK_FLOW_STATE_H
#define SIDETRACK_FLOW_STATE_H

/* A state as a whole, and its parts. */
#define FLOW_STATE(id, stage, refcount)                                                            \
	((__u64)(id) << SIDETRACK_FLOW_STATE_ID_SHIFT |                                            \
	 (__u64)(stage) << SIDETRACK_FLOW_STATE_STAGE_SHIFT | (refcount))
#define FLOW_STATE_ID(state) ((state) >> SIDETRACK_FLOW_STATE_ID_SHIFT)
#define FLOW_STATE_STAGE(state)                                                                    \
	((state) >> SIDETRACK_FLOW_STATE_STAGE_SHIFT & SIDETRACK_FLOW_STATE_STAGE_MASK)
#define FLOW_STATE_REFCOUNT(state) ((state)&SIDETRACK_FLOW_STATE_REFCOUNT_MASK)

/* The service that a flow was diverted to: the last one of its chain. */
static __always_inline __u32 flow_service(const struct sidetrack_flow *flow)
{
	return flow->chain[(flow->chain_length - 1) & (SIDETRACK_CHAIN_MAX - 1)];
}

/* ---- The client of a UDP flow --------------------------------------------------------------- */

/*
 * Is the client's socket open? There is no event when an unconnected UDP socket closes, so its
 * kernel structure is inspected. That memory may have been reused, so it is read as untrusted
 * memory, and recognised by the socket's cookie, which is never reused.
 */
static __always_inline int client_is_open(const struct sidetrack_flow_entry *entry)
{
	struct sock *sk = (struct sock *)entry->socket_pointer;

	return sk &&
	       (__u64)BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) == entry->client_cookie &&
	       BPF_CORE_READ(sk, sk_socket);
}

/* The address of a UDP flow. */
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

/* Reads the client's local address and port, which a socket may not have yet when it connects. */
static __always_inline void client_learn_address(struct sidetrack_flow_entry *entry)
{
	struct sock *sk = (struct sock *)entry->socket_pointer;
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

/* Is the client still connected to its flow? It may have connected elsewhere, or disconnected. */
static __always_inline int client_is_connected(const struct sidetrack_flow_entry *entry)
{
	struct sock *sk = (struct sock *)entry->socket_pointer;
	__u64 id = entry->flow.id;
	union address remote, flow_address;

	if (entry->flow.family == AF_INET)
		return BPF_CORE_READ(sk, __sk_common.skc_daddr) == datagram_address4(id);
	BPF_CORE_READ_INTO(&remote, sk, __sk_common.skc_v6_daddr);
	datagram_address6(id, &flow_address);
	return address_is_equal(&remote, &flow_address);
}

/* Is a UDP flow over? A connected client keeps its flow even if it sends nothing. */
static __always_inline int datagram_flow_is_over(const struct sidetrack_flow_entry *entry,
						 __u64 now)
{
	if (now - entry->idle_since < idle_ns)
		return 0;
	return !(entry->flow.flags & SIDETRACK_FLOW_CONNECTED) || !client_is_open(entry) ||
	       !client_is_connected(entry);
}

/* The key of a flow's entry in sidetrack_destinations. */
static __always_inline void destination_fill(const struct sidetrack_flow_entry *entry,
					     struct sidetrack_destination *to)
{
	__builtin_memset(to, 0, sizeof(*to));
	to->client_cookie = entry->client_cookie;
	to->parent_id = entry->parent_id;
	__builtin_memcpy(to->remote_addr, entry->flow.remote_addr, sizeof(to->remote_addr));
	to->remote_port = entry->flow.remote_port;
}

/* A UDP flow is over: deletes the entry of its destination, unless another flow has it by now. */
__noinline int destination_delete(const struct sidetrack_flow_entry *entry, __u64 id)
{
	struct sidetrack_destination destination;
	__u64 *current;

	if (!entry)
		return 0;
	__sync_fetch_and_sub(&flows_datagram, 1);
	destination_fill(entry, &destination);
	current = bpf_map_lookup_elem(&sidetrack_destinations, &destination);
	if (current && *current == id)
		bpf_map_delete_elem(&sidetrack_destinations, &destination);
	return 0;
}

/* ---- Slots --------------------------------------------------------------------------------- */

#define FLOW_STATE_RETRIES 16 /* attempts to change a state that other CPUs change too */
/* Both are counted after the first slot, which is mostly free and needs no loop. */
#define FLOW_TRIES_MAX 4096 /* slots examined to find a free one */
#define FLOW_TRIES_GRACE 4  /* slots examined before a reclaimable one is taken */

/* The slot that a flow of this id has, or had. */
static __always_inline struct sidetrack_flow_entry *flow_slot(__u64 id)
{
	__u32 slot = id % flows_max;

	return bpf_map_lookup_elem(&sidetrack_flows, &slot);
}

/*
 * The entry of the slot that this address identifies, whatever its flow; NULL if it identifies
 * none.
 */
static __always_inline struct sidetrack_flow_entry *flow_at_address(__be32 address)
{
	__u32 slot = slot_of_address(address);

	return slot < SLOT_ADDRESSES ? bpf_map_lookup_elem(&sidetrack_flows, &slot) : NULL;
}

/* The flow of this id; NULL if its slot was given to another flow. */
static __always_inline struct sidetrack_flow_entry *flow_find(__u64 id)
{
	struct sidetrack_flow_entry *entry = flow_slot(id);

	return entry && FLOW_STATE_ID(entry->state) == id ? entry : NULL;
}

/* Changes a state atomically. Returns 0 if it was not `from`. */
static __always_inline int flow_state_exchange(struct sidetrack_flow_entry *entry, __u64 from,
					       __u64 to)
{
	return __sync_val_compare_and_swap(&entry->state, from, to) == from;
}

/*
 * Can a new flow have this slot? The token of a closed flow stays valid for the grace period. A
 * reserved flow waits as long for the SYN: there is no event if the connect fails before that.
 */
static __always_inline int slot_is_reusable(const struct sidetrack_flow_entry *entry, __u64 state,
					    __u64 now)
{
	__u32 stage = FLOW_STATE_STAGE(state);

	if (stage == SIDETRACK_STAGE_DATAGRAM)
		return !FLOW_STATE_REFCOUNT(state) && datagram_flow_is_over(entry, now);
	return !state || ((stage == SIDETRACK_STAGE_CLOSED || stage == SIDETRACK_STAGE_RESERVED) &&
			  now - entry->idle_since >= grace_ns);
}

/* Can the slot be taken before the grace period of its flow is over? Only if no socket refers to
 * the flow. */
static __always_inline int slot_is_reclaimable(const struct sidetrack_flow_entry *entry,
					       __u64 state)
{
	__u32 stage = FLOW_STATE_STAGE(state);

	return stage == SIDETRACK_STAGE_CLOSED ||
	       (stage == SIDETRACK_STAGE_DATAGRAM && !FLOW_STATE_REFCOUNT(state) &&
		!client_is_open(entry));
}

/*
 * The slot was taken from an earlier flow, which had this state: removes that flow from the
 * counters and its entry from sidetrack_destinations.
 */
static __always_inline void slot_reclaim(struct sidetrack_flow_entry *entry, __u64 state)
{
	if (FLOW_STATE_STAGE(state) == SIDETRACK_STAGE_RESERVED)
		__sync_fetch_and_sub(&flows_reserved, 1);
	if (FLOW_STATE_STAGE(state) == SIDETRACK_STAGE_DATAGRAM)
		destination_delete(entry, FLOW_STATE_ID(state));
}

/* A search for a slot. */
struct flow_search {
	__u64 now;
	__u64 found;	   /* the id for which a slot was taken; 0 if none was */
	__u64 old_state;   /* the state that this slot had */
	__u64 reclaimable; /* the first id whose slot is reclaimable; 0 if there is none */
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
		if (!flow_state_exchange(entry, state, FLOW_STATE(id, SIDETRACK_STAGE_FILLING, 0)))
			return 0;
		search->found = id;
		search->old_state = state;
		return 1;
	}
	if (!search->reclaimable && slot_is_reclaimable(entry, state))
		search->reclaimable = id;
	return search->reclaimable && i + 1 >= FLOW_TRIES_GRACE;
}

/*
 * Prefetches the next slot, which was used long ago and is not in the cache. A load would wait for
 * the memory; a store does not wait, and brings the cache line in before the slot is taken.
 */
static __always_inline void flow_prefetch(__u64 id)
{
	struct sidetrack_flow_entry *next = flow_slot(id + 1);

	if (next)
		*(volatile __u32 *)&next->prefetched = 0;
}

/* Takes a slot for a new flow. Returns the flow's id; 0 if there is no slot to take. */
__noinline __u64 flow_acquire_slot(__u64 now)
{
	__u32 tries = flows_max < FLOW_TRIES_MAX ? flows_max : FLOW_TRIES_MAX;
	struct flow_search search = { .now = now };
	struct sidetrack_flow_entry *entry;
	__u64 state;

	if (!flow_search_step(0, &search))
		bpf_loop(tries, flow_search_step, &search, 0);
	entry = flow_slot(search.found ? search.found : search.reclaimable);
	if (!entry)
		return 0;
	if (search.found || !search.reclaimable) {
		slot_reclaim(entry, search.old_state);
		flow_prefetch(search.found);
		return search.found;
	}
	state = entry->state;
	if (!slot_is_reclaimable(entry, state) ||
	    !flow_state_exchange(entry, state,
				 FLOW_STATE(search.reclaimable, SIDETRACK_STAGE_FILLING, 0)))
		return 0;
	slot_reclaim(entry, state);
	flow_prefetch(search.reclaimable);
	count(SIDETRACK_COUNT_GRACE_CUT);
	return search.reclaimable;
}

/* Checked at connect, where a refusal has an errno; the hooks that come later cannot refuse. */
static __always_inline int flows_have_room(void)
{
	return flows_live + flows_reserved < (__s64)flows_max &&
	       flows_by_four_tuple < SIDETRACK_FOUR_TUPLES_MAX;
}

/* ---- References: sockets that keep a flow open --------------------------------------------- */

/*
 * The state with another reference count, and the stage that follows from it. A UDP flow, and a
 * pended or completed one, to which its client refers, stay in their stage.
 */
static __always_inline __u64 flow_state_with_refcount(__u64 state, __u32 refcount)
{
	__u32 stage = FLOW_STATE_STAGE(state);

	if (stage < SIDETRACK_STAGE_DATAGRAM)
		stage = refcount ? SIDETRACK_STAGE_ESTABLISHED : SIDETRACK_STAGE_CLOSED;

	return FLOW_STATE(FLOW_STATE_ID(state), stage, refcount);
}

/*
 * A socket takes a reference to a UDP flow, or to a TCP flow that is pended or has had an accepted
 * socket. Fails if the flow is gone or its grace period is over.
 */
__noinline int flow_get(struct sidetrack_flow_entry *entry, __u64 id)
{
	for (int i = 0; entry && i < FLOW_STATE_RETRIES; i++) {
		__u64 state = entry->state;
		__u32 stage = FLOW_STATE_STAGE(state);

		if (FLOW_STATE_ID(state) != id || stage < SIDETRACK_STAGE_ESTABLISHED ||
		    slot_is_reusable(entry, state, bpf_ktime_get_ns()) ||
		    FLOW_STATE_REFCOUNT(state) == SIDETRACK_FLOW_STATE_REFCOUNT_MASK)
			return -1;
		if (!flow_state_exchange(
			    entry, state,
			    flow_state_with_refcount(state, FLOW_STATE_REFCOUNT(state) + 1)))
			continue;
		if (stage == SIDETRACK_STAGE_CLOSED)
			__sync_fetch_and_add(&flows_live, 1);
		return 0;
	}
	return -1;
}

/* A socket drops its reference. Without any reference the flow is closed. */
__noinline int flow_put(__u64 id)
{
	struct sidetrack_flow_entry *entry = flow_slot(id);

	for (int i = 0; entry && i < FLOW_STATE_RETRIES; i++) {
		__u64 state = entry->state;
		__u32 refcount = FLOW_STATE_REFCOUNT(state);

		if (FLOW_STATE_ID(state) != id || !refcount)
			return 0;
		if (refcount == 1)
			entry->idle_since = bpf_ktime_get_ns();
		if (!flow_state_exchange(entry, state,
					 flow_state_with_refcount(state, refcount - 1)))
			continue;
		if (refcount == 1 && FLOW_STATE_STAGE(state) != SIDETRACK_STAGE_DATAGRAM)
			__sync_fetch_and_sub(&flows_live, 1);
		return 0;
	}
	return 0;
}

#endif /* SIDETRACK_FLOW_STATE_H */
