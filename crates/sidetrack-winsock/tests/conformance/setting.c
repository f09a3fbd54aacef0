/*
 * The cases of docs/wfp.md, 8.4: the records on the outgoing socket. Each case number is that of
 * the case there. Where Sidetrack differs from Windows, the text of the report says so.
 */
#include <errno.h>
#include <sys/wait.h>

#include "harness.h"

static char records[32];

/* Sets records as the user nobody and without a service's credentials. */
static void set_in_unelevated_process(void)
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
	report_case(47, status == 0, "the user nobody, without a service's credentials: WSAEACCES");
}

/* Runs in that process. Returns 0 if SET fails with WSAEACCES. */
int set_unelevated(const char *hex)
{
	SOCKET socket = new_tcp_socket();
	char blob[32];
	struct outcome seen;

	for (int i = 0; i < 32; i++)
		sscanf(hex + 2 * i, "%2hhx", &blob[i]);
	seen = set_records(socket, blob, sizeof(blob));
	return !outcome_is(seen, -1, WSAEACCES, 0);
}

/* Connects to a destination to which the service may connect only with records. Returns the error.
 */
static int connect_upstream(SOCKET socket)
{
	struct sockaddr_in to = ipv4_address("10.1.2.3", PORT_DENIED);

	WSASetLastError(0);
	ioctlsocket(socket, FIONBIO, &(uint32_t){ 1 });
	connect(socket, &to, sizeof(to));
	return WSAGetLastError();
}

static void invalid_records(void)
{
	SOCKET socket = new_tcp_socket();
	struct outcome seen = set_records(socket, NULL, 32);

	report_case(49, outcome_is(seen, -1, WSAEFAULT, 0), describe(seen));
	seen = set_records(socket, records, 31);
	report_case(51, outcome_is(seen, -1, WSAEINVAL, 0), describe(seen));
	report_extra("empty records: WSAEINVAL",
		     outcome_is(set_records(socket, NULL, 0), -1, WSAEINVAL, 0));
	for (int i = 0; i < 32; i++) {
		records[i] ^= 4;
		if (!outcome_is(set_records(socket, records, 32), -1, WSAEINVAL, 0))
			report_extra("records with one wrong bit: WSAEINVAL", false);
		records[i] ^= 4;
	}
	seen = set_records(socket, records, 32);
	report_case(53, outcome_is(seen, 0, 0, 0), describe(seen));
	closesocket(socket);
}

/* SET completes immediately, and notifies its completion as any overlapped call does. */
static void overlapped_set(void)
{
	SOCKET socket = new_tcp_socket();
	WSAOVERLAPPED overlapped = { .hEvent = WSACreateEvent() };
	int result = WSAIoctl(socket, SET_IOCTL, records, 32, NULL, 0, NULL, &overlapped, NULL);

	report_extra("SET, overlapped: the event is set",
		     result == 0 &&
			     WSAWaitForMultipleEvents(1, &overlapped.hEvent, TRUE, 0, FALSE) == 0 &&
			     outcome_is(overlapped_result(socket, &overlapped, TRUE), 0, 0, 0));
	WSACloseEvent(overlapped.hEvent);
	closesocket(socket);
}

static void order_of_calls(void)
{
	SOCKET first = new_tcp_socket(), second = new_tcp_socket(), late = new_tcp_socket();
	struct sockaddr_in own = ipv4_address("127.0.0.1", port_of(listener));
	struct outcome seen;
	int errors[2];

	connect(late, &own, sizeof(own));
	seen = set_records(late, records, 32);
	report_case(55, outcome_is(seen, -1, WSAEINVAL, 0),
		    "SET after connect has no effect on Windows; here it is refused, WSAEINVAL");
	closesocket(late);
	closesocket(accept(listener, NULL, NULL));

	seen = set_records(first, records, 32);
	errors[0] = connect_upstream(first);
	seen.result += set_records(second, records, 32).result;
	errors[1] = connect_upstream(second);
	report_case(57, seen.result == 0 && errors[0] != WSAEACCES && errors[1] != WSAEACCES,
		    "two sockets with the same records both connect");
	closesocket(first);
	closesocket(second);

	late = new_tcp_socket();
	set_records(late, records, 31);
	errors[0] = connect_upstream(late);
	report_case(59, errors[0] == WSAEACCES,
		    "connecting without records might loop; here connect is refused, WSAEACCES");
	closesocket(late);
}

void setting(void)
{
	struct peer peer = connect_redirected(PORT_DENIED);

	if (!outcome_is(query(peer.socket, RECORDS_IOCTL, records, sizeof(records)), 0, 0, 32))
		exit(2);
	set_in_unelevated_process();
	invalid_records();
	overlapped_set();
	order_of_calls();
	close_peer(peer);
}
