/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The image of a policy: written by the compiler (crates/sidetrack-policy/src/compile.rs), read by
 * the kernel's matcher (filter.h). Part of sidetrack.h.
 *
 * An image is one map: an array of lines of 64 bytes. Line 0 is struct sidetrack_policy. After it
 * come a struct sidetrack_layer for each layer, the places of all services at the IPv4 and then at
 * the IPv6 connect redirect layer, the filters in the order of evaluation (so a filter's line
 * determines its rank), their conditions, and the index of each layer.
 *
 * Numbers are in host order. The value of a field has 128 bits, the upper half first.
 */
#ifndef SIDETRACK_POLICY_H
#define SIDETRACK_POLICY_H

#include <linux/types.h>

#define SIDETRACK_LINE_SIZE 64

/* Filters of one policy. */
#define SIDETRACK_FILTERS_MAX 100000
/* Levels of cgroups below the root at which a condition can test for an ancestor. */
#define SIDETRACK_CGROUP_LEVELS_MAX 8
/*
 * Steps of the searches of one classification, which begins one for each filter that matches; if
 * they do not suffice, the connection is refused.
 */
#define SIDETRACK_STEPS_MAX (1 << 22)
/* Nodes on the stack of one search: at most two for each field. */
#define SIDETRACK_SEARCH_DEPTH_MAX 64

/* ---- Layers and fields -------------------------------------------------------------------- */

/* The numbers of the IPv4 layers; the IPv6 layer of the same name has the next number. */
#define SIDETRACK_LAYER_BIND_REDIRECT 0
#define SIDETRACK_LAYER_CONNECT_REDIRECT 2
#define SIDETRACK_LAYER_AUTH_CONNECT 4
#define SIDETRACK_LAYER_AUTH_RECV_ACCEPT 6
#define SIDETRACK_LAYER_FLOW_ESTABLISHED 8
#define SIDETRACK_LAYER_ENDPOINT_CLOSURE 10
#define SIDETRACK_LAYERS 12

/* The original program is the one that opened the chain; the current program is the caller. */
#define SIDETRACK_FIELD_APP 0		     /* original program: device, then inode */
#define SIDETRACK_FIELD_CURRENT_APP 1	     /* the same of the current program */
#define SIDETRACK_FIELD_USER 2		     /* original program: real user */
#define SIDETRACK_FIELD_CURRENT_USER 3	     /* the same of the current program */
#define SIDETRACK_FIELD_CGROUP 4	     /* original program: cgroup id; 0 for the root */
#define SIDETRACK_FIELD_CURRENT_CGROUP 5     /* the same of the current program */
#define SIDETRACK_FIELD_FLAGS 6		     /* SIDETRACK_FLAG_* */
#define SIDETRACK_FIELD_LOCAL_ADDRESS 7	     /* IPv4 as IPv4-mapped */
#define SIDETRACK_FIELD_LOCAL_ADDRESS_TYPE 8 /* SIDETRACK_ADDRESS_* */
#define SIDETRACK_FIELD_LOCAL_PORT 9
#define SIDETRACK_FIELD_REMOTE_ADDRESS 10 /* IPv4 as IPv4-mapped */
#define SIDETRACK_FIELD_REMOTE_PORT 11
#define SIDETRACK_FIELD_DESTINATION_ADDRESS_TYPE 12 /* of the remote address */
#define SIDETRACK_FIELD_PROTOCOL 13
#define SIDETRACK_FIELD_NETNS 14     /* cookie of the network namespace */
#define SIDETRACK_FIELD_DIRECTION 15 /* 1: inbound */
/* Eight fields each: the id of the cgroup at level 1, and so on; 0 if it is not so deep. */
#define SIDETRACK_FIELD_CGROUP_LEVELS 16
#define SIDETRACK_FIELD_CURRENT_CGROUP_LEVELS 24
#define SIDETRACK_FIELDS 32

#define SIDETRACK_FLAG_LOOPBACK 0x1		 /* the remote address is a loopback address */
#define SIDETRACK_FLAG_REDIRECTED 0x100000	 /* the connect redirect layer chose a service */
#define SIDETRACK_FLAG_PROXY_CONNECTION 0x200000 /* the socket has redirect records */

#define SIDETRACK_ADDRESS_UNSPECIFIED 0
#define SIDETRACK_ADDRESS_UNICAST 1
#define SIDETRACK_ADDRESS_MULTICAST 3
#define SIDETRACK_ADDRESS_BROADCAST 4
#define SIDETRACK_ADDRESS_LOOPBACK 5

/* ---- The head ----------------------------------------------------------------------------- */

struct sidetrack_policy {
	__u32 generation;
	__u32 layers;	/* bit n: layer n has filters */
	__u32 filters;	/* number of filters */
	__u32 lines;	/* number of lines */
	__u8 store[16]; /* id of the daemon's store that the policy comes from; zeros if none */
	__u64 commit;	/* number of the commit to that store */
	__u32 reserved[6];
};

#define SIDETRACK_LAYER_LINE 1 /* line of the first layer */

struct sidetrack_layer {
	__u32 root;  /* line of the root of its index; 0 if it has no filters */
	__u32 wants; /* bit n: some condition tests field n */
	__u32 first; /* rank of its first filter */
	__u32 end;   /* rank after that of its last filter */
	__u32 flags; /* SIDETRACK_LAYER_* */

	/* The prefilter: a connection for which one of three bits is not set matches no filter. */
	__u32 protocols;    /* SIDETRACK_PREFILTER_* */
	__u64 addresses[4]; /* a bit for each first byte of the remote address */
	__u64 ports;	    /* a bit for each value of the remote port modulo 64 */
};

#define SIDETRACK_PREFILTER_TCP 0x1
#define SIDETRACK_PREFILTER_UDP 0x2
#define SIDETRACK_PREFILTER_OTHER_PROTOCOL 0x4

/* The layer has veto or inspect filters, so a hard permit does not end its evaluation. */
#define SIDETRACK_LAYER_BEYOND_HARD_PERMIT 0x1

/*
 * The places of the services: those of IPv4, then those of IPv6. A place is 1 + the rank of the
 * service's last filter, or 0 if it has none. A connection from a legacy proxy is taken to have
 * passed the services of all redirects that match it and rank below the place of the proxy's
 * service.
 */
#define SIDETRACK_PLACE_LINE (SIDETRACK_LAYER_LINE + SIDETRACK_LAYERS)
#define SIDETRACK_PLACES_IN_LINE 16
#define SIDETRACK_PLACE_LINES 16 /* lines for the 256 services of one family */

#define SIDETRACK_FILTER_LINE (SIDETRACK_PLACE_LINE + 2 * SIDETRACK_PLACE_LINES)

/* ---- Filters ------------------------------------------------------------------------------ */

#define SIDETRACK_ACTION_PERMIT 1
#define SIDETRACK_ACTION_BLOCK 2
#define SIDETRACK_ACTION_VETO 3
#define SIDETRACK_ACTION_INSPECT 4
#define SIDETRACK_ACTION_REDIRECT 5

#define SIDETRACK_FILTER_CLEAR_ACTION_RIGHT 0x1 /* its permit is hard */
#define SIDETRACK_FILTER_ABSENT_PERMIT 0x2	/* it is skipped while its service is absent */
#define SIDETRACK_FILTER_GROUPS 0x4		/* it may match multicast and broadcast */
#define SIDETRACK_FILTER_RESTRICTED 0x8 /* to one user: no elevated programs, lifts no block */

struct sidetrack_filter {
	__u64 id;
	__u32 sublayer_end; /* rank of the first filter of the next sublayer */
	__u32 context_id;   /* redirect: 0, SIDETRACK_CONTEXT_AUTO, or a fixed context's number */
	__u32 conditions;   /* line of the first condition; the others follow it */
	__u32 condition_count; /* number of these conditions */
	__u16 service;	       /* redirect: number of the service */
	__u8 action;	       /* SIDETRACK_ACTION_* */
	__u8 flags;	       /* SIDETRACK_FILTER_* */

	/*
	 * One condition that is tested first and is not among the others. Its members are those of
	 * struct sidetrack_condition.
	 */
	__u8 field;
	__u8 kind;
	__u8 negate;
	__u8 has_first; /* 0: no field has one condition only, so there is no such condition */
	__u64 low[2];
	__u64 high[2];
};

#define SIDETRACK_TEST_MASKED 0	 /* the value, under the mask high, equals low */
#define SIDETRACK_TEST_BETWEEN 1 /* the value is not below low and not above high */

/* The conditions of one field follow one another; of each field, one must hold. */
struct sidetrack_condition {
	__u64 low[2];
	__u64 high[2];
	__u8 field;	    /* SIDETRACK_FIELD_* */
	__u8 kind;	    /* SIDETRACK_TEST_* */
	__u8 negate;	    /* 1: the condition holds if the test does not */
	__u8 last_of_field; /* 1: the next condition tests another field */
	__u32 reserved[7];
};

/* ---- The index ---------------------------------------------------------------------------- */

#define SIDETRACK_NODE_LIST 1
#define SIDETRACK_NODE_HASH 2
#define SIDETRACK_NODE_TREE 3
#define SIDETRACK_NODE_BRANCH 4

/* A leaf: filters that may match, in rising order of their ranks. */
#define SIDETRACK_LIST_RANKS 13

struct sidetrack_list {
	__u8 kind;  /* SIDETRACK_NODE_LIST */
	__u8 count; /* number of ranks in this line */
	__u16 reserved;
	__u32 next;   /* line of the continuation; 0 if there is none */
	__u32 lowest; /* lowest rank in it and in its continuations */
	__u32 ranks[SIDETRACK_LIST_RANKS];
};

/* A node that decides by the value of one field, with a hash or a tree. */
struct sidetrack_index {
	__u8 kind;  /* SIDETRACK_NODE_HASH or SIDETRACK_NODE_TREE */
	__u8 field; /* SIDETRACK_FIELD_* */
	__u16 reserved;
	__u32 lowest; /* lowest rank below this node */
	__u32 rest;   /* line of the node for filters that do not fix the field; 0 if none */
	__u32 first;  /* line of the first bucket, or of the tree's first branch */
	__u32 mask;   /* hash: number of buckets - 1 */
	__u32 reserved2[11];
};

#define SIDETRACK_BUCKET_KEYS 3

/* Values of a hash node's field. */
struct sidetrack_bucket {
	__u64 keys[SIDETRACK_BUCKET_KEYS][2];
	__u32 child[SIDETRACK_BUCKET_KEYS]; /* line of the node for each value; 0 if none */
	__u32 next;			    /* line of the overflow bucket; 0 if none */
};

/* A branch of a tree of prefixes. */
struct sidetrack_branch {
	__u8 kind;   /* SIDETRACK_NODE_BRANCH */
	__u8 length; /* bits of the prefix */
	__u16 reserved;
	__u32 child[2]; /* line of the branch for each value of the next bit; 0 if none */
	__u32 group;	/* line of the node for filters with exactly this prefix; 0 if none */
	__u64 key[2];	/* the prefix; its other bits are 0 */
	__u32 up;	/* line of the nearest branch above that has a group; 0 if none */
	__u32 reserved2[7];
};

/* ---- Requests to classify ----------------------------------------------------------------- */

/*
 * Argument and result of the program sidetrack_classify, by which a test compares this matcher with
 * the reference that `sidetrack explain` uses.
 */
struct sidetrack_classify_request {
	__u32 layer;	       /* layer to classify at, of one family */
	__u32 legacy_min_rank; /* services of redirects with a lower rank count as passed;
				  SIDETRACK_NO_RANK: all redirects are skipped */
	__u64 seen[4];	       /* services that the connection has passed: a bit for each number */
	__u64 absent[4];       /* absent services, if absent_given: a bit for each number */
	__u32 absent_given;    /* 0: services without a listener are absent */
	__u32 flags;	       /* SIDETRACK_CLASSIFY_* */
	__u64 values[SIDETRACK_FIELDS][2]; /* field values */

	__u32 completed;      /* 1: the members below are valid */
	__u32 generation;     /* of the policy that was used */
	__u32 blocked;	      /* the verdict is a block */
	__u32 hard;	      /* the verdict is hard */
	__u32 vetoed;	      /* a veto overruled a hard permit */
	__u32 absent_blocked; /* blocked because the service of a redirect is absent */
	__u32 decided_by; /* rank of the filter that decided; SIDETRACK_NO_RANK if none matched */
	__u32 redirect;	  /* rank of the filter that redirects; SIDETRACK_NO_RANK if none does */
};

#define SIDETRACK_CLASSIFY_ELEVATED 0x1 /* the original program is elevated */

#define SIDETRACK_NO_RANK 0xffffffffU

#endif /* SIDETRACK_POLICY_H */
