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
        tls: the context that its clients use; None if it serves plain HTTP.
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
        """Status and body of the answer to GET, on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.sock = self.connect(timeout=30)
            connection.request("GET", target)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def wait_for_workers(self, number: int) -> None:
        """Wait until so many serve. Raises RuntimeError after a minute."""
        deadline = time.monotonic() + READY_SECONDS
        while f"cartpole_workers {number}.0".encode() not in self.get("/metrics")[1]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{number} workers don't serve after {READY_SECONDS} s")
            time.sleep(0.01)


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
    """A service that is ready for requests. It is stopped at the end of the block.

    Args:
        flags: flags of `python -m cartpole.serve`, without --port.
        cpu: the core to run on; any core by default.
        command: another command to run; `{port}` in it stands for the port.
        environ: variables to add to the environment of this process.
        prepare: called with the port before the start.
        port: the port to listen on; a free one by default.
        tls: the folder of certificate.pem and key.pem, to serve HTTPS.

    Raises:
        RuntimeError: the server exited, or was not ready within a minute.
    """
    port = port or free_port()
    command = command or (sys.executable, "-m", "cartpole.serve", "--port", "{port}", *flags)
    if prepare:
        prepare(port)
    process = subprocess.Popen(
        _arguments(command, port, cpu, tls),
        env=os.environ | dict(environ or {}),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    server = Server(process, port, _trusting() if tls else None)
    try:
        wait_until_ready(server)
        yield server
    finally:
        _stop(process)


def _arguments(command: Sequence[str], port: int, cpu: int | None, tls: Path | None) -> list[str]:
    """The command with its port, its certificate and the core that it is pinned to."""
    arguments = [part.replace("{port}", str(port)) for part in command]
    if tls:
        arguments += [f"--ssl-certfile={tls}/certificate.pem", f"--ssl-keyfile={tls}/key.pem"]
    return arguments if cpu is None else ["taskset", "-c", str(cpu), *arguments]


def _stop(process: subprocess.Popen[str]) -> None:
    """Stop a server; kill it and its children if they still run after 10 s."""
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


def wait_until_ready(server: Server) -> None:
    """Wait until it accepts connections.

    Raises:
        RuntimeError: the server exited, or was not ready within a minute.
    """
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            _, errors = server.process.communicate()
            raise RuntimeError(f"the server exited with {server.process.returncode}: {errors}")
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"no server on port {server.port} after {READY_SECONDS} s")
