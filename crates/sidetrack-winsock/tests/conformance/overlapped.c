/* Spec 8.7: overlapped calls. */
#include <pthread.h>
#include <sys/mman.h>

#include "harness.h"

static struct {
	int runs;
	DWORD error, bytes;
	WSAOVERLAPPED *overlapped;
	pthread_t thread;
} routine_saw;

static void CALLBACK routine(DWORD error, DWORD bytes, WSAOVERLAPPED *overlapped, DWORD flags)
{
	(void)flags;
	routine_saw.runs++;
	routine_saw.error = error;
	routine_saw.bytes = bytes;
	routine_saw.overlapped = overlapped;
	routine_saw.thread = pthread_self();
}

static void at_once(void)
{
	struct peer peer = redirected(PORT_32);
	WSAOVERLAPPED overlapped = { .hEvent = WSACreateEvent() };
	char buffer[64];
	struct outcome seen = query(peer.socket, CONTEXT_IOCTL, buffer, sizeof(buffer));
	SOCKET plain = WSASocketW(AF_INET, SOCK_DGRAM, 0, NULL, 0, 0);

	verdict(105, is(seen, 0, 0, 32), told(seen));
	seen = ask_overlapped(peer.socket, CONTEXT_IOCTL, buffer, sizeof(buffer), &overlapped,
			      NULL);
	also("answered at once, the event is set",
	     is(seen, 0, 0, 32) &&
		     WSAWaitForMultipleEvents(1, &overlapped.hEvent, TRUE, 0, FALSE) == 0 &&
		     is(ended(peer.socket, &overlapped, FALSE), 0, 0, 32));
	seen = ask_overlapped(peer.socket, CONTEXT_IOCTL, buffer, sizeof(buffer), &overlapped,
			      routine);
	also("answered at once, the routine is queued, and runs once",
	     is(seen, 0, 0, 32) && routine_saw.runs == 0 &&
		     SleepEx(0, TRUE) == WAIT_IO_COMPLETION && routine_saw.runs == 1 &&
		     routine_saw.bytes == 32 && SleepEx(0, TRUE) == 0);
	seen = ask_overlapped(peer.socket, CONTEXT_IOCTL, buffer, 8, &overlapped, NULL);
	also("too small: fails at once, nothing is pending",
	     is(seen, -1, ERROR_INSUFFICIENT_BUFFER, 32));
	seen = ask_overlapped(plain, CONTEXT_IOCTL, buffer, sizeof(buffer), (WSAOVERLAPPED *)8,
			      NULL);
	also("without the attribute, the overlapped arguments are not looked at",
	     is(seen, -1, WSAENOTCONN, 0));
	WSACloseEvent(overlapped.hEvent);
	closesocket(plain);
	end(peer);
}

static void pending(void)
{
	SOCKET socket = waiting();
	WSAOVERLAPPED overlapped = { .hEvent = WSACreateEvent() };
	char buffer[64];
	DWORD bytes = 0, flags;
	struct outcome seen = ask_overlapped(socket, CONTEXT_IOCTL, buffer, 64, &overlapped, NULL);

	verdict(107, is(seen, -1, WSA_IO_PENDING, UNTOUCHED), told(seen));
	seen = ended(socket, &overlapped, FALSE);
	verdict(109, is(seen, -1, WSA_IO_INCOMPLETE, UNTOUCHED), told(seen));
	also("an OVERLAPPED in use: WSAEINVAL",
	     is(ask_overlapped(socket, CONTEXT_IOCTL, buffer, 64, &overlapped, NULL), -1, WSAEINVAL,
		UNTOUCHED));
	WSAIoctl(socket, SIO_FLUSH, NULL, 0, NULL, 0, &bytes, NULL, NULL);
	seen = ended(socket, &overlapped, TRUE);
	verdict(111,
		is(seen, -1, WSA_OPERATION_ABORTED, UNTOUCHED) &&
			WSAWaitForMultipleEvents(1, &overlapped.hEvent, FALSE, 0, FALSE) == 0,
		told(seen));

	seen = ask_overlapped(socket, CONTEXT_IOCTL, buffer, 64, &overlapped, NULL);
	arrive(socket);
	also("what comes was not redirected: WSAEINVAL, by waiting",
	     seen.error == WSA_IO_PENDING &&
		     is(ended(socket, &overlapped, TRUE), -1, WSAEINVAL, UNTOUCHED));
	recv(socket, buffer, sizeof(buffer), 0);
	ask_overlapped(socket, RECORDS_IOCTL, buffer, 64, &overlapped, routine);
	also("waiting for one with a routine: WSA_INVALID_PARAMETER",
	     !WSAGetOverlappedResult(socket, &overlapped, &bytes, TRUE, &flags) &&
		     WSAGetLastError() == WSA_INVALID_PARAMETER);
	closesocket(socket);
	also("closesocket aborts",
	     SleepEx(0, TRUE) == WAIT_IO_COMPLETION && routine_saw.error == WSA_OPERATION_ABORTED);
	WSACloseEvent(overlapped.hEvent);
}

/* A TCP socket on its way: to a listener that does not answer, its queue being full. */
static void connecting(void)
{
	SOCKET full = outgoing(), filling[2] = { outgoing(), outgoing() }, socket = outgoing();
	struct sockaddr_in name = at("127.0.0.1", 0);
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
	seen = ask_overlapped(socket, CONTEXT_IOCTL, buffer, 64, &overlapped, NULL);
	also("a connect in progress: pending", is(seen, -1, WSA_IO_PENDING, UNTOUCHED));
	ioctlsocket(full, FIONBIO, &(uint32_t){ 1 });
	while (!HasOverlappedIoCompleted(&overlapped)) { /* now there is room */
		closesocket(accept(full, NULL, NULL));
		SleepEx(1, FALSE);
	}
	seen = ended(socket, &overlapped, TRUE);
	also("connected, not redirected to us: WSAEINVAL", is(seen, -1, WSAEINVAL, UNTOUCHED));
	closesocket(full);
	closesocket(filling[0]);
	closesocket(filling[1]);
	closesocket(socket);
}

static WSAOVERLAPPED of_thread;
static char of_thread_buffer[64];

static void *short_lived(void *socket)
{
	ask_overlapped(*(SOCKET *)socket, CONTEXT_IOCTL, of_thread_buffer, 64, &of_thread, routine);
	return NULL;
}

static void threads(void)
{
	SOCKET socket = waiting();
	struct outcome seen;
	pthread_t thread;
	int before = routine_saw.runs;

	pthread_create(&thread, NULL, short_lived, &socket);
	pthread_join(thread, NULL);
	seen = ended(socket, &of_thread, FALSE);
	verdict(115,
		is(seen, -1, WSA_OPERATION_ABORTED, UNTOUCHED) && routine_saw.runs == before &&
			SleepEx(0, TRUE) == 0,
		told(seen));
	closesocket(socket);
}

/* Freed while pending: told as misuse, and nothing is touched. */
static void freed(void)
{
	SOCKET socket = waiting();
	WSAOVERLAPPED *overlapped =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char buffer[64];
	DWORD before = SidetrackMisuses();

	ask_overlapped(socket, CONTEXT_IOCTL, buffer, 64, overlapped, NULL);
	munmap(overlapped, 4096);
	closesocket(socket);
	verdict(117, SidetrackMisuses() == before + 1,
		"an OVERLAPPED freed while pending is counted");
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

static void provider(void)
{
	SOCKET socket = waiting();
	WSAOVERLAPPED overlapped = { 0 };
	WSATHREADID id, good;
	char buffer[64];
	int error = 0, before = routine_saw.runs, result, counted = 0;

	WSASetLastError(77);
	result = call_provider(socket, &overlapped, buffer, &error);
	arrive(socket);
	verdict(119,
		result == -1 && error == WSA_IO_PENDING && WSAGetLastError() == 77 &&
			SleepEx(WSA_INFINITE, TRUE) == WAIT_IO_COMPLETION &&
			routine_saw.runs == before + 1 && routine_saw.error == WSAEINVAL &&
			routine_saw.bytes == 0,
		"the thread's id was copied, the error is at lpErrno");
	WPUOpenCurrentThread(&id, &error);
	also("WPUQueueApc", WPUQueueApc(&id, count, (DWORD_PTR)&counted, &error) == 0 &&
				    counted == 0 && SleepEx(0, FALSE) == 0 && counted == 0 &&
				    SleepEx(0, TRUE) == WAIT_IO_COMPLETION && counted == 1);
	good = id;
	id.ThreadHandle = (HANDLE)0x7ffffffc;
	also("WPUQueueApc to no thread: WSAEFAULT",
	     WPUQueueApc(&id, count, 0, &error) == -1 && error == WSAEFAULT);
	id = good;
	for (int i = 0; i < 65536; i++)
		WPUQueueApc(&id, count, (DWORD_PTR)&counted, &error);
	also("a thread's queue has an end: WSAENOBUFS",
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
	routine_saw.runs++;
}

/* A routine that waits alertably: another socket's runs within it, its own socket's after it. */
static void nested(void)
{
	struct peer peer = redirected(PORT_32), other = redirected(PORT_32);
	WSAOVERLAPPED overlapped[3] = { 0 };
	char buffer[64];
	int before = routine_saw.runs;

	ask_overlapped(peer.socket, CONTEXT_IOCTL, buffer, 64, &overlapped[0], nesting);
	ask_overlapped(peer.socket, CONTEXT_IOCTL, buffer, 64, &overlapped[1], nesting);
	SleepEx(0, TRUE);
	also("a socket's routine is not entered again", deepest == 1);
	ask_overlapped(peer.socket, CONTEXT_IOCTL, buffer, 64, &overlapped[0], nesting);
	ask_overlapped(other.socket, CONTEXT_IOCTL, buffer, 64, &overlapped[2], nesting);
	SleepEx(0, TRUE);
	while (SleepEx(0, TRUE) == WAIT_IO_COMPLETION)
		;
	also("another socket's is; none is lost",
	     deepest == 2 && routine_saw.runs == before + 4 && depth == 0);
	end(peer);
	end(other);
}

static void nonblocking(void)
{
	SOCKET socket = waiting();
	char buffer[64];
	struct outcome seen;

	ioctlsocket(socket, FIONBIO, &(uint32_t){ 1 });
	seen = query(socket, CONTEXT_IOCTL, buffer, sizeof(buffer));
	verdict(121, is(seen, -1, WSAEWOULDBLOCK, 0), told(seen));
	closesocket(socket);
}

/* Case 113 needs a flow that is not there yet. */
void routine_of_first_datagram(SOCKET socket, void (*send_it)(void))
{
	WSAOVERLAPPED overlapped = { 0 };
	char buffer[64];
	int before = routine_saw.runs;
	struct outcome seen =
		ask_overlapped(socket, CONTEXT_IOCTL, buffer, 64, &overlapped, routine);

	send_it();
	while (!HasOverlappedIoCompleted(&overlapped))
		SleepEx(1, FALSE);
	verdict(113,
		is(seen, -1, WSA_IO_PENDING, UNTOUCHED) && routine_saw.runs == before &&
			SleepEx(WSA_INFINITE, TRUE) == WAIT_IO_COMPLETION &&
			routine_saw.runs == before + 1 && routine_saw.bytes == 32 &&
			routine_saw.error == 0 && routine_saw.overlapped == &overlapped &&
			pthread_equal(routine_saw.thread, pthread_self()) &&
			!memcmp(buffer, "0123456789", 10),
		"pending, then a routine on this thread with the context");
}

void overlapped(void)
{
	at_once();
	pending();
	connecting();
	threads();
	freed();
	provider();
	nested();
	nonblocking();
}
