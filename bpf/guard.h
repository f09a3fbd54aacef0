/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A RST that the client of a pended flow does not deserve, and does not get. */
#ifndef SIDETRACK_GUARD_H
#define SIDETRACK_GUARD_H

/* Is this a RST without ACK, as it comes from where no socket of the connection is found? */
static __always_inline int is_stray_reset(struct __sk_buff *skb)
{
	__u8 *data = (__u8 *)(long)skb->data, *end = (__u8 *)(long)skb->data_end, *tcp = data;

	if (data + HEADER_IPV4 + HEADER_TCP > end)
		return 0;
	tcp += data[0] == 0x45 ? HEADER_IPV4 : HEADER_IPV6;
	return tcp + HEADER_TCP <= end && (tcp[TCP_FLAGS_OFFSET] & (TCP_RST | TCP_ACK)) == TCP_RST;
}

/*
 * The kernel replaces a connection's request by the accepted socket in two steps
 * (inet_ehash_insert). A segment that comes in between finds the listener only, which answers with
 * a RST. The client's own connect cannot be followed by such a segment, as it makes the whole
 * handshake; but that of a completed flow is made by the service, while the client may send on
 * another CPU. So the first such RST is dropped, if there is an accepted socket, or the client has
 * data to send again, which get an answer, or another RST.
 */
static __always_inline int guard(struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct sidetrack_flow_entry *entry;
	struct bpf_tcp_sock *tcp;

	sk = bpf_sk_fullsock(sk);
	tcp = sk ? bpf_tcp_sock(sk) : NULL;
	entry = tcp ? client_flow(sk, sk->dst_ip4, bpf_get_socket_cookie(skb)) : NULL;
	if (!entry || !(entry->flow.flags & SIDETRACK_FLOW_PENDED))
		return PACKET_PERMIT;
	/* Nothing was accepted, and nothing is sent again: it may be the end of the listener. */
	if (!tcp->packets_out && FLOW_STATE_STAGE(entry->state) == SIDETRACK_STAGE_COMPLETED)
		return PACKET_PERMIT;
	if (__sync_lock_test_and_set(&entry->handed_over, 1))
		return PACKET_PERMIT;
	return PACKET_DROP;
}

#endif /* SIDETRACK_GUARD_H */
