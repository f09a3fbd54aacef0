/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Pended connects (in WFP, FwpsPendClassify0): the client's SYN is held until the service knows
 * whether the origin accepts. sidetrack.h describes what the proxy does.
 *
 * A flow is connecting until its SYN reaches a pended listener, then pended until COMPLETE, then
 * completed until the client's next SYN is accepted, then established. If the client gives up while
 * it is pended or completed, it is closed.
 */
#ifndef SIDETRACK_PENDED_H
#define SIDETRACK_PENDED_H

/* ---- Notices ------------------------------------------------------------------------------ */

/* Reserves a notice for the service of this flow; counts it if there is no room. */
static __always_inline struct sidetrack_notice *
notice_begin(const struct sidetrack_flow_entry *entry, __u32 kind)
{
	__u32 service = flow_service(&entry->flow);
	void *ring = bpf_map_lookup_elem(&sidetrack_notices, &service);
	struct sidetrack_notice *n =
		ring ? bpf_ringbuf_reserve(ring, sizeof(struct sidetrack_notice), 0) : NULL;

	if (!n) {
		count(SIDETRACK_COUNT_NOTICES_LOST);
		return NULL;
	}
	__builtin_memset(n, 0, sizeof(*n));
	n->kind = kind;
	token_make(entry->flow.id, &n->records);
	n->connected_at = entry->flow.connected_at;
	__builtin_memcpy(n->remote_addr, entry->flow.remote_addr, sizeof(n->remote_addr));
	__builtin_memcpy(n->client_addr, entry->flow.local_addr, sizeof(n->client_addr));
	n->remote_port = entry->flow.remote_port;
	return n;
}

/* ---- The end of a held client ---------------------------------------------------------------- */

/*
 * The client of a pended or completed flow has closed, and drops its reference. Returns 0 if the
 * flow is in another stage.
 */
static __noinline int pended_client_closed(struct sidetrack_flow_entry *entry, __u64 id)
{
	struct sidetrack_notice *n;

	for (int i = 0; i < FLOW_STATE_RETRIES; i++) {
		__u64 state = entry->state;
		__u32 stage = FLOW_STATE_STAGE(state), refcount = FLOW_STATE_REFCOUNT(state);

		if (FLOW_STATE_ID(state) != id || !refcount ||
		    (stage != SIDETRACK_STAGE_PENDED && stage != SIDETRACK_STAGE_COMPLETED))
			return 0;
		if (refcount == 1)
			entry->idle_since = bpf_ktime_get_ns();
		if (!flow_state_exchange(entry, state,
					 FLOW_STATE(id,
						    refcount > 1 ? SIDETRACK_STAGE_ESTABLISHED :
								   SIDETRACK_STAGE_CLOSED,
						    refcount - 1)))
			continue;
		if (refcount == 1)
			__sync_fetch_and_sub(&flows_live, 1);
		count(SIDETRACK_COUNT_PENDED_ENDED);
		n = notice_begin(entry, SIDETRACK_NOTICE_GONE);
		if (n)
			bpf_ringbuf_submit(n, 0);
		return 1;
	}
	return 0;
}

/* ---- Segments, and the flows that they are about -------------------------------------------- */

/* A TCP segment. The tuple's client is the source of a SYN, and the destination of a RST. */
struct segment {
	struct sidetrack_four_tuple tuple;
	__u32 offset; /* of the TCP header */
	__u32 length; /* of the TCP header */
	__u32 sequence;
	__u8 flags;
};

/* Fills in the four-tuple of a segment from the client to the target. */
static __always_inline void segment_tuple(struct segment *s, const struct packet *p,
					  const __be16 *ports, __u64 netns_cookie)
{
	__builtin_memset(&s->tuple, 0, sizeof(s->tuple));
	s->tuple.netns_cookie = netns_cookie;
	__builtin_memcpy(s->tuple.client_addr, p->source.bytes, sizeof(p->source));
	__builtin_memcpy(s->tuple.target_addr, p->destination.bytes, sizeof(p->destination));
	s->tuple.client_port = bpf_ntohs(ports[0]);
	s->tuple.target_port = ports[1];
}

/* Swaps the ends: the segment goes from the target to the client. */
static __always_inline void segment_reverse(struct segment *s, const struct packet *p,
					    const __be16 *ports)
{
	__builtin_memcpy(s->tuple.client_addr, p->destination.bytes, sizeof(p->destination));
	__builtin_memcpy(s->tuple.target_addr, p->source.bytes, sizeof(p->source));
	s->tuple.client_port = bpf_ntohs(ports[1]);
	s->tuple.target_port = ports[0];
}

/* Reads the TCP segment behind this IP header. Fails if it is not one. */
static __noinline int segment_read(struct __sk_buff *skb, const struct packet *p,
				   __u64 netns_cookie, struct segment *s)
{
	__u8 head[HEADER_TCP];

	if (!p || !s || p->protocol != IPPROTO_TCP ||
	    bpf_skb_load_bytes(skb, p->payload, head, sizeof(head)))
		return -1;
	segment_tuple(s, p, (const __be16 *)head, netns_cookie);
	s->offset = p->payload;
	s->length = (head[12] >> 4) * 4;
	s->sequence = bpf_ntohl(*(__be32 *)(head + 4));
	s->flags = head[TCP_FLAGS_OFFSET];
	if (s->flags & TCP_RST)
		segment_reverse(s, p, (const __be16 *)head);
	return 0;
}

/*
 * The flow whose client has opened this connection; NULL if there is none. Its slot is identified
 * by the target's address, or else found by the four-tuple.
 */
static __noinline struct sidetrack_flow_entry *
segment_flow(const struct sidetrack_four_tuple *tuple)
{
	const union address *client = (const union address *)tuple->client_addr;
	const union address *target = (const union address *)tuple->target_addr;
	struct sidetrack_flow_entry *entry = NULL;
	__u64 *id;

	if (address_is_mapped(target))
		entry = flow_at_address(target->words[3]);
	if (entry) {
		if (entry->flow.netns_cookie == tuple->netns_cookie &&
		    bpf_ntohs(entry->flow.local_port) == tuple->client_port &&
		    address_is_equal((const union address *)entry->flow.local_addr, client))
			return entry;
		return NULL;
	}
	id = bpf_map_lookup_elem(&sidetrack_four_tuples, tuple);
	return id ? flow_find(*id) : NULL;
}

/* ---- Hold: a SYN reaches a pended listener -------------------------------------------------- */

static __always_inline int drop_forged(void)
{
	count(SIDETRACK_COUNT_SYNS_FORGED);
	return PACKET_DROP;
}

/* Makes the flow of the first SYN pended. Returns 0 if the flow is held. */
static __always_inline int pended_begin(struct sidetrack_flow_entry *entry, __u64 id)
{
	if (FLOW_STATE_STAGE(entry->state) == SIDETRACK_STAGE_PENDED)
		return 0;
	if (!flow_state_exchange(entry, FLOW_STATE(id, SIDETRACK_STAGE_CONNECTING, 1),
				 FLOW_STATE(id, SIDETRACK_STAGE_PENDED, 1)))
		return -1; /* the client has just closed, or the connection was accepted before */
	entry->flow.flags |= SIDETRACK_FLOW_PENDED;
	count(SIDETRACK_COUNT_PENDED);
	return 0;
}

static __always_inline void notice_syn(struct __sk_buff *skb, struct sidetrack_flow_entry *entry,
				       const struct segment *syn)
{
	struct sidetrack_notice *n = notice_begin(entry, SIDETRACK_NOTICE_SYN);
	__u32 length = syn->length;

	if (!n)
		return;
	__builtin_memcpy(n->target_addr, syn->tuple.target_addr, sizeof(n->target_addr));
	n->tcp_length = length;
	if (length < HEADER_TCP || length > SIDETRACK_TCP_HEADER_MAX ||
	    bpf_skb_load_bytes(skb, syn->offset, n->tcp, length)) {
		bpf_ringbuf_discard(n, 0);
		return;
	}
	bpf_ringbuf_submit(n, 0);
}

/*
 * A packet reaches a listener. A SYN of a flow's client is dropped, with a notice to the service,
 * until the service has completed the flow; the client sends it again. Only the client's own SYN
 * has its sequence number, so nobody else can send a SYN in its name. Any other SYN is dropped: who
 * connects straight to the listener has no flow, and would only fill the accept queue.
 */
static __always_inline int hold(struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct sidetrack_flow_entry *entry;
	struct sidetrack_socket *listener;
	struct segment syn = {};
	struct packet p = {};

	sk = bpf_sk_fullsock(sk);
	listener = sk ? bpf_sk_storage_get(&sidetrack_sockets, sk, NULL, 0) : NULL;
	if (!listener || !listener->pended)
		return PACKET_PERMIT;
	if (packet_read(skb, 0, &p) || segment_read(skb, &p, listener->netns_cookie, &syn))
		return drop_forged();
	if ((syn.flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN)
		return PACKET_PERMIT;
	entry = segment_flow(&syn.tuple);
	if (!entry || flow_service(&entry->flow) != listener->service ||
	    entry->sequence != syn.sequence || listener_is_stale(listener))
		return drop_forged();
	if (FLOW_STATE_STAGE(entry->state) == SIDETRACK_STAGE_COMPLETED)
		return PACKET_PERMIT;
	if (!pended_begin(entry, FLOW_STATE_ID(entry->state)))
		notice_syn(skb, entry, &syn);
	return PACKET_DROP;
}

/* ---- Senders: what a service may send about its pended flows -------------------------------- */

#define ICMP_PROTOCOL_V4 1
#define ICMP_PROTOCOL_V6 58
#define ICMP_UNREACHABLE_V4 3
#define ICMP_UNREACHABLE_V6 1
#define HEADER_ICMP 8

/* Is this ICMP packet an error, to its client, about the SYN that it quotes? Reads that SYN. */
static __always_inline int quoted_syn(struct __sk_buff *skb, const struct packet *p,
				      __u64 netns_cookie, struct segment *syn)
{
	__u8 type, unreachable = p->family == AF_INET ? ICMP_UNREACHABLE_V4 : ICMP_UNREACHABLE_V6;
	struct packet quoted = {};
	__be32 head[2]; /* ports, sequence number */

	if (bpf_skb_load_bytes(skb, p->payload, &type, 1) || type != unreachable ||
	    packet_read(skb, p->payload + HEADER_ICMP, &quoted) || quoted.protocol != IPPROTO_TCP ||
	    !address_is_equal(&quoted.source, &p->destination) ||
	    bpf_skb_load_bytes(skb, quoted.payload, head, sizeof(head)))
		return -1;
	segment_tuple(syn, &quoted, (const __be16 *)head, netns_cookie);
	syn->sequence = bpf_ntohl(head[1]);
	syn->flags = TCP_SYN;
	return 0;
}

/* Reads the SYN that a sender's packet repeats or refuses. */
static __always_inline int sent_segment(struct __sk_buff *skb, __u64 netns_cookie,
					struct segment *s)
{
	struct packet p = {};

	if (packet_read(skb, 0, &p))
		return -1;
	if (p.protocol == ICMP_PROTOCOL_V4 || p.protocol == ICMP_PROTOCOL_V6)
		return quoted_syn(skb, &p, netns_cookie, s);
	return segment_read(skb, &p, netns_cookie, s);
}

/*
 * May the service send this about the flow? As long as no socket was accepted, the client's own SYN
 * and errors about it.
 */
static __always_inline int may_be_sent(const struct sidetrack_flow_entry *entry,
				       const struct segment *s)
{
	__u32 stage = FLOW_STATE_STAGE(entry->state);

	if (stage != SIDETRACK_STAGE_PENDED && stage != SIDETRACK_STAGE_COMPLETED)
		return 0;
	return s->flags & TCP_RST ||
	       ((s->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && s->sequence == entry->sequence);
}

/* Egress of the senders: permits only packets about pended flows of the sender's service. */
static __always_inline int sender_classify(struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct sidetrack_flow_entry *entry = NULL;
	struct sidetrack_socket *sender;
	struct segment s = {};

	sk = bpf_sk_fullsock(sk);
	sender = sk ? bpf_sk_storage_get(&sidetrack_sockets, sk, NULL, 0) : NULL;
	if (!sender || sender->role != SIDETRACK_SOCKET_SENDER)
		return PACKET_PERMIT;
	if (!listener_is_stale(sender) && !sent_segment(skb, sender->netns_cookie, &s))
		entry = segment_flow(&s.tuple);
	if (entry && flow_service(&entry->flow) == sender->service) {
		/* It may be too late: the client has given up, or was accepted. */
		return may_be_sent(entry, &s) ? PACKET_PERMIT : PACKET_DROP;
	}
	count(SIDETRACK_COUNT_SENDER_REFUSED);
	return PACKET_DROP;
}

#endif /* SIDETRACK_PENDED_H */
