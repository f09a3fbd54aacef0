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
	__be32 v4 = sk->src_ip4;

	apart(); /* clang would point to one of the two, and read there */
	if (sk->family == AF_INET) {
		address_from_v4(to, v4);
		return;
	}
	to->words[0] = sk->src_ip6[0];
	apart();
	to->words[1] = sk->src_ip6[1];
	apart();
	to->words[2] = sk->src_ip6[2];
	apart();
	to->words[3] = sk->src_ip6[3];
}

/* A connected socket's other end. */
static __always_inline void address_from_peer(union address *to, struct bpf_sock *sk)
{
	__be32 v4 = sk->dst_ip4;

	apart();
	if (sk->family == AF_INET) {
		address_from_v4(to, v4);
		return;
	}
	to->words[0] = sk->dst_ip6[0];
	apart();
	to->words[1] = sk->dst_ip6[1];
	apart();
	to->words[2] = sk->dst_ip6[2];
	apart();
	to->words[3] = sk->dst_ip6[3];
}

static __always_inline int address_is_loopback6(const union address *a)
{
	return a->halves[0] == 0 && a->words[2] == 0 && a->words[3] == bpf_htonl(1);
}

/* The wildcard, of either family. */
static __always_inline int address_is_any(const union address *a)
{
	return !(a->words[3] |
		 (address_is_mapped(a) ? 0 : a->words[0] | a->words[1] | a->words[2]));
}

static __always_inline int address_is_link_local6(const union address *a)
{
	return a->bytes[0] == 0xfe && (a->bytes[1] & 0xc0) == 0x80;
}

/*
 * Loopback addresses that stand for something, so that one source port may go to many destinations:
 * 127.1.0.0 to 127.63.255.255	for a flow's slot;
 * 127.64.0.0 to 127.127.255.255	for a destination, where the slot is not known yet.
 * 127.128.0.0 to 127.255.255.255	for a flow of datagrams.
 * Below people listen.
 */
#define SLOT_ADDRESS_FIRST 0x7f010000
#define SLOT_ADDRESSES (63U << 16)

static __always_inline __be32 address_of_slot(__u32 slot)
{
	return bpf_htonl(SLOT_ADDRESS_FIRST + slot);
}

/* SLOT_ADDRESSES or more: the address is of no slot. */
static __always_inline __u32 slot_of_address(__be32 v4)
{
	return bpf_ntohl(v4) - SLOT_ADDRESS_FIRST;
}

/* Of flows of datagrams: by their ids, in turn, so that an address comes again late. */
#define DATAGRAM_ADDRESS_FIRST 0x7f800000
#define DATAGRAM_ADDRESSES (1U << 23)
#define DATAGRAM_PREFIX6                                                                           \
	0xfd5354ULL /* "ST", a unique local address; 40 bits of the engine's id                    \
		     */

static __always_inline __be32 address_spread(const union address *to, __be16 port)
{
	__u64 mixed = (to->halves[0] ^ (__u64)port << 40 ^ to->halves[1]) * 0x9e3779b97f4a7c15ULL;

	return bpf_htonl(0x7f400000 | mixed >> 42 | 1);
}

static __always_inline int address_is_spread(const union address *a)
{
	__u32 v4 = bpf_ntohl(a->words[3]);

	return address_is_mapped(a) && v4 >> 24 == 127 && (v4 & 0x800000) == 0 &&
	       (v4 & 0xff0000) != 0;
}

#endif /* SIDETRACK_ADDRESS_H */
