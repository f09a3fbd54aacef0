/* Spec 8.3: what the socket may be. */
#include <poll.h>
#include <sys/wait.h>

#include "harness.h"

static void kinds(void)
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
	verdict(27, no_socket, "a pipe, and a number that is nothing");
	seen = query(listener, CONTEXT_IOCTL, buffer, sizeof(buffer));
	verdict(29,
		is(seen, -1, WSAENOTCONN, 0) &&
			is(query(listener, RECORDS_IOCTL, buffer, 64), -1, WSAENOTCONN, 0),
		told(seen));
	verdict(39, not_supported, "AF_UNIX: WSAENOPROTOOPT");
	closesocket(local);
	close(ends[0]);
	close(ends[1]);
}

static void nothing_recorded(void)
{
	static const int after[] = { 5, 25, 100 }; /* milliseconds */
	struct peer peer = direct();
	char buffer[1024];
	bool same = true;
	struct outcome seen = query(peer.socket, CONTEXT_IOCTL, NULL, 0);

	verdict(31, is(seen, -1, WSAEINVAL, 0), told(seen));
	for (int i = 0; i < 3; i++) {
		poll(NULL, 0, after[i]);
		seen = query(peer.socket, RECORDS_IOCTL, buffer, sizeof(buffer));
		same &= is(seen, -1, WSAEINVAL, 0);
		seen = query(peer.socket, CONTEXT_IOCTL, buffer, sizeof(buffer));
		same &= is(seen, -1, WSAEINVAL, 0);
	}
	verdict(33, same, "after 5, 25 and 100 ms");
	end(peer);
	windows_only(35, "there is no bind redirect layer; a connection that no connect redirect "
			 "filter has touched is case 31");
}

/* More connections than the queue holds: here none loses its record. */
static void full_queue(void)
{
	pid_t clients[8];
	char buffer[64];
	int answered = 0;

	listen(listener, 1);
	for (int i = 0; i < 8; i++) {
		clients[i] = in_scope();
		if (clients[i] == 0) {
			struct sockaddr_in to = at("10.1.2.3", PORT_32);
			int client = (socket)(AF_INET, SOCK_STREAM, 0);

			/* It speaks first: with SYN cookies, only that brings it into the queue. */
			_exit((connect)(client, (SOCKADDR *)&to, sizeof(to)) ||
			      write(client, "x", 1) != 1 || read(client, buffer, 1) < 0);
		}
	}
	for (int i = 0; i < 8; i++) {
		SOCKET accepted = accept(listener, NULL, NULL);

		answered += is(query(accepted, CONTEXT_IOCTL, buffer, 64), 0, 0, 32);
		closesocket(accepted);
	}
	for (int i = 0; i < 8; i++)
		waitpid(clients[i], NULL, 0);
	listen(listener, SOMAXCONN);
	verdict(37, answered == 8, "of 8 connections at a queue of 1, each has its record");
}

static SOCKET asked_in_hook;
static struct outcome seen_in_hook;

static int hook(void)
{
	static char buffer[64];

	seen_in_hook = query(asked_in_hook, CONTEXT_IOCTL, buffer, sizeof(buffer));
	WSACancelBlockingCall();
	return 0;
}

static void blocking(void)
{
	SOCKET asked = waiting();
	char buffer[64];
	struct outcome seen;

	asked_in_hook = asked;
	WSASetBlockingHook(hook);
	seen = query(asked, CONTEXT_IOCTL, buffer, sizeof(buffer));
	WSAUnhookBlockingHook();
	verdict(43, is(seen_in_hook, -1, WSAEINPROGRESS, UNTOUCHED), told(seen_in_hook));
	also("WSAEINTR: the hook has cancelled the call", is(seen, -1, WSAEINTR, 0));
	closesocket(asked);
}

/* Without credentials and as nobody. */
static void unprivileged(void)
{
	struct peer peer = redirected(PORT_32);
	char buffer[64];
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0)
		_exit(setuid(65534) ||
		      !is(query(peer.socket, CONTEXT_IOCTL, buffer, 64), 0, 0, 32));
	waitpid(child, &status, 0);
	verdict(45, status == 0, "a query needs no privilege");
	end(peer);
}

void state(void)
{
	kinds();
	nothing_recorded();
	full_queue();
	blocking();
	unprivileged();
}

/* The last: the engine goes while a redirected socket is open. */
void without_engine(void)
{
	struct peer peer = redirected(PORT_32);
	SOCKET other;
	char buffer[64];
	struct outcome seen;

	printf("stop the engine\n");
	fflush(stdout);
	if (!fgets(buffer, sizeof(buffer), stdin))
		exit(2);
	seen = query(peer.socket, CONTEXT_IOCTL, buffer, sizeof(buffer));
	verdict(41, is(seen, -1, WSAENETDOWN, 0), told(seen));
	other = outgoing();
	seen = query(other, CONTEXT_IOCTL, buffer, sizeof(buffer));
	also("WSAEOPNOTSUPP: no engine has ever answered for it", is(seen, -1, WSAEOPNOTSUPP, 0));
	closesocket(other);
	end(peer);
}
