"""Connects to ADDRESS, which does not answer, with a time-out of SECONDS, and prints how that ended.

The time is taken here, since Python takes long to start on a busy host."""

import socket
import sys
import time

address, seconds = sys.argv[1], int(sys.argv[2])
start = time.monotonic()
try:
    socket.create_connection((address, 80), seconds)
    ended = "connected"
except TimeoutError:
    ended = "timed out"
took = time.monotonic() - start
print(ended, "in time" if seconds <= took < seconds + 1 else f"after {took:.1f} s")
