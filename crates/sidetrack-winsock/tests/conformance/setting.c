/* Spec 8.4: the records on the outgoing socket. */
#include <errno.h>
#include <sys/wait.h>

#include "harness.h"

static char records[32];

/* An unelevated process: nobody, without a service's credentials. The socket stays as it was. */
static void unelevated(void)
{
	char hex[65];
	int status = -1;
	pid_t child;

	for (int i = 0; i < 32; i++)
		sprintf(hex + 2 * i, "%02hhx", records[i]);
	fflush(stdout);
	child = fork();
	if (child == 0) {
		unsetenv("SIDETRACK_LISTEN");
		if (setuid(65534) == 0)
			execl("/proc/self/exe", "conformance", "unelevated", hex, NULL);
		_exit(5);
	}
	waitpid(child, &status, 0);
	verdict(47, status == 0, "nobody, without a service's credentials: WSAEACCES");
}

/* What that process does. */
int set_unelevated(const char *hex)
{
	SOCKET socket = outgoing();
	char blob[32];
	struct outcome seen;

	for (int i = 0; i < 32; i++)
		sscanf(hex + 2 * i, "%2hhx", &blob[i]);
	seen = set(socket, blob, sizeof(blob));
	return !is(seen, -1, WSAEACCES, 0);
}

/* Goes on with the records of a connection to a port that only records open. Returns what connect
 * said. */
static int go_on(SOCKET socket)
{
	struct sockaddr_in to = at("10.1.2.3", PORT_DENIED);

	WSASetLastError(0);
	ioctlsocket(socket, FIONBIO, &(uint32_t){ 1 });
	connect(socket, &to, sizeof(to));
	return WSAGetLastError();
}

static void blobs(void)
{
	SOCKET socket = outgoing();
	struct outcome seen = set(socket, NULL, 32);

	verdict(49, is(seen, -1, WSAEFAULT, 0), told(seen));
	seen = set(socket, records, 31);
	verdict(51, is(seen, -1, WSAEINVAL, 0), told(seen));
	also("an empty blob: WSAEINVAL", is(set(socket, NULL, 0), -1, WSAEINVAL, 0));
	for (int i = 0; i < 32; i++) {
		records[i] ^= 4;
		if (!is(set(socket, records, 32), -1, WSAEINVAL, 0))
			also("a blob with one bit wrong: WSAEINVAL", false);
		records[i] ^= 4;
	}
	seen = set(socket, records, 32);
	verdict(53, is(seen, 0, 0, 0), told(seen));
	closesocket(socket);
}

/* SET is answered at once; the completion comes as any other's. */
static void overlapped_set(void)
{
	SOCKET socket = outgoing();
	WSAOVERLAPPED overlapped = { .hEvent = WSACreateEvent() };
	int result = WSAIoctl(socket, SET_IOCTL, records, 32, NULL, 0, NULL, &overlapped, NULL);

	also("SET, overlapped: the event is set",
	     result == 0 && WSAWaitForMultipleEvents(1, &overlapped.hEvent, TRUE, 0, FALSE) == 0 &&
		     is(ended(socket, &overlapped, TRUE), 0, 0, 0));
	WSACloseEvent(overlapped.hEvent);
	closesocket(socket);
}

static void order(void)
{
	SOCKET first = outgoing(), second = outgoing(), late = outgoing();
	struct sockaddr_in own = at("127.0.0.1", port_of(listener));
	struct outcome seen;
	int errors[2];

	connect(late, &own, sizeof(own));
	seen = set(late, records, 32);
	verdict(55, is(seen, -1, WSAEINVAL, 0),
		"set after connect has no effect; here it is refused, WSAEINVAL");
	closesocket(late);
	closesocket(accept(listener, NULL, NULL));

	seen = set(first, records, 32);
	errors[0] = go_on(first);
	seen.result += set(second, records, 32).result;
	errors[1] = go_on(second);
	verdict(57, seen.result == 0 && errors[0] != WSAEACCES && errors[1] != WSAEACCES,
		"two sockets with one blob both go on");
	closesocket(first);
	closesocket(second);

	late = outgoing();
	set(late, records, 31);
	errors[0] = go_on(late);
	verdict(59, errors[0] == WSAEACCES,
		"going on without records might loop; here connect is refused, WSAEACCES");
	closesocket(late);
}

void setting(void)
{
	struct peer peer = redirected(PORT_DENIED);

	if (!is(query(peer.socket, RECORDS_IOCTL, records, sizeof(records)), 0, 0, 32))
		exit(2);
	unelevated();
	blobs();
	overlapped_set();
	order();
	end(peer);
}
