/* The cases of docs/wfp.md, 8.1, 8.2 and 8.10: the codes, and the arguments of queries. */
#include "harness.h"

static void control_codes(SOCKET socket)
{
	char buffer[64];
	struct outcome seen;

	report_case(1, RECORDS_IOCTL == 0x980000dc, "the code of the records query");
	report_case(3, SET_IOCTL == 0x980000de && SET_IOCTL != RECORDS_IOCTL, "the code of SET");
	seen = query(socket, RECORDS_IOCTL, buffer, sizeof(buffer));
	report_case(5, outcome_is(seen, 0, 0, 32), describe(seen));
	seen = query(socket, 0x980000df, buffer, sizeof(buffer));
	report_case(7, outcome_is(seen, -1, WSAEINVAL, 0), describe(seen));
}

static void capacity(SOCKET socket)
{
	char buffer[64];
	struct outcome seen = query(socket, CONTEXT_IOCTL, buffer, 32);

	report_case(9,
		    outcome_is(seen, 0, 0, 32) &&
			    !memcmp(buffer, "0123456789abcdef0123456789ABCDEF", 32),
		    describe(seen));
	seen = query(socket, CONTEXT_IOCTL, buffer, 4);
	report_case(11, outcome_is(seen, -1, ERROR_INSUFFICIENT_BUFFER, 32), describe(seen));
	seen = query(socket, CONTEXT_IOCTL, buffer, 0);
	report_case(13, outcome_is(seen, -1, ERROR_INSUFFICIENT_BUFFER, 32), describe(seen));
	for (DWORD size = 0; size < 40; size++) {
		int error = size == 0 || size >= 4 ? ERROR_INSUFFICIENT_BUFFER : WSAEINVAL;
		DWORD bytes = error == WSAEINVAL ? 0 : 32;
		bool fits = size >= 32;

		seen = query(socket, CONTEXT_IOCTL, buffer, size);
		if (!outcome_is(seen, fits ? 0 : -1, fits ? 0 : error, bytes))
			report_extra("every capacity from 0 to 39", false);
	}
}

static void memory(SOCKET socket)
{
	char buffer[64], *edge = guard_page();
	DWORD bytes = UNTOUCHED;
	struct outcome seen = query(socket, CONTEXT_IOCTL, NULL, 64);

	report_case(15, outcome_is(seen, -1, WSAEFAULT, 0), describe(seen));
	/* The answer of 32 bytes would fit before the inaccessible page; the buffer does not. */
	seen = query(socket, CONTEXT_IOCTL, edge - 40, 64);
	report_case(17, outcome_is(seen, -1, WSAEFAULT, 0), describe(seen));
	seen = query(socket, CONTEXT_IOCTL, edge - 32, 32);
	report_extra("a buffer that ends at an inaccessible page", outcome_is(seen, 0, 0, 32));
	seen.result = WSAIoctl(socket, CONTEXT_IOCTL, buffer, 16, buffer, sizeof(buffer), &bytes,
			       NULL, NULL);
	report_case(19, seen.result == 0 && bytes == 32, "an input buffer is ignored");
	seen = query(socket, CONTEXT_IOCTL, edge - 64, 0xffffffff);
	report_case(25, outcome_is(seen, -1, WSAEFAULT, 0), describe(seen));
}

static void repeated_queries(SOCKET socket)
{
	char buffer[64], first[32];
	struct outcome probe = query(socket, CONTEXT_IOCTL, NULL, 0), seen;

	seen = query(socket, CONTEXT_IOCTL, buffer, probe.bytes);
	report_case(21, probe.bytes == 32 && outcome_is(seen, 0, 0, probe.bytes), describe(seen));
	memcpy(first, buffer, 32);
	seen = query(socket, RECORDS_IOCTL, buffer, sizeof(buffer));
	report_case(23,
		    outcome_is(seen, 0, 0, 32) &&
			    outcome_is(query(socket, CONTEXT_IOCTL, buffer, 64), 0, 0, 32) &&
			    !memcmp(first, buffer, 32),
		    "records, then context");
}

static void edge_sizes(void)
{
	struct peer small = connect_redirected(PORT_2), large = connect_redirected(PORT_4000);
	static char buffer[8192];
	struct outcome seen = query(small.socket, CONTEXT_IOCTL, NULL, 0);

	report_case(153, outcome_is(seen, -1, ERROR_INSUFFICIENT_BUFFER, 2), describe(seen));
	seen = query(small.socket, CONTEXT_IOCTL, buffer, 2);
	report_extra("capacity 2 is invalid, also for 2 bytes", outcome_is(seen, -1, WSAEINVAL, 0));
	seen = query(small.socket, CONTEXT_IOCTL, buffer, 4);
	report_extra("capacity 4 is valid for 2 bytes", outcome_is(seen, 0, 0, 2));
	seen = query(large.socket, CONTEXT_IOCTL, buffer, sizeof(buffer));
	report_extra("a context of 4,000 bytes", outcome_is(seen, 0, 0, 4000) && buffer[3999] == 7);
	seen = query(large.socket, CONTEXT_IOCTL, buffer, 3999);
	report_extra("a context of 4,000 bytes, and a capacity of 3,999",
		     outcome_is(seen, -1, ERROR_INSUFFICIENT_BUFFER, 4000));
	close_peer(small);
	close_peer(large);
}

void parameters(void)
{
	struct peer peer = connect_redirected(PORT_32);

	control_codes(peer.socket);
	capacity(peer.socket);
	memory(peer.socket);
	repeated_queries(peer.socket);
	edge_sizes();
	close_peer(peer);
}
