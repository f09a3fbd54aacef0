// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Sidetrack's kernel side: every program, each only a call of what a header implements. Programs
 * are named after their hooks, with the prefix sidetrack_.
 *
 * Client side. Attached to the scope, and to each cgroup of proxies outside of it:
 *
 *	connect4, connect6		cgroup/connect4, connect6		connect.h
 *	getpeername4, getpeername6	cgroup/getpeername4, getpeername6	connect.h
 *	sendmsg4, sendmsg6		cgroup/sendmsg4, sendmsg6		message.h
 *	recvmsg4, recvmsg6		cgroup/recvmsg4, recvmsg6		message.h
 *	client_release			cgroup/sock_release			message.h,
 *										datagram_layers.h
 *	getsockname4, getsockname6	cgroup/getsockname4, getsockname6	name.h
 *	sockops				sockops					flow.h, endpoint.h,
 *										name.h
 *
 * For layers. Attached to the scope, while the policy has filters at a layer that needs them:
 *
 *	bind4, bind6			cgroup/bind4, bind6			endpoint.h,
 *										datagram_layers.h
 *	ingress				cgroup_skb/ingress			endpoint.h,
 *										datagram_layers.h
 *
 * For pended connects. Attached to the cgroups of proxies that pend, to those of their clients, and
 * to those of senders:
 *
 *	hold				cgroup_skb/ingress			pended.h
 *	guard				cgroup_skb/ingress			guard.h
 *	sender				cgroup_skb/egress			pended.h
 *
 * Service side. Attached to the cgroups of proxies:
 *
 *	getsockopt, setsockopt		cgroup/getsockopt, setsockopt		option.h
 *	service_release			cgroup/sock_release			option.h
 *
 * Not attached. The engine runs them (BPF_PROG_TEST_RUN):
 *
 *	classify			syscall					endpoint.h
 *	sweep				syscall					message.h
 *	collect_owners			syscall					service.h
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
#include "chain.h"
#include "filter.h"
#include "program.h"
#include "field_values.h"
#include "packet.h"
#include "four_tuple.h"
#include "flow_state.h"
#include "accepted.h"
#include "service.h"
#include "pended.h"
#include "flow.h"
#include "divert.h"
#include "verdict_cache.h"
#include "datagram.h"
#include "endpoint.h"
#include "datagram_layers.h"
#include "connect.h"
#include "name.h"
#include "guard.h"
#include "message.h"
#include "pended_option.h"
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

SEC("cgroup/getsockname4")
int sidetrack_getsockname4(struct bpf_sock_addr *ctx)
{
	return getsockname4(ctx);
}

SEC("cgroup/getsockname6")
int sidetrack_getsockname6(struct bpf_sock_addr *ctx)
{
	return getsockname6(ctx);
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

/*
 * One program for both clients and listeners: each further one would add its cost to every
 * callback, and most callbacks are not about our sockets.
 */
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
		name_learn(ops);
		if (endpoints_exist)
			endpoint_established(ops);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		flow_hand_over(ops);
		if (endpoints_exist)
			endpoint_established(ops);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ops->args[1] == BPF_TCP_CLOSE) {
			/* First, as events show the flow that flow_end takes from the socket. */
			if (endpoints_exist)
				endpoint_close(ops);
			flow_end(ops);
		}
		break;
	}
	return 1;
}

/* ---- For layers: attached while the policy has filters at a layer that needs them ---------- */

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
		return accept_classify(skb, sk);
	return sk && sk->state == BPF_TCP_CLOSE ? receive_classify(skb, sk) : PACKET_PERMIT;
}

/* ---- For pended connects -------------------------------------------------------------------- */

SEC("cgroup_skb/ingress")
int sidetrack_hold(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk && sk->state == BPF_TCP_LISTEN ? hold(skb, sk) : PACKET_PERMIT;
}

SEC("cgroup_skb/ingress")
int sidetrack_guard(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk && sk->state == BPF_TCP_ESTABLISHED && is_stray_reset(skb) ? guard(skb, sk) :
									       PACKET_PERMIT;
}

SEC("cgroup_skb/egress")
int sidetrack_sender(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? sender_classify(skb, sk) : PACKET_PERMIT;
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
int sidetrack_classify(struct sidetrack_classify_request *request)
{
	return classify_by_request(request);
}

SEC("syscall")
int sidetrack_sweep(void *ctx)
{
	return sweep();
}

SEC("syscall")
int sidetrack_collect_owners(void *none)
{
	return owners_collect();
}
