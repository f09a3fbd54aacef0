/*
 * Connects, and prints one line: "connected", or the name of the error.
 *
 *   connect [-n] [-b ADDRESS] [-p PORT] blocking|poll|epoll|uring ADDRESS PORT
 *
 * -n: expects that the server sends the client's address and port as it sees them, and prints
 *     "same" if getsockname returns the same
 * -b: binds the socket to this address
 * -p: binds the socket to this port
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* An address of either family. */
struct address {
	struct sockaddr_storage storage;
	socklen_t length;
};

static struct address parse(const char *text, const char *port)
{
	struct address result = {};
	struct sockaddr_in *v4 = (void *)&result.storage;
	struct sockaddr_in6 *v6 = (void *)&result.storage;

	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(atoi(port));
		result.length = sizeof(*v4);
	} else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(atoi(port));
		result.length = sizeof(*v6);
	} else {
		exit(2);
	}
	return result;
}

/* The error of a socket whose non-blocking connect has ended. */
static int pending_error(int fd)
{
	int error = 0;
	socklen_t length = sizeof(error);

	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
	return error;
}

static int connect_and_wait(int fd, const struct address *to, int with_epoll)
{
	struct pollfd poll_for = { .fd = fd, .events = POLLOUT };
	struct epoll_event event = { .events = EPOLLOUT };
	int epoll;

	fcntl(fd, F_SETFL, O_NONBLOCK);
	if (connect(fd, (void *)&to->storage, to->length) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return errno;
	if (with_epoll) {
		epoll = epoll_create1(0);
		epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
		epoll_wait(epoll, &event, 1, -1);
	} else {
		poll(&poll_for, 1, -1);
	}
	fcntl(fd, F_SETFL, 0);
	return pending_error(fd);
}

static int connect_by_uring(int fd, const struct address *to)
{
	struct io_uring ring;
	struct io_uring_cqe *completion;
	int result = io_uring_queue_init(4, &ring, 0);

	if (result < 0)
		return -result;
	io_uring_prep_connect(io_uring_get_sqe(&ring), fd, (void *)&to->storage, to->length);
	io_uring_submit(&ring);
	result = io_uring_wait_cqe(&ring, &completion);
	if (result == 0)
		result = completion->res;
	io_uring_queue_exit(&ring);
	return result < 0 ? -result : 0;
}

static int connect_by(const char *mode, int fd, const struct address *to)
{
	if (strcmp(mode, "poll") == 0 || strcmp(mode, "epoll") == 0)
		return connect_and_wait(fd, to, mode[0] == 'e');
	if (strcmp(mode, "uring") == 0)
		return connect_by_uring(fd, to);
	if (strcmp(mode, "blocking") != 0)
		exit(2);
	return connect(fd, (void *)&to->storage, to->length) == 0 ? 0 : errno;
}

/* Compares the socket's name, taken before the first byte came, with what the server sends. */
static void compare_names(int fd)
{
	struct address name = { .length = sizeof(name.storage) };
	struct sockaddr_in *v4 = (void *)&name.storage;
	struct sockaddr_in6 *v6 = (void *)&name.storage;
	char host[INET6_ADDRSTRLEN], mine[80], seen[80] = "";
	ssize_t length;

	getsockname(fd, (void *)&name.storage, &name.length);
	if (name.storage.ss_family == AF_INET)
		inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
	else
		inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
	snprintf(mine, sizeof(mine), "%s %d", host, ntohs(v4->sin_port));
	length = recv(fd, seen, sizeof(seen) - 1, MSG_WAITALL); /* until its end */
	if (length > 0 && strcmp(mine, seen) == 0)
		puts("same");
	else
		printf("getsockname: %s, origin sees: %s\n", mine, seen);
}

int main(int argc, char **argv)
{
	const char *bind_address = NULL, *bind_port = "0";
	int option, fd, error, names = 0, on = 1;
	struct address to, from;

	while ((option = getopt(argc, argv, "nb:p:")) != -1) {
		if (option == 'n')
			names = 1;
		else if (option == 'b')
			bind_address = optarg;
		else if (option == 'p')
			bind_port = optarg;
		else
			return 2;
	}
	if (argc - optind != 3)
		return 2;
	to = parse(argv[optind + 1], argv[optind + 2]);
	fd = socket(to.storage.ss_family, SOCK_STREAM, 0);
	if (bind_address) {
		from = parse(bind_address, bind_port);
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		if (bind(fd, (void *)&from.storage, from.length) != 0) {
			printf("bind: %s\n", strerrorname_np(errno));
			return 1;
		}
	}
	error = connect_by(argv[optind], fd, &to);
	if (error)
		puts(strerrorname_np(error));
	else if (names)
		compare_names(fd);
	else
		puts("connected");
	return error != 0;
}
