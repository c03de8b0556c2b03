"""Clients of a running service, on plain sockets."""

import socket
from contextlib import ExitStack

from bench.server import Server
from tests.support.corpus import request

REQUEST = request()


def connect(server: Server, receive_bytes: int = 0) -> socket.socket:
    """Connect, with this size of the receive buffer unless it is 0."""
    return server.connect(receive_bytes=receive_bytes)


def half_close(client: socket.socket) -> None:
    """Half-close the TCP connection. SSLSocket.shutdown would stop decrypting."""
    socket.socket.shutdown(client, socket.SHUT_WR)


def read_all(client: socket.socket) -> bytes:
    received = b""
    while more := client.recv(65536):
        received += more
    return received


def read_answer(client: socket.socket) -> bytes:
    """Read one complete response with a JSON object as its body."""
    answer = b""
    while not answer.endswith(b"}"):
        more = client.recv(4096)
        assert more, answer
        answer += more
    return answer


def crowd(server: Server, number: int, stack: ExitStack) -> list[socket.socket]:
    number = number // 10 if server.tls else number  # TLS handshakes are slow
    return [stack.enter_context(connect(server)) for _ in range(number)]
