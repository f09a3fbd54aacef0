/*
 * Overlapped calls from many threads, cancelled at random: each completes exactly once.
 *
 * Arguments: how many calls, and a seed. Each thread has slots of its own, and sockets that all
 * share; what happens to them is left to chance: one call is cancelled, a socket is flushed, gets a
 * datagram, is closed and made anew, or the thread ends while its calls are pending. A call's
 * completion is counted by its routine; who waits for an event takes the result.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sidetrack/winsock.h>

#define THREADS 4
#define SLOTS 64
#define SOCKETS 8
#define ROUND 1000 /* calls of one thread's life */

struct slot {
	WSAOVERLAPPED overlapped;
	char answer[64];
	int pending; /* calls begun and not completed: 0 or 1 */
	int has_routine;
	struct worker *worker;
};

struct worker {
	struct slot slots[SLOTS];
	HANDLE event;
	unsigned seed;
	long begun, completed, aborted, refused, wrong;
};

static struct worker workers[THREADS];
static _Atomic(SOCKET) sockets[SOCKETS];
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

static bool make(SOCKET made)
{
	struct sockaddr_in name = { .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(name);

	return !bind(made, &name, sizeof(name)) && !getsockname(made, (SOCKADDR *)&name, &length) &&
	       !connect(made, &name, length);
}

/* Nothing has come to it. Another thread may still use its number, which was another socket's: then
 * once more. */
static SOCKET waiting(void)
{
	for (;;) {
		SOCKET made =
			WSASocketW(AF_INET, SOCK_DGRAM, IPPROTO_UDP, NULL, 0, WSA_FLAG_OVERLAPPED);

		if (made == INVALID_SOCKET)
			exit(2);
		if (make(made))
			return made;
		closesocket(made);
	}
}

static void completed(struct slot *slot, DWORD error, DWORD bytes)
{
	struct worker *worker = slot->worker;

	slot->pending--;
	worker->completed++;
	worker->aborted += error == WSA_OPERATION_ABORTED;
	/* Nothing is ever redirected here. */
	worker->wrong +=
		slot->pending != 0 || bytes != 0 ||
		(error != WSA_OPERATION_ABORTED && error != WSAEINVAL && error != WSAENOTSOCK);
}

static void CALLBACK routine(DWORD error, DWORD bytes, WSAOVERLAPPED *overlapped, DWORD flags)
{
	(void)flags;
	completed((struct slot *)overlapped, error, bytes);
}

static void begin(struct worker *worker, struct slot *slot, SOCKET socket)
{
	DWORD bytes;
	int result;

	slot->has_routine = rand_r(&worker->seed) % 4 != 0;
	slot->overlapped.hEvent = slot->has_routine ? (HANDLE)0x77 : worker->event;
	result = WSAIoctl(socket, SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT, NULL, 0, slot->answer,
			  sizeof(slot->answer), &bytes, &slot->overlapped,
			  slot->has_routine ? routine : NULL);
	worker->begun++;
	if (result == 0 || WSAGetLastError() == WSA_IO_PENDING)
		slot->pending++;
	else /* a datagram was there, or the socket has just been closed */
		worker->refused++;
}

/* Takes the result of a call without a routine. */
static void take(struct worker *worker, struct slot *slot, SOCKET socket)
{
	DWORD bytes = 0, flags;

	if (WSAGetOverlappedResult(socket, &slot->overlapped, &bytes, TRUE, &flags))
		worker->wrong++;
	else
		completed(slot, WSAGetLastError(), bytes);
}

static void chance(struct worker *worker, struct slot *slot, int which)
{
	SOCKET socket = sockets[which];
	char byte;
	DWORD bytes;

	switch (rand_r(&worker->seed) % 16) {
	case 0:
	case 1:
	case 2:
	case 3:
		CancelIoEx(socket, &slot->overlapped);
		break;
	case 4:
		WSAIoctl(socket, SIO_FLUSH, NULL, 0, NULL, 0, &bytes, NULL, NULL);
		break;
	case 5:
	case 6:
		send(socket, "x", 1, 0);
		recv(socket, &byte, 1, MSG_DONTWAIT); /* it may be a new one, not ready yet */
		break;
	case 7:
		pthread_mutex_lock(&making);
		closesocket(sockets[which]);
		sockets[which] = waiting();
		pthread_mutex_unlock(&making);
		break;
	}
}

/* Makes this slot free: its call is cancelled, and its completion awaited. */
static void settle(struct worker *worker, struct slot *slot)
{
	for (int i = 0; i < SOCKETS && slot->pending; i++)
		CancelIoEx(sockets[i], &slot->overlapped);
	if (slot->pending && !slot->has_routine)
		take(worker, slot, 0);
	while (slot->pending)
		SleepEx(WSA_INFINITE, TRUE);
}

static void *work(void *given)
{
	struct worker *worker = given;

	for (int i = 0; i < ROUND; i++) {
		struct slot *slot = &worker->slots[rand_r(&worker->seed) % SLOTS];
		int which = rand_r(&worker->seed) % SOCKETS;

		if (slot->pending)
			settle(worker, slot);
		begin(worker, slot, sockets[which]);
		chance(worker, slot, which);
		if (i % 8 == 0)
			SleepEx(0, TRUE);
	}
	/* Half of the lives end in order; the others leave their calls to the thread's end. */
	if (rand_r(&worker->seed) % 2)
		for (int i = 0; i < SLOTS; i++)
			settle(worker, &worker->slots[i]);
	return NULL;
}

/* The thread is gone: what it had begun has completed, though its routines have not run. */
static void bury(struct worker *worker)
{
	for (int i = 0; i < SLOTS; i++) {
		struct slot *slot = &worker->slots[i];

		if (!slot->pending)
			continue;
		worker->wrong += !HasOverlappedIoCompleted(&slot->overlapped);
		take(worker, slot, 0);
	}
}

int main(int count, char **arguments)
{
	long calls = count > 1 ? atol(arguments[1]) : 100000, begun = 0, ended = 0, aborted = 0;
	long refused = 0, wrong = 0;
	unsigned seed = count > 2 ? atoi(arguments[2]) : 1;
	WSADATA data;

	if (WSAStartup(MAKEWORD(2, 2), &data))
		return 2;
	for (int i = 0; i < SOCKETS; i++)
		sockets[i] = waiting();
	for (int i = 0; i < THREADS; i++) {
		workers[i].seed = seed + i;
		workers[i].event = WSACreateEvent();
		for (int j = 0; j < SLOTS; j++)
			workers[i].slots[j].worker = &workers[i];
	}
	for (long done = 0; done < calls; done += THREADS * ROUND) {
		pthread_t threads[THREADS];

		for (int i = 0; i < THREADS; i++)
			pthread_create(&threads[i], NULL, work, &workers[i]);
		for (int i = 0; i < THREADS; i++) {
			pthread_join(threads[i], NULL);
			bury(&workers[i]);
		}
	}
	for (int i = 0; i < THREADS; i++) {
		begun += workers[i].begun;
		ended += workers[i].completed;
		aborted += workers[i].aborted;
		refused += workers[i].refused;
		wrong += workers[i].wrong;
	}
	printf("%ld calls: %ld refused at once, %ld completed, of which %ld aborted; %ld lost, %ld "
	       "wrong, "
	       "%u misused\n",
	       begun, refused, ended, aborted, begun - refused - ended, wrong, SidetrackMisuses());
	return begun != refused + ended || wrong || SidetrackMisuses();
}
