"""A service over TCP, TLS or a Unix socket, in either mode, and the answers read from it."""

import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench.server import Server, serving
from tests.support.corpus import request
from tests.support.paths import GOLDEN
from tests.support.waiting import wait_until

KINDS = [f"{http}-{transport}" for http in ("fast", "asgi") for transport in ("tcp", "tls", "unix")]
LAST = request(GOLDEN, "Connection: close")  # ends a connection that is still open
PAUSE_SECONDS = 0.05  # the server reads two pieces with this pause between them on their own


@dataclass(frozen=True)
class UnixServer(Server):
    """A running server that listens on a Unix socket only."""

    path: str = ""

    def connect(self, timeout: float = 20, receive_bytes: int = 0) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(timeout)
        try:
            client.connect(self.path)
        except OSError:
            client.close()
            raise
        return client


@contextmanager
def serving_over(kind: str, certificate: Path, *flags: str) -> Iterator[Server]:
    """Serve as one of KINDS."""
    http, transport = kind.split("-")
    flags = ("--http", http, *flags)
    if transport != "unix":
        with serving(*flags, tls=certificate if transport == "tls" else None) as running:
            yield running
        return
    # serving() waits for a TCP port: this one stands in for it.
    with TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as stand_in:
        path, port = f"{folder}/socket", stand_in.getsockname()[1]
        command = [sys.executable, "-m", "cartpole.serve", "--uds", path, *flags]
        with serving(command=command, port=port) as starting:
            server = UnixServer(starting.process, port, path=path)

            def is_ready() -> bool:
                assert server.process.poll() is None
                with suppress(OSError), server.connect():
                    return True
                return False

            wait_until(is_ready)
            yield server


def post(body: bytes, *lines: str, path: str = "/inference", version: str = "1.1") -> bytes:
    start = f"POST {path} HTTP/{version}{{}}"
    return request("", f"Content-Length: {len(body)}", *lines, start=start) + body


def chunked(body: bytes, *lines: str, path: str = "/inference", trailer: bytes = b"") -> bytes:
    """In two chunks."""
    head = request("", "Transfer-Encoding: chunked", *lines, start=f"POST {path} HTTP/1.1{{}}")
    chunks = (b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]))
    return head + b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"


class Answer(NamedTuple):
    status: int
    head: str  # in lower case
    body: bytes

    @property
    def closes(self) -> bool:
        return "\r\nconnection: close\r\n" in self.head


def answers(stream: bytes) -> list[Answer]:
    """Split a stream of whole answers, none of them to HEAD."""
    found = []
    while stream:
        head, end, rest = stream.partition(b"\r\n\r\n")
        assert end and head.startswith(b"HTTP/1.1 "), stream[:200]
        size = int((re.findall(rb"\ncontent-length: (\d+)", head) or [0])[0])
        assert len(rest) >= size, "the last answer is cut"
        text = (head + b"\r\n").decode("latin-1").lower()
        found.append(Answer(int(head[9:12]), text, rest[:size]))
        stream = rest[size:]
    return found


def results(found: list[Answer]) -> list[tuple[int, bytes]]:
    return [(one.status, one.body) for one in found]


def statuses(found: list[Answer]) -> list[int]:
    return [one.status for one in found]


def send(client: socket.socket, *pieces: bytes, pause: float = PAUSE_SECONDS) -> None:
    """Send pieces that the server reads one by one; it may stop reading before the last."""
    with suppress(BrokenPipeError, ConnectionResetError):
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(pause)
            client.sendall(piece)


def receive(client: socket.socket) -> bytes:
    """What comes until the server ends the connection, without a reset."""
    received = bytearray()
    while more := client.recv(65536):
        received += more
    return bytes(received)


def ask(server: Server, *pieces: bytes, pause: float = PAUSE_SECONDS) -> list[Answer]:
    with server.connect() as client:
        send(client, *pieces, pause=pause)
        return answers(receive(client))


def cuts(stream: bytes, *places: int) -> list[bytes]:
    """The stream in pieces that end at these places."""
    bounds = [0, *places, len(stream)]
    return [stream[start:end] for start, end in pairwise(bounds)]


def connect_narrow(server: Server) -> socket.socket:
    """Connect so that the kernel buffers little of what the client has not read."""
    if isinstance(server, UnixServer):
        return server.connect()
    client = socket.socket()
    client.settimeout(20)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.connect(("127.0.0.1", server.port))
    return server.tls.wrap_socket(client) if server.tls else client
