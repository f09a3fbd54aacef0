/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which filter decides: the first in order that matches and whose service may still see it. */
#ifndef SIDETRACK_FILTER_H
#define SIDETRACK_FILTER_H

/* What classification found. */
struct verdict {
	__s32 index;  /* of the filter; negative: none */
	__u32 absent; /* its service has no listener */
};

static __always_inline void chain_clear(struct chain *chain)
{
	__builtin_memset(chain, 0, sizeof(*chain));
}

static __always_inline int chain_has(const struct chain *chain, __u32 service)
{
	return chain->seen[(service >> 6) & 3] >> (service & 63) & 1;
}

static __always_inline void chain_add(struct chain *chain, __u32 service)
{
	chain->seen[(service >> 6) & 3] |= 1ULL << (service & 63);
	if (chain->length < SIDETRACK_CHAIN_MAX)
		chain->services[chain->length & (SIDETRACK_CHAIN_MAX - 1)] = service;
	chain->length++;
}

static __always_inline void chain_load(struct chain *chain, const struct sidetrack_flow *flow)
{
	for (int i = 0; i < SIDETRACK_CHAIN_MAX; i++) {
		if (i >= flow->chain_length)
			break;
		chain_add(chain, flow->chain[i]);
	}
}

static __always_inline struct sidetrack_policy *policy_in_force(void)
{
	__u32 key = 0;
	void *inner = bpf_map_lookup_elem(&sidetrack_policies, &key);

	return inner ? bpf_map_lookup_elem(inner, &key) : NULL;
}

static __always_inline struct sidetrack_filter *filter_at(struct sidetrack_policy *policy,
							  int index)
{
	return &policy->filters[index & (SIDETRACK_FILTERS_MAX - 1)];
}

static __always_inline int filter_matches(const struct sidetrack_filter *f,
					  const struct connection *c)
{
	const __u64 *address = (const __u64 *)f->remote_addr;
	const __u64 *mask = (const __u64 *)f->remote_mask;
	__u16 port = bpf_ntohs(c->port);

	if (((c->remote.halves[0] ^ address[0]) & mask[0]) |
	    ((c->remote.halves[1] ^ address[1]) & mask[1]))
		return 0;
	if (port < f->port_low || port > f->port_high)
		return 0;
	if (f->family && f->family != c->family)
		return 0;
	return !f->protocol || f->protocol == IPPROTO_TCP;
}

/* One policy, asked for nothing but a match. */
struct glance {
	const struct sidetrack_policy *policy;
	const struct connection *connection;
	__u32 matched;
	__u32 reserved;
};

static long glance_step(__u32 i, struct glance *glance)
{
	if (i >= SIDETRACK_FILTERS_MAX)
		return 1;
	glance->matched = filter_matches(&glance->policy->filters[i], glance->connection);
	return glance->matched;
}

static __noinline int any_filter_matches(const struct connection *c)
{
	struct glance glance = { .policy = policy_in_force(), .connection = c };

	if (!glance.policy)
		return 0;
	bpf_loop(glance.policy->filter_count, glance_step, &glance, 0);
	return glance.matched;
}

static __always_inline int service_is_absent(__u32 number, const struct connection *c)
{
	struct sidetrack_service *service = bpf_map_lookup_elem(&sidetrack_services, &number);

	if (!service)
		return 1;
	return c->family == AF_INET ? !service->listeners4 : !service->listeners6;
}

/* One walk over a policy's filters. */
struct search {
	const struct sidetrack_policy *policy;
	const struct connection *connection;
	struct chain *chain;
	__u32 floor;
	struct verdict verdict;
};

/* One filter of the walk. Returns 1 to end it. */
static long search_step(__u32 i, struct search *search)
{
	const struct connection *c = search->connection;
	const struct sidetrack_filter *f;

	if (i >= SIDETRACK_FILTERS_MAX)
		return 1;
	f = &search->policy->filters[i];
	if (!filter_matches(f, c) || chain_has(search->chain, f->service))
		return 0;
	if (i < search->floor) {
		chain_add(search->chain, f->service);
		return 0;
	}
	search->verdict.absent = service_is_absent(f->service, c);
	if (search->verdict.absent && f->on_absent == SIDETRACK_ABSENT_PERMIT) {
		count(SIDETRACK_COUNT_ABSENT_PERMITTED);
		event_emit(SIDETRACK_EVENT_ABSENT_PERMITTED, c, f->id, f->service);
		return 0;
	}
	search->verdict.index = i;
	return 1;
}

/*
 * Judges a connection by one policy. Filters before index floor stand for services that a legacy
 * proxy's place tells us have seen it: what matches there joins the chain and does not redirect.
 */
static __noinline int classify(const struct sidetrack_policy *policy, const struct connection *c,
			       struct chain *chain, __u32 floor, struct verdict *verdict)
{
	struct search search = {
		.policy = policy,
		.connection = c,
		.chain = chain,
		.floor = floor,
		.verdict = { .index = -1 },
	};

	bpf_loop(policy->filter_count, search_step, &search, 0);
	*verdict = search.verdict;
	return verdict->index;
}

#endif /* SIDETRACK_FILTER_H */
