"""Signals in every phase of a process: clean exits, and no request to reload is lost."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.server import Server, serving
from cartpole.settings import BUNDLED_MODEL
from tests.support.models import Endless
from tests.support.paths import GOLDEN
from tests.support.tripwire import tripped
from tests.support.waiting import wait_for_log, wait_until_taken


def test_serve_imports_nothing_heavy_before_it_handles_signals() -> None:
    program = (
        "import sys; before = set(sys.modules); import cartpole.serve;"  # coverage imports some
        "print(*{'asyncio', 'click', 'logging', 'multiprocessing', 'torch', 'uvicorn'}"
        " & (set(sys.modules) - before))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "\n"


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("cartpole.settings", signal.SIGTERM),
        ("numpy.dtypes", signal.SIGTERM),  # NumPy's C module imports it, and swallows exceptions
        ("uvloop.loop", signal.SIGINT),
    ],
)
def test_a_signal_to_stop_ends_a_start(module: str, number: int, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    done = subprocess.run(
        [*tripped(module, number), "--uds", str(path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")
    # Just before the service is ready, it may say that it serves, and then that it has stopped.
    assert [line for line in done.stderr.splitlines() if " INFO " not in line] == []
    assert not path.exists()


def test_a_signal_to_stop_right_after_the_bind_leaves_no_socket(tmp_path: Path) -> None:
    program = """
import os, pathlib, signal, socket, time
class Socket(socket.socket):
    def bind(self, address):
        super().bind(address)
        if isinstance(address, str):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)  # the thread that handles signals has it by now
def slowly(function):
    def run(*arguments):
        time.sleep(0.3)
        function(*arguments)
    return run
socket.socket, pathlib.Path.chmod, os._exit = Socket, slowly(pathlib.Path.chmod), slowly(os._exit)
from cartpole.serve import main
main()
"""
    path = tmp_path / "socket"
    command = [sys.executable, "-c", program, "--uds", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not path.exists()


def reload(server: Server) -> None:
    server.process.send_signal(signal.SIGHUP)
    wait_until_taken(server.process.pid, signal.SIGHUP)


def test_no_request_to_reload_is_lost_and_none_hinders_the_end(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    shutil.copy(BUNDLED_MODEL, model)
    command = tripped("cartpole.process.server", signal.SIGHUP)
    with serving(command=[*command, "--port", "{port}", "--model", str(model)]) as server:
        wait_for_log(server, "reload: now serving")  # the reload requested during the start
        torch.jit.script(Endless()).save(tmp_path / "endless")
        (tmp_path / "endless").replace(model)
        for _ in range(2):
            reload(server)
        assert server.get(f"/inference?{GOLDEN}")[0] == 200
        server.process.terminate()
        assert server.process.wait(timeout=60) == 0
        assert server.process.stderr
        waits, line = server.process.stderr.readlines()
        assert waits.endswith("] reload: the next load waits for the one under way\n")
        assert line.endswith("] stopped after 1 requests\n")
