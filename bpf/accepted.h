/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Accepted sockets: how one is recognised as accepted from a marked listener, and which flow it
 * carries.
 *
 * An accepted socket begins as a copy of its listener. LISTEN therefore sets one of the listener's
 * sockops callback flags. Only an eBPF program can set it, so an accepted socket that has the flag
 * comes from a marked listener, and needs no storage to prove it. If its local address identifies
 * the slot of its flow, it needs no memory at all. Before Linux 6.12, the flag cannot be set in a
 * socket option's program: there each accepted socket inherits a copy of its listener's storage.
 */
#ifndef SIDETRACK_ACCEPTED_H
#define SIDETRACK_ACCEPTED_H

#define SOL_TCP 6
#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008
/* Requests a callback at each retransmission time-out. Our sockops program ignores it. */
#define ACCEPTED_MARK BPF_SOCK_OPS_RTO_CB_FLAG

/*
 * A bit in the pointer to an accepted socket: it has closed before accept returned it, and refers
 * to the flow no more. The kernel's structures are aligned, so their addresses have it not.
 */
#define ACCEPTED_CLOSED 1ULL

/* LISTEN: makes the accepted sockets of this listener recognisable. Fails if there is no memory. */
static __always_inline int listener_mark_accepted(struct bpf_sock *listener)
{
	int flags = 0;

	if (!bpf_getsockopt(listener, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags))) {
		flags |= ACCEPTED_MARK;
		if (!bpf_setsockopt(listener, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags,
				    sizeof(flags)))
			return 0;
	}
	return bpf_sk_storage_get(&sidetrack_accepted_sockets, listener, NULL,
				  BPF_SK_STORAGE_GET_F_CREATE) ?
		       0 :
		       -1;
}

/* Does this accepted socket come from a marked listener? */
static __always_inline int accepted_is_marked(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	return ops->bpf_sock_ops_cb_flags & ACCEPTED_MARK ||
	       bpf_sk_storage_get(&sidetrack_accepted_sockets, sk, NULL, 0);
}

/* Gives the accepted socket its flow. Fails if that needs storage and there is no memory. */
static __always_inline int accepted_attach_flow(struct bpf_sock *sk, __be32 local_address,
						struct sidetrack_flow_entry *entry, __u64 id)
{
	struct sidetrack_accepted *accepted;

	if (flow_at_address(local_address) == entry) {
		entry->socket_pointer = (__u64)sk;
		return 0;
	}
	accepted = bpf_sk_storage_get(&sidetrack_accepted_sockets, sk, NULL,
				      BPF_SK_STORAGE_GET_F_CREATE);
	if (!accepted)
		return -1;
	accepted->closed = 0;
	accepted->flow_id = id;
	return 0;
}

/* The flow that a socket with this local address carries; NULL if it carries none. */
static __always_inline struct sidetrack_flow_entry *accepted_flow(struct bpf_sock *sk,
								  __be32 local_address)
{
	struct sidetrack_flow_entry *entry = flow_at_address(local_address);
	struct sidetrack_accepted *accepted;

	if (entry && (entry->socket_pointer & ~ACCEPTED_CLOSED) == (__u64)sk)
		return entry;
	accepted = bpf_sk_storage_get(&sidetrack_accepted_sockets, sk, NULL, 0);
	return accepted && accepted->flow_id ? flow_find(accepted->flow_id) : NULL;
}

/* Another socket has got the memory of one that is gone: it does not carry that one's flow. */
static __always_inline void accepted_forget(struct sidetrack_flow_entry *entry, struct bpf_sock *sk)
{
	if ((entry->socket_pointer & ~ACCEPTED_CLOSED) == (__u64)sk)
		entry->socket_pointer = 0;
}

/*
 * The socket closes before accept has returned it: it refers to its flow no more. Returns the
 * flow's id; 0 if it has none, or had closed before.
 */
static __always_inline __u64 accepted_close(struct bpf_sock *sk, __be32 local_address)
{
	struct sidetrack_flow_entry *entry = flow_at_address(local_address);
	struct sidetrack_accepted *accepted;

	if (entry && entry->socket_pointer == (__u64)sk)
		return __sync_val_compare_and_swap(&entry->socket_pointer, (__u64)sk,
						   (__u64)sk | ACCEPTED_CLOSED) == (__u64)sk ?
			       FLOW_STATE_ID(entry->state) :
			       0;
	accepted = bpf_sk_storage_get(&sidetrack_accepted_sockets, sk, NULL, 0);
	if (!accepted || !accepted->flow_id)
		return 0;
	return __sync_lock_test_and_set(&accepted->closed, 1) ? 0 : accepted->flow_id;
}

/*
 * At the end of the socket: takes its flow from it. Returns the flow's id if the socket still
 * refers to it; otherwise 0.
 */
static __always_inline __u64 accepted_detach_flow(struct bpf_sock *sk, __be32 local_address)
{
	struct sidetrack_flow_entry *entry = flow_at_address(local_address);
	struct sidetrack_accepted *accepted;
	__u64 id;

	if (entry && (entry->socket_pointer & ~ACCEPTED_CLOSED) == (__u64)sk)
		return __sync_lock_test_and_set(&entry->socket_pointer, 0) == (__u64)sk ?
			       FLOW_STATE_ID(entry->state) :
			       0;
	accepted = bpf_sk_storage_get(&sidetrack_accepted_sockets, sk, NULL, 0);
	if (!accepted)
		return 0;
	id = __sync_lock_test_and_set(&accepted->flow_id, 0);
	return accepted->closed ? 0 : id;
}

#endif /* SIDETRACK_ACCEPTED_H */
