"""Tests of tools/closed_loop.py: lost answers, of the real service and of servers made to fail."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench.server import Server, free_port, serving
from tests.support.metrics import requests, scrape
from tests.support.paths import ROOT
from tests.support.processes import UNMEASURED
from tests.support.waiting import wait_until
from tools import closed_loop
from tools.evaluate import main

LEFT = b'{"left":1.0,"right":-1.0}'  # always to the left: the pole falls within 8 to 11 steps
LOST = object()


class Replies(BaseHTTPRequestHandler):
    """The server's replies one after the other, and LEFT when they are used up."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        replies: list[Any] = self.server.replies  # type: ignore[attr-defined]
        reply = replies.pop(0) if replies else (200, LEFT)
        if reply is LOST:
            self.close_connection = True
            return
        status, body = reply
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def replying(*replies: Any) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Replies)
    server.replies = list(replies)  # type: ignore[attr-defined]
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def one_episode(url: str, path: Path) -> dict[str, Any]:
    """The figures of one episode."""
    flags = ["--url", url, "--episodes", "1", "--at-least", "0", "--json", str(path)]
    assert main(flags) == 0
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def evaluating(server: Server, path: Path) -> subprocess.Popen[str]:
    """The command itself, some way into a run that it would need seconds for."""
    flags = ["--url", f"http://127.0.0.1:{server.port}", "--episodes", "16", "--json", str(path)]
    command = [sys.executable, str(ROOT / "tools/evaluate.py"), *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: requests(scrape(server)) > 500)
    return process


def assert_nothing_missing(process: subprocess.Popen[str], path: Path) -> None:
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    figures = json.loads(path.read_text())
    assert figures["returns"] == [500.0] * 16
    assert figures["repeats"] > 0
    assert f"repeats              {figures['repeats']}\n" in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_service_that_is_restarted_costs_no_episode(
    tmp_path: Path, number: signal.Signals
) -> None:
    with serving(environ=UNMEASURED) as server:
        process = evaluating(server, tmp_path / "figures.json")
        server.process.send_signal(number)
        server.process.wait(timeout=30)
    with serving(port=server.port, environ=UNMEASURED):
        assert_nothing_missing(process, tmp_path / "figures.json")


def test_a_service_that_hangs_costs_no_episode(tmp_path: Path) -> None:
    with serving(environ=UNMEASURED) as server:
        process = evaluating(server, tmp_path / "figures.json")
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(closed_loop.ATTEMPT_SECONDS + 1)
        server.process.send_signal(signal.SIGCONT)
        assert_nothing_missing(process, tmp_path / "figures.json")


def test_each_lost_answer_is_counted(tmp_path: Path) -> None:
    """aiohttp itself would repeat a question on a connection that was closed, and not say so."""
    undisturbed = one_episode_of(tmp_path)
    lost = [(200, LEFT), LOST, (503, b"{}"), (200, LEFT), LOST, LOST, (500, b"oops")]
    disturbed = one_episode_of(tmp_path, *lost)
    assert undisturbed["repeats"] == 0
    assert disturbed["repeats"] == 5
    assert disturbed["returns"] == undisturbed["returns"]
    assert disturbed["steps"] == undisturbed["steps"]


def one_episode_of(folder: Path, *replies: Any) -> dict[str, Any]:
    with replying(*replies) as url:
        return one_episode(url, folder / "figures.json")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((404, b'{"error":"no such path"}'), '404 b\'{"error":"no such path"}\''),
        ((200, b"<html>"), "200 b'<html>'"),
        ((200, b'{"left":1}'), "two logits"),
        ((200, b'{"left":1,"right":null}'), "two logits"),
        ((200, b"[1,2]"), "two logits"),
        ((302, b""), "302"),
    ],
)
def test_an_answer_of_another_kind_ends_it(capsys: Any, reply: Any, reason: str) -> None:
    with replying(reply) as url:
        assert main(["--url", url, "--episodes", "1"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evaluate: not an answer with two logits: ")
    assert reason in line


def test_no_service_there(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(closed_loop, "PATIENCE_SECONDS", 0.5)
    url = f"http://127.0.0.1:{free_port()}"
    assert main(["--url", url, "--episodes", "3"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"evaluate: no answer from {url} for 0.5 s: ")


def test_a_service_that_never_answers(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(closed_loop, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(closed_loop, "ATTEMPT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert main(["--url", url, "--episodes", "1"]) == 3
    assert capsys.readouterr().err.endswith("for 0.5 s: nothing within 0.2 s\n")


def test_a_server_that_does_not_speak_http(capsys: Any) -> None:
    def answer(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            client.sendall(b"220 ready\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert main(["--url", url, "--episodes", "1"]) == 3
        thread.join()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"evaluate: no HTTP from {url}: ")


def test_a_certificate_that_nobody_trusts_ends_it(certificate: Path, capsys: Any) -> None:
    with serving(tls=certificate) as server:
        assert main(["--url", f"https://127.0.0.1:{server.port}", "--episodes", "1"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "certificate" in line
