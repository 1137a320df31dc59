"""Free TCP ports on 127.0.0.1 that stay free while a server is down."""

from __future__ import annotations

import random
import socket

from relay.local.errors import LocalServerError

HOST = "127.0.0.1"
# Below the range that Linux (from 32768) and macOS (from 49152) give to outgoing connections. A port in that
# range can be taken, while its server is being restarted, by any client's connection, even by one to that
# very port.
FIRST, LAST = 20000, 32000


def is_free(port: int) -> bool:
    """Return whether a server could listen on this port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # As the servers do: connections in TIME_WAIT of a server that just stopped are no hindrance.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(1)
        except OSError:
            return False
    return True


def free_port(avoid: frozenset[int] = frozenset()) -> int:
    """Return a port on which no program listens now; another one may take it before the server does."""
    for port in random.sample(range(FIRST, LAST), 200):
        if port not in avoid and is_free(port):
            return port
    raise LocalServerError(f"no free TCP port between {FIRST} and {LAST} on {HOST}")
