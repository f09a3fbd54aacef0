"""SIP over TCP, as far as addresses are concerned.

  sip.py server     answers each REGISTER, and then calls the Contact back by a second connection
  sip.py ADDRESS    registers there, and waits for the call

Via and Contact have the address that getsockname returns.
"""

import re
import socket
import sys
import threading

PORT = 5060


def host(address):
    return f"[{address}]" if ":" in address else address


def read_message(stream):
    lines = []
    while (line := stream.readline().strip()) or not lines:
        if not line:
            return lines
        lines.append(line)
    return lines


def sent_by(line):
    """The address and port in a Via or a Contact."""
    name, port = re.search(r"(?:TCP |@)(\[[^]]*\]|[^:;>]*):(\d+)", line).groups()
    return name.strip("[]"), int(port)


def answer(client):
    peer = client.getpeername()[:2]
    peer = (peer[0].removeprefix("::ffff:"), peer[1])
    lines = read_message(client.makefile())
    if not lines:
        return
    via = next(line for line in lines if line.startswith("Via:"))
    contact = next(line for line in lines if line.startswith("Contact:"))
    if sent_by(via) != peer:
        via += f";received={peer[0]};rport={peer[1]}"
    client.sendall(f"SIP/2.0 200 OK\r\n{via}\r\n\r\n".encode())
    with socket.create_connection(sent_by(contact), 5) as call:
        call.sendall(b"INVITE sip:client SIP/2.0\r\n\r\n")


def serve():
    listener = socket.create_server(
        ("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True
    )
    while True:
        client, _ = listener.accept()
        threading.Thread(target=answer, args=(client,), daemon=True).start()


def register(server):
    with socket.create_connection((server, PORT), 5) as client:
        address, port = client.getsockname()[:2]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, 0), family=family)
        listener.settimeout(5)
        contact = listener.getsockname()[1]
        client.sendall(
            f"REGISTER sip:{host(server)} SIP/2.0\r\n"
            f"Via: SIP/2.0/TCP {host(address)}:{port}\r\n"
            f"Contact: <sip:client@{host(address)}:{contact};transport=tcp>\r\n\r\n".encode()
        )
        status, via = read_message(client.makefile())
        if "received=" in via:
            print(f"{status}, but {via}")
            return
        call, _ = listener.accept()
        method = read_message(call.makefile())[0].split()[0]
        print(f"{status.removeprefix('SIP/2.0 ')} to a true Via, {method} over a second connection")


if sys.argv[1] == "server":
    serve()
else:
    try:
        register(sys.argv[1])
    except OSError as error:
        print(error)
