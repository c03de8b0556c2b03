"""GET /metrics: what the service and the application count, and how it is rendered."""

import asyncio
import json
import re
import time

import pytest
from starlette.applications import Starlette

from bench.server import serving
from cartpole.api.inference import Inference
from cartpole.app import create_app
from cartpole.metrics.counters import SharedCounters, WorkerCounters
from cartpole.metrics.prometheus import PolicyInfo, render_metrics
from cartpole.metrics.rejections import REJECTIONS
from cartpole.policy.contract import Engine
from cartpole.policy.loading import Policy
from cartpole.predictor import Predictor
from tests.support.asgi import get
from tests.support.clients import REQUEST, connect
from tests.support.memory import Connection, statuses
from tests.support.metrics import read, requests, scrape
from tests.support.paths import GOLDEN, ROOT

ABOUT = PolicyInfo("a", "b", "c")


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
        assert found["cartpole_connections_open", ()] >= 1  # the scrape's own
        assert found["cartpole_connections_accepted_total", ()] >= 2
        pid = (("pid", str(server.process.pid)),)
        assert found["process_resident_memory_bytes", pid] > 1e7


def test_histograms_count_each_value_in_its_bucket() -> None:
    counters = WorkerCounters()
    for nanoseconds in (1, 5000, 5001, 10**9, 10**9 + 1):
        counters.record_forward(1, nanoseconds)
    found = read(render_metrics(counters.shared, ABOUT))
    by_limit = [
        found["cartpole_inference_seconds_bucket", (("le", limit),)]
        for limit in ("5e-06", "1e-05", "1.0", "+Inf")
    ]
    assert by_limit == [2, 3, 4, 5]


@pytest.mark.parametrize("fast", [True, False])
def test_request_seconds_begin_when_the_head_was_read(engine: Engine, fast: bool) -> None:
    """The time between the head and its answer is the service's, on both paths."""
    predictor = Predictor(engine)

    async def ask() -> Connection:
        connection = Connection(Inference(predictor), fast)
        connection.protocol.data_received(REQUEST)
        time.sleep(0.02)  # the event loop is busy
        await connection.rest()
        return connection

    connection = asyncio.run(ask())
    assert statuses(bytes(connection.transport.written)) == [200]
    found = read(render_metrics(predictor.counters.shared, ABOUT))
    assert found["cartpole_request_seconds_count", ()] == 1
    assert found["cartpole_request_seconds_bucket", (("le", "0.02"),)] == 0


def test_rows_are_summed() -> None:
    shared = SharedCounters(3)
    for row in (1, 2, 2):
        counters = WorkerCounters(shared, row)
        counters.record_answers([(200, b"")] * 5 + [(400, b"")], 10)
    found = read(render_metrics(shared, ABOUT))
    assert (requests(found), requests(found, status=400)) == (15, 3)


def test_every_rejection_has_a_label() -> None:
    counters = WorkerCounters()
    for rejection in REJECTIONS:
        counters.record_rejection(rejection)
    found = read(render_metrics(counters.shared, ABOUT))
    labels = {labels: n for (name, labels), n in found.items() if name == "cartpole_refusals_total"}
    assert labels == {(("reason", rejection.reason),): 1 for rejection in REJECTIONS}


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
