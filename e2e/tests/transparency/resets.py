"""Makes COUNT connections to ADDRESS PORT, and resets each as soon as it is open. Prints how many
connects succeeded."""

import socket
import struct
import sys

count, to = int(sys.argv[1]), (sys.argv[2], int(sys.argv[3]))
good = 0
for _ in range(count):
    client = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
    client.settimeout(10)
    good += client.connect_ex(to) == 0
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
print(good)
