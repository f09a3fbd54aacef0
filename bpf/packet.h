/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reads the headers of packets, for the programs that see them: ingress, hold, guard and sender. */
#ifndef SIDETRACK_PACKET_H
#define SIDETRACK_PACKET_H

/* Return values of the cgroup_skb hooks. */
#define PACKET_PERMIT 1
#define PACKET_DROP 0

#define HEADER_IPV4 20
#define HEADER_IPV6 40
#define HEADER_TCP 20
#define TCP_FLAGS_OFFSET 13
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
/* Extension headers of IPv6 that are passed over; a packet with more of them is not read. */
#define EXTENSIONS_MAX 8

/* Extension headers (RFC 8200, 4), whose second byte is their length in units of 8 bytes. */
#define IPV6_HOP_BY_HOP 0
#define IPV6_ROUTING 43
#define IPV6_DESTINATION_OPTIONS 60

/* The IP header of a packet. */
struct packet {
	union address source;
	union address destination;
	__u32 payload; /* offset of the header that follows */
	__u8 family;
	__u8 protocol; /* of that header */
};

static __always_inline int is_extension(__u8 protocol)
{
	return protocol == IPV6_HOP_BY_HOP || protocol == IPV6_ROUTING ||
	       protocol == IPV6_DESTINATION_OPTIONS;
}

/* A walk over the extension headers of a packet. */
struct extension_walk {
	struct __sk_buff *skb;
	struct packet *packet;
};

static long extension_step(__u32 i, struct extension_walk *walk)
{
	struct packet *p = walk->packet;
	__u8 head[2];

	if (!is_extension(p->protocol) ||
	    bpf_skb_load_bytes(walk->skb, p->payload, head, sizeof(head)))
		return 1;
	p->protocol = head[0];
	p->payload += (head[1] + 1) * 8;
	return 0;
}

static __always_inline int packet_read4(struct __sk_buff *skb, __u32 base, struct packet *p)
{
	__u8 head[HEADER_IPV4];

	if (bpf_skb_load_bytes(skb, base, head, sizeof(head)))
		return -1;
	p->family = AF_INET;
	p->protocol = head[9];
	p->payload = base + (head[0] & 0xf) * 4;
	address_from_v4(&p->source, *(__be32 *)(head + 12));
	address_from_v4(&p->destination, *(__be32 *)(head + 16));
	return 0;
}

static __always_inline int packet_read6(struct __sk_buff *skb, __u32 base, struct packet *p)
{
	struct extension_walk walk = { .skb = skb, .packet = p };
	__u8 head[HEADER_IPV6];

	if (bpf_skb_load_bytes(skb, base, head, sizeof(head)))
		return -1;
	p->family = AF_INET6;
	p->protocol = head[6];
	p->payload = base + HEADER_IPV6;
	__builtin_memcpy(p->source.bytes, head + 8, 16);
	__builtin_memcpy(p->destination.bytes, head + 24, 16);
	if (is_extension(p->protocol))
		bpf_loop(EXTENSIONS_MAX, extension_step, &walk, 0);
	return 0;
}

/* Reads the IP header at an offset. Fails if there is none, or its end is not found. */
static __noinline int packet_read(struct __sk_buff *skb, __u32 base, struct packet *p)
{
	__u8 version;

	if (bpf_skb_load_bytes(skb, base, &version, 1))
		return -1;
	switch (version >> 4) {
	case 4:
		return packet_read4(skb, base, p);
	case 6:
		return packet_read6(skb, base, p);
	}
	return -1;
}

#endif /* SIDETRACK_PACKET_H */
