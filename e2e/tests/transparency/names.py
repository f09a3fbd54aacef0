"""Connects to ADDRESS PORT, and compares getsockname with what the server sends."""

import socket
import sys

with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as client:
    host, port = client.getsockname()[:2]
    seen = client.makefile().read()
print("same" if seen == f"{host} {port}" else f"getsockname: {host} {port}, origin sees: {seen}")
