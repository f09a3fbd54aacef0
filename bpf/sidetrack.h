/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sidetrack's ABI: what the kernel programs, the engine and every proxy agree upon.
 *
 * A proxy needs only the first two parts of this file: the socket options and their structures.
 * The rest is between the engine and the kernel programs.
 *
 * crates/sidetrack-abi/src/kernel.rs mirrors this file in the same order, and
 * crates/sidetrack-engine/tests/abi_layout.rs holds the mirror to the BTF of the built object.
 * Whoever changes one changes both, and SIDETRACK_ABI_VERSION, in one commit.
 *
 * How a proxy uses it:
 *
 *	fd = socket(...); bind(fd, ...); listen(fd, ...);
 *	setsockopt(fd, SOL_SIDETRACK, SIDETRACK_LISTEN, &listen, sizeof(listen));
 *	conn = accept(fd, ...);
 *	getsockopt(conn, SOL_SIDETRACK, SIDETRACK_INFO, &info, &length);
 *	out = socket(...);
 *	setsockopt(out, SOL_SIDETRACK, SIDETRACK_RECORDS, info.records, sizeof(info.records));
 *	connect(out, info.flow.remote_addr : info.flow.remote_port);
 *
 * Errors of the options (design: one errno, one meaning):
 *
 *	ENOPROTOOPT	no engine is attached where this socket was made: the kernel's own answer to
 *set; EOPNOTSUPP	its own answer to get EPROTONOSUPPORT	not a TCP or UDP socket, or an MPTCP
 *one ENOTCONN	the socket is a listener, or not connected ENODATA		connected, but not
 *redirected to this service; or no context
 *	ENOBUFS		the buffer is smaller than the answer; INFO tells each length
 *	EINVAL		a wrong or expired token, a wrong secret, a LISTEN on a socket that is not
 *listening, or (UDP) not bound to a port of the wildcard address EISCONN		RECORDS set
 *on a socket that is connected already EADDRINUSE LISTEN: the service has listeners of this family
 *at
 *another address EADDRNOTAVAIL	LISTEN, UDP over IPv6: the network namespace has no addresses for
 *flows
 *
 * Datagrams: the service's UDP socket is bound to a port of the wildcard address and marked by
 * LISTEN. Each flow comes to an address of its own (IP_PKTINFO, IPV6_PKTINFO tell it) and is
 * answered from there. DATAGRAM says which datagram the next INFO, CONTEXT or RECORDS on this
 * socket is about; it fails with ENODATA, and is counted, for one that the kernel did not divert.
 * A socket of the service's own that is bound to a flow's address and connected to its client
 * answers without.
 */
#ifndef SIDETRACK_H
#define SIDETRACK_H

#include <linux/types.h>

#include "policy.h"

#define SIDETRACK_ABI_VERSION 2

/* ---- The socket options ------------------------------------------------------------------ */

#define SOL_SIDETRACK 0x5354 /* "ST"; no kernel protocol has this level */

#define SIDETRACK_INFO 1     /* get: struct sidetrack_info, then the context if there is room */
#define SIDETRACK_CONTEXT 2  /* get: the redirect context, as many bytes as info says */
#define SIDETRACK_RECORDS 3  /* get: struct sidetrack_records; set: the same, before connect */
#define SIDETRACK_LISTEN 4   /* set: struct sidetrack_listen, on a listening socket */
#define SIDETRACK_DATAGRAM 5 /* set: struct sidetrack_datagram, on a marked UDP socket */

/* ---- Limits ------------------------------------------------------------------------------ */

#define SIDETRACK_CHAIN_MAX 16		/* services one connection may pass; the next is refused */
#define SIDETRACK_CONTEXT_SIZE_MAX 4000 /* bytes of a redirect context */
#define SIDETRACK_NAME_SIZE 32		/* bytes of a service's name, ending NUL included */
#define SIDETRACK_EXECUTABLE_SIZE 248	/* bytes of a path, ending NUL included; the tail is kept */
#define SIDETRACK_COMM_SIZE 16		/* bytes of a task's name, as in the kernel */
#define SIDETRACK_SERVICES_MAX 256	/* services of one engine; number 0 means none */
#define SIDETRACK_CONTEXTS_MAX 256	/* different fixed contexts of one engine */
#define SIDETRACK_OWNERS_MAX 1024	/* processes known to belong to a service */
#define SIDETRACK_ANCESTORS_MAX 16	/* parents looked at to find a service's process */
#define SIDETRACK_PATH_DEPTH_MAX 24	/* folders in an executable's path; the tail is kept */
#define SIDETRACK_EXECUTABLES_MAX 4096	/* files remembered; the least used is forgotten */
#define SIDETRACK_FLOWS_MAX 65536	/* flows of one engine, unless the engine says otherwise */
#define SIDETRACK_FOUR_TUPLES_MAX 16384 /* flows in the making that are found by four-tuple */
#define SIDETRACK_VERDICT_CACHE_MAX 8192  /* destinations of unredirected datagrams remembered */
#define SIDETRACK_NETWORKS_MAX 64	  /* network namespaces that have flows' IPv6 addresses */
#define SIDETRACK_EVENTS_SIZE 262144	  /* bytes of the event ring */
#define SIDETRACK_GRACE_NS 60000000000ULL /* how long a token outlives its flow's last socket */
#define SIDETRACK_IDLE_NS                                                                          \
	60000000000ULL /* without a datagram, the flow of an unconnected socket ends */

/* ---- What the options carry -------------------------------------------------------------- */

/* The redirect records: an opaque token. Copy it byte for byte; never look inside. */
struct sidetrack_records {
	__u64 flow_id;
	__u64 engine_id;
	__u8 mac[16]; /* SipHash-2-4 (128 bits) of the flow id under the engine's key */
};

/* Makes a listening socket one of a service's. The engine issues it. */
struct sidetrack_listen {
	__u32 version; /* SIDETRACK_ABI_VERSION */
	__u32 service;
	__u64 engine_id;
	__u8 secret[16];
};

/* Which datagram the next question is about. Addresses as in struct sidetrack_flow. */
struct sidetrack_datagram {
	__u8 flow_addr[16];   /* where it came to */
	__u8 client_addr[16]; /* where it came from */
	__be16 client_port;
	__u16 reserved[3];
};

/*
 * A redirected connection. Addresses are 16 bytes, IPv4 as IPv4-mapped; ports are in network order.
 * The program is the one that opened the chain's first connection, however long the chain.
 */
struct sidetrack_flow {
	__u64 id;
	__u64 origin_id;    /* the id of the chain's first flow; the same at every service */
	__u64 filter_id;    /* the filter that redirected */
	__u64 connected_at; /* CLOCK_MONOTONIC, nanoseconds */
	__u64 netns_cookie; /* the client socket's network namespace */
	__u64 cgroup_id;    /* of the original program */
	__u32 pid;	    /* of the original program (thread group) */
	__u32 uid;
	__u32 gid;
	__u32 opener_pid;     /* the process that opened this hop: the program, or a proxy */
	__u32 bound_ifindex;  /* the device the client socket was bound to; 0 if none */
	__u32 flags;	      /* SIDETRACK_FLOW_* */
	__u8 remote_addr[16]; /* where the connection was going */
	__u8 local_addr[16];  /* the client socket's own address, as the accepted socket's peer */
	__be16 remote_port;
	__be16 local_port;
	__u8 protocol;	    /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 family;	    /* AF_INET or AF_INET6, of the addresses (IPv4-mapped is AF_INET) */
	__u16 chain_length; /* services in the chain, this one last */
	__u16 chain[SIDETRACK_CHAIN_MAX];
	__u32 context_id; /* 0 none, SIDETRACK_CONTEXT_AUTO, else a fixed context */
	__u32 reserved;
	char comm[SIDETRACK_COMM_SIZE];
};

#define SIDETRACK_FLOW_CHAIN_ASSUMED 0x1 /* a legacy proxy is in it: what is before is inferred */
#define SIDETRACK_FLOW_CONNECTED 0x2	 /* datagrams: the client called connect */
#define SIDETRACK_CONTEXT_AUTO 0xffffffffU

/* The file of the program that opened the chain's first connection. */
struct sidetrack_executable {
	__u64 inode;
	__u32 device; /* as the kernel numbers devices: major << 20 | minor */
	__u32 flags;  /* SIDETRACK_EXECUTABLE_* */
	char path[SIDETRACK_EXECUTABLE_SIZE]; /* as the kernel saw it at connect; NUL-ended */
};

#define SIDETRACK_EXECUTABLE_CUT 0x1 /* the path was longer; its tail is given */

/* FWPS_CONNECTION_REDIRECT_STATE, for the service that asks. */
#define SIDETRACK_NOT_REDIRECTED 0
#define SIDETRACK_REDIRECTED_BY_SELF 1
#define SIDETRACK_REDIRECTED_BY_OTHER 2
#define SIDETRACK_PREVIOUSLY_REDIRECTED_BY_SELF 3

/*
 * The answer to INFO. The context follows at once if the buffer has room for it. 1,024 bytes, and
 * not to exceed that: some languages' getsockopt takes no more.
 */
struct sidetrack_info {
	__u32 version;	      /* SIDETRACK_ABI_VERSION */
	__u32 size;	      /* of this struct; the context starts here */
	__u32 state;	      /* always REDIRECTED_BY_SELF: else the option answers ENODATA */
	__u32 context_length; /* bytes; 0 if there is none */
	__u32 context_given;  /* 1 if the context follows this struct */
	__u32 records_length; /* bytes */
	__u8 target_addr[16]; /* where it was diverted to: the accepted socket's own address */
	__be16 target_port;
	__u16 reserved[3];
	struct sidetrack_flow flow;
	struct sidetrack_executable executable; /* all zero if forgotten, see EXECUTABLES_MAX */
	struct sidetrack_records records;
	char names[SIDETRACK_CHAIN_MAX][SIDETRACK_NAME_SIZE]; /* the chain's services, in order */
};

/* The context that a filter with context = auto gives. */
struct sidetrack_auto_context {
	__u32 version; /* SIDETRACK_ABI_VERSION */
	__u32 size;    /* of this struct */
	__u64 flow_id;
	__u8 remote_addr[16];
	__be16 remote_port;
	__u8 protocol;
	__u8 family;
	__u32 pid;
	__u32 uid;
	__u32 reserved;
	char executable[SIDETRACK_EXECUTABLE_SIZE];
};

/* ---- Between the engine and the programs ------------------------------------------------- */

#define SIDETRACK_RECORDS_REQUIRED                                                                 \
	0			   /* a connect of the service's own without records is blocked    \
				    */
#define SIDETRACK_RECORDS_LEGACY 1 /* it is judged from behind the service's place */
#define SIDETRACK_OWN_TRAFFIC_PERMIT 0x1 /* required: let such a connect go straight on */

/* A service and its listeners. The engine writes the first part, the programs the second. */
struct sidetrack_service {
	__u8 secret[16];
	__u8 key[16]; /* the object's UUID; zero if there is none */
	char name[SIDETRACK_NAME_SIZE];
	__u32 records; /* SIDETRACK_RECORDS_* */
	__u32 flags;   /* SIDETRACK_OWN_TRAFFIC_* */
	__u32 epoch;   /* tells it from an earlier service of the same number */

	__u32 listeners4;
	__u32 listeners6;
	__be32 addr4; /* 0: any, so targets are spread over 127.0.0.0/8 */
	__be16 port4;
	__be16 port6;
	__u8 addr6[16];

	__u32 datagrams4; /* UDP sockets, at any address */
	__u32 datagrams6;
	__be16 datagram_port4;
	__be16 datagram_port6;
};

struct sidetrack_context {
	__u32 length;
	__u8 bytes[SIDETRACK_CONTEXT_SIZE_MAX];
};

/* In an owner's key: what follows is its number in the engine's namespace; the engine named it. */
#define SIDETRACK_OWNER_NAMED (1U << 30)

/*
 * A process that belongs to a service, with its descendants in the same cgroup. A child that was
 * put into another cgroup is a program of its own: so a supervisor may be proxy and parent at once.
 */
struct sidetrack_owner {
	__u64 started; /* in hundredths of a second since boot, as in /proc/PID/stat */
	__u64 cgroup_id;
	__u32 service;
	__u32 listeners; /* that it marked and that are open; 0 if the engine named it */
};

/* A cgroup in which processes of services are. */
struct sidetrack_owner_cgroup {
	__u32 service; /* whose all its processes are; 0 if nobody's */
	__u32 owners;  /* processes in it that are owners by themselves */
};

/* A program, as conditions ask about it. */
struct sidetrack_program {
	__u64 inode;
	__u64 cgroup_id;
	__u64 cgroups[SIDETRACK_CGROUP_LEVELS_MAX]; /* from level 1 on; 0: not so deep */
	__u32 device;
	__u32 uid;
};

struct sidetrack_flow_entry {
	__u64 state;
	__u32 handed_over; /* datagrams: the service has asked about it */
	__u32 prefetched;  /* nobody reads it, see flow_prefetch */
	__u64 closed_at;   /* or called at, or last datagram at; nanoseconds */
	__u64 executable;  /* its number in sidetrack_executables */
	__u64 client;	   /* the client socket's cookie; 0 once that has closed (TCP) */
	__u64 socket;	   /* where the kernel keeps the accepted socket; datagrams: the client's */
	__u64 parent;	   /* datagrams: the flow of the proxy that goes on here; 0 for a program */
	struct sidetrack_flow flow;
	struct sidetrack_program program; /* that opened the chain's first connection */
};

enum sidetrack_counter {
	SIDETRACK_COUNT_REDIRECTED,	  /* connects rewritten to a service */
	SIDETRACK_COUNT_HANDED_OVER,	  /* accepted sockets that took their flow */
	SIDETRACK_COUNT_QUERIED,	  /* INFO, RECORDS, CONTEXT, SO_ORIGINAL_DST answered */
	SIDETRACK_COUNT_LINKED,		  /* records set on an outgoing socket */
	SIDETRACK_COUNT_ABSENT_BLOCKED,	  /* service absent, connect refused */
	SIDETRACK_COUNT_ABSENT_PERMITTED, /* service absent, filter passed over */
	SIDETRACK_COUNT_CHAIN_TOO_LONG,	  /* a 17th service matched: refused */
	SIDETRACK_COUNT_RECORDS_MISSING,  /* a service's own connect without records: refused */
	SIDETRACK_COUNT_SELF_CONNECT,	  /* a service connecting to its own listener: refused */
	SIDETRACK_COUNT_RECORDS_STALE,	  /* linked to a flow that is gone: refused */
	SIDETRACK_COUNT_BAD_TOKEN,	  /* RECORDS set with a token that is wrong or too old */
	SIDETRACK_COUNT_BAD_SECRET,	  /* LISTEN with a wrong secret */
	SIDETRACK_COUNT_FLOWS_FULL,	  /* no room for another flow: refused */
	SIDETRACK_COUNT_FLOWS_LOST,	  /* the kernel had no memory to hand a flow over */
	SIDETRACK_COUNT_GRACE_CUT,	  /* a closed flow's token ended early, to make room */
	SIDETRACK_COUNT_EVENTS_DROPPED,	  /* the event ring was full */
	SIDETRACK_COUNT_BLOCKED,	  /* a filter's block: refused */
	SIDETRACK_COUNT_VETOED,		  /* of these, a veto over a hard permit */
	SIDETRACK_COUNT_INSPECTED,	  /* events of inspect filters */
	SIDETRACK_COUNT_SEARCH_CUT,	  /* a policy took too many steps: refused */
	SIDETRACK_COUNT_PROGRAM_UNKNOWN, /* judged without a program: its listener is older than the
					    filters that ask */
	SIDETRACK_COUNT_DATAGRAMS_FORGED, /* to a service's port, or to a flow's address, by others
					   */
	SIDETRACK_COUNT_DATAGRAMS_UNROUTED, /* of a socket bound to a device or a link: refused */
	SIDETRACK_COUNT_MAX,
};

enum sidetrack_event_kind {
	SIDETRACK_EVENT_ABSENT_BLOCKED = 1,
	SIDETRACK_EVENT_ABSENT_PERMITTED,
	SIDETRACK_EVENT_CHAIN_TOO_LONG,
	SIDETRACK_EVENT_RECORDS_MISSING,
	SIDETRACK_EVENT_RECORDS_STALE,
	SIDETRACK_EVENT_FLOWS_FULL,
	SIDETRACK_EVENT_SELF_CONNECT,
	SIDETRACK_EVENT_BLOCKED,
	SIDETRACK_EVENT_VETOED,
	SIDETRACK_EVENT_INSPECTED,
	SIDETRACK_EVENT_SEARCH_CUT,
};

/* Something an operator wants to know. In the ring, one each. */
struct sidetrack_event {
	__u64 time; /* CLOCK_MONOTONIC, nanoseconds */
	__u64 filter_id;
	__u32 kind; /* enum sidetrack_event_kind */
	__u32 service;
	__u32 pid;
	__u32 uid;
	__u8 remote_addr[16];
	__be16 remote_port;
	__u8 protocol;
	__u8 family;
	__u8 layer; /* SIDETRACK_LAYER_*, of the family's own */
	__u8 reserved[3];
	__u8 local_addr[16];
	__be16 local_port;
	__u16 generation; /* of the policy, its lower bits */
	__u32 reserved2;
	char comm[SIDETRACK_COMM_SIZE];
};

#endif /* SIDETRACK_H */
