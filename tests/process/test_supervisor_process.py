"""The supervisor as a process of its own."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.supervised import PATIENCE_SECONDS
from tests.support.waiting import children, is_alive, wait_until

PROGRAM = """
import logging, socket, sys
from cartpole.process import signals
from cartpole.process.supervisor import Supervisor
from cartpole.settings import read
signals.install_signal_handlers()
logging.basicConfig(level=logging.INFO, format="%(message)s")
flags = ["--model", sys.argv[1], "--workers", "2"]
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
supervisor = Supervisor(read(flags), flags, sockets, "tests.support.stub_template")
sys.exit(supervisor.supervise())
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A supervisor that has replaced both of its workers once."""
    (tmp_path / "model").write_text("policy")
    (tmp_path / "workers").write_text("serve")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path / "model"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stderr
        try:
            wait_until(lambda: len(workers_of(started)) == 2)
            started.send_signal(signal.SIGHUP)
            assert any(line == "reload: done\n" for line in started.stderr)
            wait_until(lambda: len(workers_of(started)) == 2)
            yield started
        finally:
            started.kill()


def workers_of(process: subprocess.Popen[str]) -> set[int]:
    return children(process.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_stops(process: subprocess.Popen[str], number: signal.Signals) -> None:
    process.send_signal(number)
    _, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, log) == (0, "")


def test_workers_do_not_outlive_their_supervisor(process: subprocess.Popen[str]) -> None:
    workers = workers_of(process)
    process.kill()
    process.wait()
    assert len(workers) == 2
    wait_until(lambda: not any(map(is_alive, workers)))
