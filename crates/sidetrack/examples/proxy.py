#!/usr/bin/env python3
"""A proxy in plain Python that uses the socket options directly, without a library.

sudo sidetrack run --via "exec:python3 crates/sidetrack/examples/proxy.py" -- curl http://127.0.0.1:8000/

The numbers of the options and the layout of INFO are in bpf/sidetrack.h; docs/proxies.md describes the steps.
IPv4 only, to keep it short.
"""
import os
import socket
import struct
import sys
import threading

SOL_SIDETRACK, INFO, RECORDS, LISTEN = 0x5354, 1, 3, 4
INFO_SIZE = 1024  # size of struct sidetrack_info, and the longest answer that Python's getsockopt takes
FLOW, RECORDS_AT = 48, 480  # offsets in struct sidetrack_info, in bytes
PID, REMOTE, PORT = FLOW + 48, FLOW + 72, FLOW + 104


def forward(client):
    info = client.getsockopt(SOL_SIDETRACK, INFO, INFO_SIZE)
    address = socket.inet_ntoa(info[REMOTE + 12:REMOTE + 16])
    (port,) = struct.unpack_from("!H", info, PORT)
    (pid,) = struct.unpack_from("=I", info, PID)
    print(f"process {pid} -> {address}:{port}", file=sys.stderr, flush=True)
    origin = socket.socket()
    origin.setsockopt(SOL_SIDETRACK, RECORDS, info[RECORDS_AT:RECORDS_AT + 32])  # before connect, or it is refused
    origin.connect((address, port))
    threading.Thread(target=copy, args=(client, origin), daemon=True).start()
    copy(origin, client)


def copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one side has closed its connection; the other direction notices it too


def main():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    listener.bind(("0.0.0.0", 0))  # all loopback addresses; no connections from other hosts
    listener.listen(4096)
    listener.setsockopt(SOL_SIDETRACK, LISTEN, bytes.fromhex(os.environ["SIDETRACK_LISTEN"]))
    while True:
        client, _ = listener.accept()
        threading.Thread(target=forward, args=(client,), daemon=True).start()


main()
