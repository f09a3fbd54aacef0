/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Redirect records: a flow's id and a message authentication code over it.
 *
 * eBPF has no random numbers that are fit for secrets. So the engine supplies one secret key, and
 * the code of each flow is SipHash-2-4 with 128 bits of output (Aumasson, Bernstein; 2012) of the
 * flow's id. No token is stored: it is computed when a proxy gets it, and again when one sets it.
 */
#ifndef SIDETRACK_TOKEN_H
#define SIDETRACK_TOKEN_H

#define ROTATE_LEFT(value, bits) (((value) << (bits)) | ((value) >> (64 - (bits))))

struct siphash {
	__u64 v0, v1, v2, v3;
};

static __always_inline void siphash_rounds(struct siphash *s, int rounds)
{
	for (int i = 0; i < rounds; i++) {
		s->v0 += s->v1;
		s->v2 += s->v3;
		s->v1 = ROTATE_LEFT(s->v1, 13) ^ s->v0;
		s->v3 = ROTATE_LEFT(s->v3, 16) ^ s->v2;
		s->v0 = ROTATE_LEFT(s->v0, 32);
		s->v2 += s->v1;
		s->v0 += s->v3;
		s->v1 = ROTATE_LEFT(s->v1, 17) ^ s->v2;
		s->v3 = ROTATE_LEFT(s->v3, 21) ^ s->v0;
		s->v2 = ROTATE_LEFT(s->v2, 32);
	}
}

static __always_inline void siphash_absorb(struct siphash *s, __u64 word)
{
	s->v3 ^= word;
	siphash_rounds(s, 2);
	s->v0 ^= word;
}

static __always_inline void token_make(__u64 flow_id, struct sidetrack_records *token)
{
	struct siphash s = {
		.v0 = token_key[0] ^ 0x736f6d6570736575ULL,
		.v1 = token_key[1] ^ 0x646f72616e646f6dULL ^ 0xee,
		.v2 = token_key[0] ^ 0x6c7967656e657261ULL,
		.v3 = token_key[1] ^ 0x7465646279746573ULL,
	};
	__u64 mac[2];

	siphash_absorb(&s, flow_id);
	siphash_absorb(&s, (__u64)sizeof(flow_id)
				   << 56); /* the last word holds the length of the input */
	s.v2 ^= 0xee;
	siphash_rounds(&s, 4);
	mac[0] = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
	s.v1 ^= 0xdd;
	siphash_rounds(&s, 4);
	mac[1] = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;

	token->flow_id = flow_id;
	token->engine_id = engine_id;
	__builtin_memcpy(token->mac, mac, sizeof(mac));
}

/*
 * Is this a token of this engine, for any flow? All words are compared, so that the time taken
 * reveals nothing about the code.
 */
static __always_inline int token_is_ours(const struct sidetrack_records *token)
{
	struct sidetrack_records ours;
	const __u64 *a = (const __u64 *)token, *b = (const __u64 *)&ours;
	__u64 difference = 0;

	token_make(token->flow_id, &ours);
	for (int i = 0; i < (int)(sizeof(ours) / sizeof(*a)); i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

#endif /* SIDETRACK_TOKEN_H */
