"""Starts the real service as a process of its own, waits until it is ready, and stops it."""

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        process: the server's process.
        port: the TCP port on 127.0.0.1 that it listens on.
        tls: what its clients need, where it serves https.
    """

    process: subprocess.Popen[str]
    port: int
    tls: ssl.SSLContext | None = None

    def connect(self, timeout: float = 20, receive_bytes: int = 0) -> socket.socket:
        client = socket.socket()
        client.settimeout(timeout)
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.connect(("127.0.0.1", self.port))
        return self.tls.wrap_socket(client) if self.tls else client

    def get(self, target: str) -> tuple[int, bytes]:
        """The status and body that GET gives on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.sock = self.connect(timeout=30)
            connection.request("GET", target)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def serving(
    *flags: str,
    cpu: int | None = None,
    command: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    prepare: Callable[[int], None] | None = None,
    port: int = 0,
    tls: Path | None = None,
) -> Iterator[Server]:
    """A running service with these flags, ready. It is stopped when the block is left.

    Args:
        flags: of `python -m cartpole.serve`, without --port.
        cpu: the one core to run on; any by default.
        command: runs in place of the service, with `{port}` for the port.
        environ: variables to add to those of this process.
        prepare: is called with the port before the start.
        port: to use in place of a free one.
        tls: the folder of certificate.pem and key.pem, to serve https.

    Raises:
        RuntimeError: the server has ended, or was not ready in a minute.
    """
    port = port or free_port()
    default = (sys.executable, "-m", "cartpole.serve", "--port", "{port}", *flags)
    arguments = [part.replace("{port}", str(port)) for part in command or default]
    if tls:
        arguments += [f"--ssl-certfile={tls}/certificate.pem", f"--ssl-keyfile={tls}/key.pem"]
    if prepare:
        prepare(port)
    if cpu is not None:
        arguments = ["taskset", "-c", str(cpu), *arguments]
    variables = os.environ | dict(environ or {})
    process = subprocess.Popen(
        arguments, env=variables, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    server = Server(process, port, _trusting() if tls else None)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """Stop a server, and kill it and its children if they are still there after 10 s."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stderr:
        process.stderr.close()


def _trusting() -> ssl.SSLContext:
    """A context that accepts a self-signed certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            _, errors = server.process.communicate()
            raise RuntimeError(f"the server ended with {server.process.returncode}: {errors}")
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"no server on port {server.port} after {READY_SECONDS} s")
