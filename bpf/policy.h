/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A policy's image: what the compiler writes and the kernel's matcher reads. Part of sidetrack.h.
 *
 * An image is one map: an array of lines of 64 bytes. Line 0 is struct sidetrack_policy; then a
 * struct sidetrack_layer for each layer; then each service's place at the IPv4 and at the IPv6
 * connect redirect layer; then the filters in the order in which they are judged, so that a
 * filter's line tells its rank; then their conditions, and each layer's index of them.
 *
 * Numbers are in host order. A field's value has 128 bits, the upper half first.
 */
#ifndef SIDETRACK_POLICY_H
#define SIDETRACK_POLICY_H

#include <linux/types.h>

#define SIDETRACK_LINE_SIZE 64

#define SIDETRACK_FILTERS_MAX 100000 /* filters of one policy */
#define SIDETRACK_CGROUP_LEVELS_MAX                                                                \
	8			      /* cgroups below the root that a condition can be below of   \
				       */
#define SIDETRACK_STEPS_MAX (1 << 22) /* of one search; beyond, the connect is refused */
#define SIDETRACK_SEARCH_DEPTH_MAX 64 /* nodes put aside in one search: two for each field */

/* ---- Layers and fields -------------------------------------------------------------------- */

/* One for each family: the IPv4 layer, and the IPv6 layer after it. */
#define SIDETRACK_LAYER_BIND_REDIRECT 0
#define SIDETRACK_LAYER_CONNECT_REDIRECT 2
#define SIDETRACK_LAYER_AUTH_CONNECT 4
#define SIDETRACK_LAYER_AUTH_RECV_ACCEPT 6
#define SIDETRACK_LAYER_FLOW_ESTABLISHED 8
#define SIDETRACK_LAYER_ENDPOINT_CLOSURE 10
#define SIDETRACK_LAYERS 12

#define SIDETRACK_FIELD_APP 0 /* device, then inode */
#define SIDETRACK_FIELD_CURRENT_APP 1
#define SIDETRACK_FIELD_USER 2
#define SIDETRACK_FIELD_CURRENT_USER 3
#define SIDETRACK_FIELD_CGROUP 4 /* 0: the root */
#define SIDETRACK_FIELD_CURRENT_CGROUP 5
#define SIDETRACK_FIELD_FLAGS 6
#define SIDETRACK_FIELD_LOCAL_ADDRESS 7 /* IPv4 as IPv4-mapped */
#define SIDETRACK_FIELD_LOCAL_ADDRESS_TYPE 8
#define SIDETRACK_FIELD_LOCAL_PORT 9
#define SIDETRACK_FIELD_REMOTE_ADDRESS 10
#define SIDETRACK_FIELD_REMOTE_PORT 11
#define SIDETRACK_FIELD_DESTINATION_ADDRESS_TYPE 12
#define SIDETRACK_FIELD_PROTOCOL 13
#define SIDETRACK_FIELD_NETNS 14
#define SIDETRACK_FIELD_DIRECTION 15
#define SIDETRACK_FIELD_CGROUP_LEVELS 16 /* the cgroup at level 1, and so on; 0: not so deep */
#define SIDETRACK_FIELD_CURRENT_CGROUP_LEVELS 24
#define SIDETRACK_FIELDS 32

#define SIDETRACK_FLAG_LOOPBACK 0x1
#define SIDETRACK_FLAG_REDIRECTED 0x100000
#define SIDETRACK_FLAG_PROXY_CONNECTION 0x200000

#define SIDETRACK_ADDRESS_UNSPECIFIED 0
#define SIDETRACK_ADDRESS_UNICAST 1
#define SIDETRACK_ADDRESS_MULTICAST 3
#define SIDETRACK_ADDRESS_BROADCAST 4
#define SIDETRACK_ADDRESS_LOOPBACK 5

/* ---- The head ----------------------------------------------------------------------------- */

struct sidetrack_policy {
	__u32 generation;
	__u32 layers; /* bit n: layer n has filters */
	__u32 filters;
	__u32 lines;
	__u32 reserved[12];
};

#define SIDETRACK_LAYER_LINE 1 /* the first layer's */

struct sidetrack_layer {
	__u32 root;  /* line of its index */
	__u32 wants; /* bit n: some condition asks about field n */
	__u32 first; /* rank of its first filter */
	__u32 end;   /* rank after its last */
	__u32 flags; /* SIDETRACK_LAYER_* */

	/* Its prefilter: what some filter may match. Whatever has a bit that is not set, none does.
	 */
	__u32 protocols;    /* SIDETRACK_PREFILTER_* */
	__u64 addresses[4]; /* the remote address's first byte */
	__u64 ports;	    /* the remote port's lower six bits */
};

#define SIDETRACK_PREFILTER_TCP 0x1
#define SIDETRACK_PREFILTER_UDP 0x2
#define SIDETRACK_PREFILTER_OTHER_PROTOCOL 0x4

#define SIDETRACK_LAYER_BEYOND_HARD_PERMIT 0x1 /* it has vetoes or inspections */

/* Each service's place: 1 + the rank of its last filter, 0 if it has none. Of IPv4, then of IPv6.
 */
#define SIDETRACK_PLACE_LINE (SIDETRACK_LAYER_LINE + SIDETRACK_LAYERS)
#define SIDETRACK_PLACES_IN_LINE 16
#define SIDETRACK_PLACE_LINES 16 /* of one family: 256 services */

#define SIDETRACK_FILTER_LINE (SIDETRACK_PLACE_LINE + 2 * SIDETRACK_PLACE_LINES)

/* ---- Filters ------------------------------------------------------------------------------ */

#define SIDETRACK_ACTION_PERMIT 1
#define SIDETRACK_ACTION_BLOCK 2
#define SIDETRACK_ACTION_VETO 3
#define SIDETRACK_ACTION_INSPECT 4
#define SIDETRACK_ACTION_REDIRECT 5

#define SIDETRACK_FILTER_CLEAR_ACTION_RIGHT 0x1
#define SIDETRACK_FILTER_ABSENT_PERMIT 0x2 /* passed over while its service is absent */
#define SIDETRACK_FILTER_GROUPS 0x4	   /* it may act on multicast and broadcast */

struct sidetrack_filter {
	__u64 id;
	__u32 sublayer_end; /* rank of the next sublayer's first */
	__u32 context_id; /* of a redirect; 0 none, SIDETRACK_CONTEXT_AUTO, else a fixed context */
	__u32 conditions; /* line of the first; the others follow */
	__u32 condition_count;
	__u16 service; /* of a redirect */
	__u8 action;   /* SIDETRACK_ACTION_* */
	__u8 flags;    /* SIDETRACK_FILTER_* */

	/* One of its conditions, which is tested first and is not among the others; as there. */
	__u8 field;
	__u8 kind;
	__u8 negate;
	__u8 has_first; /* 0: it has none that stands alone for its field */
	__u64 low[2];
	__u64 high[2];
};

#define SIDETRACK_TEST_MASKED 0	 /* equal to low under the mask high */
#define SIDETRACK_TEST_BETWEEN 1 /* from low to high, both included */

/* Those of one field follow one another; one of each field's must hold. */
struct sidetrack_condition {
	__u64 low[2];
	__u64 high[2];
	__u8 field;
	__u8 kind;	    /* SIDETRACK_TEST_* */
	__u8 negate;	    /* the answer is turned round */
	__u8 last_of_field; /* the next one is of another field */
	__u32 reserved[7];
};

/* ---- The index ---------------------------------------------------------------------------- */

#define SIDETRACK_NODE_LIST 1
#define SIDETRACK_NODE_HASH 2
#define SIDETRACK_NODE_TREE 3
#define SIDETRACK_NODE_BRANCH 4

/* Filters that may match, in rising order. */
#define SIDETRACK_LIST_RANKS 13

struct sidetrack_list {
	__u8 kind;
	__u8 count;
	__u16 reserved;
	__u32 next;   /* line of the list that goes on; 0 none */
	__u32 lowest; /* of the ranks in it and after it */
	__u32 ranks[SIDETRACK_LIST_RANKS];
};

/* A node that asks about one field, by a hash or by a tree. */
struct sidetrack_index {
	__u8 kind;
	__u8 field;
	__u16 reserved;
	__u32 lowest; /* of the ranks below it */
	__u32 rest;   /* line of the index of those that do not fix the field; 0 none */
	__u32 first;  /* line of the first bucket, or of the tree's first branch */
	__u32 mask;   /* of a hash: buckets - 1 */
	__u32 reserved2[11];
};

#define SIDETRACK_BUCKET_KEYS 3

struct sidetrack_bucket {
	__u64 keys[SIDETRACK_BUCKET_KEYS][2];
	__u32 child[SIDETRACK_BUCKET_KEYS]; /* line of the node for each value; 0 none */
	__u32 next;			    /* line of the bucket that goes on; 0 none */
};

/* A branch of a tree of prefixes. */
struct sidetrack_branch {
	__u8 kind;
	__u8 length; /* bits of key that count */
	__u16 reserved;
	__u32 child[2]; /* line of the branch for each value of the next bit; 0 none */
	__u32 group;	/* line of the node for exactly this prefix; 0 none */
	__u64 key[2];
	__u32 up; /* line of the nearest branch above that has a group; 0 none */
	__u32 reserved2[7];
};

/* ---- Asking ------------------------------------------------------------------------------- */

/* What the classify program is asked, and answers: for explain, and for the tests. */
struct sidetrack_classify_request {
	__u32 layer;
	__u32 legacy_min_rank; /* redirects of a lower rank count as seen */
	__u64 seen[4];	       /* services, one bit each */
	__u64 absent[4];       /* likewise, if absent_given */
	__u32 absent_given;
	__u32 reserved;
	__u64 values[SIDETRACK_FIELDS][2];

	__u32 completed;
	__u32 generation;
	__u32 blocked;
	__u32 hard;
	__u32 vetoed;
	__u32 absent_blocked;
	__u32 decided_by; /* rank; SIDETRACK_NO_RANK: nothing matched */
	__u32 redirect;	  /* likewise: no redirect */
};

#define SIDETRACK_NO_RANK 0xffffffffU

#endif /* SIDETRACK_POLICY_H */
