/* Invalid arguments of every kind. None of these checks is a numbered case of docs/wfp.md. */
#include <pthread.h>
#include <fcntl.h>

#include "harness.h"

#define WILD ((void *)0x123456789000)

static void invalid_pointers(SOCKET socket)
{
	char buffer[64], *edge = guard_page();
	WSAOVERLAPPED overlapped = { 0 };
	DWORD bytes;
	bool holds = true;
	void *bad[] = { NULL, (void *)1, WILD, edge, (void *)-8, (void *)0xffff800000000000 };

	for (int i = 0; i < 6; i++) {
		holds &= WSAIoctl(socket, CONTEXT_IOCTL, NULL, 0, buffer, 64, bad[i], NULL, NULL) ==
				 -1 &&
			 WSAGetLastError() == WSAEFAULT;
		holds &= outcome_is(query(socket, CONTEXT_IOCTL, bad[i], 64), -1, WSAEFAULT, 0);
		holds &= outcome_is(set_records(socket, bad[i], 32), -1, WSAEFAULT, 0);
		if (!bad[i])
			continue;
		holds &= query_overlapped(socket, CONTEXT_IOCTL, buffer, 64, bad[i], NULL).error ==
			 WSAEFAULT;
		holds &= query_overlapped(socket, CONTEXT_IOCTL, buffer, 64, &overlapped,
					  (LPWSAOVERLAPPED_COMPLETION_ROUTINE)bad[i])
				 .error == WSAEFAULT;
		holds &= WSPIoctl(socket, CONTEXT_IOCTL, NULL, 0, buffer, 64, &bytes, &overlapped,
				  NULL, bad[i], bad[i]) == -1;
		holds &= !WSAGetOverlappedResult(socket, bad[i], bad[i], FALSE, bad[i]) &&
			 WSAGetLastError() == WSAEFAULT;
		holds &= WSARecvMsg(socket, bad[i], &bytes, NULL, NULL) == -1 &&
			 WSAGetLastError() == WSAEFAULT;
		holds &= WSASendMsg(socket, bad[i], 0, &bytes, NULL, NULL) == -1 &&
			 WSAGetLastError() == WSAEFAULT;
		holds &= connect(socket, bad[i], 16) == -1 && WSAGetLastError() == WSAEFAULT;
		holds &= WSAStartup(MAKEWORD(2, 2), bad[i]) == WSAEFAULT;
	}
	report_extra("NULL, unmapped, straddling and kernel pointers: WSAEFAULT", holds);
	overlapped.hEvent = (HANDLE)0x1234;
	report_extra("an invalid event: WSA_INVALID_HANDLE",
		     query_overlapped(socket, CONTEXT_IOCTL, buffer, 64, &overlapped, NULL).error ==
				     WSA_INVALID_HANDLE &&
			     !WSASetEvent(overlapped.hEvent) &&
			     WSAGetLastError() == WSA_INVALID_HANDLE);
}

static void excessive_lengths(SOCKET socket)
{
	static const DWORD long_ones[] = { 0x7fffffff, 0x80000000, 0x80000001, 0xffffffff };
	char buffer[64];
	bool holds = true;

	for (int i = 0; i < 4; i++) {
		char *edge = guard_page() - 4096;

		holds &= outcome_is(query(socket, CONTEXT_IOCTL, edge, long_ones[i]), -1, WSAEFAULT,
				    0);
		holds &= outcome_is(query(socket, RECORDS_IOCTL, edge, long_ones[i]), -1, WSAEFAULT,
				    0);
		holds &= outcome_is(set_records(socket, edge, long_ones[i]), -1, WSAEFAULT, 0);
	}
	report_extra("lengths of 2^31 and more: WSAEFAULT", holds);
	(void)buffer;
}

static void invalid_descriptors(void)
{
	SOCKET closed = new_tcp_socket(), file = open("/dev/null", O_RDWR);
	SOCKET invalid[] = { closed, file, (SOCKET)-1, INVALID_SOCKET, 1u << 31, (SOCKET)1 << 32 };
	char buffer[64];
	DWORD bytes;
	bool holds = true;

	closesocket(closed);
	for (int i = 0; i < 6; i++) {
		holds &= outcome_is(query(invalid[i], CONTEXT_IOCTL, buffer, 64), -1, WSAENOTSOCK,
				    UNTOUCHED);
		holds &= outcome_is(query(invalid[i], CONTEXT_IOCTL, NULL, 64), -1, WSAENOTSOCK,
				    UNTOUCHED);
		holds &=
			outcome_is(set_records(invalid[i], buffer, 32), -1, WSAENOTSOCK, UNTOUCHED);
		holds &= outcome_is(query(invalid[i], 0x12345678, buffer, 64), -1, WSAENOTSOCK,
				    UNTOUCHED);
		holds &= closesocket(invalid[i]) == -1 && WSAGetLastError() == WSAENOTSOCK;
		holds &=
			WSAIoctl(invalid[i], SIO_FLUSH, NULL, 0, NULL, 0, &bytes, NULL, NULL) == -1;
	}
	report_extra("closed descriptors, files and invalid numbers: WSAENOTSOCK", holds);
	close(file);
}

static void unknown_codes(SOCKET socket)
{
	static const DWORD wrong_codes[] = { 0x580000dd, 0x180000dd, 0xd80000dd, 0x980000db,
					     0x980000df };
	char buffer[64];
	bool holds = true;

	for (int i = 0; i < 5; i++)
		holds &= outcome_is(query(socket, wrong_codes[i], buffer, 64), -1, WSAEINVAL, 0);
	report_extra("codes with other direction bits, and unknown ones: WSAEINVAL", holds);
	report_extra("a code of another type: WSAEOPNOTSUPP",
		     outcome_is(query(socket, 0x48000016, buffer, 64), -1, WSAEOPNOTSUPP, 0));
}

/* Calls without a start: before the first WSAStartup, or after the last WSACleanup. */
void not_started(const char *when)
{
	char buffer[64];
	struct outcome seen = query(0, CONTEXT_IOCTL, buffer, sizeof(buffer));
	bool holds = outcome_is(seen, -1, WSANOTINITIALISED, UNTOUCHED);

	holds &= socket(AF_INET, SOCK_STREAM, 0) == INVALID_SOCKET &&
		 WSAGetLastError() == WSANOTINITIALISED;
	holds &= WSACreateEvent() == WSA_INVALID_EVENT && WSAGetLastError() == WSANOTINITIALISED;
	holds &= WSACleanup() == -1 && WSAGetLastError() == WSANOTINITIALISED;
	report_extra(when, holds);
}

void bad_input(void)
{
	struct peer peer = connect_redirected(PORT_32);

	invalid_pointers(peer.socket);
	excessive_lengths(peer.socket);
	invalid_descriptors();
	unknown_codes(peer.socket);
	close_peer(peer);
}
