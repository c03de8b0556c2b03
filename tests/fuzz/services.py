"""A service in each mode on one transport, and their clients."""

import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench.certificate import make_certificate
from bench.server import READY_SECONDS, serving

TRANSPORTS = ("tcp", "tls", "unix")
MODES = ("fast", "asgi")
SECONDS = 8  # a client that waits longer hangs; shorter than the service's own time limits
RECEIVE_BYTES = 1 << 18


class Client:
    """A connection to a service."""

    def __init__(self, below: socket.socket) -> None:
        self._below = below
        below.settimeout(SECONDS)

    def send(self, data: bytes) -> None:
        """Send all, unless the service has ended the connection."""
        with suppress(OSError):
            self._below.sendall(data)

    def half_close(self) -> None:
        with suppress(OSError):
            self._below.shutdown(socket.SHUT_WR)

    def receive(self) -> bytes:
        """Some bytes; none at the end. Raises TimeoutError if neither comes."""
        with suppress(ConnectionError):
            return self._below.recv(RECEIVE_BYTES)
        return b""

    def close(self) -> None:
        self._below.close()


class TLSClient(Client):
    """The same with TLS. Unlike an SSLSocket, it can still read once it can't send."""

    def __init__(self, below: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(below)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        while True:
            with suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                break
            super().send(self._outgoing.read())
            self._incoming.write(super().receive())
        super().send(self._outgoing.read())

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        super().send(self._outgoing.read())

    def receive(self) -> bytes:
        with suppress(ssl.SSLZeroReturnError):
            while True:
                with suppress(ssl.SSLWantReadError):
                    return self._tls.read(RECEIVE_BYTES)
                received = super().receive()
                if not received:
                    break
                self._incoming.write(received)
        return b""


Connect = Callable[[], Client]


@contextmanager
def services(transport: str, *flags: str) -> Iterator[list[Connect]]:
    """A service in each mode, as functions that connect to it.

    Raises:
        AssertionError: a service logged an error, which it does only if it has a fault itself.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, connects, processes = Path(name), [], []
        if transport == "tls":
            make_certificate(folder)
        for mode in MODES:
            all_flags = ("--http", mode, "--log-level", "error", *flags)
            service = _on_port(folder, transport == "tls", *all_flags)
            if transport == "unix":
                service = _on_path(folder / mode, *all_flags)
            process, connect = stack.enter_context(service)
            processes.append(process)
            connects.append(connect)
        yield connects
        logs = "".join(map(_logged, processes))
        assert not logs, logs


@contextmanager
def _on_port(
    folder: Path, is_tls: bool, *flags: str
) -> Iterator[tuple[subprocess.Popen[str], Connect]]:
    with serving(*flags, tls=folder if is_tls else None) as server:

        def connect() -> Client:
            below = socket.create_connection(("127.0.0.1", server.port), SECONDS)
            below.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return TLSClient(below, server.tls) if server.tls else Client(below)

        yield server.process, connect


@contextmanager
def _on_path(path: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], Connect]]:
    def connect() -> Client:
        below = socket.socket(socket.AF_UNIX)
        try:
            below.connect(str(path))
        except OSError:
            below.close()
            raise
        return Client(below)

    command = [sys.executable, "-m", "cartpole.serve", "--uds", str(path), *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            _wait_until_ready(process, connect)
            yield process, connect
        finally:
            process.terminate()


def _wait_until_ready(process: subprocess.Popen[str], connect: Connect) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        assert process.poll() is None and time.monotonic() < deadline, "it does not start"
        with suppress(OSError):
            return connect().close()
        time.sleep(0.02)


def _logged(process: subprocess.Popen[str]) -> str:
    """The log so far."""
    assert process.stderr
    os.set_blocking(process.stderr.fileno(), False)
    with suppress(BlockingIOError):
        return os.read(process.stderr.fileno(), 1 << 16).decode()
    return ""
