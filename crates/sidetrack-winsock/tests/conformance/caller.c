/*
 * The cases of docs/wfp.md, 8.8: a caller that is correct under every reading, also with a faulty
 * provider. Each case number is that of the case there. The caller uses the algorithm of
 * docs/wfp.md, 1.6.
 */
#include "harness.h"

#define FIRST_SIZE 8	/* bytes; too few on purpose, so that the buffer must grow */
#define LAST_SIZE 65536 /* bytes */

typedef INT (*ioctl_function)(SOCKET, DWORD, void *, DWORD, void *, DWORD, DWORD *, WSAOVERLAPPED *,
			      LPWSAOVERLAPPED_COMPLETION_ROUTINE);

/* Queries with a growing buffer. Returns the length of the answer, or 0 if there is none. */
static DWORD query_robustly(ioctl_function ioctl, SOCKET socket, DWORD code, char *buffer,
			    int *calls)
{
	DWORD size = FIRST_SIZE, length;

	for (*calls = 0; size <= LAST_SIZE;) {
		length = 0;
		++*calls;
		if (ioctl(socket, code, NULL, 0, buffer, size, &length, NULL, NULL) == 0)
			return length <= size ? length : 0;
		switch (WSAGetLastError()) {
		case ERROR_INSUFFICIENT_BUFFER:
		case WSAEFAULT:
		case WSAENOBUFS:
		case WSAEINVAL:
			size = length > size ? length : size * 2;
			break;
		default:
			return 0;
		}
	}
	return 0;
}

/* A provider that claims to have written more bytes than the buffer has. */
static INT faulty_provider(SOCKET socket, DWORD code, void *in, DWORD in_size, void *out,
			   DWORD out_size, DWORD *bytes, WSAOVERLAPPED *overlapped,
			   LPWSAOVERLAPPED_COMPLETION_ROUTINE routine)
{
	(void)socket, (void)code, (void)in, (void)in_size, (void)overlapped, (void)routine;
	memset(out, 0, out_size);
	*bytes = out_size + 1;
	return 0;
}

/* Parses the beginning of the automatic context (struct sidetrack_auto_context); see
 * examples/inspect.c. */
static bool parse(const char *context, DWORD length, struct sockaddr_in *to)
{
	uint32_t version, size;

	if (length < 48)
		return false;
	memcpy(&version, context, 4);
	memcpy(&size, context + 4, 4);
	if (version != 3 || size != length || context[34] != IPPROTO_TCP || context[35] != AF_INET)
		return false;
	*to = ipv4_address("0.0.0.0", 0);
	memcpy(&to->sin_addr, context + 28, 4);
	memcpy(&to->sin_port, context + 32, 2);
	return true;
}

static bool is_own(struct sockaddr_in to)
{
	return ntohs(to.sin_port) == port_of(listener) && ntohl(to.sin_addr.s_addr) >> 24 == 127;
}

static void each_reading(SOCKET socket, SOCKET unrecorded)
{
	static char buffer[LAST_SIZE];
	int calls;
	bool holds = true;

	SidetrackSetReading(SIDETRACK_READING_R3);
	report_extra("R3: too small is WSAEFAULT",
		     outcome_is(query(socket, CONTEXT_IOCTL, buffer, 8), -1, WSAEFAULT, 296));
	report_case(123,
		    query_robustly(WSAIoctl, socket, CONTEXT_IOCTL, buffer, &calls) == 296 &&
			    calls == 2,
		    "under R3 the caller grows the buffer as well");
	SidetrackSetReading(SIDETRACK_READING_R2);
	report_extra("R2: too small is WSAEINVAL, and the size 0",
		     outcome_is(query(socket, CONTEXT_IOCTL, buffer, 8), -1, WSAEINVAL, 0));
	report_extra("under R2 the caller doubles the buffer",
		     query_robustly(WSAIoctl, socket, CONTEXT_IOCTL, buffer, &calls) == 296 &&
			     calls == 7);
	for (int reading = SIDETRACK_READING_R3; reading >= SIDETRACK_READING_R1; reading--) {
		SidetrackSetReading(reading);
		holds &= query_robustly(WSAIoctl, unrecorded, CONTEXT_IOCTL, buffer, &calls) == 0;
		holds &= query_robustly(WSAIoctl, socket, RECORDS_IOCTL, buffer, &calls) == 32;
	}
	report_extra("if nothing is recorded, the caller gives up under each reading", holds);
	report_extra("an unknown reading: WSA_INVALID_PARAMETER",
		     SidetrackSetReading(4) == -1 && WSAGetLastError() == WSA_INVALID_PARAMETER);
}

void caller(void)
{
	struct peer peer = connect_redirected(PORT_AUTO), other = connect_directly();
	struct sockaddr_in to;
	static char buffer[LAST_SIZE];
	DWORD length;
	int calls;
	bool rejected;

	each_reading(peer.socket, other.socket);
	report_case(125,
		    query_robustly(faulty_provider, peer.socket, CONTEXT_IOCTL, buffer, &calls) ==
			    0,
		    "a size that exceeds the buffer is rejected");
	length = query_robustly(WSAIoctl, peer.socket, CONTEXT_IOCTL, buffer, &calls);
	report_extra("the context has the original destination",
		     parse(buffer, length, &to) && to.sin_addr.s_addr == inet_addr("10.1.2.3") &&
			     ntohs(to.sin_port) == PORT_AUTO);
	rejected = !parse(buffer, length - 1, &to) && !parse(buffer, 20, &to);
	buffer[0] ^= 1;
	report_case(127, rejected && !parse(buffer, length, &to),
		    "another version and another length are rejected");
	buffer[0] ^= 1;
	memcpy(buffer + 28, &(uint32_t){ htonl(INADDR_LOOPBACK) }, 4);
	memcpy(buffer + 32, &(uint16_t){ htons(port_of(listener)) }, 2);
	report_case(129, parse(buffer, length, &to) && is_own(to),
		    "the proxy recognises its own address");
	close_peer(peer);
	close_peer(other);
}
