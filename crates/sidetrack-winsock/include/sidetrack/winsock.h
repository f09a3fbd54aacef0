/*
 * Winsock's redirection contract on Linux: what a proxy's source needs of winsock2.h, mstcpip.h, mswsock.h and
 * ws2spi.h. Made by cbindgen from the library's source; do not edit.
 *
 * Sockets are plain descriptors: read, write, poll and epoll work on them. Some functions have Winsock's name by a
 * macro only, since libc has them too.
 */

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

// 32 bits.
typedef int32_t INT;

// An event or a thread; not a descriptor.
typedef void *HANDLE;

// As wide as a pointer.
typedef uintptr_t DWORD_PTR;

// A thread, as a provider knows it.
typedef struct WSATHREADID {
  // From WPUOpenCurrentThread.
  HANDLE ThreadHandle;
  // Zero.
  DWORD_PTR Reserved;
} WSATHREADID;

// What WPUQueueApc queues.
typedef void (*LPWSAUSERAPC)(DWORD_PTR dwContext);

// Called while a call waits; what it returns is not looked at.
typedef INT (*SIDETRACK_BLOCKING_HOOK)(void);

// 0 or not.
typedef int32_t BOOL;

// An event object; it stays set until it is reset.
typedef HANDLE WSAEVENT;

// 32 bits.
typedef uint32_t DWORD;

// A plain descriptor. As wide as a pointer, as on Windows.
typedef uintptr_t SOCKET;

// As wide as a pointer.
typedef uintptr_t ULONG_PTR;

// An overlapped operation. It and its buffers must stay until it has completed.
typedef struct WSAOVERLAPPED {
  // 259 while pending, then the operation's error, or 0.
  ULONG_PTR Internal;
  // Bytes.
  ULONG_PTR InternalHigh;
  // The application's.
  DWORD Offset;
  // The application's.
  DWORD OffsetHigh;
  // An event, or NULL. The application's own if there is a completion routine.
  HANDLE hEvent;
} WSAOVERLAPPED;

// Runs on the thread that issued the operation, in an alertable wait: error, bytes, operation, flags.
typedef void (*LPWSAOVERLAPPED_COMPLETION_ROUTINE)(DWORD dwError,
                                                   DWORD cbTransferred,
                                                   struct WSAOVERLAPPED *lpOverlapped,
                                                   DWORD dwFlags);

// 32 bits, as on Windows.
typedef uint32_t ULONG;

// One part of a message.
typedef struct WSABUF {
  // Bytes.
  ULONG len;
  // Where.
  char *buf;
} WSABUF;

// A datagram with its address and control data.
typedef struct WSAMSG {
  // A socket address.
  void *name;
  // Its bytes.
  INT namelen;
  // The payload's parts.
  struct WSABUF *lpBuffers;
  // How many; at most 1,024.
  ULONG dwBufferCount;
  // Control data.
  struct WSABUF Control;
  // MSG_TRUNC, MSG_CTRUNC.
  ULONG dwFlags;
} WSAMSG;

// 16 bits.
typedef uint16_t WORD;

// What WSAStartup tells.
typedef struct WSADATA {
  // The version to be used: 2.2 or what was asked for.
  WORD wVersion;
  // 2.2.
  WORD wHighVersion;
  // Not used since version 2.
  uint16_t iMaxSockets;
  // Not used since version 2.
  uint16_t iMaxUdpDg;
  // Not used since version 2.
  char *lpVendorInfo;
  // For people.
  char szDescription[257];
  // For people.
  char szSystemStatus[129];
} WSADATA;

// Sixteen bytes that name a function.
typedef struct GUID {
  // The first group.
  uint32_t Data1;
  // The second.
  uint16_t Data2;
  // The third.
  uint16_t Data3;
  // The rest.
  uint8_t Data4[8];
} GUID;

// True.
#define TRUE 1

// False.
#define FALSE 0

// What most calls return when they fail.
#define SOCKET_ERROR -1

// Waits for ever.
#define WSA_INFINITE 4294967295

// The first event was set.
#define WSA_WAIT_EVENT_0 0

// A completion routine or another APC ran.
#define WSA_WAIT_IO_COMPLETION 192

// The time was over.
#define WSA_WAIT_TIMEOUT 258

// See WSAGetLastError.
#define WSA_WAIT_FAILED 4294967295

// Events that one call waits for.
#define WSA_MAXIMUM_WAIT_EVENTS 64

// WSASocket: the socket has the overlapped attribute.
#define WSA_FLAG_OVERLAPPED 1

// WSASocket: close on exec.
#define WSA_FLAG_NO_HANDLE_INHERIT 128

// Direction bit: input.
#define IOC_IN 2147483648

// Direction bit: output.
#define IOC_OUT 1073741824

// The code is a vendor's.
#define IOC_VENDOR 402653184

// The redirect records of a redirected connection: an opaque token of 32 bytes here.
#define SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS 2550137052

// The redirect context of a redirected connection.
#define SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT 2550137053

// Sets the records on a new outbound socket, before connect.
#define SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS 2550137054

// Aborts what is pending on the socket.
#define SIO_FLUSH 671088644

// Gives the address of WSARecvMsg or WSASendMsg.
#define SIO_GET_EXTENSION_FUNCTION_POINTER 3355443206

// Option and control data of datagrams: their redirect records. The same number at IPPROTO_IPV6.
#define IP_WFP_REDIRECT_RECORDS 60

// Option and control data of datagrams: their redirect context. The same number at IPPROTO_IPV6.
#define IP_WFP_REDIRECT_CONTEXT 70

// Reading R1 of the pages' contradiction: ERROR_INSUFFICIENT_BUFFER, and the needed size. The default.
#define SIDETRACK_READING_R1 1

// Reading R2: WSAEINVAL, and 0.
#define SIDETRACK_READING_R2 2

// Reading R3: WSAEFAULT, and the needed size.
#define SIDETRACK_READING_R3 3

#define WSA_INVALID_HANDLE 6

#define WSA_NOT_ENOUGH_MEMORY 8

#define WSA_INVALID_PARAMETER 87

#define ERROR_INSUFFICIENT_BUFFER 122

#define WSA_OPERATION_ABORTED 995

#define WSA_IO_INCOMPLETE 996

#define WSA_IO_PENDING 997

#define WSAEINTR 10004

#define WSAEBADF 10009

#define WSAEACCES 10013

#define WSAEFAULT 10014

#define WSAEINVAL 10022

#define WSAEMFILE 10024

#define WSAEWOULDBLOCK 10035

#define WSAEINPROGRESS 10036

#define WSAEALREADY 10037

#define WSAENOTSOCK 10038

#define WSAEDESTADDRREQ 10039

#define WSAEMSGSIZE 10040

#define WSAEPROTOTYPE 10041

#define WSAENOPROTOOPT 10042

#define WSAEPROTONOSUPPORT 10043

#define WSAESOCKTNOSUPPORT 10044

#define WSAEOPNOTSUPP 10045

#define WSAEAFNOSUPPORT 10047

#define WSAEADDRINUSE 10048

#define WSAEADDRNOTAVAIL 10049

#define WSAENETDOWN 10050

#define WSAENETUNREACH 10051

#define WSAENETRESET 10052

#define WSAECONNABORTED 10053

#define WSAECONNRESET 10054

#define WSAENOBUFS 10055

#define WSAEISCONN 10056

#define WSAENOTCONN 10057

#define WSAESHUTDOWN 10058

#define WSAETIMEDOUT 10060

#define WSAECONNREFUSED 10061

#define WSAELOOP 10062

#define WSAEHOSTUNREACH 10065

#define WSAVERNOTSUPPORTED 10092

#define WSANOTINITIALISED 10093

#define WSASYSCALLFAILURE 10107

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Fills in the calling thread's id. 0, or SOCKET_ERROR with the error at lpErrno: WSAEFAULT.
INT WPUOpenCurrentThread(struct WSATHREADID *lpThreadId, INT *lpErrno);

// Gives the id back. Nothing to do here; a thread's id is good until it ends.
INT WPUCloseThread(struct WSATHREADID *lpThreadId, INT *lpErrno);

// Queues a call to a thread; it runs when that is in an alertable wait. 0, or SOCKET_ERROR with the error at
// lpErrno: WSAEFAULT for a bad thread id, WSAENOBUFS beyond 65,536.
INT WPUQueueApc(struct WSATHREADID *lpThreadId,
                LPWSAUSERAPC lpfnUserApc,
                DWORD_PTR dwContext,
                INT *lpErrno);

// Sets what runs while a call of this thread waits. Returns the hook before.
SIDETRACK_BLOCKING_HOOK WSASetBlockingHook(SIDETRACK_BLOCKING_HOOK lpBlockFunc);

// Takes the hook away.
INT WSAUnhookBlockingHook(void);

// Whether a call of this thread waits: true only within the hook.
BOOL WSAIsBlocking(void);

// Within the hook: the waiting call ends with WSAEINTR. Error: WSAEINVAL if none waits.
INT WSACancelBlockingCall(void);

// Not of Windows: the credentials of the service that this process is, 64 hexadecimal digits, if they are not in the
// environment variable SIDETRACK_LISTEN. Before listen. Errors: WSA_INVALID_PARAMETER, WSAEFAULT.
INT SidetrackSetCredentials(const char *digits);

// A new event, not set. NULL on failure.
WSAEVENT WSACreateEvent(void);

// Sets an event. FALSE on failure: WSA_INVALID_HANDLE.
BOOL WSASetEvent(WSAEVENT hEvent);

// Resets an event. FALSE on failure: WSA_INVALID_HANDLE.
BOOL WSAResetEvent(WSAEVENT hEvent);

// Closes an event; whatever completes later leaves it alone. FALSE on failure: WSA_INVALID_HANDLE.
BOOL WSACloseEvent(WSAEVENT hEvent);

// Waits until one of the events is set, or all; if alertable, runs this thread's completion routines and returns
// WSA_WAIT_IO_COMPLETION after that. Errors: WSA_INVALID_HANDLE, WSA_INVALID_PARAMETER (none, or over 64),
// WSAEFAULT.
DWORD WSAWaitForMultipleEvents(DWORD cEvents,
                               const WSAEVENT *lphEvents,
                               BOOL fWaitAll,
                               DWORD dwTimeout,
                               BOOL fAlertable);

// Sleeps; if alertable, until a completion routine of this thread's has run: then WSA_WAIT_IO_COMPLETION.
DWORD SleepEx(DWORD dwMilliseconds,
              BOOL bAlertable);

// Controls a socket. 0, or SOCKET_ERROR; see WSAGetLastError, where WSA_IO_PENDING means that it has begun.
INT WSAIoctl(SOCKET s,
             DWORD dwIoControlCode,
             void *lpvInBuffer,
             DWORD cbInBuffer,
             void *lpvOutBuffer,
             DWORD cbOutBuffer,
             DWORD *lpcbBytesReturned,
             struct WSAOVERLAPPED *lpOverlapped,
             LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine);

// The same as a service provider has it: the error is at lpErrno, and a completion routine runs on the thread of
// lpThreadId, which is copied.
INT WSPIoctl(SOCKET s,
             DWORD dwIoControlCode,
             void *lpvInBuffer,
             DWORD cbInBuffer,
             void *lpvOutBuffer,
             DWORD cbOutBuffer,
             DWORD *lpcbBytesReturned,
             struct WSAOVERLAPPED *lpOverlapped,
             LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine,
             struct WSATHREADID *lpThreadId,
             INT *lpErrno);

// Receives a datagram with its control data; a redirected flow's first one has IP_WFP_REDIRECT_RECORDS and …_CONTEXT, if
// the socket's options of these names are set. Overlapped as WSAIoctl.
INT WSARecvMsg(SOCKET s,
               struct WSAMSG *lpMsg,
               DWORD *lpdwNumberOfBytesRecvd,
               struct WSAOVERLAPPED *lpOverlapped,
               LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine);

// Sends a datagram. Control data IP_WFP_REDIRECT_RECORDS link the socket to the flow they came from, as
// SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS does. An overlapped one is sent at once.
INT WSASendMsg(SOCKET s,
               struct WSAMSG *lpMsg,
               DWORD dwFlags,
               DWORD *lpNumberOfBytesSent,
               struct WSAOVERLAPPED *lpOverlapped,
               LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine);

// sendto. An answer to a redirected client comes as from where that had sent to.
INT sidetrack_sendto(SOCKET s, const char *buf, INT len, INT flags, const void *to, INT tolen);

// How an overlapped operation ended. FALSE with the operation's error, WSA_IO_INCOMPLETE (still pending, and fWait is
// FALSE), WSAEFAULT, WSA_INVALID_PARAMETER (fWait, with a completion routine). On failure the count is left alone.
BOOL WSAGetOverlappedResult(SOCKET s,
                            struct WSAOVERLAPPED *lpOverlapped,
                            DWORD *lpcbTransfer,
                            BOOL fWait,
                            DWORD *lpdwFlags);

// Aborts one operation, or, if lpOverlapped is NULL, all of the socket's. FALSE with WSA_INVALID_PARAMETER if there is
// none. It is a request: wait for the completion before freeing anything.
BOOL CancelIoEx(SOCKET hFile,
                struct WSAOVERLAPPED *lpOverlapped);

// Not of Windows: completions so far that found their OVERLAPPED, or their event, gone: a program's mistake.
DWORD SidetrackMisuses(void);

// A socket with the overlapped attribute.
SOCKET sidetrack_socket(INT af, INT kind, INT protocol);

// A socket; only with WSA_FLAG_OVERLAPPED it has the overlapped attribute. Flags that mean nothing here are ignored;
// lpProtocolInfo must be NULL.
SOCKET WSASocketW(INT af,
                  INT kind,
                  INT protocol,
                  void *lpProtocolInfo,
                  DWORD g,
                  DWORD dwFlags);

// As WSASocketW.
SOCKET WSASocketA(INT af, INT kind, INT protocol, void *lpProtocolInfo, DWORD g, DWORD dwFlags);

// Gives the socket an address.
INT sidetrack_bind(SOCKET s, const void *name, INT namelen);

// Listens. The first listener of each family becomes the service's, if the process has a service's credentials.
INT sidetrack_listen(SOCKET s,
                     INT backlog);

// The next connection; it has its listener's attributes, and blocks if that does.
SOCKET sidetrack_accept(SOCKET s, void *addr, INT *addrlen);

// Connects.
INT sidetrack_connect(SOCKET s, const void *name, INT namelen);

// Aborts what is pending on the socket, and closes it.
INT closesocket(SOCKET s);

// Ends one direction, or both.
INT sidetrack_shutdown(SOCKET s, INT how);

// Receives.
INT sidetrack_recv(SOCKET s, char *buf, INT len, INT flags);

// Sends. A peer that is gone is WSAESHUTDOWN, not a signal.
INT sidetrack_send(SOCKET s, const char *buf, INT len, INT flags);

// Sets an option: libc's, and IP_WFP_REDIRECT_RECORDS and …_CONTEXT. SO_RCVTIMEO and SO_SNDTIMEO may be a DWORD of
// milliseconds.
INT sidetrack_setsockopt(SOCKET s,
                         INT level,
                         INT optname,
                         const char *optval,
                         INT optlen);

// FIONBIO and FIONREAD.
INT sidetrack_ioctlsocket(SOCKET s, DWORD cmd, uint32_t *argp);

// Starts the use of the library by this process. Returns 0 or an error: WSAVERNOTSUPPORTED, WSAEFAULT.
INT WSAStartup(WORD wVersionRequested,
               struct WSADATA *lpWSAData);

// Ends one start. At the last, what is pending is aborted.
INT WSACleanup(void);

// The calling thread's last error.
INT WSAGetLastError(void);

// Sets the calling thread's last error.
void WSASetLastError(INT iError);

// Not of Windows: how a buffer that is too small is answered, SIDETRACK_READING_R1 to R3, for the whole process.
// The environment variable SIDETRACK_WINSOCK_READING says it for the first WSAStartup. Error:
// WSA_INVALID_PARAMETER.
INT SidetrackSetReading(INT reading);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

typedef INT *LPINT;
typedef DWORD *LPDWORD;
typedef void *LPVOID;
typedef WSABUF *LPWSABUF;
typedef WSAMSG *LPWSAMSG;
typedef WSADATA *LPWSADATA;
typedef WSAOVERLAPPED *LPWSAOVERLAPPED;
typedef WSAOVERLAPPED OVERLAPPED;
typedef OVERLAPPED *LPOVERLAPPED;
typedef WSATHREADID *LPWSATHREADID;
typedef struct sockaddr SOCKADDR;
typedef struct sockaddr_in SOCKADDR_IN;
typedef struct sockaddr_in6 SOCKADDR_IN6;
typedef struct sockaddr_storage SOCKADDR_STORAGE;
typedef struct cmsghdr WSACMSGHDR;
typedef INT (*LPFN_WSARECVMSG)(SOCKET, LPWSAMSG, LPDWORD, LPWSAOVERLAPPED,
                               LPWSAOVERLAPPED_COMPLETION_ROUTINE);
typedef INT (*LPFN_WSASENDMSG)(SOCKET, LPWSAMSG, DWORD, LPDWORD, LPWSAOVERLAPPED,
                               LPWSAOVERLAPPED_COMPLETION_ROUTINE);

#define CALLBACK
#define WSAAPI
#define INVALID_SOCKET ((SOCKET)(~(SOCKET)0))
#define WSA_INVALID_EVENT ((WSAEVENT)0)
#define WAIT_IO_COMPLETION WSA_WAIT_IO_COMPLETION
#define INFINITE WSA_INFINITE
#define MAKEWORD(low, high) ((WORD)(((low) & 0xff) | ((WORD)((high) & 0xff)) << 8))
#define SD_RECEIVE SHUT_RD
#define SD_SEND SHUT_WR
#define SD_BOTH SHUT_RDWR
#define SOMAXCONN_HINT(backlog) (backlog)
#define FIONBIO 0x8004667e
#define FIONREAD 0x4004667f
#define IPV6_WFP_REDIRECT_RECORDS IP_WFP_REDIRECT_RECORDS
#define IPV6_WFP_REDIRECT_CONTEXT IP_WFP_REDIRECT_CONTEXT
#define WSAID_WSARECVMSG \
        { 0xf689d7c8, 0x6f1f, 0x436b, { 0x8a, 0x53, 0xe5, 0x4f, 0xe3, 0x51, 0xc3, 0x22 } }
#define WSAID_WSASENDMSG \
        { 0xa441e712, 0x754f, 0x43ca, { 0x84, 0xa7, 0x0d, 0xee, 0x44, 0xcf, 0x60, 0x6d } }
#define HasOverlappedIoCompleted(overlapped) \
        (__atomic_load_n(&(overlapped)->Internal, __ATOMIC_ACQUIRE) != 0x103)

/* Control data lie as Linux has them. */
#define WSA_CMSGDATA_ALIGN CMSG_ALIGN
#define WSA_CMSG_SPACE CMSG_SPACE
#define WSA_CMSG_LEN CMSG_LEN
#define WSA_CMSG_DATA CMSG_DATA
#define WSA_CMSG_FIRSTHDR(msg) \
        ((msg)->Control.len >= sizeof(WSACMSGHDR) ? (WSACMSGHDR *)(msg)->Control.buf : NULL)
#define WSA_CMSG_NXTHDR(msg, at) sidetrack_next_control(msg, at)

static inline WSACMSGHDR *sidetrack_next_control(const WSAMSG *msg, const WSACMSGHDR *at)
{
        char *next = (char *)at + CMSG_ALIGN(at->cmsg_len);

        if (next + sizeof(WSACMSGHDR) > msg->Control.buf + msg->Control.len)
                return NULL;
        return (WSACMSGHDR *)next;
}

#ifdef UNICODE
#define WSASocket WSASocketW
#else
#define WSASocket WSASocketA
#endif

/* Winsock's own. libc's are meant where a name is not followed by arguments. */
#define socket(af, type, protocol) sidetrack_socket(af, type, protocol)
#define bind(s, name, namelen) sidetrack_bind(s, name, namelen)
#define listen(s, backlog) sidetrack_listen(s, backlog)
#define accept(s, addr, addrlen) sidetrack_accept(s, addr, addrlen)
#define connect(s, name, namelen) sidetrack_connect(s, name, namelen)
#define shutdown(s, how) sidetrack_shutdown(s, how)
#define recv(s, buf, len, flags) sidetrack_recv(s, buf, len, flags)
#define send(s, buf, len, flags) sidetrack_send(s, buf, len, flags)
#define sendto(s, buf, len, flags, to, tolen) sidetrack_sendto(s, buf, len, flags, to, tolen)
#define setsockopt(s, level, name, val, len) \
        sidetrack_setsockopt(s, level, name, (const char *)(val), len)
#define ioctlsocket(s, cmd, argp) sidetrack_ioctlsocket(s, cmd, (uint32_t *)(argp))
