"""Errors at start-up: exit code and one line on standard error."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from bench.server import free_port
from cartpole.settings import BUNDLED_MODEL
from tests.support.processes import SERVE, start_error


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
        "cartpole: argument --port: none: expected a whole number from 0 to 65,535\n",
    )
    assert start_error(CARTPOLE_THREADS="many")[0] == 2


@pytest.mark.parametrize("workers", ["1", "2"])
def test_bad_models_stop_the_start(tmp_path: Path, workers: str) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(BUNDLED_MODEL.read_bytes()[:10_000])
    for path, reason in ((cut, "not a TorchScript file"), (tmp_path / "no.pt", "No such file")):
        code, line = start_error("--model", str(path), "--port", "0", "--workers", workers)
        assert code == 3
        assert f"{path}: {reason}" in line


def test_nobody_can_connect_before_it_is_ready(tmp_path: Path) -> None:
    """The port is bound first, so that a start fails early, but listens only when ready."""
    model = tmp_path / "model.pt"
    os.mkfifo(model)  # the start blocks here until something is written
    port = free_port()
    process = subprocess.Popen([*SERVE, "--port", str(port), "--model", str(model)], stderr=-1)
    try:
        with open(model, "wb"), pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    finally:
        process.kill()
        process.communicate()


def test_bad_certificate(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("none")
    code, line = start_error("--ssl-certfile", str(bad), "--port", "0")
    assert code == 3
    assert "--ssl-certfile" in line
