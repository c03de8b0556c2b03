"""One line per event as text or JSON, to a standard error that never blocks; a bound on repeats."""

import atexit
import errno
import io
import logging
import os
import select
import socket
import stat
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from threading import get_ident
from time import monotonic, sleep
from typing import Protocol, TextIO, cast

import orjson

from cartpole.settings import Settings

QUIET_SECONDS = 10  # between two lines about the same
KEPT_BYTES = 1 << 14  # of the latest lines, while there is no room for them
END_SECONDS = 0.25  # to wait for room at the end of a worker, and then of its supervisor

_logger = logging.getLogger("cartpole")


class JsonFormatter(logging.Formatter):
    """{"time":…,"level":…,"logger":…,"process":…,"message":…} in one line."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": _utf8(record.getMessage()),
        }
        if record.exc_info:
            event["exception"] = _utf8(self.formatException(record.exc_info))
        return orjson.dumps(event).decode()


def _utf8(text: str) -> str:
    r"""Show surrogates as \udcxx: paths may hold bytes that are not UTF-8, and orjson fails."""
    return text.encode(errors="backslashreplace").decode()


class Throttle:
    """Bounds the lines about one kind of event: at most one in QUIET_SECONDS."""

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def is_quiet(self) -> bool:
        """Whether no line may be written yet."""
        return monotonic() < self._quiet_until

    def admit(self) -> bool:
        """Whether a line may be written now. If so, it is quiet from then on."""
        if self.is_quiet():
            return False
        self._quiet_until = monotonic() + QUIET_SECONDS
        return True


class Abortable(Protocol):
    """A connection."""

    def abort(self) -> None: ...


class Failures:
    """Logs errors of our own, each of which ends what it concerns, at a bounded rate."""

    def __init__(self) -> None:
        self._throttle = Throttle()
        self._count = 0  # since the last line

    def record(self, number: int = 1) -> None:
        """So many requests or connections end by the exception that is being handled."""
        self._count += number
        if self._throttle.admit():
            _logger.exception("%d ended by an error; one of them:", self._count)
            self._count = 0

    def abort(self, *connections: Abortable) -> None:
        """The same for connections, which are aborted."""
        self.record(len(connections))
        for connection in connections:
            connection.abort()


class Stream(io.TextIOBase):
    """Standard error that never waits for its reader.

    While there is no room, it keeps the latest lines and drops older ones. Once there is room, a
    line says how many were dropped.

    Attributes:
        handler: writes log records to this stream.
    """

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor, self._send = descriptor, _sender(descriptor)
        self.handler = logging.StreamHandler(cast(TextIO, self))
        # One lock for both: a destructor that logs may run anywhere, so two would be taken in
        # either order. It is reentrant, and logging renews it in forked processes.
        assert self.handler.lock
        self._lock = self.handler.lock
        self.forget()

    def forget(self) -> None:
        """Start empty, in a forked process: what is left is its parent's to write."""
        self._begun: dict[int, str] = {}  # the line that a thread has not ended yet
        self._rest = b""  # of a line, or of several written as one, of which a part is written
        self._kept: deque[bytes] = deque()
        self._kept_bytes = self._dropped = 0
        self._is_draining = False
        self._deadline = float("inf")

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str) -> int:
        with self._lock:
            lines, end, begun = (self._begun.pop(get_ident(), "") + text).rpartition("\n")
            if begun:
                self._begun[get_ident()] = begun
            self._put(lines + end)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            self._put(self._begun.pop(get_ident(), ""))

    def finish(self) -> None:
        """Write what is left, waiting for room for at most END_SECONDS in total."""
        self._deadline = min(self._deadline, monotonic() + END_SECONDS)
        if self._lock.acquire(timeout=END_SECONDS):
            try:
                self.flush()
                while (self._rest or self._dropped or self._kept) and monotonic() < self._deadline:
                    sleep(0.001)
                    self.flush()
            finally:
                self._lock.release()

    def _put(self, text: str) -> None:
        if text:
            self._kept.append(text.encode(errors="backslashreplace"))
            self._kept_bytes += len(self._kept[-1])
        if self._is_draining:  # a destructor or a signal handler, called within _drain
            return
        self._is_draining = True
        try:
            self._drain()
        finally:
            self._is_draining = False

    def _drain(self) -> None:
        """Write what there is room for; of the rest, keep the latest: KEPT_BYTES, or one line."""
        while (data := self._next()) and (sent := self._try_to_send(data)):
            if not self._rest and self._dropped:
                self._dropped = 0
            elif not self._rest:
                self._kept_bytes -= len(self._kept.popleft())
            self._rest = data[sent:]
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            lines = self._kept.popleft()
            self._kept_bytes -= len(lines)
            self._dropped += lines.count(b"\n")

    def _next(self) -> bytes:
        if self._rest or not self._dropped:
            return self._rest or (self._kept[0] if self._kept else b"")
        text, level = "%d lines of the log were dropped", logging.WARNING
        record = _logger.makeRecord(_logger.name, level, "", 0, text, (self._dropped,), None)
        return f"{self.handler.format(record)}\n".encode()

    def _try_to_send(self, data: bytes) -> int:
        """Returns how many bytes were written. If nobody reads any more, they are lost."""
        try:
            return self._send(data)
        except OSError as error:
            return 0 if error.errno in (errno.EAGAIN, errno.ENOSPC) else len(data)


def _sender(descriptor: int) -> Callable[[bytes], int]:
    """Writes to the descriptor without blocking. Its flags stay: other processes share them."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        connection = socket.socket(fileno=os.dup(descriptor))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT)
    if not (stat.S_ISFIFO(mode) or os.isatty(descriptor)):
        return partial(os.write, descriptor)
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
    with suppress(OSError):  # another user's, or there is no /proc
        return partial(os.write, os.open(f"/proc/self/fd/{descriptor}", flags))

    def send(data: bytes) -> int:
        has_room = select.select([], [descriptor], [], 0)[1]
        return os.write(descriptor, data[: select.PIPE_BUF]) if has_room else 0

    return send


_stream: Stream | None = None


def configure(settings: Settings) -> None:
    """Log to standard error. The log level is ours; libraries log warnings and errors only."""
    global _stream
    logging.getLogger("cartpole").setLevel(settings.log_level.upper())
    if logging.getLogger().handlers:  # another program's, or a parent process has done the rest
        return
    handler = logging.StreamHandler()
    if sys.stderr is sys.__stderr__:  # else another program has replaced it, and writes as it likes
        _stream = Stream()
        os.register_at_fork(after_in_child=_stream.forget)
        atexit.register(_stream.finish)
        handler, sys.stderr = _stream.handler, cast(TextIO, _stream)  # for tracebacks too
    handler.setFormatter(
        JsonFormatter()
        if settings.log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s [%(process)d] %(message)s")
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def flush() -> None:
    """Write lines that there was no room for, if there is now. Call it once in a while."""
    if _stream:
        _stream.flush()


def finish() -> None:
    """Write what is left, waiting for at most END_SECONDS. Call it before os._exit."""
    if _stream:
        _stream.finish()
