"""Starts the real service as a process of its own, waits until it is ready, and stops it."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

READY_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        process: the server's process.
        port: the TCP port on 127.0.0.1 that it listens on.
    """

    process: subprocess.Popen[str]
    port: int

    def get(self, target: str) -> tuple[int, bytes]:
        """The status and body that GET gives on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
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
) -> Iterator[Server]:
    """The service with these flags on a free port, ready; ended when the block is left.

    Args:
        flags: of `python -m cartpole.serve`, beside --port.
        cpu: the one core that it may run on; any by default.
        command: another command to run instead, with `{port}` where the port goes.
        environ: variables beside those of this process.
        port: instead of a free one.
        prepare: what to do once the port is known, before the start.

    Raises:
        RuntimeError: it ended before it was ready, or was not ready in a minute.
    """
    port = port or free_port()
    default = (sys.executable, "-m", "cartpole.serve", "--port", "{port}", *flags)
    arguments = [part.replace("{port}", str(port)) for part in command or default]
    if prepare:
        prepare(port)
    if cpu is not None:
        arguments = ["taskset", "-c", str(cpu), *arguments]
    process = subprocess.Popen(
        arguments,
        env=os.environ | dict(environ or {}),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    server = Server(process, port)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        with suppress(ProcessLookupError):  # it, and whatever it has started and left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stderr:
            process.stderr.close()


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
