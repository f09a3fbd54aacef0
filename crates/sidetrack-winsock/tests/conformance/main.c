/*
 * The contract, case by case: the odd-numbered cases of spec 8.1 to 8.4, 8.7, 8.8 and 8.10, on the
 * real kernel. One line for each; ends with 1 if any fails.
 *
 * Started by e2e/tests/winsock.rs, as a service's proxy: the filters of the ports in harness.h lead
 * here.
 */
#include <fcntl.h>

#include "harness.h"

int set_unelevated(const char *hex);
void not_started(const char *when);

static int descriptors_open(void)
{
	int open = 0;

	for (int i = 0; i < 256; i++)
		open += fcntl(i, F_GETFD) >= 0;
	return open;
}

static void start(void)
{
	struct sockaddr_in any = at("0.0.0.0", 0);
	WSADATA data;

	also("version 0 is not supported", WSAStartup(0, &data) == WSAVERNOTSUPPORTED);
	not_started("before WSAStartup: WSANOTINITIALISED");
	if (WSAStartup(MAKEWORD(2, 2), &data) || data.wVersion != MAKEWORD(2, 2))
		exit(2);
	listener = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
	if (bind(listener, &any, sizeof(any)) || listen(listener, SOMAXCONN))
		exit(2);
}

int main(int count, char **arguments)
{
	int before;

	if (count == 3) {
		WSADATA data;

		WSAStartup(MAKEWORD(2, 2), &data);
		return set_unelevated(arguments[2]);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(60); /* a hang is a finding */
	start();
	parameters();
	before = descriptors_open(); /* what is made once has been made */
	state();
	setting();
	overlapped();
	datagrams();
	caller();
	bad_input();
	/* The epoll of all that is pending, and the signal of this thread's routines. */
	also("no descriptor is left", descriptors_open() == before + 2);
	without_engine();
	WSACleanup();
	not_started("after WSACleanup: WSANOTINITIALISED");
	printf("%d failed\n", failures());
	return failures() > 0;
}
