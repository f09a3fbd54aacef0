/*
 * An inspecting proxy, as it is written for Windows. It queries the accepted socket for the
 * original destination, prints that with the first bytes of the connection, connects to it with
 * the redirect records set, and relays with one thread for each direction. docs/winsock.md
 * describes the library.
 *
 * On Windows:
 *	x86_64-w64-mingw32-gcc -o inspect.exe inspect.c -lws2_32
 *
 * On Linux, from the repository:
 *	cd crates/sidetrack-winsock
 *	cc -I include -I include/windows -o inspect examples/inspect.c -lsidetrack_winsock
 *	sudo sidetrack run --via exec:./inspect -- curl http://example.com/
 *
 * The original destination is in the redirect context. On Windows the driver defines its layout.
 * On Linux it is Sidetrack's automatic context (struct sidetrack_auto_context in bpf/sidetrack.h);
 * only the beginning of it is used here.
 */
#include <winsock2.h>
#include <ws2tcpip.h>
#include <mstcpip.h>
#include <process.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS /* mingw's headers lack them */
#define SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS _WSAIOW(IOC_VENDOR, 220)
#define SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT _WSAIOW(IOC_VENDOR, 221)
#define SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS _WSAIOW(IOC_VENDOR, 222)
#endif

#define FIRST_SIZE 64	/* bytes of the first buffer; it grows as needed */
#define LAST_SIZE 65536 /* bytes of the largest buffer */
#define SHOWN_SIZE 40	/* bytes of the client's first data that are printed */
#define CONTEXT_VERSION 3

/* The beginning of the context. An IPv4 address is IPv4-mapped; the port is in network order. */
struct context_header {
	uint32_t version, size;
	uint64_t flow;
	uint8_t address[16];
	uint16_t port;
	uint8_t protocol, family;
	uint32_t process;
};

struct connection {
	SOCKET client, origin;
	WSAEVENT relay_ended; /* set when the direction from the origin has ended */
};

static int fail(const char *what)
{
	fprintf(stderr, "%s: error %d\n", what, WSAGetLastError());
	return 1;
}

/*
 * Queries with a larger buffer until the answer fits. Returns the answer, which the caller must
 * free, or NULL if there is none.
 */
static char *query(SOCKET client, DWORD code, DWORD *length)
{
	DWORD size = FIRST_SIZE, needed;
	char *answer = NULL;

	while (size <= LAST_SIZE) {
		char *grown = realloc(answer, size);

		if (!grown)
			break;
		answer = grown;
		needed = 0;
		if (WSAIoctl(client, code, NULL, 0, answer, size, &needed, NULL, NULL) == 0) {
			if (needed == 0 || needed > size)
				break;
			*length = needed;
			return answer;
		}
		if (WSAGetLastError() != ERROR_INSUFFICIENT_BUFFER || needed <= size)
			break; /* 10022 and a size of 0: nothing is recorded */
		size = needed;
	}
	free(answer);
	return NULL;
}

/* Reads the original destination from the context. Returns 0, or -1 if the context is invalid. */
static int read_context(const char *context, DWORD length, struct sockaddr_storage *to,
			int *to_size)
{
	struct context_header header;

	if (length < sizeof(header))
		return -1;
	memcpy(&header, context, sizeof(header));
	if (header.version != CONTEXT_VERSION || header.size > length ||
	    header.protocol != IPPROTO_TCP)
		return -1;
	memset(to, 0, sizeof(*to));
	if (header.family == AF_INET) {
		struct sockaddr_in *v4 = (struct sockaddr_in *)to;

		v4->sin_family = AF_INET;
		v4->sin_port = header.port;
		memcpy(&v4->sin_addr, header.address + 12, 4);
		*to_size = sizeof(*v4);
	} else {
		struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)to;

		v6->sin6_family = AF_INET6;
		v6->sin6_port = header.port;
		memcpy(&v6->sin6_addr, header.address, 16);
		*to_size = sizeof(*v6);
	}
	return 0;
}

/* Prints the destination of a connection, and its first bytes. */
static void print_connection(const struct sockaddr_storage *to, const char *first, int length)
{
	char name[64] = "?", shown[SHOWN_SIZE + 1] = "";
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)to;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)to;
	int is_v4 = to->ss_family == AF_INET;

	inet_ntop(to->ss_family, is_v4 ? (void *)&v4->sin_addr : (void *)&v6->sin6_addr, name,
		  sizeof(name));
	for (int i = 0; i < length && i < SHOWN_SIZE; i++)
		shown[i] = first[i] >= ' ' && first[i] <= '~' ? first[i] : '.';
	fprintf(stderr, is_v4 ? "-> %s:%d %s\n" : "-> [%s]:%d %s\n", name,
		ntohs(is_v4 ? v4->sin_port : v6->sin6_port), shown);
}

/*
 * Creates a socket with the client's records and connects it. If the records cannot be set, the
 * connection must not be made without them.
 */
static SOCKET connect_upstream(const struct sockaddr_storage *to, int to_size, char *records,
			       DWORD length)
{
	DWORD none = 0;
	SOCKET origin =
		WSASocketW(to->ss_family, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);

	if (origin == INVALID_SOCKET)
		return INVALID_SOCKET;
	if (WSAIoctl(origin, SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS, records, length, NULL, 0,
		     &none, NULL, NULL) != 0 ||
	    connect(origin, (const struct sockaddr *)to, to_size) != 0) {
		fail("connect to the original destination");
		closesocket(origin);
		return INVALID_SOCKET;
	}
	return origin;
}

/* Copies one direction to its end. Prints the first data if `destination` is given. */
static void copy(SOCKET from, SOCKET to, const struct sockaddr_storage *destination)
{
	char buffer[16384];
	int length;

	while ((length = recv(from, buffer, sizeof(buffer), 0)) > 0) {
		if (destination)
			print_connection(destination, buffer, length);
		destination = NULL;
		for (int at = 0, sent; at < length; at += sent) {
			sent = send(to, buffer + at, length - at, 0);
			if (sent <= 0) {
				shutdown(from, SD_BOTH);
				return;
			}
		}
	}
	shutdown(to, SD_SEND);
}

/* The thread for the direction from the origin to the client. */
static void __cdecl copy_back(void *given)
{
	struct connection *connection = given;

	copy(connection->origin, connection->client, NULL);
	WSASetEvent(connection->relay_ended);
}

static void relay(struct connection *connection, const struct sockaddr_storage *to)
{
	connection->relay_ended = WSACreateEvent();
	if (connection->relay_ended == WSA_INVALID_EVENT)
		return;
	if (_beginthread(copy_back, 0, connection) != (uintptr_t)-1) {
		copy(connection->client, connection->origin, to);
		WSAWaitForMultipleEvents(1, &connection->relay_ended, TRUE, WSA_INFINITE, FALSE);
	}
	WSACloseEvent(connection->relay_ended);
}

/* The thread for one connection. */
static void __cdecl serve(void *given)
{
	struct connection *connection = given;
	SOCKET client = connection->client;
	DWORD context_length = 0, records_length = 0;
	char *context = query(client, SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT, &context_length);
	char *records = query(client, SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS, &records_length);
	struct sockaddr_storage to;
	int to_size;

	connection->origin = INVALID_SOCKET;
	if (context && records && read_context(context, context_length, &to, &to_size) == 0)
		connection->origin = connect_upstream(&to, to_size, records, records_length);
	if (connection->origin != INVALID_SOCKET) {
		relay(connection, &to);
		closesocket(connection->origin);
	}
	closesocket(client);
	free(context);
	free(records);
	free(connection);
}

/* Returns a listener, or INVALID_SOCKET if the host does not have the address family. */
static SOCKET listen_on(const struct sockaddr *name, int size)
{
	SOCKET listener = socket(name->sa_family, SOCK_STREAM, IPPROTO_TCP);

	if (listener == INVALID_SOCKET)
		return INVALID_SOCKET;
	if (bind(listener, name, size) != 0 || listen(listener, SOMAXCONN) != 0) {
		closesocket(listener);
		return INVALID_SOCKET;
	}
	return listener;
}

static void __cdecl accept_loop(void *given)
{
	SOCKET listener = *(SOCKET *)given;

	for (;;) {
		struct connection *connection = malloc(sizeof(*connection));
		SOCKET client = accept(listener, NULL, NULL);

		if (!connection || client == INVALID_SOCKET)
			exit(fail("accept"));
		connection->client = client;
		if (_beginthread(serve, 0, connection) == (uintptr_t)-1)
			exit(fail("start a thread"));
	}
}

int main(void)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	WSADATA data;
	SOCKET listeners[2];

	if (WSAStartup(MAKEWORD(2, 2), &data) != 0)
		return 1;
	/* IPv6 first: the listener that every host has is opened last. */
	listeners[1] = listen_on((const struct sockaddr *)&v6, sizeof(v6));
	listeners[0] = listen_on((const struct sockaddr *)&v4, sizeof(v4));
	if (listeners[0] == INVALID_SOCKET)
		return fail("listen");
	if (listeners[1] != INVALID_SOCKET &&
	    _beginthread(accept_loop, 0, &listeners[1]) == (uintptr_t)-1)
		return fail("start a thread");
	accept_loop(&listeners[0]);
}
