/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses of 16 bytes, IPv4 as IPv4-mapped, and the loopback addresses that identify flows. */
#ifndef SIDETRACK_ADDRESS_H
#define SIDETRACK_ADDRESS_H

/* Keeps clang from merging accesses to fields of the context, which the verifier would reject. */
#define keep_separate() asm volatile("" ::: "memory")

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

/* The local address of a socket. */
static __always_inline void address_from_socket(union address *to, struct bpf_sock *sk)
{
	__be32 v4 = sk->src_ip4;

	/* Otherwise clang selects one of two pointers into the context, and reads through it. */
	keep_separate();
	if (sk->family == AF_INET) {
		address_from_v4(to, v4);
		return;
	}
	to->words[0] = sk->src_ip6[0];
	keep_separate();
	to->words[1] = sk->src_ip6[1];
	keep_separate();
	to->words[2] = sk->src_ip6[2];
	keep_separate();
	to->words[3] = sk->src_ip6[3];
}

/* The remote address of a connected socket. */
static __always_inline void address_from_peer(union address *to, struct bpf_sock *sk)
{
	__be32 v4 = sk->dst_ip4;

	keep_separate();
	if (sk->family == AF_INET) {
		address_from_v4(to, v4);
		return;
	}
	to->words[0] = sk->dst_ip6[0];
	keep_separate();
	to->words[1] = sk->dst_ip6[1];
	keep_separate();
	to->words[2] = sk->dst_ip6[2];
	keep_separate();
	to->words[3] = sk->dst_ip6[3];
}

static __always_inline int address_is_loopback6(const union address *a)
{
	return a->halves[0] == 0 && a->words[2] == 0 && a->words[3] == bpf_htonl(1);
}

/* Is it the wildcard address, 0.0.0.0 or ::? */
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
 * Ranges of loopback addresses to which connections are diverted. With several addresses, one
 * source port can be used for several destinations at the same time.
 *
 *	127.1.0.0 to 127.63.255.255	the slot of a TCP flow
 *	127.64.0.0 to 127.127.255.255	a TCP destination, while the slot is not known yet
 *	127.128.0.0 to 127.255.255.255	a UDP flow
 *
 * 127.0.0.0 to 127.0.255.255 are left to ordinary listeners.
 */
#define SLOT_ADDRESSES (63U << 16)

static __always_inline __be32 address_of_slot(__u32 slot)
{
	return bpf_htonl(SIDETRACK_SLOT_ADDRESS_FIRST + slot);
}

/* Returns SLOT_ADDRESSES or more if the address identifies no slot. */
static __always_inline __u32 slot_of_address(__be32 v4)
{
	return bpf_ntohl(v4) - SIDETRACK_SLOT_ADDRESS_FIRST;
}

/* UDP flows use the addresses in turn, by their ids, so an address is not reused soon. */
#define DATAGRAM_ADDRESS_FIRST 0x7f800000
#define DATAGRAM_ADDRESSES (1U << 23)
/*
 * The upper 24 bits of the IPv6 addresses of UDP flows: a unique local prefix (fd, then "ST"). The
 * next 40 bits are the upper bits of the engine's id, and the lower 64 bits are the flow's id.
 */
#define DATAGRAM_PREFIX6 0xfd5354ULL

/* An address of the second range, by a hash of the destination. */
static __always_inline __be32 address_spread(const union address *to, __be16 port)
{
	__u64 mixed = (to->halves[0] ^ (__u64)port << 40 ^ to->halves[1]) * 0x9e3779b97f4a7c15ULL;

	return bpf_htonl(0x7f400000 | mixed >> 42 | 1);
}

/* Is it in the first or second range? */
static __always_inline int address_is_spread(const union address *a)
{
	__u32 v4 = bpf_ntohl(a->words[3]);

	return address_is_mapped(a) && v4 >> 24 == 127 && (v4 & 0x800000) == 0 &&
	       (v4 & 0xff0000) != 0;
}

#endif /* SIDETRACK_ADDRESS_H */
