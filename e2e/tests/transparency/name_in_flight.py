"""Begins a connect to ADDRESS, which does not answer, and prints the socket's address.

With a second argument, the socket is bound to that address before."""

import errno
import socket
import sys

family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family) as client:
    client.setblocking(False)
    if len(sys.argv) > 2:
        client.bind((sys.argv[2], 0))
    assert client.connect_ex((sys.argv[1], 80)) == errno.EINPROGRESS
    print(client.getsockname()[0])
