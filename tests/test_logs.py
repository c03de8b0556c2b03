"""Log lines, and the stream that writes them without waiting for its reader."""

import fcntl
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from cartpole.logs import END_SECONDS, KEPT_BYTES, JsonFormatter, Stream

LONG = "".join(f"{number:09}\n" for number in range(40_000))  # more than any of these holds
LINE = "x" * 99 + "\n"


def test_a_json_line_of_a_path_that_is_not_utf8() -> None:
    path = os.fsdecode(b"/models/\xff.pt")
    record = logging.LogRecord("cartpole", logging.INFO, "", 0, "serves %s", (path,), None)
    assert json.loads(JsonFormatter().format(record))["message"] == r"serves /models/\udcff.pt"


class Channel:
    """A stream and what reads it."""

    def __init__(self, writer: int, reader: int) -> None:
        os.set_blocking(reader, False)
        self.writer, self.reader, self.stream = writer, reader, Stream(writer)

    def fill(self) -> None:
        """Write until the stream has to wait."""
        self.stream.write(LONG)

    def read(self) -> str:
        """All that can be read now."""
        received = b""
        try:
            while data := os.read(self.reader, 1 << 20):
                received += data
        except BlockingIOError:
            pass
        return received.decode()

    def read_all(self) -> str:
        """All that the stream has."""
        received = ""
        while data := self.read():
            received += data
            self.stream.flush()
        return received


@pytest.fixture(params=["pipe", "pipe of another user", "terminal", "socket"])
def channel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Channel]:
    if request.param == "socket":
        pair = socket.socketpair()
        reader, writer = (end.detach() for end in pair)
    elif request.param == "terminal":
        reader, writer = os.openpty()
    else:
        reader, writer = os.pipe()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Socket)
        if request.param == "pipe of another user":
            patch.setattr(os, "open", refuse)
        made = Channel(writer, reader)
    yield made
    for opened in Socket.opened:
        opened.close()
    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK  # others share it
    os.close(reader)
    os.close(writer)


class Socket(socket.socket):
    """One that can be closed after the test: a stream never closes its own."""

    opened: ClassVar[list[socket.socket]] = []

    def __init__(self, *, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self.opened.append(self)


def refuse(*_: object) -> int:
    raise PermissionError


def unix(text: str) -> str:
    return text.replace("\r\n", "\n")  # as a terminal ends lines


def test_a_line_that_is_begun_is_finished_before_others(channel: Channel) -> None:
    channel.fill()
    others = [threading.Thread(target=channel.stream.write, args=(LINE,)) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join(timeout=20)
        assert not other.is_alive()
    assert unix(channel.read_all()) == LONG + 4 * LINE


def test_lines_without_room_are_counted_and_the_latest_kept(channel: Channel) -> None:
    channel.fill()
    lines = [f"{number:099}\n" for number in range(1000)]
    for line in lines:
        channel.stream.write(line)
    received = unix(channel.read_all())
    channel.stream.write("afterwards\n")
    assert received.startswith(LONG)
    count, *latest = received.removeprefix(LONG).splitlines(keepends=True)
    dropped = 1000 - KEPT_BYTES // 100
    assert count == f"{dropped} lines of the log were dropped\n"
    assert latest == lines[dropped:]
    assert channel.read_all() in ("afterwards\n", "afterwards\r\n")


def test_the_count_has_the_format_of_the_log() -> None:
    channel = Channel(*reversed(os.pipe()))
    channel.stream.handler.setFormatter(JsonFormatter())
    channel.fill()
    channel.stream.write("two\nlines\n")
    channel.stream.write("one\n")
    channel.stream.write("x" * KEPT_BYTES + "\n")
    count, _ = channel.read_all().removeprefix(LONG).splitlines()
    event = json.loads(count)
    assert (event["level"], event["logger"]) == ("warning", "cartpole")
    assert event["message"] == "3 lines of the log were dropped"


def test_a_line_in_pieces_is_not_mixed_with_that_of_another_thread() -> None:
    channel = Channel(*reversed(os.pipe()))
    channel.stream.write("a line ")
    other = threading.Thread(target=channel.stream.write, args=("another line\n",))
    other.start()
    other.join()
    channel.stream.write("in pieces\nand the next")
    assert channel.read() == "another line\na line in pieces\n"
    channel.stream.flush()
    assert channel.read() == "and the next"


def test_a_line_within_a_line() -> None:
    """A destructor may log anywhere, also where the stream itself makes objects."""

    made = Channel(*reversed(os.pipe()))

    class Interrupted(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            made.stream.write("within\n")
            return super().format(record)

    made.stream.handler.setFormatter(Interrupted())
    made.fill()
    made.stream.write("x" * KEPT_BYTES + "\n")
    made.stream.write("last\n")
    received = made.read_all().removeprefix(LONG)
    assert received == "1 lines of the log were dropped\nlast\nwithin\n"


def test_the_end_waits_for_a_reader_that_reads(channel: Channel) -> None:
    channel.fill()
    channel.stream.write(LINE)
    received: list[str] = []

    def read() -> None:
        while not received or not received[-1].endswith(LINE[-10:]):
            if data := unix(channel.read()):
                received.append(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    channel.stream.finish()
    # If this machine is slow, half a second is too short for all of it.
    channel.stream.flush()
    reader.join(timeout=20)
    assert "".join(received) == LONG + LINE


def test_the_end_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("cartpole.logs.monotonic", lambda: now[0])
    monkeypatch.setattr("cartpole.logs.sleep", sleep)
    channel = Channel(*reversed(os.pipe()))
    channel.fill()
    channel.stream.finish()
    channel.stream.finish()
    assert sum(waits) == pytest.approx(END_SECONDS, abs=0.02)
    channel.read_all()


@pytest.mark.parametrize("is_pending", [False, True])
def test_a_reader_that_has_gone(
    channel: Channel, is_pending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is raised, nothing waits at the end."""
    monkeypatch.setattr("cartpole.logs.sleep", refuse)
    if is_pending:
        channel.fill()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, channel.reader)
    os.close(null)
    channel.stream.handler.handle(logging.makeLogRecord({"msg": "for nobody"}))
    channel.stream.finish()
    assert not channel.read_all()


def test_a_descriptor_that_is_closed(capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    with open(writer, "wb"):
        stream = Stream(os.open(os.devnull, os.O_WRONLY))
    os.close(stream.fileno())
    stream.handler.handle(logging.makeLogRecord({"msg": "for nobody"}))
    stream.finish()
    os.close(reader)
    assert capfd.readouterr() == ("", "")


def test_a_file_is_written_where_others_write_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    stream = Stream(os.dup(descriptor))
    for number in range(3):
        stream.write(f"ours {number}\n")
        os.write(descriptor, b"theirs %d\n" % number)
    written = [f"{whose} {number}" for number in range(3) for whose in ("ours", "theirs")]
    assert path.read_text().splitlines() == written
    os.close(descriptor)
    os.close(stream.fileno())


def test_a_full_disk() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.pipe()
    channel = Channel(full, reader)
    channel.stream.write("x" * KEPT_BYTES + "\n")
    channel.stream.write("kept\n")
    os.dup2(writer, full)  # as if room had been made
    assert channel.read_all() == ""
    channel.stream.flush()
    assert channel.read_all() == "1 lines of the log were dropped\nkept\n"


# In a process of its own

CONFIGURED = """
import os, signal, sys, threading, warnings
from cartpole import logs
from cartpole.settings import read
logs.configure(read([]))
"""


def run(program: str) -> str:
    """What it has written to standard error by its end."""
    command = [sys.executable, "-c", CONFIGURED + program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stderr


def test_tracebacks_and_warnings_use_the_stream() -> None:
    program = """
os.set_blocking(2, False)  # what bypasses the stream fails, or is torn
thread = threading.Thread(target=lambda: 1 / len("x" * 0), name="second")
thread.start()
thread.join()
warnings.warn("W" * 300_000)
raise ValueError("E" * 300_000)
"""
    log = run(program)
    assert "Exception in thread second" in log
    assert "\nZeroDivisionError: division by zero\n" in log
    assert re.search("UserWarning: W{300000}\n", log)
    assert re.search("\nValueError: E{300000}\n$", log)


@pytest.mark.parametrize("end", ["logs.finish(); os._exit(0)", "sys.exit()", "1 / 0"])
def test_a_reader_gets_all_lines_at_the_end(end: str) -> None:
    program = f"""
import logging
logging.error("x" * 300_000)
logging.error("last")
print("full", flush=True)
{end}
"""
    command = [sys.executable, "-c", CONFIGURED + program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"full\n"
        log = process.stderr.read().decode()
    first, last, *traceback = log.splitlines()
    assert first.endswith("] " + "x" * 300_000)
    assert last.endswith("] last")
    assert traceback[-1:] == (["ZeroDivisionError: division by zero"] if end == "1 / 0" else [])


def test_a_forked_process_repeats_nothing() -> None:
    """Neither the rest of a line, nor the number of those dropped, nor those kept."""
    program = """
reader, writer = os.pipe()
error = os.dup(2)
os.dup2(writer, 2)
logs._stream.__init__()
for _ in range(4):
    print("x" * 100_000, file=sys.stderr)
print("begun", end="", file=sys.stderr)
if child := os.fork():
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    while data := os.read(reader, 1 << 20):
        os.write(error, data)
        logs.flush()
        if data.endswith(b"begun"):
            break
    os.dup2(error, 2)
    os._exit(0)
taken = os.read(reader, 1 << 16)  # makes room
os.write(error, b"%d\\n" % len(taken))
print("child", file=sys.stderr)
logs.finish()
os._exit(0)
"""
    taken, log = run(program).split("\n", 1)
    assert log.startswith("child\n" + "x" * (100_000 - int(taken)) + "\n")
    assert log.endswith("\n2 lines of the log were dropped\n" + "x" * 100_000 + "\nbegun")
    assert log.count("child") == log.count("dropped") == log.count("begun") == 1
