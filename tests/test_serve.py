"""Tests of cartpole/serve.py."""

import http.client
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from bench.server import Server, free_port, serving
from cartpole.api.observation import NAMES
from cartpole.policy.contract import Engine
from cartpole.settings import BUNDLED_MODEL
from tests.support.clients import read_answer
from tests.support.paths import GOLDEN
from tests.support.processes import start_error

SERVE = [sys.executable, "-m", "cartpole.serve"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def test_answers(server: Server, engine: Engine) -> None:
    status, body = server.get(f"/inference?{GOLDEN}")
    assert (status, json.loads(body)) == (
        200,
        dict(zip(("left", "right"), engine.one(0, 0, -1, 0), strict=True)),
    )
    assert server.get("/inference?position=1")[0] == 400
    assert server.get("/nothing")[0] == 404
    assert server.get("/health/live") == (200, b'{"status":"live"}')
    assert server.get("/health/ready") == (
        200,
        b'{"status":"ready","engine":"torchscript","outputs":"logits"}',
    )


def test_the_whole_answer(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"GET /inference?{GOLDEN} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = read_answer(client)
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert [line.split(b":")[0] for line in lines[1:]] == [
        b"date",
        b"content-type",
        b"x-content-type-options",
        b"content-length",
    ]
    assert lines[4] == b"content-length: %d" % len(body)


def test_every_truncated_prefix_of_a_request(server: Server) -> None:
    request = f"GET /inference?{GOLDEN} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    for length in range(len(request)):
        with socket.create_connection(("127.0.0.1", server.port), timeout=9) as client:
            client.sendall(request[:length])
            client.shutdown(socket.SHUT_WR)
            assert client.recv(4096) == b""
    assert server.get(f"/inference?{GOLDEN}")[0] == 200


def test_holds_the_pole_for_500_steps_in_each_of_100_episodes(server: Server) -> None:
    """The episodes run in lockstep: each step pipelines one request per episode."""
    episodes = [gymnasium.make("CartPole-v1") for _ in range(100)]
    states = [each.reset(seed=20_000 + number)[0] for number, each in enumerate(episodes)]
    truncated = [False] * len(episodes)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        for step in range(500):
            client.sendall(b"".join(map(ask, states)))
            answers = read_answers(client, len(episodes))
            for number, (episode, answer) in enumerate(zip(episodes, answers, strict=True)):
                logits = json.loads(answer.partition(b"\r\n\r\n")[2])
                action = int(logits["right"] > logits["left"])
                states[number], _, terminated, truncated[number], _ = episode.step(action)
                assert not terminated, (number, step)
    assert truncated == [True] * len(episodes)


def ask(state: Any) -> bytes:
    query = "&".join(f"{name}={value}" for name, value in zip(NAMES, state.tolist(), strict=True))
    return f"GET /inference?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def read_answers(client: socket.socket, number: int) -> list[bytes]:
    """Read this number of complete responses, each with a JSON object as its body."""
    received = b""
    while received.count(b"}") < number:
        more = client.recv(65536)
        assert more, received
        received += more
    answers = [answer + b"}" for answer in received.split(b"}")]
    assert answers.pop() == b"}"
    assert len(answers) == number
    return answers


def test_serves_a_file_as_cart_pole_rs_own(frozen_model: tuple[Path, tuple[float, float]]) -> None:
    path, (left, right) = frozen_model
    with serving("--model", str(path)) as running:
        logits = json.loads(running.get(f"/inference?{GOLDEN}")[1])
    assert logits == pytest.approx({"left": left, "right": right}, rel=1e-6)


def test_says_in_one_line_what_it_serves_and_stops_cleanly() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        port = free_port()
        process = subprocess.Popen(
            [*SERVE, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr
        line = process.stderr.readline()
        assert f"serves on http://127.0.0.1:{port}: " in line
        assert ", engine torchscript, " in line
        assert str(BUNDLED_MODEL) in line
        process.send_signal(number)
        assert process.stderr.readline().endswith("] stopped after 0 requests\n")
        while process.poll() is None:
            process.send_signal(signal.SIGHUP)
            time.sleep(0.001)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 0


def test_tls(certificate: Path) -> None:
    with serving(tls=certificate) as running:
        context = ssl.create_default_context(cafile=str(certificate / "certificate.pem"))
        client = http.client.HTTPSConnection("localhost", running.port, context=context, timeout=9)
        client.request("GET", f"/inference?{GOLDEN}")
        response = client.getresponse()
        assert (response.status, response.read()[:8]) == (200, b'{"left":')
        client.close()


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    process = subprocess.Popen([*SERVE, "--uds", str(path)], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        assert f"on unix:{path}: " in process.stderr.readline()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
    finally:
        process.terminate()
    assert process.communicate(timeout=30)[1].count("\n") == 1
    assert process.returncode == 0
    assert not path.exists()
    code, line = start_error("--uds", str(tmp_path / "no" / "socket"))
    assert code == 3
    assert f"can't listen on unix:{tmp_path / 'no' / 'socket'}: No such file" in line


def test_access_log() -> None:
    port = free_port()
    process = subprocess.Popen(
        [*SERVE, "--port", str(port), "--access-log"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    process.stderr.readline()
    Server(process, port).get("/health/ready")
    process.terminate()
    log = process.communicate(timeout=30)[1]
    assert re.search(r" INFO \[\d+\] GET /health/ready 200 \d+ µs 127\.0\.0\.1\n", log)
