"""Trouble at start-up: bad settings and files, addresses in use, closed descriptors, no NumPy."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.server import free_port
from cartpole.settings import BUNDLED_MODEL
from tests.support.processes import start_error
from tests.support.tripwire import tripped
from tests.support.waiting import wait_until


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = start_error("--port", str(port))
    assert code == 3
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in line


@pytest.mark.parametrize("host", ["256.0.0.1", "no.such.host.invalid", "203.0.113.1"])
def test_bad_host(host: str) -> None:
    code, line = start_error("--host", host)
    assert code == 3
    assert f"can't listen on {host}:3000: " in line


def test_bad_settings() -> None:
    code, line = start_error("--port", "none")
    assert (code, line) == (
        2,
        "cartpole: Invalid value for --port: 'none' is not a whole number from 0 to 65,535.\n",
    )
    assert start_error(CARTPOLE_THREADS="many")[0] == 2


@pytest.mark.parametrize("workers", ["1", "2"])
def test_bad_models_stop_the_start(tmp_path: Path, workers: str) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(BUNDLED_MODEL.read_bytes()[:10_000])
    os.mkfifo(tmp_path / "fifo")
    for path, reason in (
        (cut, "not a TorchScript file"),
        (tmp_path / "no.pt", "No such file"),
        (tmp_path / "fifo", "not a regular file"),
    ):
        code, line = start_error("--model", str(path), "--port", "0", "--workers", workers)
        assert code == 3
        assert f"{path}: {reason}" in line


def test_nobody_can_connect_before_it_is_ready(tmp_path: Path) -> None:
    """The port is bound first, so that a start fails early, but listens only when ready."""
    port = free_port()
    command = [*tripped("cartpole.process.server", signal.SIGSTOP), "--port", str(port)]
    process = subprocess.Popen(command, stderr=-1)
    try:
        state = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: state.read_text().rpartition(") ")[2].startswith("T"))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_bad_certificate(tmp_path: Path, workers: str) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("none")
    for path, reason in ((bad, "can't load --ssl-certfile"), (tmp_path / "no.pem", "No such file")):
        flags = ("--ssl-certfile", str(path), "--port", "0", "--workers", workers)
        code, line = start_error(*flags)
        assert code == 3
        assert "--ssl-certfile" in line
        assert reason in line


def run(redirections: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program with redirections of bash, which can close descriptors."""
    command = ["bash", "-c", f'exec "$@" {redirections}', "bash", sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("closed", ["0<&- 1>&- 2>&-", "2>&-", "1>&- 2>&-"])
def test_closed_standard_descriptors_are_opened(closed: str, tmp_path: Path) -> None:
    """Child processes inherit them."""
    found = tmp_path / "found"
    child = f"import os; open({str(found)!r}, 'w').write(os.readlink('/proc/self/fd/2'))"
    program = (
        "import sys, subprocess; from cartpole import serve;"
        f"serve.serve = lambda argv: subprocess.call([sys.executable, '-c', {child!r}]);"
        "serve.main()"
    )
    assert run(closed, program).returncode == 0
    assert found.read_text() == os.devnull


def test_an_error_without_standard_error_is_not_output() -> None:
    program = "import sys; sys.argv[1:] = ['--port', 'x']; from cartpole.serve import main; main()"
    done = run("2>&-", program)
    assert (done.returncode, done.stdout) == (2, "")


def test_without_numpy_pytorch_says_nothing() -> None:
    program = "import sys; sys.modules['numpy'] = None; import cartpole.policy.loading"
    assert run("", program).stderr == ""
