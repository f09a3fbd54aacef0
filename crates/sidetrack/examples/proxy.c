/*
 * A proxy in C that uses the socket options directly, without a library. It starts one process for
 * each connection. docs/proxies.md describes the steps. IPv4 only, to keep it short.
 *
 * cc -I bpf -o proxy crates/sidetrack/examples/proxy.c
 * sudo sidetrack run --via exec:./proxy -- curl http://127.0.0.1:8000/
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sidetrack.h"

static int fail(const char *what)
{
	perror(what);
	return 1;
}

/* Copies what can be read now. Returns 0 at the end of this direction. */
static int copy(int from, int to)
{
	char buffer[65536];
	ssize_t length = read(from, buffer, sizeof(buffer));

	for (ssize_t at = 0, put; at < length; at += put) {
		put = write(to, buffer + at, length - at);
		if (put < 0)
			exit(fail("write"));
	}
	if (length <= 0)
		shutdown(to, SHUT_WR);
	return length > 0;
}

/* Copies in both directions until both have ended. */
static void relay(int client, int origin)
{
	struct pollfd both[2] = { { client, POLLIN, 0 }, { origin, POLLIN, 0 } };

	while (both[0].fd >= 0 || both[1].fd >= 0) {
		if (poll(both, 2, -1) < 0)
			exit(fail("poll"));
		if (both[0].revents && !copy(client, origin))
			both[0].fd = -1;
		if (both[1].revents && !copy(origin, client))
			both[1].fd = -1;
	}
}

/* Serves one connection: queries it, connects to its original destination, and relays. */
static int forward(int client)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct sidetrack_info info;
	socklen_t length = sizeof(info);
	char name[INET_ADDRSTRLEN];
	int origin;

	if (getsockopt(client, SOL_SIDETRACK, SIDETRACK_INFO, &info, &length))
		return fail("query the connection");
	if (info.version != SIDETRACK_ABI_VERSION || info.flow.family != AF_INET)
		return fprintf(stderr, "another ABI version, or not IPv4\n"), 1;
	memcpy(&to.sin_addr, info.flow.remote_addr + 12, 4);
	to.sin_port = info.flow.remote_port;
	inet_ntop(AF_INET, &to.sin_addr, name, sizeof(name));
	fprintf(stderr, "%s -> %s:%d\n", info.executable.path, name, ntohs(to.sin_port));
	origin = socket(AF_INET, SOCK_STREAM, 0);
	if (setsockopt(origin, SOL_SIDETRACK, SIDETRACK_RECORDS, &info.records,
		       sizeof(info.records)))
		return fail("set the records");
	if (connect(origin, (struct sockaddr *)&to, sizeof(to)))
		return fail("connect to the original destination");
	relay(client, origin);
	return 0;
}

/* Reads the value of the option LISTEN, which the environment has in hexadecimal. */
static int read_credentials(unsigned char *to, size_t size)
{
	const char *text = getenv("SIDETRACK_LISTEN");

	if (!text || strlen(text) != 2 * size)
		return -1;
	for (size_t i = 0; i < size; i++)
		if (sscanf(text + 2 * i, "%2hhx", &to[i]) != 1)
			return -1;
	return 0;
}

int main(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET };
	unsigned char listen_value[sizeof(struct sidetrack_listen)];
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	signal(SIGCHLD, SIG_IGN); /* the kernel reaps the child processes */
	if (read_credentials(listen_value, sizeof(listen_value)))
		return fprintf(stderr, "SIDETRACK_LISTEN does not hold a service's credentials\n"),
		       2;
	if (setsockopt(listener, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) ||
	    bind(listener, (struct sockaddr *)&any, sizeof(any)) || listen(listener, 4096))
		return fail("listen");
	if (setsockopt(listener, SOL_SIDETRACK, SIDETRACK_LISTEN, listen_value,
		       sizeof(listen_value)))
		return fail("register the listener");
	for (;;) {
		int client = accept(listener, NULL, NULL);

		if (client < 0)
			return fail("accept");
		if (fork() == 0)
			exit(forward(client));
		close(client);
	}
}
