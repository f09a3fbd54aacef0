/*
 * Stress test: overlapped calls from several threads, with random cancellation. Each call must
 * complete exactly once.
 *
 * Arguments: the number of calls, and a seed. Each thread has its own slots for calls; the sockets
 * are shared. After each call a random action follows: a call is cancelled, a socket is flushed,
 * gets a datagram, or is closed and replaced. A thread may also end while its calls are pending. A
 * completion is counted by the call's routine or, for a call with an event, by the code that takes
 * its result.
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
#define ROUND 1000 /* calls that one thread makes before it ends */

struct slot {
	WSAOVERLAPPED overlapped;
	char answer[64];
	int pending; /* number of calls in this slot that have not completed: 0 or 1 */
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

static bool connect_to_itself(SOCKET made)
{
	struct sockaddr_in name = { .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(name);

	return !bind(made, &name, sizeof(name)) && !getsockname(made, (SOCKADDR *)&name, &length) &&
	       !connect(made, &name, length);
}

/*
 * A UDP socket that is connected to itself, and that has received nothing. Another thread may still
 * use the number of a closed socket, which the new socket has got, and so disturb it; then another
 * one is created.
 */
static SOCKET new_pending_socket(void)
{
	for (;;) {
		SOCKET made =
			WSASocketW(AF_INET, SOCK_DGRAM, IPPROTO_UDP, NULL, 0, WSA_FLAG_OVERLAPPED);

		if (made == INVALID_SOCKET)
			exit(2);
		if (connect_to_itself(made))
			return made;
		closesocket(made);
	}
}

static void count_completion(struct slot *slot, DWORD error, DWORD bytes)
{
	struct worker *worker = slot->worker;

	slot->pending--;
	worker->completed++;
	worker->aborted += error == WSA_OPERATION_ABORTED;
	/* No connection is redirected in this program. */
	worker->wrong +=
		slot->pending != 0 || bytes != 0 ||
		(error != WSA_OPERATION_ABORTED && error != WSAEINVAL && error != WSAENOTSOCK);
}

static void CALLBACK routine(DWORD error, DWORD bytes, WSAOVERLAPPED *overlapped, DWORD flags)
{
	(void)flags;
	count_completion((struct slot *)overlapped, error, bytes);
}

static void start_call(struct worker *worker, struct slot *slot, SOCKET socket)
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
	else /* a datagram was there already, or the socket has just been closed */
		worker->refused++;
}

/* Waits for the result of a call without a routine, and counts its completion. */
static void take_result(struct worker *worker, struct slot *slot, SOCKET socket)
{
	DWORD bytes = 0, flags;

	if (WSAGetOverlappedResult(socket, &slot->overlapped, &bytes, TRUE, &flags))
		worker->wrong++;
	else
		count_completion(slot, WSAGetLastError(), bytes);
}

static void random_action(struct worker *worker, struct slot *slot, int which)
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
		recv(socket, &byte, 1, MSG_DONTWAIT); /* the socket may be a new one without data */
		break;
	case 7:
		pthread_mutex_lock(&making);
		closesocket(sockets[which]);
		sockets[which] = new_pending_socket();
		pthread_mutex_unlock(&making);
		break;
	}
}

/* Frees a slot: cancels its call, and waits for the completion. */
static void finish_slot(struct worker *worker, struct slot *slot)
{
	for (int i = 0; i < SOCKETS && slot->pending; i++)
		CancelIoEx(sockets[i], &slot->overlapped);
	if (slot->pending && !slot->has_routine)
		take_result(worker, slot, 0);
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
			finish_slot(worker, slot);
		start_call(worker, slot, sockets[which]);
		random_action(worker, slot, which);
		if (i % 8 == 0)
			SleepEx(0, TRUE);
	}
	/* Half of the threads finish their calls; the others leave them to the end of the thread.
	 */
	if (rand_r(&worker->seed) % 2)
		for (int i = 0; i < SLOTS; i++)
			finish_slot(worker, &worker->slots[i]);
	return NULL;
}

/* Takes the results of the calls that a thread left when it ended. Their routines have not run. */
static void take_results_of_ended_thread(struct worker *worker)
{
	for (int i = 0; i < SLOTS; i++) {
		struct slot *slot = &worker->slots[i];

		if (!slot->pending)
			continue;
		worker->wrong += !HasOverlappedIoCompleted(&slot->overlapped);
		take_result(worker, slot, 0);
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
		sockets[i] = new_pending_socket();
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
			take_results_of_ended_thread(&workers[i]);
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
	       "wrong, %u misused\n",
	       begun, refused, ended, aborted, begun - refused - ended, wrong, SidetrackMisuses());
	return begun != refused + ended || wrong || SidetrackMisuses();
}
