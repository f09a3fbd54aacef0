/*
 * The conformance program: the cases of docs/wfp.md, 8.1 to 8.4, 8.7, 8.8 and 8.10, on the real
 * kernel. It prints one line for each case, with its number there, and exits with 1 if any case
 * fails.
 *
 * e2e/tests/winsock.rs starts it as the proxy of a service, with filters for the ports in
 * harness.h. With the arguments "unelevated RECORDS" it only sets these records; see
 * set_unelevated.
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
	struct sockaddr_in any = ipv4_address("0.0.0.0", 0);
	WSADATA data;

	report_extra("version 0 is not supported", WSAStartup(0, &data) == WSAVERNOTSUPPORTED);
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
	alarm(60); /* a hang is a failure */
	start();
	parameters();
	before = descriptors_open(); /* after what is opened once */
	state();
	setting();
	overlapped();
	datagrams();
	caller();
	bad_input();
	/* Two more: the epoll instance for pending operations, and the eventfd of this thread's
	 * APCs. */
	report_extra("no descriptor is left", descriptors_open() == before + 2);
	without_engine();
	WSACleanup();
	not_started("after WSACleanup: WSANOTINITIALISED");
	printf("%d failed\n", failures());
	return failures() > 0;
}
