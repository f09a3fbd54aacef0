/*
 * Helpers that all cases share: redirected connections, calls with their outcome, and the report.
 * A case number is the number of a conformance case in docs/wfp.md, section 8.
 */
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

/*
 * Ports to which a connection is redirected. The name says which context the port's filter gives:
 * none, the automatic one, or one of that many bytes. e2e/tests/winsock.rs sets the filters.
 */
#define PORT_NONE 1000
#define PORT_AUTO 1001
#define PORT_2 1002
#define PORT_32 1032
#define PORT_4000 4000
#define PORT_DATAGRAM 5300
#define PORT_DENIED                                                                                \
	1009 /* redirected as well; used for connects of the service without records               \
	      */

#define UNTOUCHED 0xabcdef01 /* a number of bytes that no call has written */

/* The outcome of a call: the return value, the last error, and the number of bytes. */
struct outcome {
	int result, error;
	DWORD bytes;
};

/* A connection: the accepted socket, and the process at its other end. */
struct peer {
	SOCKET socket;
	pid_t client;
};

extern SOCKET listener; /* the service's listener */

/*
 * Each prints one line. The program fails at the end if `holds` was false anywhere. `what`
 * describes what was seen, or what is expected.
 */
void report_case(int number, bool holds, const char *what);
/* Reports a case that cannot occur on Linux. */
void report_windows_only(int number, const char *reason);
/* Reports a check that is not a case of docs/wfp.md. */
void report_extra(const char *what, bool holds);
int failures(void);
/* Describes an outcome, for report_case. The text is valid until the next call. */
const char *describe(struct outcome outcome);

/* Accepts a connection to 10.1.2.3, which is redirected. */
struct peer connect_redirected(int port);
/* Accepts a connection that was made straight to the listener. */
struct peer connect_directly(void);
void close_peer(struct peer peer);
/* Forks a process into the cgroup whose connections are redirected. Returns 0 in that process. */
pid_t fork_in_scope(void);

/* A synchronous query without overlapped arguments. */
struct outcome query(SOCKET socket, DWORD code, void *buffer, DWORD capacity);
/* SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS. */
struct outcome set_records(SOCKET socket, void *blob, DWORD length);
struct outcome query_overlapped(SOCKET socket, DWORD code, void *buffer, DWORD capacity,
				WSAOVERLAPPED *overlapped,
				LPWSAOVERLAPPED_COMPLETION_ROUTINE routine);
/* Calls WSAGetOverlappedResult. The return value is 0 for TRUE and -1 for FALSE. */
struct outcome overlapped_result(SOCKET socket, WSAOVERLAPPED *overlapped, BOOL wait);
bool outcome_is(struct outcome outcome, int result, int error, DWORD bytes);
/* A TCP socket with the overlapped attribute. */
SOCKET new_tcp_socket(void);
/*
 * A UDP socket that is connected to itself, and that has received nothing: a query on it has no
 * answer yet.
 */
SOCKET new_pending_socket(void);
/* Gives such a socket a datagram, which was not redirected: a query on it can now be answered. */
void send_to_itself(SOCKET waiting);
struct sockaddr_in ipv4_address(const char *address, int port);
int port_of(SOCKET socket);
/* Maps two pages, of which the second cannot be accessed. Returns the address of the second. */
char *guard_page(void);

/* The groups of cases, each in a file of its name. */
void parameters(void);
void state(void);
void setting(void);
void overlapped(void);
void datagrams(void);
void caller(void);
void bad_input(void);
void without_engine(void);

#endif
