/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The layers beside connect, for datagrams: auth recv-accept, flow established, endpoint closure.
 *
 * As in WFP, a flow of datagrams is a socket and a remote end. The side that sends first begins it,
 * and is judged; what comes back is of the same flow, and is not judged.
 */
#ifndef SIDETRACK_DATAGRAM_LAYERS_H
#define SIDETRACK_DATAGRAM_LAYERS_H

static __always_inline void verdict_key_fill(struct sidetrack_verdict_key *key, __u64 client,
					     __u16 kind, const struct connection *c)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->client = client;
	key->kind = kind;
	__builtin_memcpy(key->remote_addr, c->remote.bytes, sizeof(key->remote_addr));
	key->remote_port = c->port;
	key->generation = kind == CACHED_RECV_ACCEPT ? c->generation : 0;
}

static __noinline int verdict_cache_has(__u64 client, __u16 kind, const struct connection *c)
{
	struct sidetrack_verdict_key key;

	verdict_key_fill(&key, client, kind, c);
	return bpf_map_lookup_elem(&sidetrack_verdict_cache, &key) != NULL;
}

/* Returns 0 if it was not known before. */
static __noinline int verdict_cache_add(__u64 client, __u16 kind, const struct connection *c)
{
	struct sidetrack_verdict_key key;
	__u8 one = 1;

	verdict_key_fill(&key, client, kind, c);
	return bpf_map_update_elem(&sidetrack_verdict_cache, &key, &one, BPF_NOEXIST);
}

/* The flow of this socket and this remote end is there: tells the layer, if it is new. */
static __always_inline void datagram_established(__u64 client, struct classify_context *classify,
						 struct connection *c)
{
	if (!classify->endpoint)
		return;
	classify->endpoint->state = ENDPOINT_ESTABLISHED;
	if (classify->layers & LAYER_BITS(SIDETRACK_LAYER_FLOW_ESTABLISHED) &&
	    !verdict_cache_add(client, CACHED_ESTABLISHED, c))
		endpoint_judge(classify, c, SIDETRACK_LAYER_FLOW_ESTABLISHED);
}

/* A program's connect or first datagram to this destination was let go, or diverted. */
static __noinline int datagram_begun(struct bpf_sock_addr *ctx, struct classify_context *classify,
				     struct connection *c)
{
	classify->endpoint = bpf_sk_storage_get(&sidetrack_endpoints, ctx->sk, NULL, 0);
	datagram_established(bpf_get_socket_cookie(ctx), classify, c);
	return 0;
}

/* bind: who binds a UDP socket is who will receive. */
static __noinline int endpoint_bind(struct bpf_sock_addr *ctx, __u32 family)
{
	void *policy = policy_in_force();
	struct sidetrack_endpoint *e;

	if (ctx->protocol != IPPROTO_UDP || !policy ||
	    !endpoint_wanted(layers_in_force(policy), IPPROTO_UDP) || !program_in_scope())
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

/* Is it an answer? To a connected socket nothing else comes; a diverted client hears its proxy. */
static __always_inline int is_answer(__u64 client, const struct connection *c)
{
	struct sidetrack_flow_entry *entry = datagram_at(&c->remote);

	return (entry && entry->client == client) || verdict_cache_has(client, CACHED_SENT, c);
}

/* A datagram comes in, to a socket that is not connected; or another packet, to a closed one. */
static __always_inline int receive_judge(struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct connection c = { .protocol = IPPROTO_UDP, .inbound = 1 };
	__u64 client = bpf_get_socket_cookie(skb);
	struct classify_context classify = {};
	__be16 ports[2];
	int at;

	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_UDP)
		return INGRESS_PERMIT;
	at = packet_addresses(skb, &c);
	if (at < 0 || bpf_skb_load_bytes(skb, at, ports, sizeof(ports)))
		return INGRESS_PERMIT;
	c.port = ports[0];
	c.local_port = ports[1];
	classify.policy = policy_with(SIDETRACK_LAYER_AUTH_RECV_ACCEPT, &c);
	if (!classify.policy)
		classify.policy = policy_with(SIDETRACK_LAYER_FLOW_ESTABLISHED, &c);
	if (!classify.policy || is_answer(client, &c) ||
	    verdict_cache_has(client, CACHED_RECV_ACCEPT, &c))
		return INGRESS_PERMIT;
	classify.layers = layers_in_force(classify.policy);
	classify.endpoint = bpf_sk_storage_get(&sidetrack_endpoints, sk, NULL, 0);
	if (!endpoint_judge(&classify, &c, SIDETRACK_LAYER_AUTH_RECV_ACCEPT))
		return INGRESS_DROP;
	verdict_cache_add(client, CACHED_RECV_ACCEPT, &c);
	datagram_established(client, &classify, &c);
	return INGRESS_PERMIT;
}

/* A program closes a UDP socket that had flows. Of an unconnected one there is no remote end. */
static __always_inline void datagram_closure(struct bpf_sock *sk)
{
	struct sidetrack_endpoint *e = bpf_sk_storage_get(&sidetrack_endpoints, sk, NULL, 0);
	struct connection c = { .protocol = IPPROTO_UDP };
	struct classify_context classify = { .endpoint = e };
	struct sock *kept = (struct sock *)sk; /* the hook does not show a socket's own address */

	if (!e || e->state != ENDPOINT_ESTABLISHED)
		return;
	classify.policy = policy_with(SIDETRACK_LAYER_ENDPOINT_CLOSURE, &c);
	if (!classify.policy)
		return;
	c.family = e->family;
	c.inbound = !e->connecting;
	if (e->family == AF_INET) {
		address_from_v4(&c.local, BPF_CORE_READ(kept, __sk_common.skc_rcv_saddr));
		address_from_v4(&c.remote, 0);
	} else {
		BPF_CORE_READ_INTO(&c.local, kept, __sk_common.skc_v6_rcv_saddr);
	}
	c.local_port = bpf_htons(BPF_CORE_READ(kept, __sk_common.skc_num));
	if (sk->state == BPF_TCP_ESTABLISHED && e->connecting) {
		__builtin_memcpy(c.remote.bytes, e->remote_addr, sizeof(e->remote_addr));
		c.port = e->remote_port;
	}
	endpoint_judge(&classify, &c, SIDETRACK_LAYER_ENDPOINT_CLOSURE);
}

#endif /* SIDETRACK_DATAGRAM_LAYERS_H */
