/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A flow's life: its slot, the sockets tied to it, and when it is over. */
#ifndef SIDETRACK_LIFE_H
#define SIDETRACK_LIFE_H

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
__noinline int destination_forget(const struct sidetrack_flow_entry *entry, __u64 id)
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

/* ---- A flow's life ------------------------------------------------------------------------ */

#define LIFE_RETRIES 16	    /* of a change that others raced */
#define FLOW_TRIES_MAX 4096 /* slots looked at for a free one */
#define FLOW_TRIES_GRACE 4  /* of them, before a closed flow must give way */

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

	return entry && LIFE_ID(entry->life) == id ? entry : NULL;
}

static __always_inline int life_change(struct sidetrack_flow_entry *entry, __u64 from, __u64 to)
{
	return __sync_val_compare_and_swap(&entry->life, from, to) == from;
}

/*
 * May another flow have this slot? A closed one's token must have had its time; and as long we wait
 * for the SYN of a connect that was judged: nobody tells when it has failed before.
 */
static __always_inline int life_is_over(const struct sidetrack_flow_entry *entry, __u64 life,
					__u64 now)
{
	__u32 stage = LIFE_STAGE(life);

	if (stage == FLOW_DATAGRAM)
		return !LIFE_TIES(life) && datagrams_are_over(entry, now);
	return !life || ((stage == FLOW_CLOSED || stage == FLOW_CALLED) &&
			 now - entry->closed_at >= grace_ns);
}

/* Only its token is still good: its time may be cut short. */
static __always_inline int life_is_closed(const struct sidetrack_flow_entry *entry, __u64 life)
{
	__u32 stage = LIFE_STAGE(life);

	return stage == FLOW_CLOSED ||
	       (stage == FLOW_DATAGRAM && !LIFE_TIES(life) && !client_is_open(entry));
}

/* Whoever has taken a slot does away with what an earlier flow left. */
static __always_inline void life_bury(struct sidetrack_flow_entry *entry, __u64 life)
{
	if (LIFE_STAGE(life) == FLOW_CALLED)
		__sync_fetch_and_sub(&flows_called, 1);
	if (LIFE_STAGE(life) == FLOW_DATAGRAM)
		destination_forget(entry, LIFE_ID(life));
}

/* One look for a slot. */
struct flow_search {
	__u64 now;
	__u64 found;  /* the id that has got one */
	__u64 before; /* the life that was in it */
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
		search->before = life;
		return 1;
	}
	if (!search->closed && life_is_closed(entry, life))
		search->closed = id;
	return search->closed && i + 1 >= FLOW_TRIES_GRACE;
}

/*
 * The next slot was used long ago, and reading it would wait for memory. A store does not wait: so
 * it is on its way into the cache until somebody takes it.
 */
static __always_inline void flow_warm(__u64 id)
{
	struct sidetrack_flow_entry *next = flow_slot(id + 1);

	if (next)
		*(volatile __u32 *)&next->warmed = 0;
}

/* A slot for a new flow. Returns its id; 0 if there is none. */
__noinline __u64 flow_take_slot(__u64 now)
{
	__u32 tries = flows_max < FLOW_TRIES_MAX ? flows_max : FLOW_TRIES_MAX;
	struct flow_search search = { .now = now };
	struct sidetrack_flow_entry *entry;
	__u64 life;

	if (!flow_search_step(0, &search))
		bpf_loop(tries, flow_search_step, &search, 0);
	entry = flow_slot(search.found ? search.found : search.closed);
	if (!entry)
		return 0;
	if (search.found || !search.closed) {
		life_bury(entry, search.before);
		flow_warm(search.found);
		return search.found;
	}
	life = entry->life;
	if (!life_is_closed(entry, life) ||
	    !life_change(entry, life, LIFE(search.closed, FLOW_TAKEN, 0)))
		return 0;
	life_bury(entry, life);
	flow_warm(search.closed);
	count(SIDETRACK_COUNT_GRACE_CUT);
	return search.closed;
}

static __always_inline int flows_have_room(void)
{
	return flows_live + flows_called < (__s64)flows_max &&
	       flows_pending < SIDETRACK_PENDING_MAX;
}

/* ---- Ties: sockets that keep a flow alive ------------------------------------------------ */

/* The same life with so many ties. */
static __always_inline __u64 life_tied(__u64 life, __u32 ties)
{
	__u32 stage = LIFE_STAGE(life) == FLOW_DATAGRAM ? FLOW_DATAGRAM :
		      ties				? FLOW_ESTABLISHED :
							  FLOW_CLOSED;

	return LIFE(LIFE_ID(life), stage, ties);
}

/* Ties one more socket to an accepted flow. Fails if the flow is gone, or closed too long ago. */
static __always_inline int flow_tie(struct sidetrack_flow_entry *entry, __u64 id)
{
	for (int i = 0; i < LIFE_RETRIES; i++) {
		__u64 life = entry->life;
		__u32 stage = LIFE_STAGE(life);

		if (LIFE_ID(life) != id || stage < FLOW_ESTABLISHED ||
		    life_is_over(entry, life, bpf_ktime_get_ns()) || LIFE_TIES(life) == 0xffff)
			return -1;
		if (!life_change(entry, life, life_tied(life, LIFE_TIES(life) + 1)))
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
		if (!life_change(entry, life, life_tied(life, ties - 1)))
			continue;
		if (ties == 1 && LIFE_STAGE(life) != FLOW_DATAGRAM)
			__sync_fetch_and_sub(&flows_live, 1);
		return;
	}
}

#endif /* SIDETRACK_LIFE_H */
