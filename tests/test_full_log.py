"""A service whose log nobody reads."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench.server import Server, serving
from tests.support.waiting import wait_for_log, wait_for_workers, wait_until_taken

LENGTH = 1000  # of a target


def fill(server: Server) -> None:
    """Leave no room in the pipe of its log."""
    writer = os.open(f"/proc/{server.process.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"\n" * size)
    os.close(writer)


def get(server: Server, number: int) -> None:
    assert server.get(f"/health/live?{number:0{LENGTH}}")[0] == 200


@contextmanager
def with_full_log() -> Iterator[Server]:
    """A service that has logged 100 requests since its log has no room."""
    with serving("--access-log") as server:
        wait_for_log(server, "serves on")
        fill(server)
        for number in range(100):
            get(server, number)
        yield server


def numbers(log: str) -> list[int]:
    return [int(found) for found in re.findall(rf"live\?(\d{{{LENGTH}}}) 200 ", log)]


def end_of_log(server: Server) -> str:
    """Stop the service while its log is read."""
    server.process.send_signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=20)
    assert server.process.returncode == 0
    return log


def test_a_service_goes_on_and_counts_the_lines_that_it_drops() -> None:
    with with_full_log() as server:
        flags = Path(f"/proc/{server.process.pid}/fdinfo/2").read_text()
        (found,) = re.findall(r"flags:\s+(\d+)", flags)
        assert not int(found, 8) & os.O_NONBLOCK  # others share it
        log = end_of_log(server)
    (dropped,) = re.findall(r"WARNING \[\d+\] (\d+) lines of the log were dropped\n", log)
    latest = numbers(log)
    assert latest == list(range(int(dropped), 100))
    assert log.endswith("stopped after 100 requests\n")


def test_the_count_is_logged_without_a_next_line() -> None:
    with with_full_log() as server:
        wait_for_log(server, "lines of the log were dropped")
        get(server, 100)
        wait_for_log(server, f"{100:0{LENGTH}} 200 ")
        assert "dropped" not in end_of_log(server)


@pytest.mark.parametrize("flags", [(), ("--log-format", "json"), ("--workers", "2")], ids=str)
def test_the_end_does_not_wait_for_a_reader(flags: tuple[str, ...]) -> None:
    with serving(*flags) as server:
        wait_for_log(server, "serves on")
        if "--workers" in flags:
            wait_for_workers(server)
        fill(server)
        server.process.send_signal(signal.SIGHUP)
        wait_until_taken(server.process.pid, signal.SIGHUP)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=str)
def test_a_service_goes_on_without_a_reader(flags: tuple[str, ...]) -> None:
    with serving("--access-log", *flags) as server:
        assert server.process.stderr
        server.process.stderr.close()
        for number in range(3):
            get(server, number)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
