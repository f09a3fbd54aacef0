/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The verdict cache: verdicts on the datagrams between a socket and a peer. The kinds of verdicts,
 * and what each depends on, are in maps.h.
 */
#ifndef SIDETRACK_VERDICT_CACHE_H
#define SIDETRACK_VERDICT_CACHE_H

/* The key of every kind but CACHED_PERMIT. */
static __always_inline void verdict_key_fill(struct sidetrack_verdict_key *key, __u64 client_cookie,
					     __u16 kind, const struct connection *c)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->client_cookie = client_cookie;
	key->kind = kind;
	__builtin_memcpy(key->remote_addr, c->remote.bytes, sizeof(key->remote_addr));
	key->remote_port = c->port;
	key->generation = kind == CACHED_RECV_ACCEPT ? c->generation : 0;
}

static __noinline int verdict_cache_has(__u64 client_cookie, __u16 kind, const struct connection *c)
{
	struct sidetrack_verdict_key key;

	verdict_key_fill(&key, client_cookie, kind, c);
	return bpf_map_lookup_elem(&sidetrack_verdict_cache, &key) != NULL;
}

/* Returns 0 if the key was not in the cache before. */
static __noinline int verdict_cache_add(__u64 client_cookie, __u16 kind, const struct connection *c)
{
	struct sidetrack_verdict_key key;
	__u8 one = 1;

	verdict_key_fill(&key, client_cookie, kind, c);
	return bpf_map_update_elem(&sidetrack_verdict_cache, &key, &one, BPF_NOEXIST);
}

/* The key of CACHED_PERMIT. */
static __always_inline void sender_key_fill(struct sidetrack_verdict_key *key,
					    struct bpf_sock_addr *ctx, const struct connection *c,
					    __u64 parent_id)
{
	struct task_struct *task = bpf_get_current_task_btf();

	__builtin_memset(key, 0, sizeof(*key));
	key->client_cookie = bpf_get_socket_cookie(ctx);
	key->parent_id = parent_id;
	key->cgroup_id = bpf_get_current_cgroup_id();
	key->pid = engine_pid(task);
	key->uid = task->cred->uid.val;
	__builtin_memcpy(key->remote_addr, c->remote.bytes, sizeof(key->remote_addr));
	key->remote_port = c->port;
	key->generation = c->generation;
}

/* Did this policy let the sender proceed to this destination before? */
static __noinline int sender_is_cached(struct bpf_sock_addr *ctx, const struct connection *c,
				       __u64 parent_id)
{
	struct sidetrack_verdict_key key;

	sender_key_fill(&key, ctx, c, parent_id);
	return bpf_map_lookup_elem(&sidetrack_verdict_cache, &key) != NULL;
}

/* Writes down that this policy lets the sender proceed to this destination. */
static __noinline int sender_cache_add(struct bpf_sock_addr *ctx, const struct connection *c,
				       __u64 parent_id)
{
	struct sidetrack_verdict_key key;
	__u8 one = 1;

	sender_key_fill(&key, ctx, c, parent_id);
	return bpf_map_update_elem(&sidetrack_verdict_cache, &key, &one, BPF_ANY);
}

#endif /* SIDETRACK_VERDICT_CACHE_H */
