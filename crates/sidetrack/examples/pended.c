/*
 * A proxy in C that pends connects, by the socket options, the service's ring buffer and its
 * sender. A program's connect succeeds only if the origin accepts; otherwise it is refused.
 * docs/pended.md describes the steps. IPv4 only, and every error is "connection refused", to keep
 * it short.
 *
 * cc -I bpf -o pended crates/sidetrack/examples/pended.c
 * sudo sidetrack run --via exec:./pended -- curl http://127.0.0.1:8000/
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sidetrack.h"

/* Flows that are known at the same time. An ended flow is known until its entry is reused. */
#define FLOWS 256

enum state { FREE, CONNECTING, COMPLETED, REFUSED, ENDED };

struct flow {
	enum state state;
	int origin; /* CONNECTING, COMPLETED: the outgoing socket */
	struct sidetrack_notice syn;
};

static struct flow flows[FLOWS];
static int ring, sender, listener;

static int fail(const char *what)
{
	perror(what);
	return 1;
}

/* ---- The ring buffer ------------------------------------------------------------------------- */

#define BUSY (1U << 31)
#define DISCARD (1U << 30)

static unsigned long *consumer;
static const unsigned long *producer;
static const unsigned char *data; /* mapped twice, one behind the other */

static int map_ring(void)
{
	size_t page = sysconf(_SC_PAGESIZE), size = page + 2 * SIDETRACK_NOTICES_SIZE;
	void *first = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);
	void *rest = mmap(NULL, size, PROT_READ, MAP_SHARED, ring, page);

	consumer = first;
	producer = rest;
	data = (const unsigned char *)rest + page;
	return first == MAP_FAILED || rest == MAP_FAILED ? -1 : 0;
}

/* Reads the next notice. Returns 0 if there is none yet. */
static int next_notice(struct sidetrack_notice *to)
{
	unsigned long at = *consumer;

	while (at != __atomic_load_n(producer, __ATOMIC_ACQUIRE)) {
		const unsigned char *record = data + at % SIDETRACK_NOTICES_SIZE;
		__u32 header = __atomic_load_n((const __u32 *)record, __ATOMIC_ACQUIRE);
		__u32 length = header & ~(BUSY | DISCARD);

		if (header & BUSY)
			return 0;
		if (!(header & DISCARD) && length != sizeof(*to))
			exit((fprintf(stderr, "a notice of %u bytes\n", length), 1));
		memcpy(to, record + 8, sizeof(*to));
		at += 8 + (length + 7) / 8 * 8;
		__atomic_store_n(consumer, at, __ATOMIC_SEQ_CST);
		if (!(header & DISCARD))
			return 1;
	}
	return 0;
}

/* ---- The sender ------------------------------------------------------------------------------ */

struct packet {
	struct iphdr ip;
	union {
		struct tcphdr header;
		unsigned char bytes[SIDETRACK_TCP_HEADER_MAX];
	} tcp;
};

static __u32 sum(__u32 before, const void *bytes, size_t length)
{
	const unsigned char *byte = bytes;

	for (size_t i = 0; i < length; i++)
		before += i % 2 ? byte[i] : byte[i] << 8;
	return before;
}

/* Sends a TCP header from one address to another. The kernel completes the IP header. */
static void send_segment(struct packet *p, const __u8 *from, const __u8 *to, size_t length)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	__u32 checksum;

	p->ip = (struct iphdr){ .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP };
	memcpy(&p->ip.saddr, from + 12, 4);
	memcpy(&p->ip.daddr, to + 12, 4);
	memcpy(&address.sin_addr, to + 12, 4);
	p->tcp.header.check = 0;
	checksum = sum(IPPROTO_TCP + length, &p->ip.saddr, 8);
	checksum = sum(checksum, p->tcp.bytes, length);
	while (checksum >> 16)
		checksum = (checksum & 0xffff) + (checksum >> 16);
	p->tcp.header.check = htons(~checksum);
	sendto(sender, p, sizeof(p->ip) + length, 0, (struct sockaddr *)&address, sizeof(address));
}

/* Sends the client's SYN again. */
static void send_syn(const struct sidetrack_notice *syn)
{
	struct packet p;

	memcpy(p.tcp.bytes, syn->tcp, sizeof(syn->tcp));
	send_segment(&p, syn->client_addr, syn->target_addr, syn->tcp_length);
}

/* Refuses the client's connect. */
static void send_reset(const struct sidetrack_notice *syn)
{
	struct packet p = {};
	struct tcphdr client;

	memcpy(&client, syn->tcp, sizeof(client));
	p.tcp.header = (struct tcphdr){
		.source = client.dest,
		.dest = client.source,
		.ack_seq = htonl(ntohl(client.seq) + 1),
		.doff = 5,
		.rst = 1,
		.ack = 1,
	};
	send_segment(&p, syn->target_addr, syn->client_addr, sizeof(struct tcphdr));
}

/* ---- The flows ------------------------------------------------------------------------------- */

static struct flow *find(__u64 id)
{
	for (int i = 0; i < FLOWS; i++)
		if (flows[i].state != FREE && flows[i].syn.records.flow_id == id)
			return &flows[i];
	return NULL;
}

/* An entry for another flow. NULL if it is in use: the client sends its SYN again. */
static struct flow *reuse(void)
{
	static unsigned int next;
	struct flow *flow = &flows[next % FLOWS];

	if (flow->state == CONNECTING || flow->state == COMPLETED)
		return NULL;
	next++;
	return flow;
}

static void end_flow(struct flow *flow, enum state state)
{
	close(flow->origin);
	flow->state = state;
}

/* Connects onward, with the flow's records. */
static int connect_onward(const struct sidetrack_notice *syn)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = syn->remote_port };
	int origin = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct sidetrack_info info;
	socklen_t length = sizeof(info);
	char name[INET_ADDRSTRLEN];

	memcpy(&to.sin_addr, syn->remote_addr + 12, 4);
	if (setsockopt(origin, SOL_SIDETRACK, SIDETRACK_RECORDS, &syn->records,
		       sizeof(syn->records)) ||
	    getsockopt(origin, SOL_SIDETRACK, SIDETRACK_INFO, &info, &length) ||
	    (connect(origin, (struct sockaddr *)&to, sizeof(to)) && errno != EINPROGRESS)) {
		perror("connect onward");
		close(origin);
		return -1;
	}
	inet_ntop(AF_INET, &to.sin_addr, name, sizeof(name));
	fprintf(stderr, "%s -> %s:%d\n", info.executable.path, name, ntohs(to.sin_port));
	return origin;
}

static void on_notice(const struct sidetrack_notice *notice)
{
	struct flow *flow = find(notice->records.flow_id);

	if (notice->kind == SIDETRACK_NOTICE_GONE) {
		if (flow && (flow->state == CONNECTING || flow->state == COMPLETED))
			end_flow(flow, ENDED);
	} else if (flow && flow->state == REFUSED) {
		send_reset(notice); /* the first one was lost */
	} else if (!flow && (flow = reuse())) {
		flow->syn = *notice;
		flow->origin = connect_onward(notice);
		flow->state = flow->origin < 0 ? REFUSED : CONNECTING;
		if (flow->state == REFUSED)
			send_reset(notice);
	} /* otherwise the client has sent its SYN again */
}

/* The onward connect has succeeded or failed, and so does the client's. */
static void on_connected(struct flow *flow)
{
	struct sidetrack_complete complete = { .records = flow->syn.records };
	int error = 0;
	socklen_t length = sizeof(error);

	getsockopt(flow->origin, SOL_SOCKET, SO_ERROR, &error, &length);
	if (error) {
		end_flow(flow, REFUSED); /* closed before the client learns of it */
		send_reset(&flow->syn);
	} else if (setsockopt(listener, SOL_SIDETRACK, SIDETRACK_COMPLETE, &complete,
			      sizeof(complete))) {
		end_flow(flow, ENDED); /* the client is gone */
	} else {
		flow->state = COMPLETED;
		send_syn(&flow->syn);
	}
}

/* ---- Relay, as in proxy.c ----------------------------------------------------------------------
 */

static int copy(int from, int to)
{
	char buffer[65536];
	ssize_t length = read(from, buffer, sizeof(buffer));

	if (length < 0 && errno == EAGAIN)
		return 1;
	for (ssize_t at = 0, put; at < length; at += put) {
		struct pollfd room = { to, POLLOUT, 0 };

		put = write(to, buffer + at, length - at);
		if (put < 0 && (errno != EAGAIN || poll(&room, 1, -1) < 0))
			exit(fail("write"));
		put = put < 0 ? 0 : put;
	}
	if (length <= 0)
		shutdown(to, SHUT_WR);
	return length > 0;
}

static int relay(int client, int origin)
{
	struct pollfd both[2] = { { client, POLLIN, 0 }, { origin, POLLIN, 0 } };

	while (both[0].fd >= 0 || both[1].fd >= 0) {
		if (poll(both, 2, -1) < 0)
			return fail("poll");
		if (both[0].revents && !copy(client, origin))
			both[0].fd = -1;
		if (both[1].revents && !copy(origin, client))
			both[1].fd = -1;
	}
	return 0;
}

/* A client is accepted: a child process relays between it and its flow's outgoing socket. */
static void on_accepted(int client)
{
	struct sidetrack_records records = {};
	socklen_t length = sizeof(records);
	struct flow *flow;

	getsockopt(client, SOL_SIDETRACK, SIDETRACK_RECORDS, &records, &length);
	flow = find(records.flow_id);
	if (flow && flow->state == COMPLETED) {
		if (fork() == 0)
			exit(relay(client, flow->origin));
		end_flow(flow, ENDED);
	}
	close(client);
}

/* ---- The event loop ----------------------------------------------------------------------------
 */

static int serve(void)
{
	struct pollfd waits[FLOWS + 2] = { { ring, POLLIN, 0 }, { listener, POLLIN, 0 } };
	struct sidetrack_notice notice;

	for (;;) {
		for (int i = 0; i < FLOWS; i++)
			waits[i + 2] = (struct pollfd){
				flows[i].state == CONNECTING ? flows[i].origin : -1, POLLOUT, 0
			};
		if (poll(waits, FLOWS + 2, -1) < 0)
			return fail("poll");
		for (int i = 0; i < FLOWS; i++)
			if (waits[i + 2].revents)
				on_connected(&flows[i]);
		if (waits[1].revents)
			on_accepted(accept(listener, NULL, NULL));
		while (next_notice(&notice))
			on_notice(&notice);
	}
}

static int read_credentials(unsigned char *to, size_t size)
{
	const char *text = getenv("SIDETRACK_LISTEN"), *pended = getenv("SIDETRACK_PENDED");

	if (!text || strlen(text) != 2 * size)
		return -1;
	for (size_t i = 0; i < size; i++)
		if (sscanf(text + 2 * i, "%2hhx", &to[i]) != 1)
			return -1;
	return pended && sscanf(pended, "%d,%d", &ring, &sender) == 2 ? 0 : -1;
}

int main(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET };
	unsigned char listen_value[sizeof(struct sidetrack_listen)];

	signal(SIGCHLD, SIG_IGN); /* the kernel reaps the child processes */
	if (read_credentials(listen_value, sizeof(listen_value)))
		return fprintf(stderr, "SIDETRACK_LISTEN or SIDETRACK_PENDED is missing\n"), 2;
	if (map_ring())
		return fail("map the ring buffer");
	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (setsockopt(listener, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) ||
	    bind(listener, (struct sockaddr *)&any, sizeof(any)) || listen(listener, 4096))
		return fail("listen");
	if (setsockopt(listener, SOL_SIDETRACK, SIDETRACK_LISTEN_PENDED, listen_value,
		       sizeof(listen_value)))
		return fail("register the listener");
	return serve();
}
