/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* To divert a connection, to refuse it, or to let it go straight on. */
#ifndef SIDETRACK_DIVERT_H
#define SIDETRACK_DIVERT_H

#define PROCEED 1
#define REFUSE 0
#define DIVERT 2    /* ours alone: the hook writes the target and proceeds */
#define NO_ROOM 3   /* ours alone: no flow could be made; the caller refuses */
#define UNDECIDED 4 /* ours alone: it must be judged */

/* Where a connection is diverted to. */
struct target {
	union address address;
	__be16 port;
};

#define SO_BINDTOIFINDEX 62
#define LOOPBACK_IFINDEX 1

static __always_inline int refuse(int error, __u32 counter, __u32 event, const struct connection *c,
				  __u64 filter_id, __u32 service)
{
	count(counter);
	event_emit(event, c, filter_id, service);
	bpf_set_retval(-error);
	return REFUSE;
}

static __always_inline int refuse_full(const struct connection *c, const struct sidetrack_filter *f)
{
	return refuse(ENOBUFS, SIDETRACK_COUNT_FLOWS_FULL, SIDETRACK_EVENT_FLOWS_FULL, c, f->id,
		      f->service);
}

/* A socket may come back after AF_UNSPEC: what an earlier connect left must not speak for it. */
static __always_inline int go_straight(struct bpf_sock_addr *ctx)
{
	struct sidetrack_client *client = bpf_sk_storage_get(&sidetrack_clients, ctx->sk, NULL, 0);

	if (client) {
		int ifindex = client->bound_ifindex;

		if (ifindex)
			bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &ifindex,
				       sizeof(ifindex));
		bpf_sk_storage_delete(&sidetrack_clients, ctx->sk);
	}
	return PROCEED;
}

/*
 * A socket bound to a device would never reach the loopback device: lift that. The flow tells the
 * proxy, and a later connect that is not redirected gets it back.
 */
static __always_inline int lift_device(struct bpf_sock_addr *ctx, struct sidetrack_client *client)
{
	int none = 0, bound = ctx->sk->bound_dev_if;

	if (!bound || bound == LOOPBACK_IFINDEX)
		return 0;
	client->bound_ifindex = bound;
	return bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &none, sizeof(none));
}

static __always_inline void remember(struct sidetrack_client *client, const struct connection *c,
				     const struct sidetrack_filter *f, const struct chain *chain,
				     __u64 parent_id)
{
	client->parent_id = parent_id;
	client->filter_id = f->id;
	__builtin_memcpy(client->remote_addr, c->remote.bytes, sizeof(client->remote_addr));
	client->remote_port = c->port;
	client->family = c->family;
	client->protocol = c->protocol;
	client->context_id = f->context_id;
	client->flags = !parent_id && chain->length > 1 ? SIDETRACK_FLOW_CHAIN_ASSUMED : 0;
	client->chain_length = chain->length;
	__builtin_memcpy(client->chain, chain->services, sizeof(client->chain));
}

/* Where the service listens, in the connection's own family. */
static __always_inline void target_of(const struct sidetrack_service *service,
				      const struct connection *c, struct target *target)
{
	if (c->family == AF_INET) {
		address_from_v4(&target->address, service->addr4 ?
							  service->addr4 :
							  address_spread(&c->remote, c->port));
		target->port = service->port4;
		return;
	}
	__builtin_memcpy(target->address.bytes, service->addr6, sizeof(target->address));
	if (address_is_zero(&target->address))
		target->address.words[3] = bpf_htonl(1);
	target->port = service->port6;
}

/*
 * May the target's address tell the flow's slot? Then the socket needs no storage, and the
 * four-tuple no map. Not if the listener has but one address; not if a device must be given back
 * some day; nor for TCP Fast Open, which knows a peer again by its address. And where many connects
 * never came to a SYN, the slots are kept for others.
 */
static __always_inline int address_identifies_slot(struct bpf_sock_addr *ctx,
						   const struct connection *c,
						   const struct sidetrack_service *service)
{
	struct tcp_sock *tcp;

	if (c->family != AF_INET || service->addr4 || flows_max > SLOT_ADDRESSES ||
	    flows_reserved * RESERVED_SHARE >= flows_max || ctx->sk->bound_dev_if ||
	    bpf_sk_storage_get(&sidetrack_clients, ctx->sk, NULL, 0))
		return 0;
	tcp = bpf_skc_to_tcp_sock(ctx->sk);
	return tcp && !tcp->fastopen_req && !BPF_CORE_READ_BITFIELD(tcp, fastopen_connect);
}

/* The same where no socket needs to remember. */
static __always_inline const struct sidetrack_client *
remember_in_scratch(struct sidetrack_scratch *scratch, const struct connection *c,
		    const struct sidetrack_filter *f, __u64 parent_id)
{
	scratch->client.bound_ifindex = 0;
	remember(&scratch->client, c, f, &scratch->chain, parent_id);
	return &scratch->client;
}

/* The flow is made here, and found again by the address. */
static __always_inline int divert_to_slot(struct bpf_sock_addr *ctx,
					  const struct sidetrack_client *client,
					  struct target *target)
{
	__be32 address = flow_call(ctx, client);

	if (!address)
		return NO_ROOM;
	target->address.words[3] = address;
	return DIVERT;
}

/* The flow is made when the SYN leaves; until then, and for getpeername, the socket remembers. */
static __always_inline int divert_by_storage(struct bpf_sock_addr *ctx, const struct connection *c,
					     const struct sidetrack_filter *f,
					     const struct chain *chain, __u64 parent_id)
{
	struct sidetrack_client *client =
		bpf_sk_storage_get(&sidetrack_clients, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!client)
		return NO_ROOM;
	remember(client, c, f, chain, parent_id);
	if (!lift_device(ctx, client))
		return DIVERT;
	bpf_sk_storage_delete(&sidetrack_clients, ctx->sk);
	bpf_set_retval(-ENETUNREACH);
	return REFUSE;
}

static __always_inline int divert_connection(struct bpf_sock_addr *ctx, const struct connection *c,
					     const struct sidetrack_filter *f,
					     const struct sidetrack_service *service,
					     struct sidetrack_scratch *scratch, __u64 parent_id,
					     struct target *target)
{
	if (!flows_have_room())
		return NO_ROOM;
	target_of(service, c, target);
	if (address_identifies_slot(ctx, c, service))
		return divert_to_slot(ctx, remember_in_scratch(scratch, c, f, parent_id), target);
	return divert_by_storage(ctx, c, f, &scratch->chain, parent_id);
}

#endif /* SIDETRACK_DIVERT_H */
