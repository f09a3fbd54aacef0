/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Finds the flow of a connecting socket by its four-tuple, if its address identifies no slot. */
#ifndef SIDETRACK_FOUR_TUPLE_H
#define SIDETRACK_FOUR_TUPLE_H

/* Reads the four-tuple from the client's side. At the accepted socket, the ends are swapped. */
static __always_inline void four_tuple_read(struct sidetrack_four_tuple *tuple,
					    struct bpf_sock_ops *ops, int accepted)
{
	union address *client = (union address *)tuple->client_addr;
	union address *target = (union address *)tuple->target_addr;
	union address *local = accepted ? target : client;
	union address *remote = accepted ? client : target;
	__u16 remote_port = bpf_ntohl(ops->remote_port);

	__builtin_memset(tuple, 0, sizeof(*tuple));
	tuple->netns_cookie = bpf_get_netns_cookie(ops);
	if (ops->family == AF_INET) {
		address_from_v4(local, ops->local_ip4);
		address_from_v4(remote, ops->remote_ip4);
	} else {
		for (int i = 0; i < 4; i++) {
			local->words[i] = ops->local_ip6[i];
			remote->words[i] = ops->remote_ip6[i];
		}
	}
	tuple->client_port = accepted ? remote_port : ops->local_port;
	tuple->target_port = bpf_htons(accepted ? ops->local_port : remote_port);
}

/* At the client: enters the flow of its connection. Fails if the map is full. */
static __always_inline int four_tuple_add(struct bpf_sock_ops *ops, __u64 id)
{
	struct sidetrack_four_tuple tuple;

	four_tuple_read(&tuple, ops, 0);
	if (!bpf_map_update_elem(&sidetrack_four_tuples, &tuple, &id, BPF_NOEXIST)) {
		__sync_fetch_and_add(&flows_by_four_tuple, 1);
		return 0;
	}
	return bpf_map_update_elem(&sidetrack_four_tuples, &tuple, &id, BPF_EXIST);
}

/*
 * At the accepted socket: removes the entry of its connection and returns the flow's id; 0 if there
 * is none.
 */
static __always_inline __u64 four_tuple_take(struct bpf_sock_ops *ops)
{
	struct sidetrack_four_tuple tuple;
	__u64 *entry, id;

	four_tuple_read(&tuple, ops, 1);
	entry = bpf_map_lookup_elem(&sidetrack_four_tuples, &tuple);
	if (!entry) {
		if (address_is_spread((union address *)tuple.target_addr))
			count(SIDETRACK_COUNT_FLOWS_LOST);
		return 0;
	}
	id = *entry;
	if (!bpf_map_delete_elem(&sidetrack_four_tuples, &tuple))
		__sync_fetch_and_sub(&flows_by_four_tuple, 1);
	return id;
}

/* At the client, if it closes before its connection was accepted. */
static __always_inline void four_tuple_delete(struct bpf_sock_ops *ops, __u64 id)
{
	struct sidetrack_four_tuple tuple;
	__u64 *entry;

	four_tuple_read(&tuple, ops, 0);
	entry = bpf_map_lookup_elem(&sidetrack_four_tuples, &tuple);
	if (entry && *entry == id && !bpf_map_delete_elem(&sidetrack_four_tuples, &tuple))
		__sync_fetch_and_sub(&flows_by_four_tuple, 1);
}

#endif /* SIDETRACK_FOUR_TUPLE_H */
