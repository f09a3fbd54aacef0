/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The layers bind redirect, auth recv-accept, flow established and endpoint closure, for TCP; bind
 * redirect and some helpers also for UDP (see datagram_layers.h).
 *
 * The last three layers are classified when a packet arrives or a socket changes its state, and
 * then the current process can be any. So a socket gets an endpoint, which describes its program,
 * when the program binds, connects or listens, if the policy has filters at these layers at that
 * time.
 */
#ifndef SIDETRACK_ENDPOINT_H
#define SIDETRACK_ENDPOINT_H

#define LAYER_BITS(layer) (3U << (layer)) /* bits of a layer: IPv4 and IPv6 */

/* Describes the current program. */
static __always_inline void endpoint_fill(struct sidetrack_endpoint *e)
{
	struct task_struct *task = bpf_get_current_task_btf();

	e->pid = engine_pid(task);
	bpf_probe_read_kernel(e->comm, sizeof(e->comm), task->comm);
	executable_name(task, e->executable);
	e->state = ENDPOINT_OPEN;
	program_read(&e->program);
	endpoints_exist = 1;
}

/*
 * Does the socket of a program that connects need an endpoint? The layers flow established and
 * endpoint closure read it; for a UDP socket, which can also receive, auth recv-accept does too.
 */
static __always_inline int endpoint_is_needed(__u32 layers, __u32 protocol)
{
	return layers &
	       (LAYER_BITS(SIDETRACK_LAYER_FLOW_ESTABLISHED) |
		LAYER_BITS(SIDETRACK_LAYER_ENDPOINT_CLOSURE) |
		(protocol == IPPROTO_UDP ? LAYER_BITS(SIDETRACK_LAYER_AUTH_RECV_ACCEPT) : 0));
}

/* connect or sendmsg: gives the socket an endpoint, if it needs one. */
static __noinline int endpoint_connect(struct bpf_sock_addr *ctx, struct classify_context *classify,
				       const struct connection *c)
{
	struct sidetrack_endpoint *e;

	if (!endpoint_is_needed(classify->layers, c->protocol) || !program_in_scope())
		return 0;
	e = bpf_sk_storage_get(&sidetrack_endpoints, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!e) {
		count(SIDETRACK_COUNT_PROGRAM_UNKNOWN);
		return 0;
	}
	endpoint_fill(e);
	e->netns_cookie = bpf_get_netns_cookie(ctx);
	__builtin_memcpy(e->remote_addr, c->remote.bytes, sizeof(e->remote_addr));
	e->remote_port = c->port;
	e->family = c->family;
	e->connecting = 1;
	e->flags = classify->scratch->values[SIDETRACK_FIELD_FLAGS][1];
	return 0;
}

/* sockops, TCP_LISTEN: the program that listens is the current one. */
static __always_inline void endpoint_listen(struct bpf_sock_ops *ops)
{
	void *policy = policy_in_force();
	struct sidetrack_endpoint *e;
	struct bpf_sock *sk = ops->sk;

	if (!policy || !sk ||
	    !(layers_in_force(policy) & (LAYER_BITS(SIDETRACK_LAYER_AUTH_RECV_ACCEPT) |
					 LAYER_BITS(SIDETRACK_LAYER_FLOW_ESTABLISHED) |
					 LAYER_BITS(SIDETRACK_LAYER_ENDPOINT_CLOSURE))))
		return;
	e = bpf_sk_storage_get(&sidetrack_endpoints, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!e) {
		count(SIDETRACK_COUNT_PROGRAM_UNKNOWN);
		return;
	}
	endpoint_fill(e);
	e->netns_cookie = bpf_get_netns_cookie(ops);
	e->connecting = 0;
}

/* ---- Classifying outside of a connect ----------------------------------------------------- */

/* Reads the field values, those of the program from the endpoint; without one they are 0. */
static __always_inline void fields_of_endpoint(struct classify_context *classify,
					       const struct connection *c, __u32 wants)
{
	const struct sidetrack_endpoint *e = classify->endpoint;
	struct sidetrack_scratch *scratch = classify->scratch;

	fields_of_connection(scratch, c, wants, e ? e->flags : 0);
	if (!(wants & (WANTS_PROGRAM | WANTS(NETNS))))
		return;
	if (!e) {
		count(SIDETRACK_COUNT_PROGRAM_UNKNOWN);
		__builtin_memset(&scratch->program, 0, sizeof(scratch->program));
	}
	fields_of_program(scratch, e ? &e->program : &scratch->program, ORIGINAL_PROGRAM,
			  SIDETRACK_FIELD_CGROUP_LEVELS);
	field_set(scratch, SIDETRACK_FIELD_NETNS, e ? e->netns_cookie : 0);
}

/* Classifies at one layer, outside of a connect. Returns 0 if the connection is blocked. */
static __noinline int endpoint_classify(struct classify_context *classify, struct connection *c,
					__u32 layer)
{
	struct sidetrack_scratch *scratch = scratch_acquire();
	struct search *s;
	int permitted;

	if (!scratch) {
		count(SIDETRACK_COUNT_SEARCH_CUT);
		return 0;
	}
	s = &scratch->search;
	classify->scratch = scratch;
	scratch->connection = *c;
	c = &scratch->connection;
	classify->connection = c;
	c->not_by_current = 1;
	if (c->family == AF_INET6)
		layer++;
	c->layer = layer;
	chain_clear(&scratch->chain);
	s->mode.caller_known = 1;
	s->mode.absent_given = 0;
	fields_of_endpoint(classify, c, layer_wants(classify->policy, layer));
	if (classify_begin(classify, layer))
		classify_run(classify);
	permitted = !verdict_refuses(s);
	if (!permitted)
		refusal_report(classify, c);
	scratch_release(scratch);
	return permitted;
}

/* The policy in force, if it has filters at this layer for either family; else NULL. */
static __always_inline void *policy_with_layer(__u32 layer, struct connection *c)
{
	void *policy = policy_in_force();
	struct sidetrack_policy *head = policy ? policy_line(policy, 0) : NULL;

	if (!head || !(head->layers & LAYER_BITS(layer)))
		return NULL;
	c->generation = head->generation;
	return policy;
}

/* ---- bind ---------------------------------------------------------------------------------- */

/* Classifies at bind redirect, which can permit or block. */
static __always_inline int bind_classify(struct bpf_sock_addr *ctx, struct connection *c)
{
	struct classify_context classify = {};
	struct sidetrack_scratch *scratch;
	__u32 wants;
	int permitted;

	classify.policy = policy_with_layer(SIDETRACK_LAYER_BIND_REDIRECT, c);
	if (!classify.policy || !program_in_scope())
		return PROCEED;
	c->protocol = ctx->protocol;
	c->layer = SIDETRACK_LAYER_BIND_REDIRECT + (c->family == AF_INET6);
	scratch = scratch_acquire();
	if (!scratch)
		return refuse(ENOBUFS, SIDETRACK_COUNT_SEARCH_CUT, SIDETRACK_EVENT_SEARCH_CUT, c, 0,
			      0);
	classify.scratch = scratch;
	scratch->connection = *c;
	c = &scratch->connection;
	classify.connection = c;
	chain_clear(&scratch->chain);
	scratch->search.mode.caller_known = 1;
	scratch->search.mode.absent_given = 0;
	wants = layer_wants(classify.policy, c->layer);
	fields_of_connection(scratch, c, wants, 0);
	fields_of_task(scratch, wants, NULL);
	if (wants & WANTS(NETNS))
		field_set(scratch, SIDETRACK_FIELD_NETNS, bpf_get_netns_cookie(ctx));
	if (classify_begin(&classify, c->layer))
		classify_run(&classify);
	permitted = !verdict_refuses(&scratch->search);
	if (!permitted)
		refuse_by_verdict(&classify, c);
	scratch_release(scratch);
	return permitted ? PROCEED : REFUSE;
}

static __always_inline int bind4(struct bpf_sock_addr *ctx)
{
	struct connection c = { .family = AF_INET, .local_port = ctx->user_port };

	address_from_v4(&c.local, ctx->user_ip4);
	return bind_classify(ctx, &c);
}

static __always_inline int bind6(struct bpf_sock_addr *ctx)
{
	struct connection c = { .family = AF_INET6, .local_port = ctx->user_port };

	for (int i = 0; i < 4; i++)
		c.local.words[i] = ctx->user_ip6[i];
	if (address_is_mapped(&c.local))
		c.family = AF_INET;
	return bind_classify(ctx, &c);
}

/* ---- ingress: a SYN arrives ---------------------------------------------------------------- */

/*
 * Reads the addresses of a packet of the connection's protocol, TCP or UDP. Returns the offset of
 * the protocol's header; negative for any other packet.
 */
static __always_inline int packet_addresses(struct __sk_buff *skb, struct connection *c)
{
	struct packet p = {};

	if (packet_read(skb, 0, &p) || p.protocol != c->protocol)
		return -1;
	c->family = p.family;
	c->remote = p.source;
	c->local = p.destination;
	return p.payload;
}

/* ingress: a SYN for a listener. Other packets for listeners are permitted. */
static __always_inline int accept_classify(struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct connection c = { .protocol = IPPROTO_TCP, .inbound = 1 };
	struct classify_context classify = {};
	__u8 head[14] = {};
	int offset = packet_addresses(skb, &c);

	if (offset < 0 || bpf_skb_load_bytes(skb, offset, head, sizeof(head)) ||
	    (head[TCP_FLAGS_OFFSET] & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return PACKET_PERMIT;
	classify.policy = policy_with_layer(SIDETRACK_LAYER_AUTH_RECV_ACCEPT, &c);
	if (!classify.policy)
		return PACKET_PERMIT;
	c.port = *(__be16 *)head;
	c.local_port = *(__be16 *)(head + 2);
	sk = bpf_sk_fullsock(sk);
	if (sk)
		classify.endpoint = bpf_sk_storage_get(&sidetrack_endpoints, sk, NULL, 0);
	return endpoint_classify(&classify, &c, SIDETRACK_LAYER_AUTH_RECV_ACCEPT) ? PACKET_PERMIT :
										    PACKET_DROP;
}

/* ---- Established, and closed ---------------------------------------------------------------- */

/*
 * Reads both ends of a TCP connection. A separate function, so that its variables are not on the
 * stack during the classification.
 */
static __noinline int endpoint_connection_fill(struct bpf_sock_ops *ops,
					       const struct sidetrack_endpoint *e,
					       struct connection *c)
{
	struct sidetrack_four_tuple tuple;

	four_tuple_read(&tuple, ops, !e->connecting);
	c->inbound = !e->connecting;
	c->family = ops->family;
	if (e->connecting) {
		c->family = e->family;
		__builtin_memcpy(c->remote.bytes, e->remote_addr, 16);
		c->port = e->remote_port;
		__builtin_memcpy(c->local.bytes, tuple.client_addr, 16);
		c->local_port = bpf_htons(tuple.client_port);
		return 0;
	}
	__builtin_memcpy(c->remote.bytes, tuple.client_addr, 16);
	c->port = bpf_htons(tuple.client_port);
	__builtin_memcpy(c->local.bytes, tuple.target_addr, 16);
	c->local_port = tuple.target_port;
	if (address_is_mapped(&c->remote))
		c->family = AF_INET;
	return 0;
}

/* The flow whose records the socket has; 0 if it has none. */
static __always_inline __u64 parent_id_of(struct bpf_sock *sk)
{
	struct sidetrack_socket *socket = bpf_sk_storage_get(&sidetrack_sockets, sk, NULL, 0);

	return socket ? socket->parent_id : 0;
}

/*
 * The flow of a socket, for events: the one that it is the client of, the one that it was accepted
 * with, or the one whose records it has; 0 if there is none.
 */
static __noinline __u64 endpoint_flow_id(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct sidetrack_flow_entry *entry = flow_at_address(ops->remote_ip4);
	struct sidetrack_client *client;

	if (entry && entry->client_cookie == bpf_get_socket_cookie(ops))
		return FLOW_STATE_ID(entry->state);
	entry = accepted_flow(sk, ops->local_ip4);
	if (entry)
		return FLOW_STATE_ID(entry->state);
	client = bpf_sk_storage_get(&sidetrack_clients, sk, NULL, 0);
	return client ? client->flow_id : parent_id_of(sk);
}

/* Classifies a TCP connection that is established, or over. The verdict has no effect. */
static __always_inline void endpoint_classify_tcp(struct bpf_sock_ops *ops,
						  struct sidetrack_endpoint *e, __u32 layer)
{
	struct connection c = { .protocol = IPPROTO_TCP };
	struct classify_context classify = { .endpoint = e };

	classify.policy = policy_with_layer(layer, &c);
	if (!classify.policy)
		return;
	endpoint_connection_fill(ops, e, &c);
	if (ops->sk)
		c.flow_id = endpoint_flow_id(ops, ops->sk);
	endpoint_classify(&classify, &c, layer);
}

static __always_inline struct sidetrack_endpoint *endpoint_of(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	return sk ? bpf_sk_storage_get(&sidetrack_endpoints, sk, NULL, 0) : NULL;
}

/* sockops, ACTIVE_ESTABLISHED and PASSIVE_ESTABLISHED. */
static __noinline int endpoint_established(struct bpf_sock_ops *ops)
{
	struct sidetrack_endpoint *e = endpoint_of(ops);

	if (!e)
		return 0;
	e->state = ENDPOINT_ESTABLISHED;
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	endpoint_classify_tcp(ops, e, SIDETRACK_LAYER_FLOW_ESTABLISHED);
	return 0;
}

/* sockops: a socket reaches CLOSE. */
static __noinline int endpoint_close(struct bpf_sock_ops *ops)
{
	struct sidetrack_endpoint *e = endpoint_of(ops);

	if (!e || e->state != ENDPOINT_ESTABLISHED)
		return 0;
	e->state = ENDPOINT_OPEN;
	endpoint_classify_tcp(ops, e, SIDETRACK_LAYER_ENDPOINT_CLOSURE);
	return 0;
}

/* ---- Requests to classify ------------------------------------------------------------------- */

/* Applies the same prefilter as a real connect, so that the answer is the same. */
static __always_inline int prefilter_admits_request(const struct classify_context *classify,
						    __u32 layer)
{
	const struct sidetrack_scratch *scratch = classify->scratch;
	const __u64 *remote = scratch->values[SIDETRACK_FIELD_REMOTE_ADDRESS];

	if (layer < SIDETRACK_LAYER_CONNECT_REDIRECT || layer > SIDETRACK_LAYER_AUTH_CONNECT + 1)
		return 1;
	return prefilter_admits(classify->policy, layer,
				layer & 1 ? remote[0] >> 56 : remote[1] >> 24,
				scratch->values[SIDETRACK_FIELD_REMOTE_PORT][1],
				scratch->values[SIDETRACK_FIELD_PROTOCOL][1]);
}

/*
 * Classifies by the policy in force and the field values of a request, which the engine makes.
 * Counts nothing and emits no events.
 */
static __always_inline int classify_by_request(struct sidetrack_classify_request *request)
{
	struct classify_context classify = { .policy = policy_in_force() };
	struct sidetrack_policy *head;
	struct sidetrack_scratch *scratch;
	struct search *s;

	head = classify.policy ? policy_line(classify.policy, 0) : NULL;
	if (!head || request->layer >= SIDETRACK_LAYERS)
		return 0;
	scratch = scratch_acquire();
	if (!scratch)
		return 0;
	classify.scratch = scratch;
	s = &scratch->search;
	chain_clear(&scratch->chain);
	__builtin_memcpy(scratch->chain.seen, request->seen, sizeof(request->seen));
	__builtin_memcpy(scratch->absent, request->absent, sizeof(request->absent));
	__builtin_memcpy(scratch->values, request->values, sizeof(request->values));
	s->mode.caller_known = 1;
	s->mode.absent_given = request->absent_given;
	s->mode.elevated = request->flags & SIDETRACK_CLASSIFY_ELEVATED;
	if (classify_begin(&classify, request->layer) &&
	    prefilter_admits_request(&classify, request->layer)) {
		if (request->legacy_min_rank)
			classify_skip_redirects(s, request->legacy_min_rank);
		classify_run(&classify);
	}
	request->completed = !s->walk.step_limit_hit;
	request->generation = head->generation;
	request->blocked = s->verdict.blocked;
	request->hard = s->verdict.hard;
	request->vetoed = s->verdict.vetoed;
	request->absent_blocked = s->verdict.absent_blocked;
	request->decided_by = s->verdict.decided_by;
	request->redirect = s->verdict.redirect;
	scratch_release(scratch);
	return 0;
}

#endif /* SIDETRACK_ENDPOINT_H */
