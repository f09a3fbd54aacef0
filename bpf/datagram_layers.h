/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The layers auth recv-accept, flow established and endpoint closure for datagrams.
 *
 * A conversation is what WFP calls a UDP flow (docs/wfp.md, 2): all datagrams between one socket
 * and one remote end, redirected or not. The side that sends first begins it. Its datagrams are
 * classified; the answers are not.
 */
#ifndef SIDETRACK_DATAGRAM_LAYERS_H
#define SIDETRACK_DATAGRAM_LAYERS_H

/* Classifies at flow established, if the conversation of this socket and peer is new. */
static __always_inline void
datagram_established(__u64 client_cookie, struct classify_context *classify, struct connection *c)
{
	if (!classify->endpoint)
		return;
	classify->endpoint->state = ENDPOINT_ESTABLISHED;
	if (classify->layers & LAYER_BITS(SIDETRACK_LAYER_FLOW_ESTABLISHED) &&
	    !verdict_cache_add(client_cookie, CACHED_ESTABLISHED, c))
		endpoint_classify(classify, c, SIDETRACK_LAYER_FLOW_ESTABLISHED);
}

/*
 * Runs after a connect or a first datagram was let through or diverted: classifies it at flow
 * established, if the conversation is new.
 */
static __noinline int datagram_sent_first(struct bpf_sock_addr *ctx,
					  struct classify_context *classify, struct connection *c)
{
	classify->endpoint = bpf_sk_storage_get(&sidetrack_endpoints, ctx->sk, NULL, 0);
	datagram_established(bpf_get_socket_cookie(ctx), classify, c);
	return 0;
}

/* bind: the program that binds a UDP socket is the one that will receive. */
static __noinline int endpoint_bind(struct bpf_sock_addr *ctx, __u32 family)
{
	void *policy = policy_in_force();
	struct sidetrack_endpoint *e;

	if (ctx->protocol != IPPROTO_UDP || !policy ||
	    !endpoint_is_needed(layers_in_force(policy), IPPROTO_UDP) || !program_in_scope())
		return 0;
	e = bpf_sk_storage_get(&sidetrack_endpoints, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!e) {
		count(SIDETRACK_COUNT_PROGRAM_UNKNOWN);
		return 0;
	}
	endpoint_fill(e);
	e->netns_cookie = bpf_get_netns_cookie(ctx);
	e->family = family;
	e->connecting = 0;
	return 0;
}

/*
 * Does an answer arrive at an unconnected socket? It comes from the address of the socket's flow,
 * if its datagrams were diverted, or from a peer to which the socket has sent.
 */
static __always_inline int is_answer(__u64 client_cookie, const struct connection *c)
{
	struct sidetrack_flow_entry *entry = datagram_flow_at(&c->remote);

	return (entry && entry->client_cookie == client_cookie) ||
	       verdict_cache_has(client_cookie, CACHED_SENT, c);
}

/*
 * ingress: a datagram arrives at an unconnected socket. Other packets, for closed sockets of other
 * protocols, are permitted.
 */
static __always_inline int receive_classify(struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct connection c = { .protocol = IPPROTO_UDP, .inbound = 1 };
	__u64 client_cookie = bpf_get_socket_cookie(skb);
	struct classify_context classify = {};
	__be16 ports[2];
	int offset;

	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_UDP)
		return PACKET_PERMIT;
	offset = packet_addresses(skb, &c);
	if (offset < 0 || bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
		return PACKET_PERMIT;
	c.port = ports[0];
	c.local_port = ports[1];
	classify.policy = policy_with_layer(SIDETRACK_LAYER_AUTH_RECV_ACCEPT, &c);
	if (!classify.policy)
		classify.policy = policy_with_layer(SIDETRACK_LAYER_FLOW_ESTABLISHED, &c);
	if (!classify.policy || is_answer(client_cookie, &c) ||
	    verdict_cache_has(client_cookie, CACHED_RECV_ACCEPT, &c))
		return PACKET_PERMIT;
	classify.layers = layers_in_force(classify.policy);
	classify.endpoint = bpf_sk_storage_get(&sidetrack_endpoints, sk, NULL, 0);
	if (!endpoint_classify(&classify, &c, SIDETRACK_LAYER_AUTH_RECV_ACCEPT))
		return PACKET_DROP;
	verdict_cache_add(client_cookie, CACHED_RECV_ACCEPT, &c);
	datagram_established(client_cookie, &classify, &c);
	return PACKET_PERMIT;
}

/*
 * The flow of a UDP socket that closes, for events: the one that it is connected to, or else the
 * one whose records it has; 0 if there is none.
 */
static __noinline __u64 datagram_closure_flow_id(struct bpf_sock *sk)
{
	struct sidetrack_flow_entry *entry;
	union address connected;

	address_from_peer(&connected, sk);
	entry = datagram_flow_at(&connected);
	if (entry && entry->client_cookie == bpf_get_socket_cookie(sk))
		return FLOW_STATE_ID(entry->state);
	return parent_id_of(sk);
}

/* A program closes a UDP socket that had conversations. If unconnected, it has no remote end. */
static __always_inline void datagram_closure(struct bpf_sock *sk)
{
	struct sidetrack_endpoint *e = bpf_sk_storage_get(&sidetrack_endpoints, sk, NULL, 0);
	struct connection c = { .protocol = IPPROTO_UDP };
	struct classify_context classify = { .endpoint = e };
	struct sock *kernel_socket =
		(struct sock *)sk; /* the hook does not give the local address */

	if (!e || e->state != ENDPOINT_ESTABLISHED)
		return;
	classify.policy = policy_with_layer(SIDETRACK_LAYER_ENDPOINT_CLOSURE, &c);
	if (!classify.policy)
		return;
	c.family = e->family;
	c.inbound = !e->connecting;
	if (e->family == AF_INET) {
		address_from_v4(&c.local, BPF_CORE_READ(kernel_socket, __sk_common.skc_rcv_saddr));
		address_from_v4(&c.remote, 0);
	} else {
		BPF_CORE_READ_INTO(&c.local, kernel_socket, __sk_common.skc_v6_rcv_saddr);
	}
	c.local_port = bpf_htons(BPF_CORE_READ(kernel_socket, __sk_common.skc_num));
	c.flow_id = datagram_closure_flow_id(sk);
	if (sk->state == BPF_TCP_ESTABLISHED && e->connecting) {
		__builtin_memcpy(c.remote.bytes, e->remote_addr, sizeof(e->remote_addr));
		c.port = e->remote_port;
	}
	endpoint_classify(&classify, &c, SIDETRACK_LAYER_ENDPOINT_CLOSURE);
}

#endif /* SIDETRACK_DATAGRAM_LAYERS_H */
