/* Spec 8.8: a caller that survives every reading, and a provider that lies. The algorithm is that
 * of spec 1.6. */
#include "harness.h"

#define FIRST 8	   /* bytes; far too few, so that it must grow */
#define LAST 65536 /* bytes */

typedef INT (*ioctl_function)(SOCKET, DWORD, void *, DWORD, void *, DWORD, DWORD *, WSAOVERLAPPED *,
			      LPWSAOVERLAPPED_COMPLETION_ROUTINE);

/* The answer's length, or 0 if there is none. */
static DWORD robust(ioctl_function ioctl, SOCKET socket, DWORD code, char *buffer, int *calls)
{
	DWORD size = FIRST, length;

	for (*calls = 0; size <= LAST;) {
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

static INT lying(SOCKET socket, DWORD code, void *in, DWORD in_size, void *out, DWORD out_size,
		 DWORD *bytes, WSAOVERLAPPED *overlapped,
		 LPWSAOVERLAPPED_COMPLETION_ROUTINE routine)
{
	(void)socket, (void)code, (void)in, (void)in_size, (void)overlapped, (void)routine;
	memset(out, 0, out_size);
	*bytes = out_size + 1;
	return 0;
}

/* The head of the automatic context; see examples/inspect.c. */
static bool parse(const char *context, DWORD length, struct sockaddr_in *to)
{
	uint32_t version, size;

	if (length < 48)
		return false;
	memcpy(&version, context, 4);
	memcpy(&size, context + 4, 4);
	if (version != 2 || size != length || context[34] != IPPROTO_TCP || context[35] != AF_INET)
		return false;
	*to = at("0.0.0.0", 0);
	memcpy(&to->sin_addr, context + 28, 4);
	memcpy(&to->sin_port, context + 32, 2);
	return true;
}

static bool is_own(struct sockaddr_in to)
{
	return ntohs(to.sin_port) == port_of(listener) && ntohl(to.sin_addr.s_addr) >> 24 == 127;
}

static void readings(SOCKET socket, SOCKET unrecorded)
{
	static char buffer[LAST];
	int calls;
	bool holds = true;

	SidetrackSetReading(SIDETRACK_READING_R3);
	also("R3: too small is WSAEFAULT",
	     is(query(socket, CONTEXT_IOCTL, buffer, 8), -1, WSAEFAULT, 296));
	verdict(123, robust(WSAIoctl, socket, CONTEXT_IOCTL, buffer, &calls) == 296 && calls == 2,
		"under R3 the caller grows, too");
	SidetrackSetReading(SIDETRACK_READING_R2);
	also("R2: too small is WSAEINVAL, and 0 bytes",
	     is(query(socket, CONTEXT_IOCTL, buffer, 8), -1, WSAEINVAL, 0));
	also("under R2 it doubles",
	     robust(WSAIoctl, socket, CONTEXT_IOCTL, buffer, &calls) == 296 && calls == 7);
	for (int reading = SIDETRACK_READING_R3; reading >= SIDETRACK_READING_R1; reading--) {
		SidetrackSetReading(reading);
		holds &= robust(WSAIoctl, unrecorded, CONTEXT_IOCTL, buffer, &calls) == 0;
		holds &= robust(WSAIoctl, socket, RECORDS_IOCTL, buffer, &calls) == 32;
	}
	also("nothing recorded ends under each reading", holds);
	also("no such reading: WSA_INVALID_PARAMETER",
	     SidetrackSetReading(4) == -1 && WSAGetLastError() == WSA_INVALID_PARAMETER);
}

void caller(void)
{
	struct peer peer = redirected(PORT_AUTO), other = direct();
	struct sockaddr_in to;
	static char buffer[LAST];
	DWORD length;
	int calls;
	bool rejected;

	readings(peer.socket, other.socket);
	verdict(125, robust(lying, peer.socket, CONTEXT_IOCTL, buffer, &calls) == 0,
		"more bytes than there is room for are rejected");
	length = robust(WSAIoctl, peer.socket, CONTEXT_IOCTL, buffer, &calls);
	also("the context says where to", parse(buffer, length, &to) &&
						  to.sin_addr.s_addr == inet_addr("10.1.2.3") &&
						  ntohs(to.sin_port) == PORT_AUTO);
	rejected = !parse(buffer, length - 1, &to) && !parse(buffer, 20, &to);
	buffer[0] ^= 1;
	verdict(127, rejected && !parse(buffer, length, &to), "another version, another length");
	buffer[0] ^= 1;
	memcpy(buffer + 28, &(uint32_t){ htonl(INADDR_LOOPBACK) }, 4);
	memcpy(buffer + 32, &(uint16_t){ htons(port_of(listener)) }, 2);
	verdict(129, parse(buffer, length, &to) && is_own(to),
		"the proxy's own address is known as such");
	end(peer);
	end(other);
}
