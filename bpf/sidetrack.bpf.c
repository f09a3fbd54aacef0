// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Sidetrack's kernel side: every hook, thin. What each does is in the header of its name.
 *
 * Client side, attached where programs run:	connect4/6, getpeername4/6, sendmsg4/6, recvmsg4/6,
 * sockops (begin), sock_release (leave).
 * Service side, attached where proxies run:	getsockopt, setsockopt, sock_release, sockops
 * (accept).
 * Attached nowhere, run by the engine itself:	forget.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/in6.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

#include "kernel.h"
#include "sidetrack.h"
#include "address.h"
#include "maps.h"
#include "token.h"
#include "process.h"
#include "event.h"
#include "filter.h"
#include "program.h"
#include "field_values.h"
#include "four_tuple.h"
#include "flow_state.h"
#include "accepted.h"
#include "service.h"
#include "flow.h"
#include "divert.h"
#include "datagram.h"
#include "connect.h"
#include "message.h"
#include "endpoint.h"
#include "datagram_layers.h"
#include "option.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* ---- Client side ------------------------------------------------------------------------- */

SEC("cgroup/connect4")
int sidetrack_connect4(struct bpf_sock_addr *ctx)
{
	return connect4(ctx);
}

SEC("cgroup/connect6")
int sidetrack_connect6(struct bpf_sock_addr *ctx)
{
	return connect6(ctx);
}

SEC("cgroup/getpeername4")
int sidetrack_getpeername4(struct bpf_sock_addr *ctx)
{
	return getpeername4(ctx);
}

SEC("cgroup/getpeername6")
int sidetrack_getpeername6(struct bpf_sock_addr *ctx)
{
	return getpeername6(ctx);
}

SEC("cgroup/sendmsg4")
int sidetrack_sendmsg4(struct bpf_sock_addr *ctx)
{
	return sendmsg4(ctx);
}

SEC("cgroup/sendmsg6")
int sidetrack_sendmsg6(struct bpf_sock_addr *ctx)
{
	return sendmsg6(ctx);
}

SEC("cgroup/recvmsg4")
int sidetrack_recvmsg4(struct bpf_sock_addr *ctx)
{
	return recvmsg4(ctx);
}

SEC("cgroup/recvmsg6")
int sidetrack_recvmsg6(struct bpf_sock_addr *ctx)
{
	return recvmsg6(ctx);
}

SEC("cgroup/sock_release")
int sidetrack_client_release(struct bpf_sock *sk)
{
	client_release(sk);
	if (sk->protocol == IPPROTO_UDP)
		datagram_closure(sk);
	return 1;
}

/* One program for both sides: each further one would cost every call, and most are not for us. */
SEC("sockops")
int sidetrack_sockops(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		flow_begin(ops);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		endpoint_listen(ops);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		if (endpoints_made)
			endpoint_established(ops);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		flow_hand_over(ops);
		if (endpoints_made)
			endpoint_established(ops);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ops->args[1] == BPF_TCP_CLOSE) {
			flow_end(ops);
			if (endpoints_made)
				endpoint_close(ops);
		}
		break;
	}
	return 1;
}

/* Attached only while the policy has filters at their layers. */
SEC("cgroup/bind4")
int sidetrack_bind4(struct bpf_sock_addr *ctx)
{
	endpoint_bind(ctx, AF_INET);
	return bind4(ctx);
}

SEC("cgroup/bind6")
int sidetrack_bind6(struct bpf_sock_addr *ctx)
{
	endpoint_bind(ctx, AF_INET6);
	return bind6(ctx);
}

SEC("cgroup_skb/ingress")
int sidetrack_ingress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && sk->state == BPF_TCP_LISTEN)
		return accept_judge(skb, sk);
	return sk && sk->state == BPF_TCP_CLOSE ? receive_judge(skb, sk) : INGRESS_PERMIT;
}

/* ---- By hand ------------------------------------------------------------------------------ */

SEC("syscall")
int sidetrack_classify(struct sidetrack_classify_request *request)
{
	return classify_by_request(request);
}

SEC("syscall")
int sidetrack_sweep(void *ctx)
{
	return sweep();
}

/* ---- Service side ------------------------------------------------------------------------ */

SEC("cgroup/getsockopt")
int sidetrack_getsockopt(struct bpf_sockopt *ctx)
{
	return get_option(ctx);
}

SEC("cgroup/setsockopt")
int sidetrack_setsockopt(struct bpf_sockopt *ctx)
{
	return set_option(ctx);
}

SEC("cgroup/sock_release")
int sidetrack_service_release(struct bpf_sock *sk)
{
	service_release(sk);
	return 1;
}

/* ---- Run by the engine --------------------------------------------------------------------- */

SEC("syscall")
int sidetrack_collect_owners(void *none)
{
	return owners_collect();
}
