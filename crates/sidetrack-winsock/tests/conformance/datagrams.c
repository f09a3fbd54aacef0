/*
 * Redirected datagrams: their control data (docs/wfp.md, 2), and a query that waits for the first
 * datagram of a flow (case 113 of docs/wfp.md, 8.7).
 */
#include <signal.h>
#include <sys/wait.h>

#include "harness.h"

#define CLIENT_PORT 45300

void routine_of_first_datagram(SOCKET socket, void (*send_it)(void));

static LPFN_WSARECVMSG receive_message;

struct datagram {
	char payload[64], control[512];
	struct sockaddr_in from;
	WSABUF part;
	WSAMSG message;
	DWORD length;
	int records, context, address; /* offsets of the data in `control`; -1 if it is not there */
};

/* A UDP socket with both redirect options; it becomes the service's when it is bound. */
static SOCKET udp(int port)
{
	SOCKET made = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
	struct sockaddr_in any = ipv4_address("0.0.0.0", port);
	int one = 1;

	setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)); /* for case 113 only */
	if (setsockopt(made, IPPROTO_IP, IP_WFP_REDIRECT_RECORDS, &one, sizeof(one)) ||
	    setsockopt(made, IPPROTO_IP, IP_WFP_REDIRECT_CONTEXT, &one, sizeof(one)) ||
	    bind(made, &any, sizeof(any)))
		exit(2);
	return made;
}

static bool receive(SOCKET socket, struct datagram *datagram)
{
	char *control = datagram->control;

	datagram->part = (WSABUF){ sizeof(datagram->payload), datagram->payload };
	datagram->message = (WSAMSG){ &datagram->from,
				      sizeof(datagram->from),
				      &datagram->part,
				      1,
				      { sizeof(datagram->control), control },
				      0 };
	datagram->records = datagram->context = datagram->address = -1;
	if (receive_message(socket, &datagram->message, &datagram->length, NULL, NULL))
		return false;
	for (WSACMSGHDR *at = WSA_CMSG_FIRSTHDR(&datagram->message); at;
	     at = WSA_CMSG_NXTHDR(&datagram->message, at)) {
		int where = (char *)WSA_CMSG_DATA(at) - control;

		if (at->cmsg_level != IPPROTO_IP)
			continue;
		if (at->cmsg_type == IP_WFP_REDIRECT_RECORDS && at->cmsg_len == WSA_CMSG_LEN(32))
			datagram->records = where;
		if (at->cmsg_type == IP_WFP_REDIRECT_CONTEXT && at->cmsg_len == WSA_CMSG_LEN(32))
			datagram->context = where;
		if (at->cmsg_type == IP_PKTINFO)
			datagram->address = where;
	}
	return true;
}

/*
 * Starts a client that sends two datagrams to each destination and expects an answer to each, from
 * that destination. Its exit status is 0 if all answers came.
 */
static pid_t start_client(int source, const char *to[2])
{
	pid_t pid = fork_in_scope();

	if (pid == 0) {
		int made = (socket)(AF_INET, SOCK_DGRAM, 0);
		struct sockaddr_in own = ipv4_address("127.0.0.1", source), from;
		socklen_t length = sizeof(from);
		char buffer[64];

		if ((bind)(made, (SOCKADDR *)&own, sizeof(own)))
			_exit(3);
		for (int i = 0; i < 2 && to[i]; i++) {
			struct sockaddr_in peer = ipv4_address(to[i], PORT_DATAGRAM);

			(sendto)(made, "first", 5, 0, (SOCKADDR *)&peer, sizeof(peer));
			if (recvfrom(made, buffer, sizeof(buffer), 0, (SOCKADDR *)&from, &length) !=
				    6 ||
			    from.sin_addr.s_addr != peer.sin_addr.s_addr ||
			    from.sin_port != peer.sin_port)
				_exit(4);
			(sendto)(made, "second", 6, 0, (SOCKADDR *)&peer, sizeof(peer));
			if (recv(made, buffer, sizeof(buffer), 0) != 6)
				_exit(5);
		}
		_exit(0);
	}
	return pid;
}

static bool answer(SOCKET socket, struct datagram *datagram)
{
	return sendto(socket, "answer", 6, 0, &datagram->from, sizeof(datagram->from)) == 6;
}

/* Sends a datagram upstream. Without records that is refused; WSASendMsg sets them as the control
 * code does. */
static bool send_upstream(const struct datagram *datagram)
{
	SOCKET upstream = WSASocketW(AF_INET, SOCK_DGRAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
	struct sockaddr_in to = ipv4_address("10.1.2.3", PORT_DATAGRAM);
	union {
		WSACMSGHDR head;
		char bytes[WSA_CMSG_SPACE(32)];
	} control = { .head = { WSA_CMSG_LEN(32), IPPROTO_IP, IP_WFP_REDIRECT_RECORDS } };
	WSABUF part = { 2, "on" };
	WSAMSG message = { &to, sizeof(to), &part, 1, { 0, NULL }, 0 };
	DWORD sent;
	bool refused, sent_ok;

	refused = WSASendMsg(upstream, &message, 0, &sent, NULL, NULL) == -1 &&
		  WSAGetLastError() == WSAEACCES;
	memcpy(WSA_CMSG_DATA(&control.head), datagram->control + datagram->records, 32);
	message.Control = (WSABUF){ sizeof(control), control.bytes };
	WSASetLastError(0);
	/* There may be no route to the destination, but no filter blocks it. */
	sent_ok = WSASendMsg(upstream, &message, 0, &sent, NULL, NULL) == 0 ||
		  WSAGetLastError() != WSAEACCES;
	closesocket(upstream);
	return refused && sent_ok;
}

static void control_data_of_flows(SOCKET socket)
{
	const char *to[2] = { "10.1.2.3", "10.1.2.4" };
	pid_t pid = start_client(CLIENT_PORT, to);
	struct datagram first, second;
	bool holds = true;
	int status;

	for (int i = 0; i < 2; i++) {
		holds &= receive(socket, &first) && first.length == 5 && first.records >= 0 &&
			 first.context >= 0 && !memcmp(first.control + first.context, "01234", 5);
		if (i == 0)
			report_extra("WSASendMsg sends with the records, and is refused without",
				     send_upstream(&first));
		holds &= answer(socket, &first);
		holds &= receive(socket, &second) && second.length == 6 && second.records < 0 &&
			 second.context < 0 && answer(socket, &second);
	}
	report_extra("a flow's first datagram has records and context, the second has not", holds);
	waitpid(pid, &status, 0);
	report_extra("the client receives answers from the address to which it sent", status == 0);
}

static pid_t first_client;

static void send_first(void)
{
	const char *to[2] = { "10.1.2.5", NULL };

	first_client = start_client(CLIENT_PORT + 1, to);
}

/*
 * Case 113. Flows get consecutive addresses. So a socket can be bound to the address of the next
 * flow, and queried before that flow exists.
 */
static void query_before_the_flow(SOCKET socket)
{
	const char *to[2] = { "10.1.2.3", NULL };
	pid_t pid = start_client(CLIENT_PORT + 2, to);
	struct datagram first, second;
	struct sockaddr_in own, peer = ipv4_address("127.0.0.1", CLIENT_PORT + 1);
	SOCKET next = WSASocketW(AF_INET, SOCK_DGRAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
	int one = 1;

	receive(socket, &first);
	answer(socket, &first);
	receive(socket, &second);
	answer(socket, &second);
	waitpid(pid, NULL, 0);
	own = ipv4_address("0.0.0.0", port_of(socket));
	memcpy(&own.sin_addr, first.control + first.address + 8, 4); /* ipi_addr */
	own.sin_addr.s_addr = htonl(ntohl(own.sin_addr.s_addr) + 1);
	setsockopt(next, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(next, &own, sizeof(own)) || connect(next, &peer, sizeof(peer)))
		exit(2);
	routine_of_first_datagram(next, send_first);
	kill(first_client, SIGKILL);
	waitpid(first_client, NULL, 0);
	closesocket(next);
}

void datagrams(void)
{
	SOCKET made = udp(0);
	GUID id = WSAID_WSARECVMSG;
	DWORD bytes;
	struct outcome seen;
	char buffer[64];

	if (WSAIoctl(made, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof(id), &receive_message,
		     sizeof(receive_message), &bytes, NULL, NULL))
		exit(2);
	report_extra("SIO_GET_EXTENSION_FUNCTION_POINTER",
		     receive_message == WSARecvMsg && bytes == 8);
	control_data_of_flows(made);
	seen = query(made, CONTEXT_IOCTL, buffer, sizeof(buffer));
	report_extra("the listening UDP socket itself has no context: WSAENOTCONN",
		     outcome_is(seen, -1, WSAENOTCONN, 0));
	query_before_the_flow(made);
	closesocket(made);
}
