"""The child of an actor ends with it, however that ends."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from bench.server import free_port
from tests.support.waiting import wait_until

# Starts the child as an actor does, and then waits to be killed.
PARENT = """
import os, subprocess, sys, time
module = [sys.executable, "-m", "cartpole.integrations.child", str(os.getpid())]
child = subprocess.Popen([*module, "--port", sys.argv[1]])
print(child.pid, flush=True)
time.sleep(1000)
"""


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("when", ["at once", "when it serves"])
def test_child_ends_with_its_parent(when: str) -> None:
    port = free_port()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(port)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    child = parent.stdout.readline().strip()
    try:
        wait_until(lambda: when == "at once" or listens(port))
        parent.kill()
        parent.wait()
        wait_until(lambda: not is_running(child))
        wait_until(lambda: not listens(port))  # the kernel ends its threads one by one
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)
        parent.stdout.close()  # which the child has too


def test_child_of_a_dead_parent_does_not_start() -> None:
    command = [sys.executable, "-m", "cartpole.integrations.child", "1", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "cartpole: the parent has ended\n"
