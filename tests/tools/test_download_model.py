"""Tests of tools/download_model.py."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.server import free_port
from tests.support.paths import ROOT
from tools.download_model import DownloadFailed, download, main
from tools.export_model import MODELS

ZIP = (MODELS / "CartPole-v1.zip").read_bytes()
PREFIX = "/sb3/ppo-CartPole-v1/resolve/main/"


@contextmanager
def hub(agent: bytes) -> Iterator[str]:
    """The part of the Hugging Face hub's HTTP interface that a download uses, serving this zip."""
    files = {"ppo-CartPole-v1.zip": agent}

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path.removeprefix(PREFIX).partition("?")[0])
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.send_header("X-Repo-Commit", "0" * 40)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("ETag", f'"{hashlib.sha1(content or b"").hexdigest()}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))


def test_downloads_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "models/agent.zip"
    with hub(ZIP) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        download(target)
    assert target.read_bytes() == ZIP
    assert [path.name for path in target.parent.iterdir()] == ["agent.zip"]
    command = [sys.executable, str(ROOT / "tools/export_model.py"), str(target)]
    output = tmp_path / "model.pt"
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert output.exists()


def test_what_can_not_be_exported_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "agent.zip"
    target.write_text("what was there")
    monkeypatch.setattr("tools.download_model.TARGET", target)
    with hub(b"no zip") as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert main() == 1
    assert "found no readable zip" in capsys.readouterr().err
    assert target.read_text() == "what was there"


def test_without_a_network() -> None:
    before = (MODELS / "CartPole-v1.zip").read_bytes()
    endpoint = f"http://127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/download_model.py")],
        env=os.environ | {"HF_ENDPOINT": endpoint},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"download: {endpoint} can't be reached: ")
    assert "refused" in done.stderr
    assert not list(MODELS.glob("*.part"))
    assert (MODELS / "CartPole-v1.zip").read_bytes() == before


def test_a_hub_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.download_model.SECONDS", 0.01)
    with pytest.raises(DownloadFailed, match="no agent after"):
        download(tmp_path / "agent.zip")
