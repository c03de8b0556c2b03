"""Tests of cartpole/metrics.py."""

import asyncio
import json
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from starlette.applications import Starlette

from bench.server import serving
from cartpole.api.inference import Inference
from cartpole.app import create_app
from cartpole.http.limits import Worker
from cartpole.metrics.counters import COLUMNS, Board, Metrics
from cartpole.metrics.prometheus import PolicyInfo, exposition
from cartpole.policy.contract import Engine
from cartpole.policy.loading import Policy
from cartpole.predictor import Predictor
from tests.support.asgi import get
from tests.support.clients import REQUEST, connect
from tests.support.memory import Connection, statuses
from tests.support.metrics import read, requests, scrape
from tests.support.paths import GOLDEN, ROOT


def test_the_application_counts(engine: Engine, policy: Policy) -> None:
    app: Starlette = create_app(Inference(Predictor(engine)))
    for _ in range(3):
        assert get(app, "/inference", GOLDEN.encode())[0] == 200
    assert get(app, "/inference", b"position=x")[0] == 400
    assert get(app, "/nothing")[0] == 404
    status, headers, body = get(app, "/metrics")
    assert (status, headers[b"content-type"]) == (200, b"text/plain; version=0.0.4; charset=utf-8")
    found = read(body)
    assert (requests(found), requests(found, status=400)) == (3, 1)
    assert requests(found, "other", 404) == 1
    assert found["cartpole_request_seconds_count", ()] == 5
    assert found["cartpole_inference_seconds_count", ()] == 3
    assert 0 < found["cartpole_inference_seconds_sum", ()] < 3
    assert found["cartpole_batch_size_bucket", (("le", "1.0"),)] == 3
    about = (("algorithm", "PPO"), ("engine", "torchscript"), ("sha256", policy.sha256))
    assert found["cartpole_policy_info", about] == 1


@pytest.mark.parametrize("http", ["fast", "asgi"])
def test_the_service_counts(http: str) -> None:
    with serving("--http", http) as server, connect(server) as client:
        client.sendall(REQUEST * 64 + b"nonsense\r\n\r\n")
        received = b""
        while more := client.recv(65536):
            received += more
        assert received.count(b"HTTP/1.1 200") == 64
        found = scrape(server)
        assert requests(found) == 64
        assert found["cartpole_refusals_total", (("reason", "not valid HTTP"),)] == 1
        assert found["cartpole_batch_size_sum", ()] == 64
        assert found["cartpole_workers", ()] == 1
        assert found["cartpole_connections_open", ()] >= 1  # that of the scrape
        assert found["cartpole_connections_accepted_total", ()] >= 2
        pid = (("pid", str(server.process.pid)),)
        assert found["process_resident_memory_bytes", pid] > 1e7


def test_histograms_put_values_where_they_belong() -> None:
    metrics = Metrics()
    for nanoseconds in (1, 5000, 5001, 10**9, 10**9 + 1):
        metrics.forward(1, nanoseconds)
    found = read(exposition(metrics.board, PolicyInfo("a", "b", "c")))
    by_limit = [
        found["cartpole_inference_seconds_bucket", (("le", limit),)]
        for limit in ("5e-06", "1e-05", "1.0", "+Inf")
    ]
    assert by_limit == [2, 3, 4, 5]


@pytest.mark.parametrize("fast", [True, False])
def test_request_seconds_begin_when_the_head_was_read(engine: Engine, fast: bool) -> None:
    """Both ways of serving alike: what comes between is the service's time."""

    async def ask() -> Connection:
        connection = Connection(Inference(Predictor(engine)), fast)
        connection.protocol.data_received(REQUEST * 3)
        time.sleep(0.02)  # the event loop has something else to do
        await connection.rest()
        return connection

    connection = asyncio.run(ask())
    assert statuses(bytes(connection.transport.written)) == [200] * 3
    found = read(exposition(connection.worker.metrics.board, PolicyInfo("a", "b", "c")))
    assert found["cartpole_request_seconds_count", ()] == 3
    assert found["cartpole_request_seconds_bucket", (("le", "0.02"),)] == 0


def test_the_seconds_of_the_event_loop_are_its_beats(engine: Engine) -> None:
    async def pass_seconds() -> Worker:
        worker = Connection(Inference(Predictor(engine)), True).worker
        for _ in range(3):
            worker.tick()
        return worker

    worker = asyncio.run(pass_seconds())
    assert worker.metrics.cells[COLUMNS.beats] == 3


def test_the_limit_on_requests_counts_workers_that_are_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "cartpole")
    board = Board(3)
    for row, numbers in ((1, (2, 3)), (1, (1, 4)), (2, (2,))):  # row 1 has two, one after the other
        metrics = Metrics(board, row)
        for number in numbers:
            metrics.total_requests(number)
    assert not board.reached(10)
    assert caplog.messages == []
    assert board.reached(9)
    assert caplog.messages == ["--limit-requests 9 is reached: stopping"]


def test_rows_are_summed_and_outlive_their_process(tmp_path: Path) -> None:
    path = tmp_path / "board"
    path.touch()
    board = Board(3, path)
    program = (
        "import sys; from pathlib import Path; from cartpole.metrics.counters import *; "
        "metrics = Metrics(Board(3, Path(sys.argv[1])), int(sys.argv[2])); "
        "metrics.answered([(200, b'')] * 5 + [(400, b'')], 10)"
    )
    for row in (1, 2, 2):
        subprocess.run([sys.executable, "-c", program, str(path), str(row)], check=True, cwd=ROOT)
    assert board.total(COLUMNS.requests["/inference"][200]) == 15
    found = read(exposition(board, PolicyInfo("a", "b", "c")))
    assert (requests(found), requests(found, status=400)) == (15, 3)


def test_the_dashboard_asks_for_metrics_that_exist(engine: Engine) -> None:
    existing = {
        name for name, _ in read(get(create_app(Inference(Predictor(engine))), "/metrics")[2])
    }
    dashboard = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"(?:cartpole|process)_\w+", target["expr"])
    }
    assert len(asked) > 8
    assert asked <= existing


def test_the_readme_lists_the_metrics(engine: Engine) -> None:
    found = read(get(create_app(Inference(Predictor(engine))), "/metrics")[2])
    names = {re.sub("_(bucket|sum|count|created)$", "", name) for name, _ in found}
    listed = set(re.findall(r"^\| `(cartpole_\w+)", (ROOT / "README.md").read_text(), re.M))
    assert listed == {name for name in names if name.startswith("cartpole_")}
