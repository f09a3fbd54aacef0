/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The chain of a connection: the services that it has passed, in order. */
#ifndef SIDETRACK_CHAIN_H
#define SIDETRACK_CHAIN_H

static __always_inline void chain_clear(struct chain *chain)
{
	__builtin_memset(chain, 0, sizeof(*chain));
}

static __always_inline int chain_has(const struct chain *chain, __u32 service)
{
	return chain->seen[(service >> 6) & 3] >> (service & 63) & 1;
}

/* A chain that has become too long is refused by the caller, see redirect_connection. */
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

#endif /* SIDETRACK_CHAIN_H */
