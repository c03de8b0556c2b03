"""The supervisor as a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.supervised import PATIENCE_SECONDS
from tests.support.waiting import children, wait_until

PROGRAM = """
import sys
from pathlib import Path
from cartpole.process import signals
from cartpole.settings import Settings
from cartpole.process.supervisor import Supervisor
from tests.support.stub_worker import serve
import logging, socket
if __name__ == "__main__":
    signals.install_signal_handlers()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = Settings(model=Path(sys.argv[1]), workers=2)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    supervisor = Supervisor(settings, sockets, serve)
    supervisor.supervise()
    sys.exit(supervisor.exit_code)
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A supervisor that has replaced both of its workers once."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "model").write_text("serve")
    with subprocess.Popen(
        [sys.executable, tmp_path / "program.py", tmp_path / "model"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stderr
        try:
            wait_until(lambda: len(workers_of(started)) == 2)
            started.send_signal(signal.SIGHUP)
            assert [next(started.stderr) for _ in range(2)] == [
                "reload: replacing 2 workers\n",
                "reload: done\n",
            ]
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
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
