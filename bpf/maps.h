/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map: its key and value, which programs write and read it, and what happens when it is full.
 * Also the state that the hooks share outside of maps, and the scratch buffers.
 *
 * Programs are named after their hooks. "sockops (connect)" and the like name an operation of
 * sockops; "client release" and "service release" are the two sock_release programs.
 */
#ifndef SIDETRACK_MAPS_H
#define SIDETRACK_MAPS_H

/* Constants. The engine sets them before it loads the programs. */
const volatile __u64 engine_id;	   /* identifies this engine in tokens and in LISTEN */
const volatile __u64 token_key[2]; /* SipHash key: random, known to kernel and engine only */
const volatile __u64 scope_id;	   /* cgroup of the scope, which includes all cgroups below it */
const volatile __u32 scope_level;  /* that cgroup's level; the root has 0 */
const volatile __u32 pid_level;	   /* level of the engine's PID namespace; the initial one has 0 */
const volatile __u32 pid_inode;	   /* inode number of that namespace */
const volatile __u32 flows_max = SIDETRACK_FLOWS_MAX;
const volatile __u64 grace_ns = SIDETRACK_GRACE_NS;
const volatile __u64 idle_ns = SIDETRACK_IDLE_NS;

/*
 * Numbers of flows, changed by atomic operations. They are not per CPU, because the limits must
 * hold for all CPUs together.
 */
__u64 flow_last;  /* the last flow id that was tried */
__s64 flows_live; /* flows that are connecting, or established: some socket refers to them */
__s64 flows_by_four_tuple; /* entries of sidetrack_four_tuples */
__s64 flows_reserved;	   /* reserved flows: the client's SYN has not been sent */
__s64 flows_datagram;	   /* UDP flows, until a program notices that they are over */

/*
 * The policy in force. The key of the outer map is 0, and its value is the inner map. The key of an
 * inner map is the number of a line, and its value is this line of the image (policy.h).
 * The engine writes it: each commit makes a new inner map and replaces the old one as a whole.
 * Every program that classifies reads it.
 * It is never full: an inner map is as large as its image, and the compiler refuses a policy with
 * more than SIDETRACK_FILTERS_MAX filters.
 */
struct sidetrack_policy_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP); /* inner maps differ in size */
	/* Sizes, not types: Linux 6.1 accepts no inner map that differs in whether it has BTF. */
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
 * Services. The key is the service's number, and the value describes the service and its listeners.
 * The engine writes what the service is; setsockopt (LISTEN) and service release write the
 * listeners.
 * Every program that classifies, diverts, hands over or answers reads it; so does collect_owners.
 * It is never full: the engine refuses the 256th service.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIDETRACK_SERVICES_MAX);
	__type(key, __u32);
	__type(value, struct sidetrack_service);
} sidetrack_services SEC(".maps");

/*
 * Fixed contexts. The key is the context's number, and the value holds its bytes, which do not
 * change as long as the entry exists.
 * The engine writes it. It deletes an entry only if neither the policy nor a flow with sockets uses
 * its number.
 * getsockopt reads it.
 * If it is full, the engine refuses the policy (Error::TooManyContexts).
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIDETRACK_CONTEXTS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct sidetrack_context);
} sidetrack_contexts SEC(".maps");

/*
 * Processes that belong to a service. The key is the process's id in the initial PID namespace, or
 * in the engine's if it has the bit SIDETRACK_OWNER_NAMED; the value names the service.
 * setsockopt (LISTEN) adds the calling process, and service release removes it. The engine adds the
 * processes of legacy proxies. collect_owners removes the processes of services that are gone.
 * Connect and sendmsg read it, once a filter matches a socket without records; getsockopt reads it
 * for connected UDP sockets.
 * If it is full, LISTEN fails with ENOSPC, and the engine cannot add a legacy proxy.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIDETRACK_OWNERS_MAX);
	__type(key, __u32);
	__type(value, struct sidetrack_owner);
} sidetrack_owners SEC(".maps");

/*
 * Cgroups that contain processes of services, so that other cgroups need no search for an owner.
 * The key is the cgroup's id, and the value names the service that owns the whole cgroup, if any,
 * and counts the owners in it.
 * The writers and readers are those of sidetrack_owners; the engine also adds cgroups that belong
 * to one service.
 * If it is full, LISTEN fails with ENOSPC, and the engine cannot add the service.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIDETRACK_SERVICES_MAX);
	__type(key, __u64);
	__type(value, struct sidetrack_owner_cgroup);
} sidetrack_owner_cgroups SEC(".maps");

/*
 * Listeners, outgoing sockets and senders of proxies. The key is the socket, and the value is its
 * role.
 * setsockopt (LISTEN, RECORDS, DATAGRAM) and service release write it; so does the engine, for
 * senders.
 * Connect, sendmsg, recvmsg, sockops, getsockopt, setsockopt, hold and sender read it.
 * It has no limit of entries, and an entry is freed with its socket. If there is no memory, LISTEN
 * and RECORDS fail with ENOMEM.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sidetrack_socket);
} sidetrack_sockets SEC(".maps");

/*
 * The ring buffers of services that pend connects. The key is the service's number, and the value
 * is a ring buffer of struct sidetrack_notice.
 * The engine makes a ring buffer, hands its descriptor to the service's proxy, and removes it with
 * the service. Hold and sockops (close) write notices into it; the proxy reads them.
 * If a ring buffer is full, the notice is lost, and counted (NOTICES_LOST): a SYN that is held
 * makes another notice when the client sends it again.
 */
struct sidetrack_ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, SIDETRACK_NOTICES_SIZE);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, SIDETRACK_SERVICES_MAX);
	__type(key, __u32);
	__array(values, struct sidetrack_ring);
} sidetrack_notices SEC(".maps");

/* An accepted socket whose own address does not identify the slot of its flow. */
struct sidetrack_accepted {
	__u64 flow_id; /* the flow that the socket carries; 0 if it carries none */
	__u64 closed;  /* 1: closed before accept returned it, and refers to the flow no more */
};

/*
 * Accepted sockets whose own address does not identify a slot. Before Linux 6.12 marked
 * listeners have an entry as well, and each accepted socket inherits a copy of it (BPF_F_CLONE):
 * see accepted.h. The key is the socket, and the value is the id of its flow. setsockopt (LISTEN),
 * sockops (passive established, close) and service release write it. sockops (passive established,
 * close), getsockopt and service release read it. It has no limit of entries, and an entry is freed
 * with its socket. If there is no memory, LISTEN fails with ENOMEM; an accepted socket gets no
 * flow, which is counted (FLOWS_LOST), and answers no query. A connection whose accepted socket
 * cannot inherit the copy is dropped by the kernel.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct sidetrack_accepted);
} sidetrack_accepted_sockets SEC(".maps");

/* What connect decided about a client's socket, from which its flow is filled in. */
struct sidetrack_client {
	__u64 flow_id;	 /* set when the SYN is sent; 0 if there was no room for the flow */
	__u64 parent_id; /* the parent flow; 0 if a program opened the connection */
	__u64 filter_id;
	__u8 remote_addr[16]; /* where the connection was going */
	__u8 bound_addr[16];  /* what the socket was bound to; unspecified if it was not */
	__be16 remote_port;
	__u8 family; /* of the addresses; AF_INET for IPv4-mapped ones too */
	__u8 protocol;
	__u32 context_id;
	__u32 bound_ifindex; /* the device that the socket was bound to; 0 if none */
	__u32 flags;	     /* SIDETRACK_FLOW_* */
	__u16 chain_length;
	__u16 reserved2;
	__u16 chain[SIDETRACK_CHAIN_MAX];
};

/*
 * Client sockets that need storage: TCP sockets whose flow is only made when the SYN is sent (see
 * address_identifies_slot), and UDP sockets whose binding to a device was lifted. The key is the
 * socket, and the value is what connect decided. A socket that no filter matches has no entry, and
 * neither has one that was diverted to the address of its flow's slot.
 * Connect and sendmsg write it; sockops (connect) adds the flow's id.
 * Connect, sendmsg, sockops (connect, close) and getpeername read it.
 * It has no limit of entries, and an entry is freed with its socket. If there is no memory, the
 * connect is refused with ENOBUFS and counted: TCP as FLOWS_FULL, UDP as DATAGRAMS_UNROUTED.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sidetrack_client);
} sidetrack_clients SEC(".maps");

/* A socket together with its program, for layers that are classified in another process. */
struct sidetrack_endpoint {
	struct sidetrack_program program;
	__u64 netns_cookie;
	__u8 remote_addr[16]; /* where the program wanted to connect */
	__be16 remote_port;
	__u8 family;	 /* of remote_addr; for a bound UDP socket, that of the bind hook */
	__u8 connecting; /* 1: the program called connect or sendmsg; 0: it called listen or bind */
	__u32 flags;	 /* SIDETRACK_FLAG_* */
	__u32 pid;
	__u32 state; /* ENDPOINT_* */
	char comm[SIDETRACK_COMM_SIZE];
	char executable[SIDETRACK_EXECUTABLE_NAME_SIZE];
};

/* 1 once some socket has an endpoint; until then, sockops looks for none. */
__u32 endpoints_exist;

#define ENDPOINT_OPEN 0
/* The socket has a flow, so endpoint closure is classified when it closes. */
#define ENDPOINT_ESTABLISHED 1

/*
 * Endpoints, which are only made while the policy has filters at the layers auth recv-accept, flow
 * established or endpoint closure. The key is the socket, and the value is its endpoint. An
 * accepted socket inherits a copy of its listener's.
 * Connect, sendmsg, bind (UDP) and sockops (listen) make entries; sockops (established, close),
 * ingress and, for UDP, connect and sendmsg change their state.
 * Ingress, connect, sendmsg, sockops (established, close) and client release read it.
 * It has no limit of entries, and an entry is freed with its socket. If there is no memory, auth
 * recv-accept is classified without a program, and the other two layers are not classified;
 * PROGRAM_UNKNOWN counts the missing program.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct sidetrack_endpoint);
} sidetrack_endpoints SEC(".maps");

/*
 * Flows, in slots that are used in turn. The key is the slot: the flow's id modulo flows_max, which
 * an address can identify as well. The value is the flow. So a flow is found without a search, and
 * the next slots are those whose flows closed longest ago.
 * Every program that makes, hands over, refers to or ends flows writes it: connect, sendmsg,
 * sockops, getsockopt (UDP), setsockopt, the two release programs, and sweep.
 * Those programs, getpeername, recvmsg, ingress and the engine read it.
 * If it is full, a closed flow gives up its slot before its grace period is over (GRACE_CUT). If
 * none of the next FLOW_TRIES_MAX slots can be taken, connect and sendmsg are refused with ENOBUFS,
 * which is counted (FLOWS_FULL); a flow that would be made when the SYN is sent is missing, which
 * is counted as well (FLOWS_LOST). A live flow never loses its slot.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIDETRACK_FLOWS_MAX);
	__type(key, __u32);
	__type(value, struct sidetrack_flow_entry);
} sidetrack_flows SEC(".maps");

/*
 * The key that was found last in sidetrack_executables; 0 if an entry was added since, which may
 * have dropped it.
 */
__u64 executable_last;

/*
 * Executables. The key is a number that is computed from the inodes and names of all folders on the
 * file's path, so a renamed file has another key, and the value never changes. The value is the
 * file's path.
 * Connect, sendmsg and sockops (connect) write it.
 * getsockopt and the engine read it.
 * If it is full, the least recently used entry is dropped, and its flows have no path any more.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SIDETRACK_EXECUTABLES_MAX);
	__type(key, __u64);
	__type(value, struct sidetrack_executable);
} sidetrack_executables SEC(".maps");

#define FOUR_TUPLES_SLACK 1024 /* room for connects that race for the last entries */
#define RESERVED_SHARE 64      /* at most one slot in RESERVED_SHARE may be reserved */

/*
 * Connecting flows whose target address does not identify their slot. The key is the four-tuple,
 * and the value is the flow's id.
 * sockops (connect) writes it. sockops (passive established), or sockops (close) of the client,
 * reads and deletes the entry.
 * Connect refuses with ENOBUFS before it is full (FLOWS_FULL); if it is full nevertheless, the
 * connection has no flow, which is counted (FLOWS_LOST).
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIDETRACK_FOUR_TUPLES_MAX + FOUR_TUPLES_SLACK);
	__type(key, struct sidetrack_four_tuple);
	__type(value, __u64);
} sidetrack_four_tuples SEC(".maps");

/* A destination of a client's UDP socket. */
struct sidetrack_destination {
	__u64 client_cookie; /* the socket */
	__u64 parent_id;     /* the flow whose records the socket has; 0 if none */
	__u8 remote_addr[16];
	__be16 remote_port;
	__u16 reserved[3];
};

/*
 * The flow of each destination to which an unconnected UDP socket sends. The key is the socket with
 * the destination, and the value is the flow's id.
 * sendmsg adds entries. The program that takes the slot of a flow that is over deletes its entry,
 * as do sendmsg, client release and sweep when they end the flow.
 * sendmsg reads it.
 * It has as many entries as there are flows. If it is full, sendmsg is refused with ENOBUFS, which
 * is counted (FLOWS_FULL).
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIDETRACK_FLOWS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct sidetrack_destination);
	__type(value, __u64);
} sidetrack_destinations SEC(".maps");

/* This sender may send there undiverted, by this generation of the policy. */
#define CACHED_PERMIT 0
/* The socket has sent to this peer: what arrives from it is an answer. */
#define CACHED_SENT 1
/* The layer auth recv-accept permitted this peer, by this generation of the policy. */
#define CACHED_RECV_ACCEPT 2
/* The layer flow established was classified for this peer. */
#define CACHED_ESTABLISHED 3
/* This peer sent to the socket first: what the socket sends to it is an answer. */
#define CACHED_RECEIVED_FIRST 4

/*
 * A cached verdict on the datagrams between a socket and a peer. CACHED_PERMIT also depends on the
 * parent flow and the sender, CACHED_PERMIT and CACHED_RECV_ACCEPT on the generation; members that
 * a kind does not depend on are 0.
 */
struct sidetrack_verdict_key {
	__u64 client_cookie; /* the socket */
	__u64 parent_id;     /* the flow whose records the socket has; 0 if none */
	__u64 cgroup_id;     /* of the sender */
	__u32 pid;	     /* of the sender */
	__u32 uid;	     /* of the sender */
	__u8 remote_addr[16];
	__be16 remote_port;
	__u16 kind; /* CACHED_* */
	__u32 generation;
};

/*
 * The verdict cache. The key is a socket, a peer and the kind of the verdict; the value is unused.
 * sendmsg, recvmsg, connect (UDP) and ingress write and read it.
 * If it is full, the least recently used entry is dropped, and the next datagram is classified
 * again; without its CACHED_SENT entry, it is classified as if the peer had sent first.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SIDETRACK_VERDICT_CACHE_MAX);
	__type(key, struct sidetrack_verdict_key);
	__type(value, __u8);
} sidetrack_verdict_cache SEC(".maps");

/*
 * Network namespaces that have IPv6 addresses for this engine's flows. The key is the namespace's
 * cookie, and the value is unused.
 * The engine writes it, after it has added the route for the addresses.
 * setsockopt (LISTEN) reads it.
 * If it is full, the engine fails to load.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIDETRACK_NETWORKS_MAX);
	__type(key, __u64);
	__type(value, __u32);
} sidetrack_networks SEC(".maps");

/*
 * Counters. The key is an enum sidetrack_counter, and the value is the count of one CPU.
 * All programs write it, and the engine reads it.
 * It is never full, as it has an entry for each counter.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SIDETRACK_COUNT_MAX);
	__type(key, __u32);
	__type(value, __u64);
} sidetrack_counters SEC(".maps");

/*
 * Events for operators: a ring buffer of struct sidetrack_event, without keys.
 * Every program that classifies writes it, and the engine reads it.
 * If it is full, the event is dropped and counted (EVENTS_DROPPED).
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, SIDETRACK_EVENTS_SIZE);
} sidetrack_events SEC(".maps");

/* The services that a connection has passed, as a set and in order. */
struct chain {
	__u64 seen[SIDETRACK_SERVICES_MAX / 64]; /* a bit for each number */
	__u16 services[SIDETRACK_CHAIN_MAX];
	__u32 length;
	__u32 reserved;
};

/* A connection, or a datagram with its peer, that is classified. */
struct connection {
	union address remote;
	union address local; /* unspecified if the socket is not bound */
	__u64 flow_id;	     /* for events: as in struct sidetrack_event */
	__u32 generation;    /* of the policy that classifies */
	__be16 port;	     /* of the remote end */
	__be16 local_port;
	__u8 family; /* of the addresses; AF_INET for IPv4-mapped ones too */
	__u8 protocol;
	__u8 inbound;	/* 1: the remote end opened the connection, or sent the first datagram */
	__u8 layer;	/* SIDETRACK_LAYER_* in progress, of the connection's family */
	__u8 sending;	/* 1: a datagram is sent; 0: connect was called */
	__u8 cacheable; /* the verdict may be cached until the next generation of the policy */
	__u8 not_by_current; /* 1: the current process is not the program of the connection */
	__u8 reserved[5];
};

/*
 * Where the search for the next matching filter stands; see filter.h. Lines are numbers of lines of
 * the image; 0 means none.
 */
struct walk {
	__u32 root;	      /* line of the layer's index */
	__u32 end;	      /* rank after the layer's last filter */
	__u32 cursor;	      /* filters of lower rank need not be examined any more */
	__u32 best;	      /* lowest matching rank found so far, or SIDETRACK_NO_RANK */
	__u32 done;	      /* the search is complete */
	__u32 step_limit_hit; /* the searches are not complete after SIDETRACK_STEPS_MAX steps */
	__u32 steps;	      /* number of steps of this classification's searches so far */
	__u32 depth;	      /* number of nodes on the stack */
	__u32 field;	      /* field of the current hash or tree */
	__u32 list;	      /* line of the current list */
	__u32 list_index;     /* next entry of that list */
	__u32 bucket;	      /* line of the current hash bucket */
	__u32 branch;	      /* line of the current branch of a tree */
	__u32 deepest;	      /* line of the last branch on the way down that has a group */
	__u32 conditions;     /* line of the first condition of the current filter */
	__u32 field_holds;    /* a condition on the current field holds */
	__u32 mismatch;	      /* for some field, no condition holds */
	__u32 stack[SIDETRACK_SEARCH_DEPTH_MAX]; /* lines of nodes that are still to be searched */
};

/*
 * The verdict of the filters that have matched so far. Without a filter, a rank is
 * SIDETRACK_NO_RANK.
 */
struct verdict {
	__u32 blocked;
	__u32 hard;	      /* lower sublayers cannot change the verdict */
	__u32 vetoed;	      /* a veto overruled a hard permit */
	__u32 absent_blocked; /* blocked because the service of a redirect is absent */
	__u32 absent_skipped; /* a redirect was skipped because its service is absent */
	__u32 decided_by;     /* rank of the filter that decided */
	__u32 redirect;	      /* rank of the filter that redirects */
};

/* How a classification is carried out: for which layer, and for which caller. */
struct mode {
	__u32 layer;		  /* SIDETRACK_LAYER_*, of the connection's family */
	__u32 beyond_hard_permit; /* the layer has filters that can overrule a hard permit */
	__u32 connect_layer;	  /* connect: the layer in progress, by its IPv4 number */
	__u32 entered;		  /* connect: the classification at that layer has begun */
	__u32 redirect_rank;	  /* connect: the filter by which connect redirect redirects */
	__s32 decision;		  /* connect: PROCEED, REFUSE or DIVERT */
	__u32 legacy_min_rank; /* redirects of lower rank are skipped: the caller is a legacy proxy,
				  or, with SIDETRACK_NO_RANK, a service with its own traffic; else 0
				*/
	__u32 caller_known;    /* the caller is known to be subject to the policy */
	__u32 paused;	       /* walk.best has matched and waits until the caller is known */
	__u32 assuming_chain;  /* the search is for redirects below legacy_min_rank */
	__u32 absent_given;    /* the request contains the set of absent services */
	__u32 elevated; /* the original program is elevated; set if a filter tests its user */
};

/* A classification in progress. */
struct search {
	struct mode mode;
	struct walk walk;
	struct verdict verdict;
};

#define PATH_SIZE 256 /* a power of two, not below SIDETRACK_EXECUTABLE_SIZE */

/*
 * A scratch buffer: what one run of a program works with and the eBPF stack has no room for. A path
 * is written downwards from the middle of its room, which is twice as large as a path can be: so
 * every index below PATH_SIZE is within bounds, wherever the path starts.
 */
struct sidetrack_scratch {
	__u32 in_use;
	__u32 reserved;
	struct connection connection;
	struct chain chain;
	struct search search;
	__u64 values[SIDETRACK_FIELDS][2]; /* field values */
	__u64 absent[4];		   /* absent services of a request: a bit for each number */
	struct sidetrack_program program;
	struct sidetrack_client client;
	struct sidetrack_executable executable;
	char path[2 * PATH_SIZE];
};

#define SCRATCH_BUFFERS_PER_CPU 4

/*
 * Scratch buffers. The key is 0 to 3, and the value is one buffer of this CPU. A run of a program
 * can be preempted by another one on its CPU, so each acquires a buffer and releases it.
 * Every program that classifies, and those that add an executable, write and read it; the engine
 * does not.
 * If all are in use, connect and sendmsg are refused with ENOBUFS (FLOWS_FULL), bind is refused
 * with ENOBUFS (SEARCH_CUT), an inbound packet is dropped (SEARCH_CUT), and an executable is added
 * at its next connect.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCH_BUFFERS_PER_CPU);
	__type(key, __u32);
	__type(value, struct sidetrack_scratch);
} sidetrack_scratch_buffers SEC(".maps");

/* Returns NULL if all buffers of this CPU are in use. */
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

/* The buffer belongs to this CPU alone, so a plain store suffices. */
static __always_inline void scratch_release(struct sidetrack_scratch *scratch)
{
	barrier();
	*(volatile __u32 *)&scratch->in_use = 0;
}

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&sidetrack_counters, &counter);

	if (value)
		__sync_fetch_and_add(value, 1); /* an interrupt on this CPU may count as well */
}

#endif /* SIDETRACK_MAPS_H */
