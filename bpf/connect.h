/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The connect hooks: judge a connection, and divert it or let it go. */
#ifndef SIDETRACK_CONNECT_H
#define SIDETRACK_CONNECT_H

static __noinline int endpoint_connect(struct bpf_sock_addr *ctx, struct classify_context *classify,
				       const struct connection *c);
static __always_inline int endpoint_wanted(__u32 layers, __u32 protocol);
static __noinline int datagram_begun(struct bpf_sock_addr *ctx, struct classify_context *classify,
				     struct connection *c);

static __always_inline int redirect(struct bpf_sock_addr *ctx, const struct connection *c,
				    const struct sidetrack_filter *f,
				    struct sidetrack_scratch *scratch, __u64 parent_id,
				    struct target *target)
{
	struct chain *chain = &scratch->chain;
	struct sidetrack_service *service;
	__u32 number = f->service;
	int verdict;

	service = bpf_map_lookup_elem(&sidetrack_services, &number);
	if (!service)
		return REFUSE;
	if (chain->length >= SIDETRACK_CHAIN_MAX)
		return refuse(ELOOP, SIDETRACK_COUNT_CHAIN_TOO_LONG, SIDETRACK_EVENT_CHAIN_TOO_LONG,
			      c, f->id, f->service);
	chain_add(chain, number);
	if (c->protocol == IPPROTO_TCP)
		verdict = divert_connection(ctx, c, f, service, scratch, parent_id, target);
	else
		verdict = divert_datagram(ctx, c, service,
					  remember_in_scratch(scratch, c, f, parent_id), target);
	if (verdict == NO_ROOM)
		return refuse_full(c, f);
	if (verdict == DIVERT)
		count(SIDETRACK_COUNT_REDIRECTED);
	return verdict;
}

/* What a service's own socket, without records, is due. Returns the floor to judge it from. */
static __always_inline int own_connect(__u32 number, void *policy, int v6, __u32 *legacy_min_rank,
				       int *straight)
{
	struct sidetrack_service *service = bpf_map_lookup_elem(&sidetrack_services, &number);

	if (!service)
		return 0;
	if (service->records == SIDETRACK_RECORDS_LEGACY) {
		*legacy_min_rank = policy_place(policy, number & (SIDETRACK_SERVICES_MAX - 1), v6);
		return 0;
	}
	*straight = service->flags & SIDETRACK_OWN_TRAFFIC_PERMIT;
	return *straight ? 0 : -1;
}

/* A proxy that is sent to its own listener would answer itself for ever. */
static __always_inline int is_own_listener(__u32 number, const struct connection *c)
{
	struct sidetrack_service *service = bpf_map_lookup_elem(&sidetrack_services, &number);
	const union address *addr6;

	if (!service)
		return 0;
	if (c->protocol == IPPROTO_UDP)
		return datagrams_come_to(service, c);
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

/* A filter matches, and the socket has no records: a program's, or a service's own? */
static __noinline int judge_caller(struct classify_context *classify, const struct connection *c)
{
	__u32 own = program_service(), legacy_min_rank = 0;
	int straight = 0;

	if (!own && !program_in_scope())
		return PROCEED;
	if (own && is_reply(c, own))
		return PROCEED;
	if (own && is_own_listener(own, c))
		return refuse_own_listener(c, own);
	if (own &&
	    own_connect(own, classify->policy, c->family == AF_INET6, &legacy_min_rank, &straight))
		return refuse(EPERM, SIDETRACK_COUNT_RECORDS_MISSING,
			      SIDETRACK_EVENT_RECORDS_MISSING, c, 0, own);
	if (straight)
		return PROCEED;
	classify->scratch->search.mode.caller_known = 1;
	if (legacy_min_rank)
		classify_assume(&classify->scratch->search, legacy_min_rank);
	return DIVERT;
}

static __always_inline int refuse_judged(struct classify_context *classify,
					 const struct connection *c)
{
	bpf_set_retval(-refusal_report(classify, c));
	return REFUSE;
}

/* To the next layer: what redirects is known now. Returns 1 if there is none. */
static __always_inline long judge_next_layer(struct classify_context *classify)
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
 * One turn of the judgement of a connect: its layers one after another. A callback, so that the
 * verifier sees a classification once and not once for each. Returns 1 to end; decision says how.
 */
static long judge_step(__u32 i, struct classify_context *classify)
{
	struct search *s = &classify->scratch->search;
	struct connection *c = classify->connection;

	if (!s->mode.entered) {
		s->mode.entered = 1;
		c->layer = s->mode.connect_layer + (c->family == AF_INET6);
		if (!classify_begin(classify, c->layer))
			return judge_next_layer(classify);
	}
	classify_run(classify);
	if (s->mode.paused) {
		s->mode.decision = judge_caller(classify, c);
		return s->mode.decision != DIVERT;
	}
	if (!verdict_refuses(s))
		return judge_next_layer(classify);
	s->mode.decision = refuse_judged(classify, c);
	return 1;
}

#define JUDGE_STEPS_MAX 8 /* two for each layer: until it matters who asks, and then */

/* A socket with records: its chain is its parent's, and so is its program. */
static __always_inline int judge_parent(struct sidetrack_scratch *scratch,
					const struct connection *c, __u64 parent_id,
					struct sidetrack_flow_entry *parent)
{
	if (!parent)
		return refuse(EPERM, SIDETRACK_COUNT_RECORDS_STALE, SIDETRACK_EVENT_RECORDS_STALE,
			      c, 0, 0);
	if (is_own_listener(flow_service(&parent->flow), c))
		return refuse_own_listener(c, flow_service(&parent->flow));
	chain_load(&scratch->chain, &parent->flow);
	scratch->search.mode.caller_known = 1;
	return DIVERT;
}

static __always_inline void fields_of_connect(struct bpf_sock_addr *ctx,
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

/* Some layer has filters, or the socket has records. */
static __noinline int judge_with_scratch(struct bpf_sock_addr *ctx,
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
	scratch->search.verdict.absent_passed = 0;
	if (parent_id) {
		decision = judge_parent(scratch, c, parent_id, parent);
		if (decision != DIVERT)
			return decision;
	}
	fields_of_connect(ctx, classify, c, parent);
	scratch->search.mode.connect_layer = SIDETRACK_LAYER_CONNECT_REDIRECT;
	scratch->search.mode.entered = 0;
	scratch->search.mode.decision = REFUSE;
	bpf_loop(JUDGE_STEPS_MAX, judge_step, classify, 0);
	decision = scratch->search.mode.decision;
	if (decision != DIVERT)
		return decision == PROCEED ? go_straight(ctx) : REFUSE;
	endpoint_connect(ctx, classify, c);
	rank = scratch->search.mode.redirect_rank;
	f = rank == SIDETRACK_NO_RANK ? NULL : filter_at(classify->policy, rank);
	if (!f)
		return go_straight(ctx);
	return redirect(ctx, c, f, scratch, parent_id, target);
}

/* Bits of the layers that a connect may meet; and a UDP socket that sends. */
#define CONNECT_LAYERS                                                                             \
	(1U << SIDETRACK_LAYER_CONNECT_REDIRECT | 1U << SIDETRACK_LAYER_AUTH_CONNECT |             \
	 1U << SIDETRACK_LAYER_FLOW_ESTABLISHED | 1U << SIDETRACK_LAYER_ENDPOINT_CLOSURE)
#define DATAGRAM_LAYERS (CONNECT_LAYERS | 1U << SIDETRACK_LAYER_AUTH_RECV_ACCEPT)

/* The flow whose records a socket has; 0 if none. */
static __always_inline __u64 parent_of(struct bpf_sock *sk)
{
	struct sidetrack_socket *socket = bpf_sk_storage_get(&sidetrack_sockets, sk, NULL, 0);

	return socket ? socket->linked : 0;
}

/* The policy in force, and whether it has anything to say. */
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
	classify->layers = head->layers;
	return 1;
}

/* Is it beside all filters that a program's connect may meet, at a glance? */
static __noinline int prefilter_excludes(const struct classify_context *classify,
					 const struct connection *c, __u64 parent_id)
{
	__u32 v6 = c->family == AF_INET6;
	__u8 first_byte = c->remote.bytes[v6 ? 0 : 12];

	if (parent_id || endpoint_wanted(classify->layers, c->protocol))
		return 0;
	for (__u32 layer = SIDETRACK_LAYER_CONNECT_REDIRECT; layer <= SIDETRACK_LAYER_AUTH_CONNECT;
	     layer += 2)
		if (classify->layers & 1U << (layer + v6) &&
		    prefilter_admits(classify->policy, layer + v6, first_byte, bpf_ntohs(c->port),
				     c->protocol))
			return 0;
	return 1;
}

static __always_inline int judge(struct bpf_sock_addr *ctx, struct classify_context *classify,
				 struct connection *c, __u64 parent_id, struct target *target)
{
	int decision;

	classify->scratch = scratch_acquire();
	if (!classify->scratch)
		return refuse(ENOBUFS, SIDETRACK_COUNT_FLOWS_FULL, SIDETRACK_EVENT_FLOWS_FULL, c, 0,
			      0);
	/* From here on at the scratch, where the verifier need not follow what is in it. */
	classify->scratch->connection = *c;
	classify->connection = &classify->scratch->connection;
	decision = judge_with_scratch(ctx, classify, classify->connection, target, parent_id);
	c->cacheable = !classify->scratch->search.verdict.absent_passed;
	scratch_release(classify->scratch);
	if (c->protocol == IPPROTO_UDP && (decision == PROCEED || decision == DIVERT) &&
	    endpoint_wanted(classify->layers, IPPROTO_UDP))
		datagram_begun(ctx, classify, c);
	return decision;
}

static __always_inline int judge_connect(struct bpf_sock_addr *ctx, struct connection *c,
					 struct target *target)
{
	__u64 parent_id = parent_of(ctx->sk);
	struct classify_context classify = {};

	if (!policy_applies(&classify, c, parent_id) || prefilter_excludes(&classify, c, parent_id))
		return go_straight(ctx);
	return judge(ctx, &classify, c, parent_id, target);
}

static __always_inline void read_address6(struct bpf_sock_addr *ctx, union address *address)
{
	for (int i = 0; i < 4; i++)
		address->words[i] = ctx->user_ip6[i];
}

static __always_inline void write_address6(struct bpf_sock_addr *ctx, const union address *address)
{
	ctx->user_ip6[0] = address->words[0];
	apart();
	ctx->user_ip6[1] = address->words[1];
	apart();
	ctx->user_ip6[2] = address->words[2];
	apart();
	ctx->user_ip6[3] = address->words[3];
}

/* The socket's own end. A socket of IPv6 that goes to IPv4 is of IPv4, bound or not. */
static __always_inline void connection_local(struct connection *c, struct bpf_sock *sk)
{
	address_from_socket(&c->local, sk);
	if (c->family == AF_INET && address_is_zero(&c->local))
		address_from_v4(&c->local, 0);
	c->local_port = bpf_htons(sk->src_port);
}

/* Nothing can be sent to port 0: such a connect only asks which address it would come from. */
static __always_inline int is_judged(struct bpf_sock_addr *ctx)
{
	return ctx->sk &&
	       (ctx->protocol == IPPROTO_TCP || (ctx->protocol == IPPROTO_UDP && ctx->user_port));
}

/* What judges: a connect, or a datagram. */
typedef int (*judge_fn)(struct bpf_sock_addr *ctx, struct connection *c, struct target *target);

/* The hooks of connect and sendmsg, for IPv4. */
static __always_inline int divert4(struct bpf_sock_addr *ctx, int sending, judge_fn judged)
{
	struct connection c = { .port = ctx->user_port, .family = AF_INET, .sending = sending };
	struct target target = {};
	int verdict;

	if (!is_judged(ctx))
		return PROCEED;
	address_from_v4(&c.remote, ctx->user_ip4);
	connection_local(&c, ctx->sk);
	c.protocol = ctx->protocol;
	verdict = judged(ctx, &c, &target);
	if (verdict != DIVERT)
		return verdict;
	ctx->user_ip4 = target.address.words[3];
	ctx->user_port = target.port;
	return PROCEED;
}

/* The same for IPv6. */
static __always_inline int divert6(struct bpf_sock_addr *ctx, int sending, judge_fn judged)
{
	struct connection c = { .port = ctx->user_port, .family = AF_INET6, .sending = sending };
	struct target target = {};
	int verdict;

	if (!is_judged(ctx))
		return PROCEED;
	read_address6(ctx, &c.remote);
	if (address_is_mapped(&c.remote))
		c.family = AF_INET;
	connection_local(&c, ctx->sk);
	c.protocol = ctx->protocol;
	verdict = judged(ctx, &c, &target);
	if (verdict != DIVERT)
		return verdict;
	write_address6(ctx, &target.address);
	ctx->user_port = target.port;
	return PROCEED;
}

static __always_inline int connect4(struct bpf_sock_addr *ctx)
{
	return divert4(ctx, 0, judge_connect);
}

static __always_inline int connect6(struct bpf_sock_addr *ctx)
{
	return divert6(ctx, 0, judge_connect);
}

/* ---- getpeername: the program sees the peer it asked for --------------------------------- */

/* Where a flow was going. */
static __always_inline int flow_remote(const struct sidetrack_flow *flow, struct target *to)
{
	__builtin_memcpy(&to->address, flow->remote_addr, sizeof(to->address));
	to->port = flow->remote_port;
	return 0;
}

/* Where this socket thinks it goes. Fails if that is where it goes. */
static __always_inline int peer_read(struct bpf_sock_addr *ctx, const union address *connected,
				     struct target *peer)
{
	struct sidetrack_flow_entry *entry;
	struct sidetrack_client *client;

	if (ctx->protocol == IPPROTO_UDP)
		entry = datagram_at(connected);
	else
		entry = flow_at_address(connected->words[3]);
	if (entry && entry->client == bpf_get_socket_cookie(ctx))
		return flow_remote(&entry->flow, peer);
	if (ctx->protocol == IPPROTO_UDP)
		return -1;
	client = bpf_sk_storage_get(&sidetrack_clients, ctx->sk, NULL, 0);
	if (!client)
		return -1;
	__builtin_memcpy(&peer->address, client->remote_addr, sizeof(peer->address));
	peer->port = client->remote_port;
	return 0;
}

/* What tells who stands behind an address. Fails if nobody does. */
typedef int (*name_fn)(struct bpf_sock_addr *ctx, const union address *address, struct target *who);

/* The hooks of getpeername and recvmsg, for IPv4: a flow's address is shown as where it was going.
 */
static __always_inline int name4(struct bpf_sock_addr *ctx, name_fn named)
{
	union address address;
	struct target who;

	address_from_v4(&address, ctx->user_ip4);
	if (!is_judged(ctx) || named(ctx, &address, &who))
		return PROCEED;
	ctx->user_ip4 = who.address.words[3];
	ctx->user_port = who.port;
	return PROCEED;
}

/* The same for IPv6. */
static __always_inline int name6(struct bpf_sock_addr *ctx, name_fn named)
{
	union address address;
	struct target who;

	read_address6(ctx, &address);
	if (!is_judged(ctx) || named(ctx, &address, &who))
		return PROCEED;
	write_address6(ctx, &who.address);
	ctx->user_port = who.port;
	return PROCEED;
}

static __always_inline int getpeername4(struct bpf_sock_addr *ctx)
{
	return name4(ctx, peer_read);
}

static __always_inline int getpeername6(struct bpf_sock_addr *ctx)
{
	return name6(ctx, peer_read);
}

#endif /* SIDETRACK_CONNECT_H */
