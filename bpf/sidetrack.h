/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sidetrack's ABI: the interface between the kernel programs, the engine and every proxy.
 *
 * A proxy needs only the socket options and the structures that they carry. The last part of this
 * file, "Between the engine and the programs", is internal to Sidetrack.
 *
 * crates/sidetrack-abi/src/kernel.rs and kernel/engine.rs mirror this file in the same order, and
 * crates/sidetrack-engine/tests/abi_layout.rs compares the mirror with the BTF of the built object.
 * A change here changes the mirror and SIDETRACK_ABI_VERSION in the same commit.
 *
 * How a proxy uses the options:
 *
 *	fd = socket(...); bind(fd, ...); listen(fd, ...);
 *	setsockopt(fd, SOL_SIDETRACK, SIDETRACK_LISTEN, &listen, sizeof(listen));
 *	conn = accept(fd, ...);
 *	getsockopt(conn, SOL_SIDETRACK, SIDETRACK_INFO, &info, &length);
 *	out = socket(...);
 *	setsockopt(out, SOL_SIDETRACK, SIDETRACK_RECORDS, info.records, sizeof(info.records));
 *	connect(out, info.flow.remote_addr : info.flow.remote_port);
 *
 * Datagrams: the service's UDP socket is bound to a port of the wildcard address and marked by
 * LISTEN. The datagrams of each flow arrive at an address that belongs to this flow alone
 * (IP_PKTINFO and IPV6_PKTINFO return it), and the service answers from that address. DATAGRAM
 * selects the datagram that the next INFO, CONTEXT or RECORDS on this socket is about. A socket of
 * the service that is bound to a flow's address and connected to the flow's client needs no
 * DATAGRAM.
 *
 * Pended connects: a listener that is marked by LISTEN_PENDED holds the client's SYN until the
 * proxy knows whether the origin accepts. The proxy reads a notice of the SYN from the service's
 * ring buffer, sets the records in it on its outgoing socket, queries INFO there, and connects. If
 * that works, it sets COMPLETE on the listener and sends the SYN again by the service's sender, a
 * raw socket; accept then returns the client's connection. If not, it sends the client a RST or an
 * ICMP error by the sender instead. docs/pended.md shows all of it.
 */

/* clang-format off */
/*
 * Errors of the socket options. The kernel's general errors of getsockopt and setsockopt, for
 * example for a bad descriptor or pointer, come in addition. The table in docs/proxies.md has the
 * same errors and says what to do; crates/sidetrack-engine/tests/option_errors.rs compares the two.
 *
 * ENOPROTOOPT	set, and get on an IPv6 socket: no engine is attached where this socket was made, or it has no such option
 * EOPNOTSUPP	get on an IPv4 socket: the same; both are the kernel's own answers
 * EPROTONOSUPPORT	any, except LISTEN on a raw socket: the socket is neither TCP nor UDP; an MPTCP socket is not TCP
 * ENOTCONN	get: the socket is a listener, or neither connected nor given records; or, for UDP, DATAGRAM has selected no flow that still exists
 * ENOTCONN	COMPLETE: the client has given up, or its connect is not held
 * ENODATA	get: the socket is connected, but was not redirected to this service; CONTEXT: the flow has no context
 * ENODATA	DATAGRAM: the kernel did not divert this datagram to this service; this is counted (DATAGRAMS_FORGED)
 * ENOBUFS	get: the buffer is smaller than the answer; INFO returns the length of each answer
 * EINVAL	set RECORDS: the value is not 32 bytes long; or it is not a token of this engine, or it has expired
 * EINVAL	LISTEN: the value is not 32 bytes long, or its version, engine, service or secret is wrong
 * EINVAL	LISTEN: the TCP socket is not listening; or the UDP socket is connected, or not bound to a port of the wildcard address
 * EINVAL	DATAGRAM: the value is not 40 bytes long, or the socket is not marked by LISTEN
 * EINVAL	COMPLETE: the value is not 56 bytes long, the token is wrong, or the socket is not a marked TCP listener of the flow's service
 * EINVAL	SO_ORIGINAL_DST: the buffer is smaller than the address
 * EISCONN	set RECORDS: the socket is connected, connecting or listening
 * EALREADY	LISTEN: the socket is marked already; COMPLETE: the flow was completed before
 * EPERM	LISTEN_PENDED, and LISTEN on a raw socket: the service does not pend connects
 * EADDRINUSE	LISTEN: the service has a listener of this protocol and family at another address or port
 * EADDRINUSE	LISTEN: the listener shares its port (SO_REUSEPORT), and another service listens at this port
 * EADDRNOTAVAIL	LISTEN, UDP over IPv6: the network namespace has no addresses for flows
 * ENOMEM	LISTEN, set RECORDS: the kernel has no memory for the socket's state
 * ENOSPC	LISTEN: the table of the services' processes, or of their cgroups, is full
 */
/* clang-format on */

#ifndef SIDETRACK_H
#define SIDETRACK_H

#include <linux/types.h>

#include "policy.h"

#define SIDETRACK_ABI_VERSION 3

/* ---- The socket options ------------------------------------------------------------------ */

#define SOL_SIDETRACK 0x5354 /* "ST"; no kernel protocol has this level */

#define SIDETRACK_INFO 1    /* get: struct sidetrack_info, then the context if there is room */
#define SIDETRACK_CONTEXT 2 /* get: the redirect context, of the length that INFO returns */
#define SIDETRACK_RECORDS 3 /* get: struct sidetrack_records; set: the same, before connect */
/* set: struct sidetrack_listen, on a listening socket, or on a raw one, which becomes a sender */
#define SIDETRACK_LISTEN 4
#define SIDETRACK_DATAGRAM 5 /* set: struct sidetrack_datagram, on a marked UDP socket */
/* set: struct sidetrack_listen, on a listening TCP socket: LISTEN, and its connects are pended */
#define SIDETRACK_LISTEN_PENDED 6
#define SIDETRACK_COMPLETE 7 /* set: struct sidetrack_complete, on a marked TCP listener */

/* ---- Limits ------------------------------------------------------------------------------ */

/* Services in the chain of one connection; the next redirection is refused. */
#define SIDETRACK_CHAIN_MAX 16
/* Bytes of a redirect context. */
#define SIDETRACK_CONTEXT_SIZE_MAX 4000
/* Bytes of a service's name, including the ending NUL. */
#define SIDETRACK_NAME_SIZE 32
/* Bytes of an executable's path, including the ending NUL; of a longer path, the tail is kept. */
#define SIDETRACK_EXECUTABLE_SIZE 248
/* Bytes of a task's name, as in the kernel. */
#define SIDETRACK_COMM_SIZE 16
/* Bytes of an executable's name in events, including the ending NUL; a longer one is cut. */
#define SIDETRACK_EXECUTABLE_NAME_SIZE 32
/* Service numbers of one engine; number 0 means no service, so there are up to 255 services. */
#define SIDETRACK_SERVICES_MAX 256
/* Different fixed contexts of one engine. */
#define SIDETRACK_CONTEXTS_MAX 256
/* Processes that are known to belong to a service. */
#define SIDETRACK_OWNERS_MAX 1024
/* Processes examined to find the owner of a socket: the caller, its parent, and so on. */
#define SIDETRACK_ANCESTORS_MAX 16
/*
 * Folders that are walked from an executable up to the root of its mount, and the same number from
 * there to the root of the mount namespace. Of a longer path, the tail is kept.
 */
#define SIDETRACK_PATH_DEPTH_MAX 24
/* Executables whose paths are kept; the least recently used is dropped. */
#define SIDETRACK_EXECUTABLES_MAX 4096
/* Flows of one engine, unless the engine sets another number. */
#define SIDETRACK_FLOWS_MAX 65536
/* Connecting flows that are found by their four-tuple. */
#define SIDETRACK_FOUR_TUPLES_MAX 16384
/* Entries of the verdict cache. */
#define SIDETRACK_VERDICT_CACHE_MAX 8192
/* Network namespaces that have IPv6 addresses for this engine's flows. */
#define SIDETRACK_NETWORKS_MAX 64
/* Bytes of a service's ring buffer of notices: room for about 11,000 unread ones. */
#define SIDETRACK_NOTICES_SIZE 2097152
/* Bytes of the ring buffer of events. */
#define SIDETRACK_EVENTS_SIZE 262144
/* The grace period: nanoseconds for which a token outlives the last socket of its flow. */
#define SIDETRACK_GRACE_NS 60000000000ULL
/*
 * The idle time-out: nanoseconds without a datagram after which the flow of an unconnected UDP
 * socket ends.
 */
#define SIDETRACK_IDLE_NS 60000000000ULL

/* ---- What the options carry -------------------------------------------------------------- */

/* The redirect records: an opaque token. Copy it byte for byte, and never interpret it. */
struct sidetrack_records {
	__u64 flow_id;
	__u64 engine_id;
	__u8 mac[16]; /* SipHash-2-4 (128 bits) of the flow id under the engine's key */
};

/* The credentials that mark a listening socket as a service's listener; issued by the engine. */
struct sidetrack_listen {
	__u32 version; /* SIDETRACK_ABI_VERSION */
	__u32 service; /* the service's number */
	__u64 engine_id;
	__u8 secret[16];
};

/*
 * Selects the datagram that the next INFO, CONTEXT or RECORDS is about. Addresses are written as in
 * struct sidetrack_flow.
 */
struct sidetrack_datagram {
	__u8 flow_addr[16];   /* the address at which the datagram arrived */
	__u8 client_addr[16]; /* the address from which it came */
	__be16 client_port;   /* the port from which it came */
	__u16 reserved[3];
};

/* Completes a pended flow: the next SYN of its client is accepted. */
struct sidetrack_complete {
	struct sidetrack_records records;
	/*
	 * The local end of the outgoing connection, for the client's getsockname. Port 0: none is
	 * given. It is only needed if the outgoing socket has not the records of the flow.
	 */
	__u8 local_addr[16];
	__be16 local_port;
	__u16 reserved[3];
};

/* What a notice says. */
enum sidetrack_notice_kind {
	/* A SYN is held. Each time the client sends it again, there is another notice of it. */
	SIDETRACK_NOTICE_SYN = 1,
	/* The client of a held flow has given up, was reset, or has closed. */
	SIDETRACK_NOTICE_GONE,
};

#define SIDETRACK_TCP_HEADER_MAX 60

/*
 * A record in a service's ring buffer. Addresses are written as in struct sidetrack_flow; those of
 * the packet are IPv4 if both are IPv4-mapped.
 */
struct sidetrack_notice {
	__u32 kind;			  /* enum sidetrack_notice_kind */
	__u32 tcp_length;		  /* bytes of tcp in use: 20 to 60; GONE: 0 */
	struct sidetrack_records records; /* of the flow; its id is in them */
	__u64 connected_at;		  /* as in struct sidetrack_flow */
	__u8 remote_addr[16];		  /* where the connection was going */
	__u8 client_addr[16];		  /* source of the SYN */
	__u8 target_addr[16];		  /* destination of the SYN: the listener */
	__be16 remote_port;
	__u16 reserved;
	__u8 tcp[SIDETRACK_TCP_HEADER_MAX]; /* the SYN's TCP header, with its options */
};

/*
 * A redirected connection, or UDP conversation. Addresses are 16 bytes, IPv4 as IPv4-mapped; ports
 * are in network order. The original program is the one that opened the first connection of the
 * chain. Process ids are those of the engine's PID namespace, and 0 for a process outside of it.
 */
struct sidetrack_flow {
	__u64 id;
	__u64 origin_id;      /* id of the chain's first flow; the same at every service */
	__u64 filter_id;      /* id of the filter that redirected */
	__u64 connected_at;   /* CLOCK_MONOTONIC, nanoseconds */
	__u64 netns_cookie;   /* network namespace of the client's socket */
	__u64 cgroup_id;      /* cgroup of the original program */
	__u32 pid;	      /* process (thread group) of the original program */
	__u32 uid;	      /* real user of the original program */
	__u32 gid;	      /* real group of the original program */
	__u32 opener_pid;     /* process that opened this hop: the original program, or a proxy */
	__u32 bound_ifindex;  /* the device that the client's socket was bound to; 0 if none */
	__u32 flags;	      /* SIDETRACK_FLOW_* */
	__u8 remote_addr[16]; /* where the connection was going */
	__u8 local_addr[16];  /* address of the client's socket: the accepted socket's peer */
	__be16 remote_port;
	__be16 local_port;
	__u8 protocol;	    /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 family;	    /* AF_INET or AF_INET6, of the addresses (IPv4-mapped is AF_INET) */
	__u16 chain_length; /* services in the chain */
	__u16 chain[SIDETRACK_CHAIN_MAX]; /* numbers of the services, in order; this one is last */
	__u32 context_id; /* 0: no context; SIDETRACK_CONTEXT_AUTO; or a fixed context's number */
	__u32 reserved;
	char comm[SIDETRACK_COMM_SIZE]; /* task name of the original program */
};

/* The chain contains a legacy proxy: the services before it are inferred from the policy. */
#define SIDETRACK_FLOW_CHAIN_ASSUMED 0x1
/* UDP: the client called connect. */
#define SIDETRACK_FLOW_CONNECTED 0x2
/* TCP: the SYN was held until the service completed the flow. */
#define SIDETRACK_FLOW_PENDED 0x4
/* The context_id of a filter whose context is made from the flow. */
#define SIDETRACK_CONTEXT_AUTO 0xffffffffU

/* The executable of the original program. */
struct sidetrack_executable {
	__u64 inode;
	__u32 device; /* as the kernel numbers devices: major << 20 | minor */
	__u32 flags;  /* SIDETRACK_EXECUTABLE_* */
	char path[SIDETRACK_EXECUTABLE_SIZE]; /* as the kernel saw it at connect; ends with NUL */
};

#define SIDETRACK_EXECUTABLE_CUT 0x1 /* the path is longer: only its tail is given */

/* FWPS_CONNECTION_REDIRECT_STATE of the calling service (docs/wfp.md, 3.2.1 to 3.2.4). */
#define SIDETRACK_NOT_REDIRECTED 0
#define SIDETRACK_REDIRECTED_BY_SELF 1
#define SIDETRACK_REDIRECTED_BY_OTHER 2
#define SIDETRACK_PREVIOUSLY_REDIRECTED_BY_SELF 3

/*
 * The answer to INFO. If the buffer has room for the context as well, the context follows directly.
 * The structure has 1,024 bytes and must not grow: some languages' getsockopt accepts no larger
 * buffer.
 */
struct sidetrack_info {
	__u32 version; /* SIDETRACK_ABI_VERSION */
	__u32 size;    /* bytes of this struct: the offset of the context */
	__u32 state;   /* always REDIRECTED_BY_SELF: otherwise the option fails with ENODATA */
	__u32 context_length; /* bytes of the context; 0 if there is none */
	__u32 context_given;  /* 1 if the context follows this struct */
	__u32 records_length; /* bytes of the records */
	__u8 target_addr[16]; /* address of the accepted socket, the listener, or the UDP flow */
	__be16 target_port;
	__u16 reserved[3];
	struct sidetrack_flow flow;
	struct sidetrack_executable executable; /* all zero if no longer kept (EXECUTABLES_MAX) */
	struct sidetrack_records records;
	char names[SIDETRACK_CHAIN_MAX]
		  [SIDETRACK_NAME_SIZE]; /* of the chain's services, in order */
};

/* The context that is given by a filter with an automatic context; fields as in the flow. */
struct sidetrack_auto_context {
	__u32 version; /* SIDETRACK_ABI_VERSION */
	__u32 size;    /* bytes of this struct */
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

/* A connect by the service itself, without records, is refused if a filter matches. */
#define SIDETRACK_RECORDS_REQUIRED 0
/* Such a connect is classified by all filters, except that redirects below the service's place are
 * skipped (policy.h). */
#define SIDETRACK_RECORDS_LEGACY 1
/* With RECORDS_REQUIRED: such a connect is classified by all filters, except that redirects are
 * skipped. */
#define SIDETRACK_OWN_TRAFFIC_PERMIT 0x1
/* A socket with records of this service may only go to the destination of their flow. */
#define SIDETRACK_RECORDS_BOUND 0x2

/*
 * A service and its listeners. The engine writes the members up to epoch, the programs those from
 * listeners4 on. TCP listeners of one family share one address and port; UDP sockets share a port.
 */
struct sidetrack_service {
	__u8 secret[16]; /* the secret of struct sidetrack_listen; zero if there is no service */
	__u8 key[16];	 /* the object's UUID; zero if there is none */
	char name[SIDETRACK_NAME_SIZE];
	__u32 records; /* SIDETRACK_RECORDS_REQUIRED or SIDETRACK_RECORDS_LEGACY */
	__u32 flags;   /* SIDETRACK_OWN_TRAFFIC_PERMIT, SIDETRACK_RECORDS_BOUND */
	__u32 epoch;   /* distinguishes the service from earlier ones of the same number */

	__u32 listeners4; /* open TCP listeners of AF_INET */
	__u32 listeners6; /* open TCP listeners of AF_INET6 */
	__be32 addr4;	  /* 0: the wildcard, so targets are spread over 127.0.0.0/8 */
	__be16 port4;
	__be16 port6;
	__u8 addr6[16]; /* zero: the wildcard, so the target is ::1 */

	__u32 datagrams4; /* open UDP sockets of AF_INET, bound to the wildcard address */
	__u32 datagrams6; /* open UDP sockets of AF_INET6, bound to the wildcard address */
	__be16 datagram_port4;
	__be16 datagram_port6;

	__u32 pended_listeners; /* those of the TCP listeners that are marked by LISTEN_PENDED */
};

/* A fixed redirect context. */
struct sidetrack_context {
	__u32 length; /* bytes in use */
	__u8 bytes[SIDETRACK_CONTEXT_SIZE_MAX];
};

/*
 * A bit in the key of an owner that the engine named from inside a PID namespace: the lower bits
 * are the process id in that namespace, not in the initial one.
 */
#define SIDETRACK_OWNER_NAMED (1U << 30)

/*
 * A process that belongs to a service, together with its descendants in the same cgroup. A
 * descendant that was moved to another cgroup is a separate program: so one process can be both
 * supervisor and proxy.
 */
struct sidetrack_owner {
	__u64 started;	 /* hundredths of a second since boot, as in /proc/PID/stat */
	__u64 cgroup_id; /* the cgroup in which it marked its listener, or was named */
	__u32 service;	 /* the service's number */
	__u32 listeners; /* open listeners that it marked; 0 if the engine named it */
};

/* A cgroup that contains processes of services. */
struct sidetrack_owner_cgroup {
	__u32 service; /* the service that all its processes belong to; 0 if there is none */
	__u32 owners;  /* processes in it that are owners themselves */
};

#define SIDETRACK_SOCKET_LISTENER 1 /* marked by LISTEN */
#define SIDETRACK_SOCKET_OUTGOING 2 /* has records */
#define SIDETRACK_SOCKET_SENDER 3   /* raw; completes and refuses a service's pended flows */

/* A proxy's socket. The programs write it; that of a sender of the daemon, the engine does. */
struct sidetrack_socket {
	__u64 parent_id;	/* the flow whose records were set on it; 0 if none were */
	__u64 datagram_flow_id; /* UDP listener: the flow that DATAGRAM selected; 0 if none */
	__u64 owner_started;	/* as in struct sidetrack_owner, of the process that marked it */
	__u64 netns_cookie;	/* listener, sender: its network namespace */
	__u32 owner_pid;	/* that process; 0 if the engine marked it for a legacy proxy */
	__u32 service;		/* listener, sender: number of its service */
	__u32 role;		/* SIDETRACK_SOCKET_* */
	__u32 epoch;		/* listener, sender: epoch of its service */
	__u32 pended;		/* listener: 1 if it was marked by LISTEN_PENDED */
	__u32 reserved;
};

/* A program, with the properties that conditions test. */
struct sidetrack_program {
	__u64 inode;				    /* of its executable */
	__u64 cgroup_id;			    /* 0: the root */
	__u64 cgroups[SIDETRACK_CGROUP_LEVELS_MAX]; /* ids from level 1 on; 0: not so deep */
	__u32 device;				    /* of its executable: major << 20 | minor */
	__u32 uid;				    /* real user */
	__u32 flags;				    /* SIDETRACK_PROGRAM_* */
	__u32 reserved;
};

/* The program's real, effective and saved user ids, or group ids, are not all the same. */
#define SIDETRACK_PROGRAM_ELEVATED 0x1

/*
 * A flow's state, in one word so that it changes atomically: the id of the flow that has the slot,
 * the stage of this flow (enum sidetrack_stage), and its reference count. The state of a free slot
 * is 0.
 */
#define SIDETRACK_FLOW_STATE_ID_SHIFT 20
#define SIDETRACK_FLOW_STATE_STAGE_SHIFT 16
#define SIDETRACK_FLOW_STATE_STAGE_MASK 0xf
#define SIDETRACK_FLOW_STATE_REFCOUNT_MASK 0xffff

/* How far a flow has come. */
enum sidetrack_stage {
	/* A program is writing the entry. */
	SIDETRACK_STAGE_FILLING = 1,
	/* The SYN is sent, and no socket was accepted yet. */
	SIDETRACK_STAGE_CONNECTING,
	/* A socket was accepted, and some socket refers to the flow. */
	SIDETRACK_STAGE_ESTABLISHED,
	/* No socket refers to it; its token is valid for the grace period. */
	SIDETRACK_STAGE_CLOSED,
	/* The connect was classified, and its SYN is not sent yet. */
	SIDETRACK_STAGE_RESERVED,
	/* A UDP flow; the reference count counts proxies' sockets only. */
	SIDETRACK_STAGE_DATAGRAM,
	/* The SYN is held until the service completes the flow, or the client gives up. */
	SIDETRACK_STAGE_PENDED,
	/* The service has completed it: the client's next SYN is accepted. */
	SIDETRACK_STAGE_COMPLETED,
};

/* A slot: a flow with what only the kernel programs and the engine need. */
struct sidetrack_flow_entry {
	__u64 state; /* SIDETRACK_FLOW_STATE_* */
	/*
	 * UDP: 1 once the service has asked for it. TCP: 1 once a RST was dropped, see guard.h.
	 */
	__u32 handed_over;
	__u32 prefetched; /* never read; see flow_prefetch in flow_state.h */
	/*
	 * Nanoseconds: when a reserved flow's connect was classified, when a closed flow's last
	 * socket closed, or when a UDP flow's last datagram was sent.
	 */
	__u64 idle_since;
	__u64 executable_id; /* key in sidetrack_executables; 0 if there is none */
	__u64 client_cookie; /* the client's socket; TCP: 0 once it has closed */
	/* Address of the kernel's structure of the accepted socket; UDP: of the client's socket. */
	__u64 socket_pointer;
	__u64 parent_id; /* the parent flow; 0 if a program opened this one */
	/*
	 * TCP: the local end that getsockname returns to the client. Until the end that the origin
	 * sees is known, the port is 0, and the address is what the client's socket was bound to.
	 */
	__u8 name_addr[16];
	__be16 name_port;
	__u16 reserved;
	__u32 sequence; /* TCP: sequence number of the client's SYN */
	struct sidetrack_flow flow;
	struct sidetrack_program program; /* the original program */
};

/* The IPv4 address of the first slot of a flow; the others follow. See address.h. */
#define SIDETRACK_SLOT_ADDRESS_FIRST 0x7f010000

/* The four-tuple of a diverted connection, as seen by the client. */
struct sidetrack_four_tuple {
	__u64 netns_cookie;
	__u8 client_addr[16];
	__u8 target_addr[16];
	__u16 client_port; /* host order */
	__be16 target_port;
	__u32 reserved;
};

/* What the programs count. A refused connect or send has failed with an error. */
enum sidetrack_counter {
	/* Connects, and first datagrams to a destination, that were diverted to a service. */
	SIDETRACK_COUNT_REDIRECTED,
	/* Accepted sockets that got their flow, and UDP flows that their service has asked for. */
	SIDETRACK_COUNT_HANDED_OVER,
	/* INFO, RECORDS, CONTEXT and SO_ORIGINAL_DST options that were answered. */
	SIDETRACK_COUNT_QUERIED,
	/* Records set on an outgoing socket. */
	SIDETRACK_COUNT_LINKED,
	/* The service is absent, and the connect was refused. */
	SIDETRACK_COUNT_ABSENT_BLOCKED,
	/* The service is absent, and the filter was skipped. */
	SIDETRACK_COUNT_ABSENT_PERMITTED,
	/* A 17th service matched: refused. */
	SIDETRACK_COUNT_CHAIN_TOO_LONG,
	/* A service connected without records: refused. */
	SIDETRACK_COUNT_RECORDS_MISSING,
	/* A service connected to its own listener: refused. */
	SIDETRACK_COUNT_SELF_CONNECT,
	/* The socket's records are of a flow that no longer exists: refused. */
	SIDETRACK_COUNT_RECORDS_STALE,
	/* RECORDS was set with a wrong or expired token. */
	SIDETRACK_COUNT_BAD_TOKEN,
	/* LISTEN was set with wrong credentials. */
	SIDETRACK_COUNT_BAD_SECRET,
	/* A connect or send found no room for another flow, or no free scratch buffer: refused. */
	SIDETRACK_COUNT_FLOWS_FULL,
	/*
	 * A connection reached a listener without a flow: a map was full, the kernel had no memory,
	 * or some process connected to the address of another client's flow.
	 */
	SIDETRACK_COUNT_FLOWS_LOST,
	/* A closed flow gave up its slot before its grace period was over. */
	SIDETRACK_COUNT_GRACE_CUT,
	/* Events lost because the ring buffer was full. */
	SIDETRACK_COUNT_EVENTS_DROPPED,
	/* A filter blocked: refused. */
	SIDETRACK_COUNT_BLOCKED,
	/* Those of the blocked ones where a veto overruled a hard permit. */
	SIDETRACK_COUNT_VETOED,
	/* Events of inspect filters. */
	SIDETRACK_COUNT_INSPECTED,
	/* A search took too many steps, or a hook other than connect and sendmsg found no free
	   scratch buffer: refused. */
	SIDETRACK_COUNT_SEARCH_CUT,
	/*
	 * Classified without the program, because its socket is older than the filters that need it
	 * or the kernel had no memory.
	 */
	SIDETRACK_COUNT_PROGRAM_UNKNOWN,
	/* DATAGRAM named a datagram that the kernel had not diverted to the service. */
	SIDETRACK_COUNT_DATAGRAMS_FORGED,
	/*
	 * A datagram could not be diverted because of its socket's device or its link-local
	 * destination: refused, or to be sent again (EINTR).
	 */
	SIDETRACK_COUNT_DATAGRAMS_UNROUTED,
	/* A signal ended a proxy's process while it had the connection's accepted socket open. */
	SIDETRACK_COUNT_LOST_WITH_PROXY,
	/* The socket has records of a service with RECORDS_BOUND, and goes elsewhere: refused. */
	SIDETRACK_COUNT_RECORDS_BOUND,
	/* Connects whose SYN was held. */
	SIDETRACK_COUNT_PENDED,
	/* Pended flows that their service has completed. */
	SIDETRACK_COUNT_COMPLETED,
	/* Pended flows whose client gave up, or was refused, before it was accepted. */
	SIDETRACK_COUNT_PENDED_ENDED,
	/* Notices lost because the service's ring buffer was full; the client's next SYN makes
	   another. */
	SIDETRACK_COUNT_NOTICES_LOST,
	/* SYNs to a pended listener that no flow's client has sent: dropped. */
	SIDETRACK_COUNT_SYNS_FORGED,
	/* Packets of a sender that are not about a pended flow of its service: dropped. */
	SIDETRACK_COUNT_SENDER_REFUSED,
	SIDETRACK_COUNT_MAX,
};

/* The meaning of each is that of the counter of the same name. */
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
	SIDETRACK_EVENT_RECORDS_BOUND,
	/* The last pended listener of a service has closed: the engine resets what it held. */
	SIDETRACK_EVENT_PENDED_LEFT,
};

/* A record in the ring buffer of events. */
struct sidetrack_event {
	__u64 time;	 /* CLOCK_MONOTONIC, nanoseconds */
	__u64 filter_id; /* the filter that matched; 0 if none */
	/*
	 * The flow of a diverted connection; of another one, the flow whose records the socket has.
	 * 0 if there is none, or none yet: a flow is made after its connect was classified.
	 */
	__u64 flow_id;
	__u32 kind;	      /* enum sidetrack_event_kind */
	__u32 service;	      /* number of the service it is about; 0 if none */
	__u32 pid;	      /* process of the program; 0 if unknown */
	__u32 uid;	      /* user of the program */
	__u8 remote_addr[16]; /* where the connection goes; inbound: where it comes from */
	__be16 remote_port;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 family;   /* AF_INET or AF_INET6 */
	__u8 layer;    /* SIDETRACK_LAYER_*, plus 1 for IPv6 */
	__u8 reserved[3];
	__u8 local_addr[16]; /* the other end, as far as it is known */
	__be16 local_port;
	__u16 generation; /* the lower 16 bits of the policy's generation */
	__u32 reserved2;
	char comm[SIDETRACK_COMM_SIZE];			 /* task name of the program */
	char executable[SIDETRACK_EXECUTABLE_NAME_SIZE]; /* name of the program's executable */
};

#endif /* SIDETRACK_H */
