/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses as 16 bytes, IPv4 as IPv4-mapped. */
#ifndef SIDETRACK_ADDRESS_H
#define SIDETRACK_ADDRESS_H

/* Keeps clang from merging stores to the context's fields, which the verifier would refuse. */
#define apart() asm volatile("" ::: "memory")

#define AF_INET 2
#define AF_INET6 10

union address {
	__u8 bytes[16];
	__be32 words[4];
	__u64 halves[2];
};

static __always_inline void address_from_v4(union address *to, __be32 v4)
{
	to->halves[0] = 0;
	to->words[2] = bpf_htonl(0xffff);
	to->words[3] = v4;
}

static __always_inline int address_is_mapped(const union address *a)
{
	return a->halves[0] == 0 && a->words[2] == bpf_htonl(0xffff);
}

static __always_inline int address_is_zero(const union address *a)
{
	return (a->halves[0] | a->halves[1]) == 0;
}

static __always_inline int address_is_equal(const union address *a, const union address *b)
{
	return a->halves[0] == b->halves[0] && a->halves[1] == b->halves[1];
}

/* A socket's own address. */
static __always_inline void address_from_socket(union address *to, struct bpf_sock *sk)
{
	if (sk->family == AF_INET) {
		address_from_v4(to, sk->src_ip4);
		return;
	}
	to->words[0] = sk->src_ip6[0];
	to->words[1] = sk->src_ip6[1];
	to->words[2] = sk->src_ip6[2];
	to->words[3] = sk->src_ip6[3];
}

static __always_inline int address_is_loopback6(const union address *a)
{
	return a->halves[0] == 0 && a->words[2] == 0 && a->words[3] == bpf_htonl(1);
}

/*
 * The loopback address that stands for a destination: one for each, so that one source port may go
 * to many. Within 127.1.0.0 to 127.127.255.254; the upper half of 127.0.0.0/8 is kept for
 * datagrams.
 */
static __always_inline __be32 address_spread(const union address *to, __be16 port)
{
	__u64 mixed = (to->halves[0] ^ (__u64)port << 40 ^ to->halves[1]) * 0x9e3779b97f4a7c15ULL;
	__u32 bits = mixed >> 41; /* 23 bits */

	if (bits < 0x10000)
		bits |= 0x10000; /* not 127.0.x.y: people listen there */
	return bpf_htonl(0x7f000000 | (bits & 0x7ffffe) | 1);
}

static __always_inline int address_is_spread(const union address *a)
{
	__u32 v4 = bpf_ntohl(a->words[3]);

	return address_is_mapped(a) && v4 >> 24 == 127 && (v4 & 0x800000) == 0 &&
	       (v4 & 0xff0000) != 0;
}

#endif /* SIDETRACK_ADDRESS_H */
