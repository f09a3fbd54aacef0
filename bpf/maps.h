/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map: its key and value, who writes it, who reads it, and what happens when it is full.
 */
#ifndef SIDETRACK_MAPS_H
#define SIDETRACK_MAPS_H

/* Set by the engine before load. */
const volatile __u64 engine_id;	   /* names this engine in tokens and LISTEN */
const volatile __u64 token_key[2]; /* SipHash key; random, never leaves the kernel and the engine */
const volatile __u64 scope_id;	   /* cgroup whose programs are judged, with all below it */
const volatile __u32 scope_level;  /* that cgroup's depth; the root has 0 */
const volatile __u32 pid_level;	   /* the engine's namespace of processes; the first has 0 */
const volatile __u32 pid_inode;	   /* and its number */
const volatile __u32 flows_max = SIDETRACK_FLOWS_MAX;
const volatile __u64 grace_ns = SIDETRACK_GRACE_NS;
const volatile __u64 idle_ns = SIDETRACK_IDLE_NS;

/*
 * Counted with atomics, not per CPU: the limits must hold across CPUs.
 * flow_last: the last flow id tried. flows_live: flows pending or tied. flows_by_four_tuple: those
 * in pairs. flows_reserved: those whose SYN has not left. flows_datagram: those of datagrams, until
 * it is seen that they are over.
 */
__u64 flow_last;
__s64 flows_live;
__s64 flows_by_four_tuple;
__s64 flows_reserved;
__s64 flows_datagram;

/*
 * The policy in force. Outer key 0; inner key a line's number, value a line of the image
 * (policy.h). Writer: the engine, which makes a new inner map for each commit and swaps it in
 * whole. Readers: all that judge. Never full: an inner map is as large as its image; the compiler
 * refuses a policy of more than SIDETRACK_FILTERS_MAX filters.
 */
struct sidetrack_policy_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP); /* each has a size of its own */
	/* Sizes, not types: Linux 6.1 takes no inner map that differs in having BTF. */
	__uint(key_size, sizeof(__u32));
	__uint(value_size, SIDETRACK_LINE_SIZE);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct sidetrack_policy_map);
} sidetrack_policies SEC(".maps");

/*
 * Services by number. Writer: the engine (identity), setsockopt and release (listeners).
 * Readers: connect, setsockopt, getsockopt. Never full: the engine refuses the 256th service.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIDETRACK_SERVICES_MAX);
	__type(key, __u32);
	__type(value, struct sidetrack_service);
} sidetrack_services SEC(".maps");

/*
 * Fixed contexts by id, never changed once given. Writer: the engine. Reader: getsockopt.
 * Full: the engine refuses the filter.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIDETRACK_CONTEXTS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct sidetrack_context);
} sidetrack_contexts SEC(".maps");

/*
 * Which processes belong to which service: by process id (SIDETRACK_OWNER_NAMED says when it is
 * the engine's namespace's), and by cgroup id.
 * Writers: setsockopt (whoever calls LISTEN), release, the engine (legacy proxies; cgroups), forget
 * (when a service is taken away).
 * Reader: connect, once a filter matched a socket without records. Full: LISTEN fails with ENOSPC.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIDETRACK_OWNERS_MAX);
	__type(key, __u32);
	__type(value, struct sidetrack_owner);
} sidetrack_owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIDETRACK_SERVICES_MAX);
	__type(key, __u64);
	__type(value, struct sidetrack_owner_cgroup);
} sidetrack_owner_cgroups SEC(".maps");

#define SOCKET_LISTENER 1 /* marked by LISTEN */
#define SOCKET_OUTGOING 2 /* has records */

/* A proxy's socket. */
struct sidetrack_socket {
	__u64 linked;	     /* the flow whose records were set on it; 0 if none */
	__u64 selected;	     /* of a UDP listener: the flow that DATAGRAM named last */
	__u64 owner_started; /* of the process that marked it, as in struct sidetrack_owner */
	__u32 owner;	     /* that process; 0 if the engine did, for a legacy proxy */
	__u32 service;	     /* whose listener it is */
	__u32 role;	     /* SOCKET_* */
	__u32 epoch;	     /* of that service */
};

/*
 * Proxies' listeners and outgoing sockets. Freed with the socket.
 * Writers: setsockopt, release. Readers: connect, getsockopt.
 * No memory: LISTEN and RECORDS fail with ENOMEM.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sidetrack_socket);
} sidetrack_sockets SEC(".maps");

/* An accepted socket whose own address does not tell its flow's slot. */
struct sidetrack_accepted {
	__u64 flow_id; /* the flow that arrived on it; 0 if none */
};

/*
 * Such sockets; and, before Linux 6.12, marked listeners, of which each child inherits a copy
 * (BPF_F_CLONE), see child.h. Freed with the socket. Writers: setsockopt (LISTEN), sockops (hand
 * over), release. Readers: getsockopt, sockops.
 * No memory: LISTEN fails with ENOMEM; an accepted socket has no flow, which is counted
 * (FLOWS_LOST), and answers no query; a child without its copy the kernel refuses itself.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct sidetrack_accepted);
} sidetrack_accepted_sockets SEC(".maps");

/* A redirected client socket whose flow is made at SYN only, see address_identifies_slot: what
 * connect decided. */
struct sidetrack_client {
	__u64 flow_id;
	__u64 parent_id; /* flow of the proxy that goes on here; 0 for a program */
	__u64 filter_id;
	__u8 remote_addr[16];
	__be16 remote_port;
	__u8 family; /* of the addresses; AF_INET for IPv4-mapped too */
	__u8 protocol;
	__u32 context_id;
	__u32 bound_ifindex;
	__u32 flags;
	__u16 chain_length;
	__u16 reserved2;
	__u16 chain[SIDETRACK_CHAIN_MAX];
};

/*
 * Clients, on such sockets only: one that no filter touches, and one that was sent to its slot's
 * own address, have none. Writer: connect. Readers: sockops (connect), getpeername. Freed with the
 * socket. No memory: the connect is refused with ENOBUFS and counted (FLOWS_FULL).
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sidetrack_client);
} sidetrack_clients SEC(".maps");

/*
 * A flow's state, in one word so that it changes whole: whose slot it is, what stage it is in, and
 * how many sockets are tied to it. A free slot's is 0.
 */
#define FLOW_STATE(id, stage, refcount) ((__u64)(id) << 20 | (__u64)(stage) << 16 | (refcount))
#define FLOW_STATE_ID(state) ((state) >> 20)
#define FLOW_STATE_STAGE(state) ((state) >> 16 & 0xf)
#define FLOW_STATE_REFCOUNT(state) ((state)&0xffff)
#define FLOW_FILLING 1	   /* being written */
#define FLOW_CONNECTING 2  /* connecting; nobody has accepted it */
#define FLOW_ESTABLISHED 3 /* accepted; some socket is tied to it */
#define FLOW_CLOSED 4	   /* no socket any more; its token is good for a while */
#define FLOW_RESERVED 5	   /* connect was judged; its SYN has not left */
#define FLOW_DATAGRAM 6	   /* of datagrams; the reference count counts proxies' sockets only */

/* A socket of a program, for the layers that ask when its program is not the current one. */
struct sidetrack_endpoint {
	struct sidetrack_program program;
	__u64 netns_cookie;
	__u8 remote_addr[16]; /* where the program meant to go */
	__be16 remote_port;
	__u8 family;
	__u8 connecting; /* it called connect; 0: listen */
	__u32 flags;	 /* SIDETRACK_FLAG_* */
	__u32 pid;
	__u32 state; /* ENDPOINT_* */
	char comm[SIDETRACK_COMM_SIZE];
};

/* Some socket has one: until then nobody looks for any. */
__u32 endpoints_made;

#define ENDPOINT_OPEN 0
#define ENDPOINT_ESTABLISHED 1

/*
 * Endpoints, only while the policy has filters at the layers auth recv-accept, flow established or
 * endpoint closure. An accepted child inherits a copy of its listener's. Freed with the socket.
 * Writers: connect, sockops (listen). Readers: ingress, sockops (established, close).
 * No memory: the layer judges without a program, and counts it (PROGRAM_UNKNOWN).
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct sidetrack_endpoint);
} sidetrack_endpoints SEC(".maps");

/*
 * Flows, in slots that are used in turn: a flow's is its id modulo flows_max, or told by an
 * address. Found without a search, and the slots at hand are those that closed longest ago.
 * Writers: connect, sockops, setsockopt, release. Readers: all.
 * Full: a closed flow makes room before its time (GRACE_CUT); if all are live, connect refuses with
 * ENOBUFS and counts it (FLOWS_FULL). No live flow is ever evicted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIDETRACK_FLOWS_MAX);
	__type(key, __u32);
	__type(value, struct sidetrack_flow_entry);
} sidetrack_flows SEC(".maps");

/* The number that was found last; it is there as long as none has been learnt since. */
__u64 executable_last;

/*
 * Programs' files by a number made of all folders and names on their way: whatever is renamed has
 * another number, so what is written here never changes. Writer: sockops (connect). Reader:
 * getsockopt. Full: the least recently used is forgotten, and its flows have no path any more.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SIDETRACK_EXECUTABLES_MAX);
	__type(key, __u64);
	__type(value, struct sidetrack_executable);
} sidetrack_executables SEC(".maps");

#define FOUR_TUPLES_SLACK 1024 /* room for connects that are in a race */
#define RESERVED_SHARE 64      /* one slot in so many may wait for its SYN */

/*
 * A connection on the loopback device whose address tells no slot, seen from the client: until the
 * accepted socket exists.
 */
struct sidetrack_four_tuple {
	__u64 netns_cookie;
	__u8 client_addr[16];
	__u8 target_addr[16];
	__u16 client_port; /* host order */
	__be16 target_port;
	__u32 reserved;
};

/*
 * Which flow a connection in the making carries. Value: the flow's id.
 * Writer: sockops (connect). Reader and eraser: sockops (established), or the client's end.
 * Full: connect refuses with ENOBUFS before it comes to that (FLOWS_FULL).
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIDETRACK_FOUR_TUPLES_MAX + FOUR_TUPLES_SLACK);
	__type(key, struct sidetrack_four_tuple);
	__type(value, __u64);
} sidetrack_four_tuples SEC(".maps");

/* A destination of a client's UDP socket. */
struct sidetrack_destination {
	__u64 client; /* the socket's cookie */
	__u64 parent; /* the flow whose records it had; 0 if none */
	__u8 remote_addr[16];
	__be16 remote_port;
	__u16 reserved[3];
};

/*
 * The flow of each destination that an unconnected UDP socket was diverted from. Value: its id.
 * Writers: sendmsg; whoever takes an ended flow's slot, sweep (erase). Reader: sendmsg.
 * As many entries as flows. Full: sendmsg is refused with ENOBUFS and counted (FLOWS_FULL).
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIDETRACK_FLOWS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct sidetrack_destination);
	__type(value, __u64);
} sidetrack_destinations SEC(".maps");

#define CACHED_PERMIT 0	     /* it may go straight: who sends it where, by which policy */
#define CACHED_SENT 1	     /* a socket has sent there: what comes from there are answers */
#define CACHED_RECV_ACCEPT 2 /* the layer auth recv-accept has let it in, by this policy */
#define CACHED_ESTABLISHED 3 /* the layer flow established has been told */
#define CACHED_RECEIVED_FIRST                                                                      \
	4 /* a socket has heard from there first: what it sends there are answers */

/* A datagram that needs no judgement, and why. Who sends it is known for CACHED_PERMIT only. */
struct sidetrack_verdict_key {
	__u64 client; /* the socket's cookie */
	__u64 parent;
	__u64 cgroup_id; /* of the sender, as are the next two */
	__u32 pid;
	__u32 uid;
	__u8 remote_addr[16];
	__be16 remote_port;
	__u16 kind; /* PASSED_* */
	__u32 generation;
};

/*
 * Datagrams that were judged: those that follow need no judgement. Value: unused. Writers and
 * readers: sendmsg, recvmsg, connect (UDP), ingress. Full: the least recently used is forgotten,
 * and judged again; of CACHED_SENT, as if the other side had begun.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SIDETRACK_VERDICT_CACHE_MAX);
	__type(key, struct sidetrack_verdict_key);
	__type(value, __u8);
} sidetrack_verdict_cache SEC(".maps");

/*
 * Network namespaces, by cookie, that have the IPv6 addresses of this engine's flows. Writer: the
 * engine, which makes the route. Reader: setsockopt (LISTEN). Full: the engine refuses one more.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIDETRACK_NETWORKS_MAX);
	__type(key, __u64);
	__type(value, __u32);
} sidetrack_networks SEC(".maps");

/* Counters by enum sidetrack_counter, per CPU. Writers: all. Reader: the engine. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SIDETRACK_COUNT_MAX);
	__type(key, __u32);
	__type(value, __u64);
} sidetrack_counters SEC(".maps");

/*
 * Events for people. Writer: connect. Reader: the engine. Full: the event is dropped and counted
 * (EVENTS_DROPPED).
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, SIDETRACK_EVENTS_SIZE);
} sidetrack_events SEC(".maps");

/* The services that a connection has seen, in order, and as a set. */
struct chain {
	__u64 seen[SIDETRACK_SERVICES_MAX / 64];
	__u16 services[SIDETRACK_CHAIN_MAX];
	__u32 length;
	__u32 reserved;
};

/* A connection under judgement, whatever its family and direction. */
struct connection {
	union address remote;
	union address local; /* unspecified if the socket is not bound */
	__u32 generation;    /* of the policy that judges */
	/* Who, if it is not the current program. */
	__u32 has_identity;
	__u32 pid;
	__u32 uid;
	char comm[SIDETRACK_COMM_SIZE];
	__be16 port; /* of the remote end */
	__be16 local_port;
	__u8 family; /* of the addresses; AF_INET for IPv4-mapped too */
	__u8 protocol;
	__u8 inbound;
	__u8 layer;	/* which is asked now */
	__u8 sending;	/* a datagram; 0: a connect */
	__u8 cacheable; /* who asks the same again is told the same, until the next policy */
};

/* Where the search for the next filter that matches stands. See filter.h. */
struct walk {
	__u32 root;	      /* line of the layer's index */
	__u32 end;	      /* one more than the layer's last rank */
	__u32 cursor;	      /* ranks below it have been dealt with */
	__u32 best;	      /* the lowest rank found so far; SIDETRACK_NO_RANK if none */
	__u32 done;	      /* the search has come to its end */
	__u32 step_limit_hit; /* it has not: it took SIDETRACK_STEPS_MAX steps */
	__u32 depth;	      /* nodes on the stack */
	__u32 field;	      /* that the present hash or tree is about */
	__u32 list;	      /* line of the present list; 0 if none */
	__u32 list_at;	      /* next entry of that list */
	__u32 bucket;	      /* line of the present hash bucket; 0 if none */
	__u32 branch;	      /* line of the present branch of a tree; 0 if none */
	__u32 deepest;	      /* the last branch on the way that had a group; 0 if none */
	__u32 conditions;     /* line of the present filter's conditions */
	__u32 any;	      /* one condition on the present field holds */
	__u32 failed;	      /* no condition on some field holds */
	__u32 stack[SIDETRACK_SEARCH_DEPTH_MAX]; /* lines of nodes that are still to be searched */
};

/* What the filters that have matched so far amount to. Ranks are SIDETRACK_NO_RANK if there is
 * none. */
struct verdict {
	__u32 blocked;
	__u32 hard;	      /* lower sublayers cannot change it */
	__u32 vetoed;	      /* a veto overruled a hard permit */
	__u32 absent_blocked; /* blocked as the service of a redirect is absent */
	__u32 absent_passed;  /* a redirect was passed over as its service is absent */
	__u32 decided_by;     /* rank of the filter that decided */
	__u32 redirect;	      /* rank of the filter that redirects */
};

/* How a classification is carried out: for which layer and for whom. */
struct mode {
	__u32 layer;		  /* SIDETRACK_LAYER_*, of the connection's family */
	__u32 beyond_hard_permit; /* the layer has filters that can overrule a hard permit */
	__u32 connect_layer;	  /* of a connect: the layer in progress, as for IPv4 */
	__u32 entered;		  /* that layer's classification has begun */
	__u32 redirect_rank;	  /* of a connect: the redirect that the first layer chose */
	__s32 decision;		  /* of a connect: PROCEED, REFUSE or DIVERT */
	__u32 legacy_min_rank;	  /* redirects of lower rank have been seen by a legacy proxy */
	__u32 caller_known;	  /* it is settled that this caller is subject to the policy */
	__u32 paused;		  /* walk.best waits until the caller is known */
	__u32 collecting;	  /* the search is for services below legacy_min_rank */
	__u32 absent_given;	  /* the caller supplied the set of absent services */
};

/* A classification in progress. */
struct search {
	struct mode mode;
	struct walk walk;
	struct verdict verdict;
};

#define PATH_SIZE 256 /* a power of two, no less than SIDETRACK_EXECUTABLE_SIZE */

/* What one call works on, too large for the stack. The path's room is twice its size and written
 * from its middle downwards: so every index below the size is in bounds wherever it starts. */
struct sidetrack_scratch {
	__u32 in_use;
	__u32 reserved;
	struct connection connection;
	struct chain chain;
	struct search search;
	__u64 values[SIDETRACK_FIELDS][2];
	__u64 absent[4];
	struct sidetrack_program program;
	struct sidetrack_client client;
	struct sidetrack_executable executable;
	char path[2 * PATH_SIZE];
};

#define SCRATCH_BUFFERS_PER_CPU 4

/*
 * Desks, per CPU. A call may be preempted by another on its CPU, so each takes a scratch and gives
 * it back. Writers and readers: connect, sockops (connect). All taken: the connect is refused with
 * ENOBUFS (FLOWS_FULL); a file not known yet is learnt at its next connect.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCH_BUFFERS_PER_CPU);
	__type(key, __u32);
	__type(value, struct sidetrack_scratch);
} sidetrack_scratch_buffers SEC(".maps");

static __noinline struct sidetrack_scratch *scratch_acquire(void)
{
	for (__u32 i = 0; i < SCRATCH_BUFFERS_PER_CPU; i++) {
		__u32 key = i;
		struct sidetrack_scratch *scratch =
			bpf_map_lookup_elem(&sidetrack_scratch_buffers, &key);

		if (scratch && !__sync_lock_test_and_set(&scratch->in_use, 1))
			return scratch;
	}
	return NULL;
}

static __always_inline void scratch_release(struct sidetrack_scratch *scratch)
{
	barrier();
	*(volatile __u32 *)&scratch->in_use =
		0; /* of this CPU alone: no lock is needed to give it back */
}

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&sidetrack_counters, &counter);

	if (value)
		__sync_fetch_and_add(value, 1); /* an interrupt may count here meanwhile */
}

#endif /* SIDETRACK_MAPS_H */
