/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The connect hooks: classify a connection, and divert it, refuse it or let it proceed. sendmsg
 * shares most of this, see message.h.
 *
 * The verdict is the result of a layer's classification; the decision is what the hook does.
 */
#ifndef SIDETRACK_CONNECT_H
#define SIDETRACK_CONNECT_H

/* Diverts the connection to the service of `f`, the filter that redirects. Returns the decision. */
static __always_inline int redirect_connection(struct bpf_sock_addr *ctx,
					       const struct connection *c,
					       const struct sidetrack_filter *f,
					       struct sidetrack_scratch *scratch, __u64 parent_id,
					       struct target *target)
{
	struct chain *chain = &scratch->chain;
	struct sidetrack_service *service;
	__u32 number = f->service;
	int decision;

	service = bpf_map_lookup_elem(&sidetrack_services, &number);
	if (!service)
		return REFUSE;
	if (chain->length >= SIDETRACK_CHAIN_MAX)
		return refuse(ELOOP, SIDETRACK_COUNT_CHAIN_TOO_LONG, SIDETRACK_EVENT_CHAIN_TOO_LONG,
			      c, f->id, f->service);
	chain_add(chain, number);
	if (c->protocol == IPPROTO_TCP)
		decision = divert_connection(ctx, c, f, service, scratch, parent_id, target);
	else
		decision = divert_datagram(
			ctx, c, service, client_fill_in_scratch(scratch, c, f, parent_id), target);
	if (decision == NO_ROOM)
		return refuse_full(c, f);
	if (decision == DIVERT)
		count(SIDETRACK_COUNT_REDIRECTED);
	return decision;
}

/*
 * A service's process uses a socket without records. Sets the rank below which redirects are
 * skipped: of all, if the service may have its own traffic. Returns nonzero if the connection is
 * refused.
 */
static __always_inline int own_traffic_check(const struct sidetrack_service *service, __u32 number,
					     void *policy, int v6, __u32 *legacy_min_rank)
{
	if (service->records == SIDETRACK_RECORDS_LEGACY) {
		*legacy_min_rank = policy_place(policy, number & (SIDETRACK_SERVICES_MAX - 1), v6);
		return 0;
	}
	*legacy_min_rank = SIDETRACK_NO_RANK;
	return service->flags & SIDETRACK_OWN_TRAFFIC_PERMIT ? 0 : -1;
}

/*
 * Does the connection go to a listener of this service? Its proxy would connect to itself
 * endlessly.
 */
static __always_inline int is_own_listener(const struct sidetrack_service *service,
					   const struct connection *c)
{
	const union address *addr6;

	if (c->protocol == IPPROTO_UDP)
		return datagrams_reach_service(service, c);
	if (c->family == AF_INET)
		return c->port == service->port4 && service->listeners4 &&
		       (service->addr4 ? service->addr4 == c->remote.words[3] :
					 (c->remote.bytes[12] == 127));
	addr6 = (const union address *)service->addr6;
	return c->port == service->port6 && service->listeners6 &&
	       (address_is_zero(addr6) ? address_is_loopback6(&c->remote) :
					 address_is_equal(addr6, &c->remote));
}

static __always_inline int refuse_own_listener(const struct connection *c, __u32 service)
{
	return refuse(ELOOP, SIDETRACK_COUNT_SELF_CONNECT, SIDETRACK_EVENT_SELF_CONNECT, c, 0,
		      service);
}

/*
 * A filter matches, and the socket has no records. Finds out whether the caller is a program in the
 * scope or a process of a service. Returns the decision; DIVERT means here that the classification
 * continues.
 */
static __noinline int decide_for_caller(struct classify_context *classify,
					const struct connection *c)
{
	__u32 number = program_service(), legacy_min_rank = 0;
	struct sidetrack_service *service = NULL;

	if (!number && !program_in_scope())
		return PROCEED;
	if (number) {
		if (is_service_reply(c, number))
			return PROCEED;
		service = bpf_map_lookup_elem(&sidetrack_services, &number);
	}
	if (service && is_own_listener(service, c))
		return refuse_own_listener(c, number);
	if (service && own_traffic_check(service, number, classify->policy, c->family == AF_INET6,
					 &legacy_min_rank))
		return refuse(EPERM, SIDETRACK_COUNT_RECORDS_MISSING,
			      SIDETRACK_EVENT_RECORDS_MISSING, c, 0, number);
	classify->scratch->search.mode.caller_known = 1;
	if (legacy_min_rank)
		classify_skip_redirects(&classify->scratch->search, legacy_min_rank);
	return DIVERT;
}

/*
 * A layer permits: goes on to the next one. After connect redirect, it is known which filter
 * redirects. Returns 1 if there is no further layer.
 */
static __always_inline long decide_next_layer(struct classify_context *classify)
{
	struct search *s = &classify->scratch->search;

	s->mode.decision = DIVERT;
	if (s->mode.connect_layer == SIDETRACK_LAYER_AUTH_CONNECT)
		return 1;
	s->mode.redirect_rank = s->verdict.redirect;
	if (s->mode.redirect_rank != SIDETRACK_NO_RANK)
		classify->scratch->values[SIDETRACK_FIELD_FLAGS][1] |= SIDETRACK_FLAG_REDIRECTED;
	if (!(classify->layers & 3U << SIDETRACK_LAYER_AUTH_CONNECT))
		return 1;
	s->mode.connect_layer = SIDETRACK_LAYER_AUTH_CONNECT;
	s->mode.entered = 0;
	return 0;
}

/*
 * One step of a decision, which classifies at connect redirect and then at auth connect. This is a
 * callback of bpf_loop, so that the verifier checks the classification once and not for each layer.
 * Returns 1 at the end; then mode.decision is set.
 */
static long decide_step(__u32 i, struct classify_context *classify)
{
	struct search *s = &classify->scratch->search;
	struct connection *c = classify->connection;

	if (!s->mode.entered) {
		s->mode.entered = 1;
		c->layer = s->mode.connect_layer + (c->family == AF_INET6);
		if (!classify_begin(classify, c->layer))
			return decide_next_layer(classify);
	}
	classify_run(classify);
	if (s->mode.paused) {
		s->mode.decision = decide_for_caller(classify, c);
		return s->mode.decision != DIVERT;
	}
	if (!verdict_refuses(s))
		return decide_next_layer(classify);
	s->mode.decision = refuse_by_verdict(classify, c);
	return 1;
}

/* Each of the two layers takes up to two steps: until the caller must be known, and after that. */
#define DECIDE_STEPS_MAX 8

/*
 * Does a socket with records of this flow go to another destination than the flow: another address,
 * port or protocol?
 */
static __always_inline int goes_elsewhere(const struct connection *c,
					  const struct sidetrack_flow *flow)
{
	return c->port != flow->remote_port || c->protocol != flow->protocol ||
	       !address_is_equal(&c->remote, (const union address *)flow->remote_addr);
}

/*
 * The socket has records: its chain and its original program are those of the parent flow. Returns
 * REFUSE, or DIVERT if the classification continues.
 */
static __always_inline int decide_for_parent(struct sidetrack_scratch *scratch,
					     const struct connection *c, __u64 parent_id,
					     struct sidetrack_flow_entry *parent)
{
	struct sidetrack_service *service;
	__u32 number;

	if (!parent)
		return refuse(EPERM, SIDETRACK_COUNT_RECORDS_STALE, SIDETRACK_EVENT_RECORDS_STALE,
			      c, 0, 0);
	number = flow_service(&parent->flow);
	service = bpf_map_lookup_elem(&sidetrack_services, &number);
	if (service && is_own_listener(service, c))
		return refuse_own_listener(c, number);
	if (service && service->flags & SIDETRACK_RECORDS_BOUND && goes_elsewhere(c, &parent->flow))
		return refuse(EPERM, SIDETRACK_COUNT_RECORDS_BOUND, SIDETRACK_EVENT_RECORDS_BOUND,
			      c, 0, number);
	chain_load(&scratch->chain, &parent->flow);
	scratch->search.mode.caller_known = 1;
	return DIVERT;
}

/* Reads the field values that the connect layers need. */
static __always_inline void fields_of_connect_hook(struct bpf_sock_addr *ctx,
						   struct classify_context *classify,
						   const struct connection *c,
						   struct sidetrack_flow_entry *parent)
{
	__u32 v6 = c->family == AF_INET6;
	__u32 wants = layer_wants(classify->policy, SIDETRACK_LAYER_CONNECT_REDIRECT + v6);

	if (classify->layers & 3U << SIDETRACK_LAYER_AUTH_CONNECT)
		wants |= layer_wants(classify->policy, SIDETRACK_LAYER_AUTH_CONNECT + v6);

	fields_of_connection(classify->scratch, c, wants,
			     parent ? SIDETRACK_FLAG_PROXY_CONNECTION : 0);
	fields_of_task(classify->scratch, wants, parent ? &parent->program : NULL);
	if (wants & WANTS(NETNS))
		field_set(classify->scratch, SIDETRACK_FIELD_NETNS, bpf_get_netns_cookie(ctx));
}

/* Decides with a scratch buffer, after policy_applies and prefilter_excludes. */
static __noinline int decide_in_scratch(struct bpf_sock_addr *ctx,
					struct classify_context *classify, struct connection *c,
					struct target *target, __u64 parent_id)
{
	struct sidetrack_flow_entry *parent = parent_id ? flow_find(parent_id) : NULL;
	struct sidetrack_scratch *scratch = classify->scratch;
	struct sidetrack_filter *f;
	int decision;
	__u32 rank;

	chain_clear(&scratch->chain);
	scratch->search.mode.caller_known = 0;
	scratch->search.mode.absent_given = 0;
	scratch->search.verdict.absent_skipped = 0;
	if (parent_id) {
		decision = decide_for_parent(scratch, c, parent_id, parent);
		if (decision != DIVERT)
			return decision;
	}
	fields_of_connect_hook(ctx, classify, c, parent);
	scratch->search.mode.connect_layer = SIDETRACK_LAYER_CONNECT_REDIRECT;
	scratch->search.mode.entered = 0;
	scratch->search.mode.decision = REFUSE;
	bpf_loop(DECIDE_STEPS_MAX, decide_step, classify, 0);
	decision = scratch->search.mode.decision;
	if (decision != DIVERT)
		return decision == PROCEED ? proceed_undiverted(ctx) : REFUSE;
	endpoint_connect(ctx, classify, c);
	rank = scratch->search.mode.redirect_rank;
	f = rank == SIDETRACK_NO_RANK ? NULL : filter_at(classify->policy, rank);
	if (!f)
		return proceed_undiverted(ctx);
	return redirect_connection(ctx, c, f, scratch, parent_id, target);
}

/* Bits of the IPv4 layers for a TCP connect, and for a UDP connect or sendmsg. */
#define CONNECT_LAYERS                                                                             \
	(1U << SIDETRACK_LAYER_CONNECT_REDIRECT | 1U << SIDETRACK_LAYER_AUTH_CONNECT |             \
	 1U << SIDETRACK_LAYER_FLOW_ESTABLISHED | 1U << SIDETRACK_LAYER_ENDPOINT_CLOSURE)
#define DATAGRAM_LAYERS (CONNECT_LAYERS | 1U << SIDETRACK_LAYER_AUTH_RECV_ACCEPT)

/*
 * Reads the policy in force. Returns 0 if it cannot affect the connection, because it has no
 * filters at these layers and the socket has no records.
 */
static __always_inline int policy_applies(struct classify_context *classify, struct connection *c,
					  __u64 parent_id)
{
	__u32 layers = c->protocol == IPPROTO_UDP ? DATAGRAM_LAYERS : CONNECT_LAYERS;
	struct sidetrack_policy *head;

	classify->policy = policy_in_force();
	head = classify->policy ? policy_line(classify->policy, 0) : NULL;
	if (!head || (!parent_id && !(head->layers & layers << (c->family == AF_INET6))))
		return 0;
	c->generation = head->generation;
	c->flow_id = parent_id;
	classify->layers = head->layers;
	return 1;
}

/*
 * Do the prefilters rule out that any filter matches? Not tested for sockets with records, whose
 * flow must be checked in any case, nor if an endpoint is needed.
 */
static __noinline int prefilter_excludes(const struct classify_context *classify,
					 const struct connection *c, __u64 parent_id)
{
	__u32 v6 = c->family == AF_INET6;
	__u8 first_byte = c->remote.bytes[v6 ? 0 : 12];

	if (parent_id || endpoint_is_needed(classify->layers, c->protocol))
		return 0;
	for (__u32 layer = SIDETRACK_LAYER_CONNECT_REDIRECT; layer <= SIDETRACK_LAYER_AUTH_CONNECT;
	     layer += 2)
		if (classify->layers & 1U << (layer + v6) &&
		    prefilter_admits(classify->policy, layer + v6, first_byte, bpf_ntohs(c->port),
				     c->protocol))
			return 0;
	return 1;
}

/* Decides by a policy that may affect the connection. Returns the decision. */
static __always_inline int decide_by_policy(struct bpf_sock_addr *ctx,
					    struct classify_context *classify, struct connection *c,
					    __u64 parent_id, struct target *target)
{
	int decision;

	/* The layer that events show until another one is classified. */
	c->layer = SIDETRACK_LAYER_CONNECT_REDIRECT + (c->family == AF_INET6);
	classify->scratch = scratch_acquire();
	if (!classify->scratch)
		return refuse(ENOBUFS, SIDETRACK_COUNT_FLOWS_FULL, SIDETRACK_EVENT_FLOWS_FULL, c, 0,
			      0);
	/* From here on in the scratch buffer, whose contents the verifier does not track. */
	classify->scratch->connection = *c;
	classify->connection = &classify->scratch->connection;
	decision = decide_in_scratch(ctx, classify, classify->connection, target, parent_id);
	c->cacheable = !classify->scratch->search.verdict.absent_skipped;
	scratch_release(classify->scratch);
	if (c->protocol == IPPROTO_UDP && (decision == PROCEED || decision == DIVERT) &&
	    endpoint_is_needed(classify->layers, IPPROTO_UDP)) {
		if (decision == DIVERT)
			c->flow_id = datagram_flow_id_at(&target->address);
		datagram_sent_first(ctx, classify, c);
	}
	return decision;
}

/* Decides about a connect. */
static __always_inline int decide_connect(struct bpf_sock_addr *ctx, struct connection *c,
					  struct target *target)
{
	__u64 parent_id = parent_id_of(ctx->sk);
	struct classify_context classify = {};

	if (!policy_applies(&classify, c, parent_id) || prefilter_excludes(&classify, c, parent_id))
		return proceed_undiverted(ctx);
	return decide_by_policy(ctx, &classify, c, parent_id, target);
}

static __always_inline void read_address6(struct bpf_sock_addr *ctx, union address *address)
{
	for (int i = 0; i < 4; i++)
		address->words[i] = ctx->user_ip6[i];
}

static __always_inline void write_address6(struct bpf_sock_addr *ctx, const union address *address)
{
	ctx->user_ip6[0] = address->words[0];
	keep_separate();
	ctx->user_ip6[1] = address->words[1];
	keep_separate();
	ctx->user_ip6[2] = address->words[2];
	keep_separate();
	ctx->user_ip6[3] = address->words[3];
}

/* The local end. If an IPv6 socket connects to IPv4, its unspecified address is IPv4 as well. */
static __always_inline void connection_local(struct connection *c, struct bpf_sock *sk)
{
	address_from_socket(&c->local, sk);
	if (c->family == AF_INET && address_is_zero(&c->local))
		address_from_v4(&c->local, 0);
	c->local_port = bpf_htons(sk->src_port);
}

/*
 * Are the programs concerned with this call? Not with a UDP connect to port 0: nothing can be sent
 * there, and such a connect only finds out the local address.
 */
static __always_inline int is_handled(struct bpf_sock_addr *ctx)
{
	return ctx->sk &&
	       (ctx->protocol == IPPROTO_TCP || (ctx->protocol == IPPROTO_UDP && ctx->user_port));
}

/* Decides about a connect or a datagram: PROCEED, REFUSE, or DIVERT after setting the target. */
typedef int (*decide_fn)(struct bpf_sock_addr *ctx, struct connection *c, struct target *target);

/* The hooks of connect and sendmsg, for IPv4. */
static __always_inline int divert4(struct bpf_sock_addr *ctx, int sending, decide_fn decide)
{
	struct connection c = { .port = ctx->user_port, .family = AF_INET, .sending = sending };
	struct target target = {};
	int decision;

	if (!is_handled(ctx))
		return PROCEED;
	address_from_v4(&c.remote, ctx->user_ip4);
	connection_local(&c, ctx->sk);
	c.protocol = ctx->protocol;
	decision = decide(ctx, &c, &target);
	if (decision != DIVERT)
		return decision;
	ctx->user_ip4 = target.address.words[3];
	ctx->user_port = target.port;
	return PROCEED;
}

/* The same for IPv6. */
static __always_inline int divert6(struct bpf_sock_addr *ctx, int sending, decide_fn decide)
{
	struct connection c = { .port = ctx->user_port, .family = AF_INET6, .sending = sending };
	struct target target = {};
	int decision;

	if (!is_handled(ctx))
		return PROCEED;
	read_address6(ctx, &c.remote);
	if (address_is_mapped(&c.remote))
		c.family = AF_INET;
	connection_local(&c, ctx->sk);
	c.protocol = ctx->protocol;
	decision = decide(ctx, &c, &target);
	if (decision != DIVERT)
		return decision;
	write_address6(ctx, &target.address);
	ctx->user_port = target.port;
	return PROCEED;
}

static __always_inline int connect4(struct bpf_sock_addr *ctx)
{
	return divert4(ctx, 0, decide_connect);
}

static __always_inline int connect6(struct bpf_sock_addr *ctx)
{
	return divert6(ctx, 0, decide_connect);
}

/* ---- getpeername: the program sees the peer that it connected to ------------------------- */

/* The original destination of a flow. */
static __always_inline int flow_original_destination(const struct sidetrack_flow *flow,
						     struct target *to)
{
	__builtin_memcpy(&to->address, flow->remote_addr, sizeof(to->address));
	to->port = flow->remote_port;
	return 0;
}

/* The peer to which this socket was connecting. Fails if the socket was not diverted. */
static __always_inline int peer_original(struct bpf_sock_addr *ctx, const union address *connected,
					 struct target *original)
{
	struct sidetrack_flow_entry *entry;
	struct sidetrack_client *client;

	if (ctx->protocol == IPPROTO_UDP)
		entry = datagram_flow_at(connected);
	else
		entry = flow_at_address(connected->words[3]);
	if (entry && entry->client_cookie == bpf_get_socket_cookie(ctx))
		return flow_original_destination(&entry->flow, original);
	if (ctx->protocol == IPPROTO_UDP)
		return -1;
	client = bpf_sk_storage_get(&sidetrack_clients, ctx->sk, NULL, 0);
	if (!client)
		return -1;
	__builtin_memcpy(&original->address, client->remote_addr, sizeof(original->address));
	original->port = client->remote_port;
	return 0;
}

/* Finds the original destination of the flow with this address. Fails if there is no such flow. */
typedef int (*original_fn)(struct bpf_sock_addr *ctx, const union address *address,
			   struct target *original);

/*
 * The hooks of getpeername and recvmsg, for IPv4: replace the address of a flow by its original
 * destination.
 */
static __always_inline int restore_original4(struct bpf_sock_addr *ctx, original_fn find_original)
{
	union address address;
	struct target original;

	address_from_v4(&address, ctx->user_ip4);
	if (!is_handled(ctx) || find_original(ctx, &address, &original))
		return PROCEED;
	ctx->user_ip4 = original.address.words[3];
	ctx->user_port = original.port;
	return PROCEED;
}

/* The same for IPv6. */
static __always_inline int restore_original6(struct bpf_sock_addr *ctx, original_fn find_original)
{
	union address address;
	struct target original;

	read_address6(ctx, &address);
	if (!is_handled(ctx) || find_original(ctx, &address, &original))
		return PROCEED;
	write_address6(ctx, &original.address);
	ctx->user_port = original.port;
	return PROCEED;
}

static __always_inline int getpeername4(struct bpf_sock_addr *ctx)
{
	return restore_original4(ctx, peer_original);
}

static __always_inline int getpeername6(struct bpf_sock_addr *ctx)
{
	return restore_original6(ctx, peer_original);
}

#endif /* SIDETRACK_CONNECT_H */
