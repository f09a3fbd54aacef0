/*
 * Measures the cost of WSAIoctl(CONTEXT) compared with that of the getsockopt that it calls, and
 * checks that it allocates no memory.
 *
 * Rounds of both alternate, and the median round is printed. The program must run as the proxy of a
 * service to which connections to port 1032 are redirected; e2e/tests/winsock.rs starts it so.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <sidetrack/winsock.h>

#define SOL_SIDETRACK 0x5354
#define CONTEXT 2
#define CALLS 10000
#define ROUNDS 61

static long allocations;

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);

void *malloc(size_t size)
{
	allocations++;
	return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	allocations++;
	return __libc_calloc(count, size);
}

void *realloc(void *pointer, size_t size)
{
	allocations++;
	return __libc_realloc(pointer, size);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static double time_getsockopt(int socket)
{
	double start = now();
	char buffer[64];

	for (int i = 0; i < CALLS; i++) {
		socklen_t length = sizeof(buffer);

		if (getsockopt(socket, SOL_SIDETRACK, CONTEXT, buffer, &length) || length != 32)
			exit(3);
	}
	return (now() - start) / CALLS;
}

static double time_wsaioctl(SOCKET socket, char *buffer)
{
	double start = now();

	for (int i = 0; i < CALLS; i++) {
		DWORD length;

		if (WSAIoctl(socket, SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT, NULL, 0, buffer, 64,
			     &length, NULL, NULL) ||
		    length != 32)
			exit(3);
	}
	return (now() - start) / CALLS;
}

static int by_size(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

static double median(double *rounds)
{
	qsort(rounds, ROUNDS, sizeof(*rounds), by_size);
	return rounds[ROUNDS / 2];
}

static SOCKET accept_redirected(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET }, to = any;
	SOCKET listener = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(listener, &any, sizeof(any)) || listen(listener, 16))
		exit(2);
	to.sin_addr.s_addr = inet_addr("10.1.2.3");
	to.sin_port = htons(1032);
	if (fork() == 0) {
		char path[512], byte;
		int client, file;

		snprintf(path, sizeof(path), "%s/cgroup.procs", getenv("PROGRAM_CGROUP"));
		file = open(path, O_WRONLY);
		if (file < 0 || write(file, "0", 1) != 1)
			_exit(3);
		client = (socket)(AF_INET, SOCK_STREAM, 0);
		if ((connect)(client, (SOCKADDR *)&to, sizeof(to)))
			_exit(4);
		_exit(read(client, &byte, 1) < 0);
	}
	return accept(listener, NULL, NULL);
}

int main(void)
{
	static double getsockopt_ns[ROUNDS], stack_ns[ROUNDS], heap_ns[ROUNDS];
	char buffer[64], *heap_buffer = malloc(64);
	WSADATA data;
	SOCKET socket;
	long before;

	if (WSAStartup(MAKEWORD(2, 2), &data))
		return 2;
	socket = accept_redirected();
	time_getsockopt(socket);
	time_wsaioctl(socket, buffer);
	before = allocations;
	for (int i = 0; i < ROUNDS; i++) {
		getsockopt_ns[i] = time_getsockopt(socket);
		stack_ns[i] = time_wsaioctl(socket, buffer);
		heap_ns[i] = time_wsaioctl(socket, heap_buffer);
	}
	before = allocations - before;
	printf("getsockopt %.0f ns, WSAIoctl %.0f ns: %.2f times; with a buffer on the heap %.2f "
	       "times; %ld allocations\n",
	       median(getsockopt_ns), median(stack_ns), median(stack_ns) / median(getsockopt_ns),
	       median(heap_ns) / median(getsockopt_ns), before);
	closesocket(socket);
	wait(NULL);
	return before != 0;
}
