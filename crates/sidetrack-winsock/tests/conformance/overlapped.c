/* The cases of docs/wfp.md, 8.7: overlapped calls. Each case number is that of the case there. */
#include <pthread.h>
#include <sys/mman.h>

#include "harness.h"

static struct {
	int runs;
	DWORD error, bytes;
	WSAOVERLAPPED *overlapped;
	pthread_t thread;
} last_routine;

static void CALLBACK routine(DWORD error, DWORD bytes, WSAOVERLAPPED *overlapped, DWORD flags)
{
	(void)flags;
	last_routine.runs++;
	last_routine.error = error;
	last_routine.bytes = bytes;
	last_routine.overlapped = overlapped;
	last_routine.thread = pthread_self();
}

static void immediate(void)
{
	struct peer peer = connect_redirected(PORT_32);
	WSAOVERLAPPED overlapped = { .hEvent = WSACreateEvent() };
	char buffer[64];
	struct outcome seen = query(peer.socket, CONTEXT_IOCTL, buffer, sizeof(buffer));
	SOCKET plain = WSASocketW(AF_INET, SOCK_DGRAM, 0, NULL, 0, 0);

	report_case(105, outcome_is(seen, 0, 0, 32), describe(seen));
	seen = query_overlapped(peer.socket, CONTEXT_IOCTL, buffer, sizeof(buffer), &overlapped,
				NULL);
	report_extra(
		"answered immediately: the event is set",
		outcome_is(seen, 0, 0, 32) &&
			WSAWaitForMultipleEvents(1, &overlapped.hEvent, TRUE, 0, FALSE) == 0 &&
			outcome_is(overlapped_result(peer.socket, &overlapped, FALSE), 0, 0, 32));
	seen = query_overlapped(peer.socket, CONTEXT_IOCTL, buffer, sizeof(buffer), &overlapped,
				routine);
	report_extra("answered immediately: the routine is queued, and runs once",
		     outcome_is(seen, 0, 0, 32) && last_routine.runs == 0 &&
			     SleepEx(0, TRUE) == WAIT_IO_COMPLETION && last_routine.runs == 1 &&
			     last_routine.bytes == 32 && SleepEx(0, TRUE) == 0);
	seen = query_overlapped(peer.socket, CONTEXT_IOCTL, buffer, 8, &overlapped, NULL);
	report_extra("too small: fails immediately, nothing is pending",
		     outcome_is(seen, -1, ERROR_INSUFFICIENT_BUFFER, 32));
	seen = query_overlapped(plain, CONTEXT_IOCTL, buffer, sizeof(buffer), (WSAOVERLAPPED *)8,
				NULL);
	report_extra("without the overlapped attribute, the overlapped arguments are ignored",
		     outcome_is(seen, -1, WSAENOTCONN, 0));
	WSACloseEvent(overlapped.hEvent);
	closesocket(plain);
	close_peer(peer);
}

static void pending(void)
{
	SOCKET socket = new_pending_socket();
	WSAOVERLAPPED overlapped = { .hEvent = WSACreateEvent() };
	char buffer[64];
	DWORD bytes = 0, flags;
	struct outcome seen =
		query_overlapped(socket, CONTEXT_IOCTL, buffer, 64, &overlapped, NULL);

	report_case(107, outcome_is(seen, -1, WSA_IO_PENDING, UNTOUCHED), describe(seen));
	seen = overlapped_result(socket, &overlapped, FALSE);
	report_case(109, outcome_is(seen, -1, WSA_IO_INCOMPLETE, UNTOUCHED), describe(seen));
	report_extra(
		"an OVERLAPPED that is in use: WSAEINVAL",
		outcome_is(query_overlapped(socket, CONTEXT_IOCTL, buffer, 64, &overlapped, NULL),
			   -1, WSAEINVAL, UNTOUCHED));
	WSAIoctl(socket, SIO_FLUSH, NULL, 0, NULL, 0, &bytes, NULL, NULL);
	seen = overlapped_result(socket, &overlapped, TRUE);
	report_case(111,
		    outcome_is(seen, -1, WSA_OPERATION_ABORTED, UNTOUCHED) &&
			    WSAWaitForMultipleEvents(1, &overlapped.hEvent, FALSE, 0, FALSE) == 0,
		    describe(seen));

	seen = query_overlapped(socket, CONTEXT_IOCTL, buffer, 64, &overlapped, NULL);
	send_to_itself(socket);
	report_extra("a datagram that was not redirected ends the operation: WSAEINVAL",
		     seen.error == WSA_IO_PENDING &&
			     outcome_is(overlapped_result(socket, &overlapped, TRUE), -1, WSAEINVAL,
					UNTOUCHED));
	recv(socket, buffer, sizeof(buffer), 0);
	query_overlapped(socket, RECORDS_IOCTL, buffer, 64, &overlapped, routine);
	report_extra("waiting for an operation with a routine: WSA_INVALID_PARAMETER",
		     !WSAGetOverlappedResult(socket, &overlapped, &bytes, TRUE, &flags) &&
			     WSAGetLastError() == WSA_INVALID_PARAMETER);
	closesocket(socket);
	report_extra("closesocket aborts the operation",
		     SleepEx(0, TRUE) == WAIT_IO_COMPLETION &&
			     last_routine.error == WSA_OPERATION_ABORTED);
	WSACloseEvent(overlapped.hEvent);
}

/* A query during a connect, to a listener that does not answer because its accept queue is full. */
static void connect_in_progress(void)
{
	SOCKET full = new_tcp_socket(), filling[2] = { new_tcp_socket(), new_tcp_socket() },
	       socket = new_tcp_socket();
	struct sockaddr_in name = ipv4_address("127.0.0.1", 0);
	WSAOVERLAPPED overlapped = { 0 };
	char buffer[64];
	struct outcome seen;

	bind(full, &name, sizeof(name));
	(listen)((int)full, 0);
	name.sin_port = htons(port_of(full));
	ioctlsocket(filling[1], FIONBIO, &(uint32_t){ 1 });
	ioctlsocket(socket, FIONBIO, &(uint32_t){ 1 });
	connect(filling[0], &name, sizeof(name));
	connect(filling[1], &name, sizeof(name));
	connect(socket, &name, sizeof(name));
	seen = query_overlapped(socket, CONTEXT_IOCTL, buffer, 64, &overlapped, NULL);
	report_extra("a query during a connect is pending",
		     outcome_is(seen, -1, WSA_IO_PENDING, UNTOUCHED));
	ioctlsocket(full, FIONBIO, &(uint32_t){ 1 });
	while (!HasOverlappedIoCompleted(&overlapped)) { /* make room in the queue */
		closesocket(accept(full, NULL, NULL));
		SleepEx(1, FALSE);
	}
	seen = overlapped_result(socket, &overlapped, TRUE);
	report_extra("the connection is not redirected: WSAEINVAL",
		     outcome_is(seen, -1, WSAEINVAL, UNTOUCHED));
	closesocket(full);
	closesocket(filling[0]);
	closesocket(filling[1]);
	closesocket(socket);
}

static WSAOVERLAPPED overlapped_of_thread;
static char buffer_of_thread[64];

static void *short_lived(void *socket)
{
	query_overlapped(*(SOCKET *)socket, CONTEXT_IOCTL, buffer_of_thread, 64,
			 &overlapped_of_thread, routine);
	return NULL;
}

static void end_of_thread(void)
{
	SOCKET socket = new_pending_socket();
	struct outcome seen;
	pthread_t thread;
	int before = last_routine.runs;

	pthread_create(&thread, NULL, short_lived, &socket);
	pthread_join(thread, NULL);
	seen = overlapped_result(socket, &overlapped_of_thread, FALSE);
	report_case(115,
		    outcome_is(seen, -1, WSA_OPERATION_ABORTED, UNTOUCHED) &&
			    last_routine.runs == before && SleepEx(0, TRUE) == 0,
		    describe(seen));
	closesocket(socket);
}

/* An OVERLAPPED that is unmapped while pending: it is counted as a misuse, and not accessed. */
static void freed_while_pending(void)
{
	SOCKET socket = new_pending_socket();
	WSAOVERLAPPED *overlapped =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char buffer[64];
	DWORD before = SidetrackMisuses();

	query_overlapped(socket, CONTEXT_IOCTL, buffer, 64, overlapped, NULL);
	munmap(overlapped, 4096);
	closesocket(socket);
	report_case(117, SidetrackMisuses() == before + 1,
		    "an OVERLAPPED that was freed while pending is counted");
}

static int call_provider(SOCKET socket, WSAOVERLAPPED *overlapped, char *buffer, int *error)
{
	WSATHREADID id;
	DWORD bytes;
	int result;

	WPUOpenCurrentThread(&id, error);
	result = WSPIoctl(socket, CONTEXT_IOCTL, NULL, 0, buffer, 64, &bytes, overlapped, routine,
			  &id, error);
	memset(&id, 0xa5, sizeof(id));
	return result;
}

static void CALLBACK count(DWORD_PTR context)
{
	++*(int *)context;
}

static void service_provider(void)
{
	SOCKET socket = new_pending_socket();
	WSAOVERLAPPED overlapped = { 0 };
	WSATHREADID id, good;
	char buffer[64];
	int error = 0, before = last_routine.runs, result, counted = 0;

	WSASetLastError(77);
	result = call_provider(socket, &overlapped, buffer, &error);
	send_to_itself(socket);
	report_case(119,
		    result == -1 && error == WSA_IO_PENDING && WSAGetLastError() == 77 &&
			    SleepEx(WSA_INFINITE, TRUE) == WAIT_IO_COMPLETION &&
			    last_routine.runs == before + 1 && last_routine.error == WSAEINVAL &&
			    last_routine.bytes == 0,
		    "the thread id was copied, and the error is stored at lpErrno");
	WPUOpenCurrentThread(&id, &error);
	report_extra("WPUQueueApc", WPUQueueApc(&id, count, (DWORD_PTR)&counted, &error) == 0 &&
					    counted == 0 && SleepEx(0, FALSE) == 0 &&
					    counted == 0 &&
					    SleepEx(0, TRUE) == WAIT_IO_COMPLETION && counted == 1);
	good = id;
	id.ThreadHandle = (HANDLE)0x7ffffffc;
	report_extra("WPUQueueApc to an invalid thread: WSAEFAULT",
		     WPUQueueApc(&id, count, 0, &error) == -1 && error == WSAEFAULT);
	id = good;
	for (int i = 0; i < 65536; i++)
		WPUQueueApc(&id, count, (DWORD_PTR)&counted, &error);
	report_extra("WPUQueueApc to a full queue: WSAENOBUFS",
		     WPUQueueApc(&id, count, 0, &error) == -1 && error == WSAENOBUFS &&
			     SleepEx(0, TRUE) == WAIT_IO_COMPLETION && counted == 65537);
	closesocket(socket);
}

static int depth, deepest;

static void CALLBACK nesting(DWORD error, DWORD bytes, WSAOVERLAPPED *overlapped, DWORD flags)
{
	(void)error, (void)bytes, (void)overlapped, (void)flags;
	deepest = ++depth > deepest ? depth : deepest;
	SleepEx(0, TRUE);
	depth--;
	last_routine.runs++;
}

/*
 * A completion routine waits alertably. Routines of other sockets run within it, those of the same
 * socket after it.
 */
static void nested(void)
{
	struct peer peer = connect_redirected(PORT_32), other = connect_redirected(PORT_32);
	WSAOVERLAPPED overlapped[3] = { 0 };
	char buffer[64];
	int before = last_routine.runs;

	query_overlapped(peer.socket, CONTEXT_IOCTL, buffer, 64, &overlapped[0], nesting);
	query_overlapped(peer.socket, CONTEXT_IOCTL, buffer, 64, &overlapped[1], nesting);
	SleepEx(0, TRUE);
	report_extra("a routine is not entered again for the same socket", deepest == 1);
	query_overlapped(peer.socket, CONTEXT_IOCTL, buffer, 64, &overlapped[0], nesting);
	query_overlapped(other.socket, CONTEXT_IOCTL, buffer, 64, &overlapped[2], nesting);
	SleepEx(0, TRUE);
	while (SleepEx(0, TRUE) == WAIT_IO_COMPLETION)
		;
	report_extra("a routine of another socket is; none is lost",
		     deepest == 2 && last_routine.runs == before + 4 && depth == 0);
	close_peer(peer);
	close_peer(other);
}

static void nonblocking(void)
{
	SOCKET socket = new_pending_socket();
	char buffer[64];
	struct outcome seen;

	ioctlsocket(socket, FIONBIO, &(uint32_t){ 1 });
	seen = query(socket, CONTEXT_IOCTL, buffer, sizeof(buffer));
	report_case(121, outcome_is(seen, -1, WSAEWOULDBLOCK, 0), describe(seen));
	closesocket(socket);
}

/* Case 113. `send_it` causes the first datagram of the flow on which the query waits. */
void routine_of_first_datagram(SOCKET socket, void (*send_it)(void))
{
	WSAOVERLAPPED overlapped = { 0 };
	char buffer[64];
	int before = last_routine.runs;
	struct outcome seen =
		query_overlapped(socket, CONTEXT_IOCTL, buffer, 64, &overlapped, routine);

	send_it();
	while (!HasOverlappedIoCompleted(&overlapped))
		SleepEx(1, FALSE);
	report_case(113,
		    outcome_is(seen, -1, WSA_IO_PENDING, UNTOUCHED) &&
			    last_routine.runs == before &&
			    SleepEx(WSA_INFINITE, TRUE) == WAIT_IO_COMPLETION &&
			    last_routine.runs == before + 1 && last_routine.bytes == 32 &&
			    last_routine.error == 0 && last_routine.overlapped == &overlapped &&
			    pthread_equal(last_routine.thread, pthread_self()) &&
			    !memcmp(buffer, "0123456789", 10),
		    "pending, then a routine on this thread with the context");
}

void overlapped(void)
{
	immediate();
	pending();
	connect_in_progress();
	end_of_thread();
	freed_while_pending();
	service_provider();
	nested();
	nonblocking();
}
