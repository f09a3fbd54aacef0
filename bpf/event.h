/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What operators are told. Only exceptions: a redirect that goes well costs no event. */
#ifndef SIDETRACK_EVENT_H
#define SIDETRACK_EVENT_H

/* A connect under judgement, whatever its family. */
struct connection {
	union address remote;
	__be16 port;
	__u8 family; /* of the address */
};

static __always_inline void event_emit(__u32 kind, const struct connection *c, __u64 filter_id,
				       __u32 service)
{
	struct sidetrack_event *e = bpf_ringbuf_reserve(&sidetrack_events, sizeof(*e), 0);

	if (!e) {
		count(SIDETRACK_COUNT_EVENTS_DROPPED);
		return;
	}
	e->time = bpf_ktime_get_ns();
	e->filter_id = filter_id;
	e->kind = kind;
	e->service = service;
	e->pid = bpf_get_current_pid_tgid() >> 32;
	e->uid = (__u32)bpf_get_current_uid_gid();
	__builtin_memcpy(e->remote_addr, c->remote.bytes, sizeof(e->remote_addr));
	e->remote_port = c->port;
	e->protocol = IPPROTO_TCP;
	e->family = c->family;
	e->reserved = 0;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	bpf_ringbuf_submit(e, 0);
}

#endif /* SIDETRACK_EVENT_H */
