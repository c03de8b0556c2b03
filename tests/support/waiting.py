"""Waiting for a condition, a log line or a signal, each with a time limit."""

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bench.server import Server
from tests.support.metrics import scrape


def children(pid: int, name: str = "cartpole-worker") -> set[int]:
    """Process ids of the children with this name, by default a supervisor's workers."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    named = set()
    for child in found:
        with suppress(OSError):  # it has just ended
            if Path(f"/proc/{child}/comm").read_text() == f"{name}\n":
                named.add(int(child))
    return named


def is_alive(pid: int) -> bool:
    """Whether the process runs. One that has ended may be a zombie still."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


SECONDS = 60


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_taken(pid: int, number: int) -> None:
    """Wait until the process has received the signal, so that the next is not merged into it."""

    def taken() -> bool:
        status = Path(f"/proc/{pid}/status").read_text()
        pending = [int(mask, 16) for mask in re.findall(r"^(?:Shd|Sig)Pnd:\s*(\w+)$", status, re.M)]
        return not any(mask & 1 << number - 1 for mask in pending)

    wait_until(taken)


def wait_for_log(server: Server, text: str) -> None:
    """Read the log up to a line with this text. A server that never writes it is killed."""
    assert server.process.stderr
    timer = threading.Timer(SECONDS, server.process.kill)
    timer.start()
    try:
        found = any(text in line for line in server.process.stderr)
    finally:
        timer.cancel()
    assert found, f"the log ends without {text!r}"


def wait_for_workers(server: Server, number: int = 2) -> None:
    wait_until(lambda: scrape(server)["cartpole_workers", ()] == number)
