/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Divert a connection, refuse it, or let it proceed. */
#ifndef SIDETRACK_DIVERT_H
#define SIDETRACK_DIVERT_H

/* Decisions. The first two are return values of the kernel's hooks, the others are internal. */
#define REFUSE 0
#define PROCEED 1
#define DIVERT 2    /* the hook writes the target, and proceeds */
#define NO_ROOM 3   /* no flow could be made, and the caller refuses */
#define UNDECIDED 4 /* the policy must decide */

/* Where a connection is diverted to. */
struct target {
	union address address;
	__be16 port;
};

#define SO_BINDTOIFINDEX 62
#define LOOPBACK_IFINDEX 1

/* Refuses with an error, and counts and reports it. */
static __always_inline int refuse(int error, __u32 counter, __u32 event, const struct connection *c,
				  __u64 filter_id, __u32 service)
{
	count(counter);
	event_emit(event, c, filter_id, service, NULL);
	bpf_set_retval(-error);
	return REFUSE;
}

/* There is no room for the flow of this filter's redirection. */
static __always_inline int refuse_full(const struct connection *c, const struct sidetrack_filter *f)
{
	return refuse(ENOBUFS, SIDETRACK_COUNT_FLOWS_FULL, SIDETRACK_EVENT_FLOWS_FULL, c, f->id,
		      f->service);
}

/* The verdict of a layer refuses the connection. */
static __always_inline int refuse_by_verdict(struct classify_context *classify,
					     const struct connection *c)
{
	bpf_set_retval(-refusal_report(classify, c));
	return REFUSE;
}

/*
 * Lets the connection proceed undiverted. A socket can connect again (after AF_UNSPEC): then what
 * an earlier connect decided no longer applies, and the socket gets back its binding to a device.
 */
static __always_inline int proceed_undiverted(struct bpf_sock_addr *ctx)
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
 * Lifts the socket's binding to a device, with which it would never reach the loopback device. The
 * proxy finds the device in the flow, and a later connect that is not diverted restores the
 * binding.
 */
static __always_inline int lift_device(struct bpf_sock_addr *ctx, struct sidetrack_client *client)
{
	int none = 0, bound = ctx->sk->bound_dev_if;

	if (!bound || bound == LOOPBACK_IFINDEX)
		return 0;
	client->bound_ifindex = bound;
	return bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &none, sizeof(none));
}

/* Fills in the record of the decision. The flow is made from it. */
static __always_inline void client_fill(struct sidetrack_client *client, const struct connection *c,
					const struct sidetrack_filter *f, const struct chain *chain,
					__u64 parent_id)
{
	client->parent_id = parent_id;
	client->filter_id = f->id;
	__builtin_memcpy(client->remote_addr, c->remote.bytes, sizeof(client->remote_addr));
	__builtin_memcpy(client->bound_addr, c->local.bytes, sizeof(client->bound_addr));
	client->remote_port = c->port;
	client->family = c->family;
	client->protocol = c->protocol;
	client->context_id = f->context_id;
	client->flags = !parent_id && chain->length > 1 ? SIDETRACK_FLOW_CHAIN_ASSUMED : 0;
	client->chain_length = chain->length;
	__builtin_memcpy(client->chain, chain->services, sizeof(client->chain));
}

/* The service's listener for the connection's family. */
static __always_inline void target_fill(const struct sidetrack_service *service,
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
 * Can the target address alone identify the flow's slot? Then the socket needs no storage, and the
 * flow needs no entry in sidetrack_four_tuples. It cannot if the service listens at one address
 * only; if the socket has storage already; if it is bound to a device, because a later connect may
 * have to restore the binding; or for TCP Fast Open, which recognises peers by their address. Nor
 * is it done while too many slots are reserved by connects whose SYN was never sent.
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

/* Like client_fill, but in the scratch buffer: for a socket that needs no storage. */
static __always_inline const struct sidetrack_client *
client_fill_in_scratch(struct sidetrack_scratch *scratch, const struct connection *c,
		       const struct sidetrack_filter *f, __u64 parent_id)
{
	scratch->client.bound_ifindex = 0;
	client_fill(&scratch->client, c, f, &scratch->chain, parent_id);
	return &scratch->client;
}

/* Makes the flow now; the address of its slot identifies it. */
static __always_inline int divert_to_slot(struct bpf_sock_addr *ctx,
					  const struct sidetrack_client *client,
					  struct target *target)
{
	__be32 address = flow_reserve(ctx, client);

	if (!address)
		return NO_ROOM;
	target->address.words[3] = address;
	return DIVERT;
}

/*
 * Stores the decision with the socket. The flow is made from it when the SYN is sent, and
 * getpeername reads it.
 */
static __always_inline int divert_by_storage(struct bpf_sock_addr *ctx, const struct connection *c,
					     const struct sidetrack_filter *f,
					     const struct chain *chain, __u64 parent_id)
{
	struct sidetrack_client *client =
		bpf_sk_storage_get(&sidetrack_clients, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!client)
		return NO_ROOM;
	client_fill(client, c, f, chain, parent_id);
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
	target_fill(service, c, target);
	if (address_identifies_slot(ctx, c, service))
		return divert_to_slot(ctx, client_fill_in_scratch(scratch, c, f, parent_id),
				      target);
	return divert_by_storage(ctx, c, f, &scratch->chain, parent_id);
}

#endif /* SIDETRACK_DIVERT_H */
