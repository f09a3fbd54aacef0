/*
 * The cases of docs/wfp.md, 8.3: the state of the socket. Each case number is that of the case
 * there. Where Sidetrack differs from Windows, the text of the report says so.
 */
#include <poll.h>
#include <sys/wait.h>

#include "harness.h"

static void socket_types(void)
{
	SOCKET local = WSASocketW(AF_UNIX, SOCK_STREAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
	DWORD codes[] = { CONTEXT_IOCTL, RECORDS_IOCTL, SET_IOCTL };
	char buffer[64] = "";
	bool no_socket = true, not_supported = true;
	int ends[2];
	struct outcome seen;

	if (pipe(ends))
		exit(2);
	for (int i = 0; i < 3; i++) {
		DWORD code = codes[i], in = code == SET_IOCTL ? 32 : 0;
		DWORD out = code == SET_IOCTL ? 0 : sizeof(buffer), bytes = UNTOUCHED;

		WSAIoctl(ends[0], code, buffer, in, buffer, out, &bytes, NULL, NULL);
		no_socket &= WSAGetLastError() == WSAENOTSOCK && bytes == UNTOUCHED;
		WSAIoctl(0xdeadbeef, code, buffer, in, buffer, out, &bytes, NULL, NULL);
		no_socket &= WSAGetLastError() == WSAENOTSOCK && bytes == UNTOUCHED;
		WSAIoctl(local, code, buffer, in, buffer, out, &bytes, NULL, NULL);
		not_supported &= WSAGetLastError() == WSAENOPROTOOPT;
	}
	report_case(27, no_socket, "a pipe, and a number that is not a descriptor");
	seen = query(listener, CONTEXT_IOCTL, buffer, sizeof(buffer));
	report_case(
		29,
		outcome_is(seen, -1, WSAENOTCONN, 0) &&
			outcome_is(query(listener, RECORDS_IOCTL, buffer, 64), -1, WSAENOTCONN, 0),
		describe(seen));
	report_case(39, not_supported, "AF_UNIX: WSAENOPROTOOPT");
	closesocket(local);
	close(ends[0]);
	close(ends[1]);
}

static void nothing_recorded(void)
{
	static const int after[] = { 5, 25, 100 }; /* milliseconds */
	struct peer peer = connect_directly();
	char buffer[1024];
	bool same = true;
	struct outcome seen = query(peer.socket, CONTEXT_IOCTL, NULL, 0);

	report_case(31, outcome_is(seen, -1, WSAEINVAL, 0), describe(seen));
	for (int i = 0; i < 3; i++) {
		poll(NULL, 0, after[i]);
		seen = query(peer.socket, RECORDS_IOCTL, buffer, sizeof(buffer));
		same &= outcome_is(seen, -1, WSAEINVAL, 0);
		seen = query(peer.socket, CONTEXT_IOCTL, buffer, sizeof(buffer));
		same &= outcome_is(seen, -1, WSAEINVAL, 0);
	}
	report_case(33, same, "after 5, 25 and 100 ms");
	close_peer(peer);
	report_windows_only(35, "the bind redirect layer here cannot change an address; a "
				"connection that no connect redirect "
				"filter matched is case 31");
}

/* More connections than the accept queue holds. On Windows some lose their record, here none does.
 */
static void full_queue(void)
{
	pid_t clients[8];
	char buffer[64];
	int answered = 0;

	listen(listener, 1);
	for (int i = 0; i < 8; i++) {
		clients[i] = fork_in_scope();
		if (clients[i] == 0) {
			struct sockaddr_in to = ipv4_address("10.1.2.3", PORT_32);
			int client = (socket)(AF_INET, SOCK_STREAM, 0);

			/* The client sends first: with SYN cookies, only its data puts the
			 * connection into the queue. */
			_exit((connect)(client, (SOCKADDR *)&to, sizeof(to)) ||
			      write(client, "x", 1) != 1 || read(client, buffer, 1) < 0);
		}
	}
	for (int i = 0; i < 8; i++) {
		SOCKET accepted = accept(listener, NULL, NULL);

		answered += outcome_is(query(accepted, CONTEXT_IOCTL, buffer, 64), 0, 0, 32);
		closesocket(accepted);
	}
	for (int i = 0; i < 8; i++)
		waitpid(clients[i], NULL, 0);
	listen(listener, SOMAXCONN);
	report_case(37, answered == 8, "each of 8 connections has its record, with a queue of 1");
}

static SOCKET socket_of_hook;
static struct outcome outcome_in_hook;

static int hook(void)
{
	static char buffer[64];

	outcome_in_hook = query(socket_of_hook, CONTEXT_IOCTL, buffer, sizeof(buffer));
	WSACancelBlockingCall();
	return 0;
}

static void blocking_hook(void)
{
	SOCKET socket = new_pending_socket();
	char buffer[64];
	struct outcome seen;

	socket_of_hook = socket;
	WSASetBlockingHook(hook);
	seen = query(socket, CONTEXT_IOCTL, buffer, sizeof(buffer));
	WSAUnhookBlockingHook();
	report_case(43, outcome_is(outcome_in_hook, -1, WSAEINPROGRESS, UNTOUCHED),
		    describe(outcome_in_hook));
	report_extra("a call that the hook has cancelled: WSAEINTR",
		     outcome_is(seen, -1, WSAEINTR, 0));
	closesocket(socket);
}

/* Queries as the user nobody. */
static void query_without_privilege(void)
{
	struct peer peer = connect_redirected(PORT_32);
	char buffer[64];
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0)
		_exit(setuid(65534) ||
		      !outcome_is(query(peer.socket, CONTEXT_IOCTL, buffer, 64), 0, 0, 32));
	waitpid(child, &status, 0);
	report_case(45, status == 0, "a query needs no privilege");
	close_peer(peer);
}

void state(void)
{
	socket_types();
	nothing_recorded();
	full_queue();
	blocking_hook();
	query_without_privilege();
}

/* The last case: the engine is stopped while a redirected socket is open. */
void without_engine(void)
{
	struct peer peer = connect_redirected(PORT_32);
	SOCKET other;
	char buffer[64];
	struct outcome seen;

	printf("stop the engine\n");
	fflush(stdout);
	if (!fgets(buffer, sizeof(buffer), stdin))
		exit(2);
	seen = query(peer.socket, CONTEXT_IOCTL, buffer, sizeof(buffer));
	report_case(41, outcome_is(seen, -1, WSAENETDOWN, 0), describe(seen));
	other = new_tcp_socket();
	seen = query(other, CONTEXT_IOCTL, buffer, sizeof(buffer));
	report_extra("a socket for which no engine has answered: WSAEOPNOTSUPP",
		     outcome_is(seen, -1, WSAEOPNOTSUPP, 0));
	closesocket(other);
	close_peer(peer);
}
