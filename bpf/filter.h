/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The matcher: classifies a connection at a layer. crates/sidetrack-policy/src/reference.rs defines
 * the result; the image that the matcher reads is made by compile.rs there.
 *
 * All changing values are in the scratch buffer, and the stack holds pointers only, so that the
 * verifier does not have to track each number through each step.
 */
#ifndef SIDETRACK_FILTER_H
#define SIDETRACK_FILTER_H

/* ---- The image ---------------------------------------------------------------------------- */

/* The policy in force. Read once for each connection, so that one generation classifies it. */
static __always_inline void *policy_in_force(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&sidetrack_policies, &key);
}

static __always_inline void *policy_line(void *policy, __u32 line)
{
	return bpf_map_lookup_elem(policy, &line);
}

static __always_inline struct sidetrack_filter *filter_at(void *policy, __u32 rank)
{
	return policy_line(policy, SIDETRACK_FILTER_LINE + rank);
}

/* Bit n: layer n has filters. */
static __always_inline __u32 layers_in_force(void *policy)
{
	struct sidetrack_policy *head = policy_line(policy, 0);

	return head ? head->layers : 0;
}

/* The place of a service at connect redirect of a family, see policy.h. */
static __always_inline __u32 policy_place(void *policy, __u32 service, int v6)
{
	__u32 line = service / SIDETRACK_PLACES_IN_LINE + (v6 ? SIDETRACK_PLACE_LINES : 0);
	__u32 *places = policy_line(policy, SIDETRACK_PLACE_LINE + line);

	return places ? places[service & (SIDETRACK_PLACES_IN_LINE - 1)] : 0;
}

/* ---- Conditions --------------------------------------------------------------------------- */

/* What a classification works with. */
struct classify_context {
	void *policy; /* the inner map */
	__u32 layers; /* bit n: layer n has filters; set for connects and datagrams only */
	struct sidetrack_scratch *scratch;
	struct connection *connection; /* for counters and events; NULL for a request to classify */
	struct sidetrack_endpoint *endpoint; /* the program, if that is not the current process */
};

/* Does the test of a condition hold? */

static __always_inline int test_holds(__u32 kind, __u32 negate, const __u64 *low, const __u64 *high,
				      const __u64 *value)
{
	int holds;

	if (kind == SIDETRACK_TEST_MASKED)
		holds = (value[0] & high[0]) == low[0] && (value[1] & high[1]) == low[1];
	else
		holds = (value[0] > low[0] || (value[0] == low[0] && value[1] >= low[1])) &&
			(value[0] < high[0] || (value[0] == high[0] && value[1] <= high[1]));
	return holds != negate;
}

/* One condition. Returns 1 once it is known that the filter does not match. */
static long condition_step(__u32 i, struct classify_context *classify)
{
	struct search *s = &classify->scratch->search;
	struct sidetrack_condition *c = policy_line(classify->policy, s->walk.conditions + i);

	if (!c) {
		s->walk.mismatch = 1;
		return 1;
	}
	if (test_holds(c->kind, c->negate, c->low, c->high,
		       classify->scratch->values[c->field & (SIDETRACK_FIELDS - 1)]))
		s->walk.field_holds = 1;
	if (!c->last_of_field)
		return 0;
	s->walk.mismatch = !s->walk.field_holds;
	s->walk.field_holds = 0;
	return s->walk.mismatch;
}

static __always_inline int filter_matches(struct classify_context *classify,
					  const struct sidetrack_filter *f)
{
	struct search *s = &classify->scratch->search;

	if (f->has_first &&
	    !test_holds(f->kind, f->negate, f->low, f->high,
			classify->scratch->values[f->field & (SIDETRACK_FIELDS - 1)]))
		return 0;
	if (!f->condition_count)
		return 1;
	s->walk.conditions = f->conditions;
	s->walk.field_holds = 0;
	s->walk.mismatch = 0;
	s->walk.steps += bpf_loop(f->condition_count, condition_step, classify, 0);
	return !s->walk.mismatch;
}

/* ---- The search for the first filter from the cursor on that matches and may act ----------- */

/* Is the destination a multicast or broadcast address? A redirected datagram would reach one proxy
 * only. */
static __always_inline int is_to_group(const struct sidetrack_scratch *scratch)
{
	__u64 type = scratch->values[SIDETRACK_FIELD_DESTINATION_ADDRESS_TYPE][1];

	return type == SIDETRACK_ADDRESS_MULTICAST || type == SIDETRACK_ADDRESS_BROADCAST;
}

/*
 * May a matching filter act? Not on multicast and broadcast, unless it is made for them, nor on an
 * elevated program, if it is restricted to the connections of one user. A redirect may not act if
 * the connection has passed its service, if it ranks below the place of a legacy proxy's service,
 * or if a higher sublayer has made the verdict hard without redirecting.
 */
static __always_inline int filter_may_act(struct sidetrack_scratch *scratch,
					  const struct sidetrack_filter *f, __u32 rank)
{
	struct search *s = &scratch->search;

	if ((!(f->flags & SIDETRACK_FILTER_GROUPS) && is_to_group(scratch)) ||
	    (f->flags & SIDETRACK_FILTER_RESTRICTED && s->mode.elevated))
		return 0;
	if (s->mode.assuming_chain)
		return f->action == SIDETRACK_ACTION_REDIRECT && rank < s->mode.legacy_min_rank &&
		       !chain_has(&scratch->chain, f->service);
	if (f->action != SIDETRACK_ACTION_REDIRECT)
		return 1;
	if (rank < s->mode.legacy_min_rank || chain_has(&scratch->chain, f->service))
		return 0;
	return s->verdict.redirect != SIDETRACK_NO_RANK || !s->verdict.hard;
}

static __always_inline void search_push(struct search *s, __u32 line)
{
	if (!line)
		return;
	s->walk.stack[s->walk.depth & (SIDETRACK_SEARCH_DEPTH_MAX - 1)] = line;
	s->walk.depth++; /* no overflow: on a way down the index, each field occurs once */
}

/* Examines one filter of a list. */
static __always_inline long search_list(struct classify_context *classify)
{
	struct search *s = &classify->scratch->search;
	struct sidetrack_list *list = policy_line(classify->policy, s->walk.list);
	struct sidetrack_filter *f;
	__u32 index = s->walk.list_index, rank;

	if (!list)
		return 1;
	if (index >= list->count || index >= SIDETRACK_LIST_RANKS) {
		s->walk.list = list->next;
		s->walk.list_index = 0;
		return 0;
	}
	s->walk.list_index = index + 1;
	rank = list->ranks[index];
	if (rank < s->walk.cursor)
		return 0;
	if (rank >= s->walk.best) {
		s->walk.list = 0;
		return 0;
	}
	f = filter_at(classify->policy, rank);
	if (!f)
		return 1;
	if (filter_matches(classify, f) && filter_may_act(classify->scratch, f, rank)) {
		s->walk.best = rank;
		s->walk.list = 0;
	}
	return 0;
}

/* The hash of a value; `mix` in crates/sidetrack-abi/src/kernel/policy.rs is the same. */
static __always_inline __u32 value_mix(const __u64 *value)
{
	return ((value[0] * 0xff51afd7ed558ccdULL ^ value[1]) * 0x9e3779b97f4a7c15ULL) >> 32;
}

/* Examines one bucket of a hash. */
static __always_inline long search_bucket(struct classify_context *classify)
{
	struct search *s = &classify->scratch->search;
	struct sidetrack_bucket *bucket = policy_line(classify->policy, s->walk.bucket);
	const __u64 *value = classify->scratch->values[s->walk.field & (SIDETRACK_FIELDS - 1)];

	if (!bucket)
		return 1;
	s->walk.bucket = bucket->next;
	for (int i = 0; i < SIDETRACK_BUCKET_KEYS; i++) {
		if (bucket->keys[i][0] == value[0] && bucket->keys[i][1] == value[1] &&
		    bucket->child[i]) {
			search_push(s, bucket->child[i]);
			s->walk.bucket = 0;
		}
	}
	return 0;
}

/* Does the value have the prefix of this branch? */
static __always_inline int branch_covers(const struct sidetrack_branch *b, const __u64 *value)
{
	__u32 length = b->length;

	if (length > 64)
		return b->key[0] == value[0] &&
		       (length >= 128 ? b->key[1] == value[1] :
					!((b->key[1] ^ value[1]) >> (128 - length)));
	return !length || !((b->key[0] ^ value[0]) >> (64 - length));
}

/* Goes down one branch of a tree. At the end, pushes the last branch that had a group. */
static __always_inline long search_branch(struct classify_context *classify)
{
	struct search *s = &classify->scratch->search;
	struct sidetrack_branch *b = policy_line(classify->policy, s->walk.branch);
	const __u64 *value = classify->scratch->values[s->walk.field & (SIDETRACK_FIELDS - 1)];
	__u32 length, next = 0;

	if (!b)
		return 1;
	length = b->length;
	if (branch_covers(b, value)) {
		if (b->group)
			s->walk.deepest = s->walk.branch;
		if (length < 128) {
			__u64 half = length < 64 ? value[0] : value[1];

			next = half >> (63 - (length & 63)) & 1 ? b->child[1] : b->child[0];
		}
	}
	s->walk.branch = next;
	if (!next)
		search_push(s, s->walk.deepest);
	return 0;
}

/* Pops a node. The search is done if there is none. */
static __always_inline long search_node(struct classify_context *classify)
{
	struct search *s = &classify->scratch->search;
	const __u64 *value;
	struct sidetrack_index *node;
	struct sidetrack_branch *branch;
	__u32 line;

	if (!s->walk.depth) {
		s->walk.done = 1;
		return 1;
	}
	s->walk.depth--;
	line = s->walk.stack[s->walk.depth & (SIDETRACK_SEARCH_DEPTH_MAX - 1)];
	node = policy_line(classify->policy, line);
	if (!node)
		return 1;
	if (node->kind == SIDETRACK_NODE_BRANCH) {
		branch = (struct sidetrack_branch *)node;
		search_push(s, branch->up);
		search_push(s, branch->group);
		return 0;
	}
	if (node->kind == SIDETRACK_NODE_LIST) {
		s->walk.list = line;
		s->walk.list_index = 0;
		return 0;
	}
	if (node->lowest >= s->walk.best)
		return 0;
	search_push(s, node->rest);
	s->walk.field = node->field;
	if (node->kind == SIDETRACK_NODE_HASH) {
		value = classify->scratch->values[node->field & (SIDETRACK_FIELDS - 1)];
		s->walk.bucket = node->first + (value_mix(value) & node->mask);
		return 0;
	}
	s->walk.branch = node->first;
	s->walk.deepest = 0;
	return 0;
}

/* One step of a search. */
static long search_step(__u32 i, struct classify_context *classify)
{
	struct search *s = &classify->scratch->search;

	if (s->walk.list)
		return search_list(classify);
	if (s->walk.bucket)
		return search_bucket(classify);
	if (s->walk.branch)
		return search_branch(classify);
	return search_node(classify);
}

/* Searches from the cursor on. Sets walk.best, to SIDETRACK_NO_RANK if no filter is found. */
static __noinline int search_run(struct classify_context *classify)
{
	struct search *s = &classify->scratch->search;

	s->walk.best = SIDETRACK_NO_RANK;
	s->walk.list = 0;
	s->walk.bucket = 0;
	s->walk.branch = 0;
	s->walk.done = 0;
	s->walk.stack[0] = s->walk.root;
	s->walk.depth = 1;
	if (s->walk.steps < SIDETRACK_STEPS_MAX)
		s->walk.steps += bpf_loop(SIDETRACK_STEPS_MAX, search_step, classify, 0);
	if (!s->walk.done)
		s->walk.step_limit_hit = 1;
	return 0;
}

/* ---- Arbitration, one sublayer after another (docs/wfp.md, 4.7) ---------------------------- */

static __always_inline int service_is_absent(struct sidetrack_scratch *scratch, __u32 number)
{
	struct search *s = &scratch->search;
	struct sidetrack_service *service;

	if (s->mode.absent_given)
		return scratch->absent[(number >> 6) & 3] >> (number & 63) & 1;
	service = bpf_map_lookup_elem(&sidetrack_services, &number);
	if (!service)
		return 1;
	if (scratch->values[SIDETRACK_FIELD_PROTOCOL][1] == IPPROTO_UDP)
		return s->mode.layer & 1 ? !service->datagrams6 : !service->datagrams4;
	return s->mode.layer & 1 ? !service->listeners6 : !service->listeners4;
}

/* A filter that is restricted to one user does not lift any block. */
static __always_inline void verdict_permit(struct search *s, const struct sidetrack_filter *f,
					   __u32 rank)
{
	if (s->verdict.hard || (s->verdict.blocked && f->flags & SIDETRACK_FILTER_RESTRICTED))
		return;
	if (s->verdict.blocked || s->verdict.decided_by == SIDETRACK_NO_RANK)
		s->verdict.decided_by = rank;
	s->verdict.blocked = 0;
	s->verdict.hard = f->flags & SIDETRACK_FILTER_CLEAR_ACTION_RIGHT;
}

static __always_inline void verdict_block(struct search *s, __u32 rank)
{
	if (s->verdict.hard)
		return;
	if (!s->verdict.blocked)
		s->verdict.decided_by = rank;
	s->verdict.blocked = 1;
	s->verdict.hard = 1;
}

/* A veto, in WFP the block of a callout: soft, but it overrules even a hard permit. */
static __always_inline void verdict_veto(struct search *s, __u32 rank)
{
	if (s->verdict.blocked)
		return;
	s->verdict.blocked = 1;
	s->verdict.vetoed = s->verdict.hard;
	s->verdict.decided_by = rank;
}

/* Applies a redirect. Returns 1 if its sublayer is decided. */
static __always_inline int verdict_redirect(struct classify_context *classify,
					    const struct sidetrack_filter *f, __u32 rank)
{
	struct search *s = &classify->scratch->search;

	if (s->verdict.redirect != SIDETRACK_NO_RANK ||
	    !service_is_absent(classify->scratch, f->service)) {
		if (s->verdict.redirect == SIDETRACK_NO_RANK)
			s->verdict.redirect = rank;
		verdict_permit(s, f, rank);
		return 1;
	}
	if (f->flags & SIDETRACK_FILTER_ABSENT_PERMIT) {
		s->verdict.absent_skipped = 1;
		if (classify->connection) {
			count(SIDETRACK_COUNT_ABSENT_PERMITTED);
			event_emit(SIDETRACK_EVENT_ABSENT_PERMITTED, classify->connection, f->id,
				   f->service, classify->endpoint);
		}
		return 0;
	}
	s->verdict.absent_blocked = 1;
	verdict_block(s, rank);
	return 1;
}

/* Applies a filter that matches. Returns 1 if its sublayer is decided. */
static __always_inline int verdict_apply(struct classify_context *classify,
					 const struct sidetrack_filter *f, __u32 rank)
{
	struct search *s = &classify->scratch->search;

	switch (f->action) {
	case SIDETRACK_ACTION_PERMIT:
		verdict_permit(s, f, rank);
		return 1;
	case SIDETRACK_ACTION_VETO:
		verdict_veto(s, rank);
		return 1;
	case SIDETRACK_ACTION_INSPECT:
		if (classify->connection) {
			count(SIDETRACK_COUNT_INSPECTED);
			event_emit(SIDETRACK_EVENT_INSPECTED, classify->connection, f->id, 0,
				   classify->endpoint);
		}
		return 0;
	case SIDETRACK_ACTION_REDIRECT:
		return verdict_redirect(classify, f, rank);
	default:
		verdict_block(s, rank);
		return 1;
	}
}

/* Adds one service below the place of a legacy proxy's service to the chain. */
static __always_inline long assume_chain_step(struct classify_context *classify)
{
	struct search *s = &classify->scratch->search;
	struct sidetrack_filter *f;

	if (s->walk.best == SIDETRACK_NO_RANK) {
		s->mode.assuming_chain = 0; /* the chain is complete; now the verdict */
		s->walk.cursor = 0;
		return 0;
	}
	f = filter_at(classify->policy, s->walk.best);
	if (!f)
		return 1;
	chain_add(&classify->scratch->chain, f->service);
	s->walk.cursor = s->walk.best + 1;
	return 0;
}

/* Finds and applies one filter that matches. Returns 1 at the end of the classification. */
static long verdict_step(__u32 i, struct classify_context *classify)
{
	struct search *s = &classify->scratch->search;
	struct sidetrack_filter *f;

	if (!s->mode.paused)
		search_run(classify);
	s->mode.paused = 0;
	if (s->walk.step_limit_hit)
		return 1;
	if (s->mode.assuming_chain)
		return assume_chain_step(classify);
	if (s->walk.best == SIDETRACK_NO_RANK)
		return 1;
	if (!s->mode.caller_known) {
		s->mode.paused = 1; /* a filter matches: see decide_for_caller in connect.h */
		return 1;
	}
	f = filter_at(classify->policy, s->walk.best);
	if (!f)
		return 1;
	s->walk.cursor =
		verdict_apply(classify, f, s->walk.best) ? f->sublayer_end : s->walk.best + 1;
	if (s->walk.cursor >= s->walk.end)
		return 1;
	return s->verdict.hard && (s->verdict.blocked || !s->mode.beyond_hard_permit);
}

/*
 * Redirects of a lower rank are skipped. The caller is a legacy proxy: then the services of those
 * that match join the chain, as they are taken to have seen the connection, and the search for them
 * comes first. Or it is a service with its own traffic, and the rank is SIDETRACK_NO_RANK.
 */
static __always_inline void classify_skip_redirects(struct search *s, __u32 legacy_min_rank)
{
	s->mode.legacy_min_rank = legacy_min_rank;
	s->walk.cursor = 0;
	s->mode.assuming_chain = legacy_min_rank != SIDETRACK_NO_RANK;
	s->mode.paused = 0;
}

/*
 * Tests the prefilter of a layer. Returns 0 if it rules out that any filter of the layer matches;
 * otherwise the index must be searched.
 */
static __always_inline int prefilter_admits(void *policy, __u32 layer, __u8 first_byte, __u16 port,
					    __u32 protocol)
{
	struct sidetrack_layer *l = policy_line(policy, SIDETRACK_LAYER_LINE + layer);
	__u32 bit = protocol == IPPROTO_TCP ? SIDETRACK_PREFILTER_TCP :
		    protocol == IPPROTO_UDP ? SIDETRACK_PREFILTER_UDP :
					      SIDETRACK_PREFILTER_OTHER_PROTOCOL;

	return !l || ((l->protocols & bit) && l->ports >> (port & 63) & 1 &&
		      l->addresses[first_byte >> 6] >> (first_byte & 63) & 1);
}

/* Begins a classification at a layer. Returns 0 if the layer has no filters. */
static __always_inline int classify_begin(struct classify_context *classify, __u32 layer)
{
	struct search *s = &classify->scratch->search;
	struct sidetrack_layer *l = policy_line(classify->policy, SIDETRACK_LAYER_LINE + layer);

	s->mode.layer = layer;
	s->walk.cursor = 0;
	s->mode.legacy_min_rank = 0;
	s->mode.assuming_chain = 0;
	s->mode.paused = 0;
	s->walk.step_limit_hit = 0;
	s->walk.steps = 0;
	s->verdict.blocked = 0;
	s->verdict.hard = 0;
	s->verdict.vetoed = 0;
	s->verdict.absent_blocked = 0;
	s->verdict.decided_by = SIDETRACK_NO_RANK;
	s->verdict.redirect = SIDETRACK_NO_RANK;
	if (!l || !l->root)
		return 0;
	s->walk.root = l->root;
	s->walk.end = l->end;
	s->mode.beyond_hard_permit = l->flags & SIDETRACK_LAYER_BEYOND_HARD_PERMIT;
	return 1;
}

/* Continues a classification until there is a verdict, or it is paused for the caller. */
static __noinline int classify_run(struct classify_context *classify)
{
	bpf_loop(SIDETRACK_FILTERS_MAX + SIDETRACK_SERVICES_MAX, verdict_step, classify, 0);
	return 0;
}

static __always_inline int verdict_refuses(const struct search *s)
{
	return s->verdict.blocked || s->walk.step_limit_hit;
}

/* Counts a refusal and emits its event. Returns the errno for the caller. */
static __always_inline int refusal_report(struct classify_context *classify,
					  const struct connection *c)
{
	struct search *s = &classify->scratch->search;
	struct sidetrack_filter *f;

	if (s->walk.step_limit_hit) {
		count(SIDETRACK_COUNT_SEARCH_CUT);
		event_emit(SIDETRACK_EVENT_SEARCH_CUT, c, 0, 0, classify->endpoint);
		return EACCES;
	}
	f = filter_at(classify->policy, s->verdict.decided_by);
	if (s->verdict.absent_blocked) {
		count(SIDETRACK_COUNT_ABSENT_BLOCKED);
		event_emit(SIDETRACK_EVENT_ABSENT_BLOCKED, c, f ? f->id : 0, f ? f->service : 0,
			   classify->endpoint);
		return ECONNREFUSED;
	}
	count(SIDETRACK_COUNT_BLOCKED);
	if (s->verdict.vetoed)
		count(SIDETRACK_COUNT_VETOED);
	event_emit(s->verdict.vetoed ? SIDETRACK_EVENT_VETOED : SIDETRACK_EVENT_BLOCKED, c,
		   f ? f->id : 0, 0, classify->endpoint);
	return EACCES;
}

#endif /* SIDETRACK_FILTER_H */
