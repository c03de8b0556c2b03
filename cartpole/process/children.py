"""The supervisor's children, as it sees them: templates, and the workers that are forked there."""

import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cartpole.metrics.counters import COLUMNS
from cartpole.process.progress import STUCK_SECONDS, Progress
from cartpole.process.template import MOST_BYTES

PREPARE = "cartpole.process.worker"  # the module that templates load by


class Copies:
    """Files in memory for copies of the model, the certificate and its key.

    What was accepted can be loaded from them again, whatever has become of the originals.
    """

    def __init__(self) -> None:
        """Raises OSError if the system lacks a descriptor."""
        self.descriptors: list[int] = []
        for name in ("model", "certificate", "key"):
            self.descriptors.append(os.memfd_create(name))

    def __del__(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


class Child:
    """A process at the other end of a socket, which it takes for the supervisor's life.

    Attributes:
        copies: of the files that it serves.
        pid: its process id; 0 until it is known.
        status: as os.waitpid() tells it; None while the process runs.
    """

    def __init__(self, copies: Copies, parent: int) -> None:
        """Make the socket of a process that this parent is to start."""
        self.copies, self.pid, self._parent = copies, 0, parent
        self.status: int | None = None
        self.socket, self._their_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        self._progress: Progress | None = None
        self._is_closed = False

    def observe(self) -> str:
        """Returns what it has said; "" if nothing."""
        try:
            message = self.socket.recv(MOST_BYTES)
        except BlockingIOError:
            return ""
        except OSError:  # it did not read its last order, or this socket is closed
            message = b""
        if not message:
            self.socket.close()
            self._is_closed = True
        return message.decode(errors="replace")

    @contextmanager
    def _started_with(self) -> Iterator[socket.socket]:
        """The process's end of the socket, for as long as it takes to start it."""
        with self._their_socket as theirs:
            try:
                yield theirs
            except OSError:
                self.socket.close()
                raise

    @property
    def has_ended(self) -> bool:
        """Whether it is gone. If its id never became known, its status never comes."""
        return self.status is not None or (self._is_closed and not self.pid)

    @property
    def exit_code(self) -> int:
        """Its exit code, or minus the number of the signal that ended it, once it has ended."""
        return -signal.SIGKILL if self.status is None else os.waitstatus_to_exitcode(self.status)

    def failure(self, now: float) -> str:
        """How it has failed, as the end of a sentence; "" if it goes on. Ask until it is ready."""
        if self.has_ended and self.status is None:
            return "was not forked"
        if self.has_ended:
            code = self.exit_code
            names = {number.value: number.name for number in signal.Signals}  # some have none
            by = names.get(-code, f"signal {-code}")
            return f"ended by {by}" if code < 0 else f"ended with {code}"
        folder = Path(f"/proc/{self.pid or self._parent}")
        if self._progress is None or self._progress.folder != folder:
            self._progress = Progress(folder, now)
        is_stuck = self._progress.is_stuck(now)
        return f"did nothing for {STUCK_SECONDS} s and was killed" if is_stuck else ""

    def kill(self) -> None:
        """Kill it. One whose id is not known yet ends with the socket."""
        if self.status is None and self.pid:
            os.kill(self.pid, signal.SIGKILL)
        self.socket.close()


class Template(Child):
    """A process that loads a policy and then forks workers.

    Attributes:
        policy: what it serves, in words; "" while it loads.
        refusal: why it can't be served, if so.
    """

    def __init__(self, prepare: str, flags: Sequence[str], counters: int, copies: Copies) -> None:
        """Start it.

        Args:
            prepare: the module that it loads by.
            flags: of the command.
            counters: the descriptor of the counters' memory.

        Raises:
            OSError: the system lacks a process, descriptor or memory for it.
        """
        super().__init__(copies, os.getpid())
        self.policy = self.refusal = ""
        with self._started_with() as theirs:
            inherited = [theirs.fileno(), counters, *copies.descriptors]
            numbers = ",".join(map(str, (os.getpid(), *inherited)))
            # Without the first, NumPy's OpenBLAS starts threads, and those hinder a fork.
            environment = os.environ | {
                "OPENBLAS_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(sys.path),
            }
            for descriptor in inherited:
                os.set_inheritable(descriptor, True)
            try:
                program = ("-P", "-m", "cartpole.process.template")
                command = [sys.executable, *program, numbers, prepare, *flags]
                self.pid = os.posix_spawn(sys.executable, command, environment)
            finally:
                for descriptor in inherited:
                    os.set_inheritable(descriptor, False)

    def observe(self) -> str:
        """Hear whether it can fork workers."""
        said = super().observe()
        kind, _, text = said.partition(" ")
        if kind == "ready":
            self.policy = text
        elif said:
            self.refusal = text
        return said


class Worker(Child):
    """A process that serves.

    Attributes:
        row, cells: its row of the counters.
        serves: it has been ready to serve at some time.
        is_stopping: it was told to stop, or has failed. By its deadline it must be gone.
    """

    def __init__(
        self,
        template: Template,
        listener: socket.socket,
        row: int,
        cells: memoryview,
        core: int,
        timeout: int,
    ) -> None:
        """Have it forked.

        Args:
            core: that it is to run on; -1: any.
            timeout: seconds without a heartbeat after which it is taken for hung; 0: never.

        Raises:
            OSError: the template has ended or does not listen, or no descriptor can be had.
        """
        super().__init__(template.copies, template.pid)
        self.row, self.cells, self._timeout = row, cells, timeout
        cells[COLUMNS.pid] = cells[COLUMNS.ready] = 0
        self.serves = self.is_stopping = False
        self.deadline, self._heartbeat_at = float("inf"), 0.0
        self._heartbeats = -1
        with self._started_with() as theirs:
            order, descriptors = f"{row} {core}".encode(), [listener.fileno(), theirs.fileno()]
            socket.send_fds(template.socket, [order], descriptors)

    def observe(self) -> str:
        """Read its row of the counters."""
        self.pid = self.pid or self.cells[COLUMNS.pid]
        self.serves = self.serves or bool(self.cells[COLUMNS.ready])
        return super().observe()

    def failure(self, now: float) -> str:
        if self.has_ended or not self.serves:
            return super().failure(now)
        heartbeats = self.cells[COLUMNS.heartbeats]
        if heartbeats != self._heartbeats:
            self._heartbeats, self._heartbeat_at = heartbeats, now
        is_hung = self._timeout and now - self._heartbeat_at > self._timeout
        return f"did not respond for {self._timeout} s and was killed" if is_hung else ""

    def order(self, number: int, deadline: float) -> None:
        """Have it stop as this signal says; it is to be killed after the deadline."""
        self.deadline = min(deadline, self.deadline)
        self.is_stopping = True
        with suppress(OSError):  # it has ended, or is so busy that the deadline decides
            self.socket.send(bytes([number]))
