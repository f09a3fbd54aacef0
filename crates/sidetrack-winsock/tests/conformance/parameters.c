/* Spec 8.1, 8.2, 8.10: the codes, and what the arguments may be. */
#include "harness.h"

static void identity(SOCKET socket)
{
	char buffer[64];
	struct outcome seen;

	verdict(1, RECORDS_IOCTL == 0x980000dc, "the records' code");
	verdict(3, SET_IOCTL == 0x980000de && SET_IOCTL != RECORDS_IOCTL, "the set code");
	seen = query(socket, RECORDS_IOCTL, buffer, sizeof(buffer));
	verdict(5, is(seen, 0, 0, 32), told(seen));
	seen = query(socket, 0x980000df, buffer, sizeof(buffer));
	verdict(7, is(seen, -1, WSAEINVAL, 0), told(seen));
}

static void capacity(SOCKET socket)
{
	char buffer[64];
	struct outcome seen = query(socket, CONTEXT_IOCTL, buffer, 32);

	verdict(9, is(seen, 0, 0, 32) && !memcmp(buffer, "0123456789abcdef0123456789ABCDEF", 32),
		told(seen));
	seen = query(socket, CONTEXT_IOCTL, buffer, 4);
	verdict(11, is(seen, -1, ERROR_INSUFFICIENT_BUFFER, 32), told(seen));
	seen = query(socket, CONTEXT_IOCTL, buffer, 0);
	verdict(13, is(seen, -1, ERROR_INSUFFICIENT_BUFFER, 32), told(seen));
	for (DWORD size = 0; size < 40; size++) {
		int error = size == 0 || size >= 4 ? ERROR_INSUFFICIENT_BUFFER : WSAEINVAL;
		DWORD bytes = error == WSAEINVAL ? 0 : 32;
		bool fits = size >= 32;

		seen = query(socket, CONTEXT_IOCTL, buffer, size);
		if (!is(seen, fits ? 0 : -1, fits ? 0 : error, bytes))
			also("every capacity from 0 to 39", false);
	}
}

static void memory(SOCKET socket)
{
	char buffer[64], *edge = cliff();
	DWORD bytes = UNTOUCHED;
	struct outcome seen = query(socket, CONTEXT_IOCTL, NULL, 64);

	verdict(15, is(seen, -1, WSAEFAULT, 0), told(seen));
	/* The answer itself would fit before the edge. */
	seen = query(socket, CONTEXT_IOCTL, edge - 40, 64);
	verdict(17, is(seen, -1, WSAEFAULT, 0), told(seen));
	seen = query(socket, CONTEXT_IOCTL, edge - 32, 32);
	also("a buffer that ends where memory ends", is(seen, 0, 0, 32));
	seen.result = WSAIoctl(socket, CONTEXT_IOCTL, buffer, 16, buffer, sizeof(buffer), &bytes,
			       NULL, NULL);
	verdict(19, seen.result == 0 && bytes == 32, "an input buffer is ignored");
	seen = query(socket, CONTEXT_IOCTL, edge - 64, 0xffffffff);
	verdict(25, is(seen, -1, WSAEFAULT, 0), told(seen));
}

static void again(SOCKET socket)
{
	char buffer[64], first[32];
	struct outcome probe = query(socket, CONTEXT_IOCTL, NULL, 0), seen;

	seen = query(socket, CONTEXT_IOCTL, buffer, probe.bytes);
	verdict(21, probe.bytes == 32 && is(seen, 0, 0, probe.bytes), told(seen));
	memcpy(first, buffer, 32);
	seen = query(socket, RECORDS_IOCTL, buffer, sizeof(buffer));
	verdict(23,
		is(seen, 0, 0, 32) && is(query(socket, CONTEXT_IOCTL, buffer, 64), 0, 0, 32) &&
			!memcmp(first, buffer, 32),
		"records, then context");
}

static void edges(void)
{
	struct peer small = redirected(PORT_2), large = redirected(PORT_4000);
	static char buffer[8192];
	struct outcome seen = query(small.socket, CONTEXT_IOCTL, NULL, 0);

	verdict(153, is(seen, -1, ERROR_INSUFFICIENT_BUFFER, 2), told(seen));
	seen = query(small.socket, CONTEXT_IOCTL, buffer, 2);
	also("2 is no capacity, even for 2 bytes", is(seen, -1, WSAEINVAL, 0));
	seen = query(small.socket, CONTEXT_IOCTL, buffer, 4);
	also("4 is one", is(seen, 0, 0, 2));
	seen = query(large.socket, CONTEXT_IOCTL, buffer, sizeof(buffer));
	also("a context of 4,000 bytes", is(seen, 0, 0, 4000) && buffer[3999] == 7);
	seen = query(large.socket, CONTEXT_IOCTL, buffer, 3999);
	also("one byte less is too small", is(seen, -1, ERROR_INSUFFICIENT_BUFFER, 4000));
	end(small);
	end(large);
}

void parameters(void)
{
	struct peer peer = redirected(PORT_32);

	identity(peer.socket);
	capacity(peer.socket);
	memory(peer.socket);
	again(peer.socket);
	edges();
	end(peer);
}
