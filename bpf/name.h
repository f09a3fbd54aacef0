/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The local end that getsockname returns to a client: the address and port that the origin sees.
 * They are those of the last outgoing socket of the chain, and become known when it is established.
 */
#ifndef SIDETRACK_NAME_H
#define SIDETRACK_NAME_H

/* An end that is on its way up the chain, from each flow to its parent flow. */
struct name_walk {
	union address address;
	__u64 flow_id;
	__be16 port;
};

static long name_step(__u32 i, struct name_walk *walk)
{
	struct sidetrack_flow_entry *entry = walk->flow_id ? flow_find(walk->flow_id) : NULL;

	/* The first end counts: a proxy may open several sockets for a flow. */
	if (!entry || entry->name_port || entry->flow.protocol != IPPROTO_TCP)
		return 1;
	/* The client's socket cannot have an address of another family. */
	if ((entry->flow.family == AF_INET) != address_is_mapped(&walk->address))
		return 1;
	__builtin_memcpy(entry->name_addr, walk->address.bytes, sizeof(entry->name_addr));
	barrier();
	entry->name_port = walk->port;
	walk->flow_id = entry->parent_id;
	return 0;
}

/* Gives this flow, and those before it in the chain, the end that the origin sees. */
static __noinline int name_set(struct name_walk *walk)
{
	if (walk && walk->port)
		bpf_loop(SIDETRACK_CHAIN_MAX, name_step, walk, 0);
	return 0;
}

/* The flow whose client this socket is, by the address that it is connected to; NULL if none. */
static __always_inline struct sidetrack_flow_entry *client_flow(struct bpf_sock *sk, __be32 remote,
								__u64 socket_cookie)
{
	struct sidetrack_flow_entry *entry = flow_at_address(remote);
	struct sidetrack_client *client;

	if (entry && entry->client_cookie == socket_cookie)
		return entry;
	client = bpf_sk_storage_get(&sidetrack_clients, sk, NULL, 0);
	return client ? flow_find(client->flow_id) : NULL;
}

/*
 * sockops, ACTIVE_ESTABLISHED: a socket with records is connected. If it was diverted to the next
 * service, and that one has accepted it first, the end becomes known later.
 */
static __noinline int name_learn(struct bpf_sock_ops *ops)
{
	struct name_walk walk = {};
	struct bpf_sock *sk = ops->sk;
	struct sidetrack_flow_entry *next;

	if (!sk)
		return 0;
	walk.flow_id = parent_id_of(sk);
	if (!walk.flow_id)
		return 0;
	next = client_flow(sk, ops->remote_ip4, bpf_get_socket_cookie(ops));
	if (next) {
		__builtin_memcpy(walk.address.bytes, next->name_addr, sizeof(walk.address));
		walk.port = next->name_port;
		return name_set(&walk);
	}
	if (ops->family == AF_INET)
		address_from_v4(&walk.address, ops->local_ip4);
	else
		for (int i = 0; i < 4; i++)
			walk.address.words[i] = ops->local_ip6[i];
	walk.port = bpf_htons(ops->local_port);
	return name_set(&walk);
}

/* ---- getsockname ---------------------------------------------------------------------------- */

/*
 * The flow of a client's socket, also after the connection is over: then the slot has no client,
 * but still the flow with this socket's port.
 */
static __always_inline struct sidetrack_flow_entry *name_flow(struct bpf_sock_addr *ctx)
{
	struct sidetrack_flow_entry *entry = flow_at_address(ctx->sk->dst_ip4);

	if (entry && !entry->client_cookie && entry->flow.local_port == ctx->user_port)
		return entry;
	return client_flow(ctx->sk, ctx->sk->dst_ip4, bpf_get_socket_cookie(ctx));
}

/*
 * The local end of a diverted client. As long as the origin's view is not known, it is the address
 * that the socket was bound to, or 0.0.0.0, with the socket's own port.
 */
static __always_inline int name_original(struct bpf_sock_addr *ctx, const union address *local,
					 struct target *original)
{
	struct sidetrack_flow_entry *entry;
	struct sidetrack_client *client;
	union address peer;

	/* A socket that was disconnected (AF_UNSPEC) has no peer, and its own address again. */
	if (ctx->protocol != IPPROTO_TCP || !ctx->sk->dst_port)
		return -1;
	original->port = ctx->user_port;
	entry = name_flow(ctx);
	if (entry) {
		__builtin_memcpy(&original->address, entry->name_addr, sizeof(original->address));
		if (entry->name_port)
			original->port = entry->name_port;
		return 0;
	}
	client = bpf_sk_storage_get(&sidetrack_clients, ctx->sk, NULL, 0);
	if (client) {
		__builtin_memcpy(&original->address, client->bound_addr,
				 sizeof(client->bound_addr));
		return 0;
	}
	/* The connection is over, and another flow has its slot. */
	address_from_v4(&peer, ctx->sk->dst_ip4);
	if (!address_is_spread(&peer) || !address_is_mapped(local) || local->bytes[12] != 127)
		return -1;
	address_from_v4(&original->address, 0);
	return 0;
}

static __always_inline int getsockname4(struct bpf_sock_addr *ctx)
{
	return restore_original4(ctx, name_original);
}

static __always_inline int getsockname6(struct bpf_sock_addr *ctx)
{
	return restore_original6(ctx, name_original);
}

#endif /* SIDETRACK_NAME_H */
