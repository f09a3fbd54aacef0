"""Connects to ADDRESS PORT in Python's ways, and prints how each ended, as rows of a comparison."""

import asyncio
import errno
import socket
import sys

ADDRESS, PORT = sys.argv[1], int(sys.argv[2])


def create_connection():
    socket.create_connection((ADDRESS, PORT), 20).close()


def without_timeout():
    family = socket.AF_INET6 if ":" in ADDRESS else socket.AF_INET
    with socket.socket(family) as client:
        client.connect((ADDRESS, PORT))


def by_asyncio():
    async def connect():
        _, writer = await asyncio.open_connection(ADDRESS, PORT)
        writer.close()

    asyncio.run(connect())


for name, connect in [
    ("create_connection", create_connection),
    ("connect", without_timeout),
    ("asyncio", by_asyncio),
]:
    try:
        connect()
        ended = "connected"
    except OSError as error:
        ended = errno.errorcode.get(error.errno, str(error))
    print(f"python {name} {ADDRESS}: {ended}")
