/* What the cases share: redirected connections, and one line for each case. */
#ifndef HARNESS_H
#define HARNESS_H

#include <sidetrack/winsock.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECORDS_IOCTL SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS
#define CONTEXT_IOCTL SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT
#define SET_IOCTL SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS

/* What the filters of these ports give as context; see the test that starts this program. */
#define PORT_NONE 1000
#define PORT_AUTO 1001
#define PORT_2 1002
#define PORT_32 1032
#define PORT_4000 4000
#define PORT_DATAGRAM 5300
#define PORT_DENIED 1009 /* redirected, but the service goes there itself without records */

#define UNTOUCHED 0xabcdef01 /* a count that nobody has written */

/* What a call came to. */
struct outcome {
	int result, error;
	DWORD bytes;
};

/* A redirected connection: the accepted socket, and the process at its other end. */
struct peer {
	SOCKET socket;
	pid_t client;
};

extern SOCKET listener; /* the service's */

/* One line; at the end, the program fails if any did. What is expected is told if it is not so. */
void verdict(int number, bool holds, const char *what);
void windows_only(int number, const char *reason);
void also(const char *what, bool holds);
int failures(void);
/* Tells what one call came to, for verdict. */
const char *told(struct outcome outcome);

struct peer redirected(int port);
/* Connected straight to the listener. */
struct peer direct(void);
void end(struct peer peer);
/* A process of this program's, in the scope. */
pid_t in_scope(void);

struct outcome query(SOCKET socket, DWORD code, void *buffer, DWORD capacity);
struct outcome set(SOCKET socket, void *blob, DWORD length);
struct outcome ask_overlapped(SOCKET socket, DWORD code, void *buffer, DWORD capacity,
			      WSAOVERLAPPED *overlapped,
			      LPWSAOVERLAPPED_COMPLETION_ROUTINE routine);
/* The outcome of an overlapped call: 0 or -1, error, bytes. */
struct outcome ended(SOCKET socket, WSAOVERLAPPED *overlapped, BOOL wait);
bool is(struct outcome outcome, int result, int error, DWORD bytes);
SOCKET outgoing(void);
/* A UDP socket, connected, that nothing has come to: whatever is asked of it has no answer yet. */
SOCKET waiting(void);
/* Makes what is asked of such a socket answerable: something comes, and it was not redirected. */
void arrive(SOCKET waiting);
struct sockaddr_in at(const char *address, int port);
int port_of(SOCKET socket);
/* Two pages, of which the second cannot be touched. Returns its first address. */
char *cliff(void);

void parameters(void);
void state(void);
void setting(void);
void overlapped(void);
void datagrams(void);
void caller(void);
void bad_input(void);
void without_engine(void);

#endif
