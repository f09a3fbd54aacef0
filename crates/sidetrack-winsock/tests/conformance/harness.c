#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "harness.h"

SOCKET listener;
static int failed;

void report_case(int number, bool holds, const char *what)
{
	printf("case %d: %s: %s\n", number, holds ? "ok" : "FAILED", what);
	failed += !holds;
}

void report_windows_only(int number, const char *reason)
{
	printf("case %d: Windows only: %s\n", number, reason);
}

void report_extra(const char *what, bool holds)
{
	printf("also: %s: %s\n", holds ? "ok" : "FAILED", what);
	failed += !holds;
}

int failures(void)
{
	return failed;
}

const char *describe(struct outcome outcome)
{
	static char text[64];

	snprintf(text, sizeof(text), "%d, error %d, %u bytes", outcome.result, outcome.error,
		 outcome.bytes);
	return text;
}

static void require(bool holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "%s: %s, error %d\n", what, strerror(errno), WSAGetLastError());
		exit(2);
	}
}

struct sockaddr_in ipv4_address(const char *address, int port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
				     .sin_port = htons(port),
				     .sin_addr.s_addr = inet_addr(address) };
}

int port_of(SOCKET socket)
{
	struct sockaddr_in name;
	socklen_t length = sizeof(name);

	require(getsockname(socket, (SOCKADDR *)&name, &length) == 0, "getsockname");
	return ntohs(name.sin_port);
}

pid_t fork_in_scope(void)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	require(pid >= 0, "fork");
	if (pid == 0) {
		char path[512];
		int file;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		snprintf(path, sizeof(path), "%s/cgroup.procs", getenv("PROGRAM_CGROUP"));
		file = open(path, O_WRONLY);
		if (file < 0 || write(file, "0", 1) != 1)
			_exit(3);
		close_range(3, ~0U, 0); /* so that this process keeps no other connection open */
	}
	return pid;
}

static struct peer connect_peer(const char *address, int port)
{
	struct sockaddr_in to = ipv4_address(address, port);
	struct peer peer;

	peer.client = fork_in_scope();
	if (peer.client == 0) {
		int client = (socket)(AF_INET, SOCK_STREAM, 0);
		char byte;

		if ((connect)(client, (SOCKADDR *)&to, sizeof(to)))
			_exit(4);
		_exit(read(client, &byte, 1) < 0); /* until the other end closes */
	}
	peer.socket = accept(listener, NULL, NULL);
	require(peer.socket != INVALID_SOCKET, "accept");
	return peer;
}

struct peer connect_redirected(int port)
{
	return connect_peer("10.1.2.3", port);
}

struct peer connect_directly(void)
{
	return connect_peer("127.0.0.1", port_of(listener));
}

void close_peer(struct peer peer)
{
	closesocket(peer.socket);
	waitpid(peer.client, NULL, 0);
}

struct outcome query(SOCKET socket, DWORD code, void *buffer, DWORD capacity)
{
	return query_overlapped(socket, code, buffer, capacity, NULL, NULL);
}

struct outcome query_overlapped(SOCKET socket, DWORD code, void *buffer, DWORD capacity,
				WSAOVERLAPPED *overlapped,
				LPWSAOVERLAPPED_COMPLETION_ROUTINE routine)
{
	struct outcome outcome = { .bytes = UNTOUCHED };

	WSASetLastError(0);
	outcome.result = WSAIoctl(socket, code, NULL, 0, buffer, capacity, &outcome.bytes,
				  overlapped, routine);
	outcome.error = WSAGetLastError();
	return outcome;
}

struct outcome set_records(SOCKET socket, void *blob, DWORD length)
{
	struct outcome outcome = { .bytes = UNTOUCHED };

	WSASetLastError(0);
	outcome.result =
		WSAIoctl(socket, SET_IOCTL, blob, length, NULL, 0, &outcome.bytes, NULL, NULL);
	outcome.error = WSAGetLastError();
	return outcome;
}

struct outcome overlapped_result(SOCKET socket, WSAOVERLAPPED *overlapped, BOOL wait)
{
	struct outcome outcome = { .bytes = UNTOUCHED };
	DWORD flags;

	WSASetLastError(0);
	outcome.result =
		WSAGetOverlappedResult(socket, overlapped, &outcome.bytes, wait, &flags) ? 0 : -1;
	outcome.error = WSAGetLastError();
	return outcome;
}

bool outcome_is(struct outcome outcome, int result, int error, DWORD bytes)
{
	return outcome.result == result && outcome.error == error && outcome.bytes == bytes;
}

SOCKET new_tcp_socket(void)
{
	SOCKET made = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);

	require(made != INVALID_SOCKET, "a socket");
	return made;
}

/* The socket is connected to itself, so it receives what it sends. */
SOCKET new_pending_socket(void)
{
	SOCKET made = WSASocketW(AF_INET, SOCK_DGRAM, IPPROTO_UDP, NULL, 0, WSA_FLAG_OVERLAPPED);
	struct sockaddr_in name = ipv4_address("127.0.0.1", 0);

	require(made != INVALID_SOCKET, "a UDP socket");
	require(bind(made, &name, sizeof(name)) == 0, "bind");
	name.sin_port = htons(port_of(made));
	require(connect(made, &name, sizeof(name)) == 0, "connect");
	return made;
}

void send_to_itself(SOCKET waiting)
{
	require(send(waiting, "x", 1, 0) == 1, "send");
}

char *guard_page(void)
{
	char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	require(pages != MAP_FAILED && mprotect(pages + 4096, 4096, PROT_NONE) == 0, "memory");
	return pages + 4096;
}
