"""A service with its model file, its log, and its processes by their names in /proc."""

import http.client
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

from bench.server import Server, free_port, serving
from cartpole.settings import BUNDLED_MODEL
from tests.support.metrics import scrape
from tests.support.paths import GOLDEN
from tests.support.waiting import wait_until

WORKER, TEMPLATE = "cartpole-worker", "cartpole-templa"  # the kernel cuts names at 15 bytes
LISTENING = "0A"  # the state in /proc/net/tcp
ACCEPTS = 0x10000  # the flag in /proc/net/unix


@dataclass(frozen=True)
class TCPServer(Server):
    """A running server; an attempt to connect that fails leaves no socket open."""

    def connect(self, timeout: float = 20, receive_bytes: int = 0) -> socket.socket:
        assert not receive_bytes
        client = socket.create_connection(("127.0.0.1", self.port), timeout)
        return self.tls.wrap_socket(client) if self.tls else client


class Process(NamedTuple):
    pid: int
    name: str
    state: str
    parent: int
    group: int


def processes() -> Iterator[Process]:
    """All of this machine, from one look at each."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it has just ended
            text = Path(f"/proc/{name}/stat").read_text(errors="replace")
            start, _, rest = text.rpartition(") ")
            state, parent, group = rest.split()[:3]
            yield Process(int(name), start.partition(" (")[2], state, int(parent), int(group))


def _children(server: Server, name: str) -> set[int]:
    return {
        one.pid
        for one in processes()
        if (one.parent, one.name) == (server.process.pid, name) and one.state not in "ZX"
    }


def workers(server: Server) -> set[int]:
    """Process ids of the workers, including those that are starting or ending."""
    return _children(server, WORKER)


def templates(server: Server) -> set[int]:
    """Process ids of the templates. A worker may be among them in the moment of its fork."""
    return _children(server, TEMPLATE)


def zombies(server: Server) -> set[int]:
    return {one.pid for one in processes() if one.parent == server.process.pid and one.state == "Z"}


def group(server: Server) -> set[int]:
    """All processes that the service has started and that run, itself included."""
    return {one.pid for one in processes() if one.group == server.process.pid and one.state != "Z"}


def sockets_of(pid: int) -> set[str]:
    """Inodes of the sockets that a process holds."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it has just been closed
            kind, _, inode = os.readlink(link).partition(":")
            if kind == "socket":
                found.add(inode.strip("[]"))
    return found


def tcp_sockets(state: str = "") -> set[str]:
    """Inodes of TCP sockets: all that listen or are connected, or those in this state."""
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {row[9] for row in rows if state in ("", row[3])} - {"0"}


def listeners() -> set[str]:
    """Inodes of listening sockets, TCP's and Unix sockets."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return tcp_sockets(LISTENING) | {row[6] for row in rows if int(row[3], 16) & ACCEPTS}


class Log:
    """The lines of a service's log so far; a thread reads them.

    Attributes:
        lines: each with its line end.
    """

    def __init__(self, server: Server) -> None:
        self.lines: list[str] = []
        assert server.process.stderr
        # A copy, so that bench.server closes its own without a race.
        copy = os.fdopen(os.dup(server.process.stderr.fileno()))
        self._thread = threading.Thread(target=self._read, args=(copy,), daemon=True)
        self._thread.start()

    def _read(self, stream: TextIO) -> None:
        with stream:
            for line in stream:
                self.lines.append(line)

    def count(self, text: str) -> int:
        return sum(text in line for line in tuple(self.lines))

    def wait(self, text: str, number: int = 1) -> None:
        """Wait until this number of lines have this text."""
        wait_until(lambda: self.count(text) >= number)

    def whole(self) -> str:
        """All of it, once the last process has ended."""
        self._thread.join(10)
        return "".join(self.lines)


@dataclass(frozen=True)
class Family:
    """A service of so many workers, and its model file."""

    server: Server
    model: Path
    log: Log
    size: int

    def answer(self) -> tuple[int, bytes]:
        return self.server.get(f"/inference?{GOLDEN}")

    def answers(self, number: int = 200) -> set[tuple[int, bytes]]:
        """The different answers on so many new connections, which all workers share."""
        return {self.answer() for _ in range(number)}

    def signal(self, number: int) -> None:
        self.server.process.send_signal(number)

    def put(self, content: bytes) -> None:
        """Replace the model file, whatever it is."""
        new = self.model.with_name("new")
        new.write_bytes(content)
        new.replace(self.model)

    def reload(self, outcome: str = "reload: done") -> None:
        """Send SIGHUP, and wait for this line of the log."""
        before = self.log.count(outcome)
        self.signal(signal.SIGHUP)
        self.log.wait(outcome, before + 1)

    def settle(self) -> None:
        """Wait until all workers serve; several have one template."""
        wait_until(self._is_settled)

    def _is_settled(self) -> bool:
        assert self.server.process.poll() is None
        if self.size > 1 and (
            len(workers(self.server)) != self.size or len(templates(self.server)) != 1
        ):
            return False
        with suppress(OSError, http.client.HTTPException):  # the worker that accepted is killed
            return scrape(self.server)["cartpole_workers", ()] == self.size
        return False

    def kill(self, *pids: int) -> None:
        """Kill these processes, and wait until others have taken their places."""
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not (workers(self.server) | templates(self.server)) & set(pids))
        self.settle()


@contextmanager
def starting(
    folder: Path,
    *flags: str,
    size: int = 2,
    tls: Path | None = None,
    cpu: int | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[Family]:
    """A service that has just been started. Its log is printed, for tests that fail.

    Args:
        folder: for model.pt, which is the shipped policy unless it exists.
        flags: of `python -m cartpole.serve`.
        size: the number of workers.
        tls: the folder of certificate.pem and key.pem.
        cpu: the core to run on.
        prefix: a command that executes the service.
    """
    model, port = folder / "model.pt", free_port()
    if not model.exists():
        shutil.copy(BUNDLED_MODEL, model)
    command = [*prefix, sys.executable, "-m", "cartpole.serve", "--port", str(port)]
    command += ["--workers", str(size), "--model", str(model), *flags]
    # serving() waits for a TCP port: this one stands in for it.
    with socket.create_server(("127.0.0.1", 0)) as stand_in, ExitStack() as stack:
        running = serving(command=command, port=stand_in.getsockname()[1], tls=tls, cpu=cpu)
        stack.callback(lambda: print(log.whole()))
        started = stack.enter_context(running)
        server = TCPServer(started.process, port, started.tls)
        log = Log(server)
        yield Family(server, model, log, size)


@contextmanager
def family(
    folder: Path, *flags: str, size: int = 2, tls: Path | None = None, prefix: Sequence[str] = ()
) -> Iterator[Family]:
    """A service whose workers all serve. Its log may hold no traceback."""
    with starting(folder, *flags, size=size, tls=tls, prefix=prefix) as started:
        started.settle()
        yield started
    assert started.log.count("Traceback") == 0
