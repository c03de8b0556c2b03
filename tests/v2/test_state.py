"""Metadata, readiness, statistics, models that don't exist."""

import json
from typing import Any

import pytest
from starlette.applications import Starlette

from cartpole.api.inference import Inference
from cartpole.api.routes import Ready
from cartpole.app import create_app
from cartpole.metrics.counters import SharedCounters, WorkerCounters
from cartpole.policy.contract import Engine
from cartpole.predictor import Predictor
from cartpole.version import __version__
from tests.support.asgi import get, post
from tests.support.metrics import read, requests
from tests.support.paths import GOLDEN
from tests.support.v2 import INFER, infer, tensor, wanted
from tests.support.wrapped_engine import WrappedEngine


def ask(app: Starlette, path: str) -> Any:
    status, headers, body = get(app, path)
    assert (status, headers[b"content-type"]) == (200, b"application/json")
    assert get(app, path, method="HEAD") == (200, headers, b"")
    return json.loads(body)


def test_metadata(app: Starlette) -> None:
    server = ask(app, "/v2")
    assert (server["name"], server["version"]) == ("cartpole", __version__)
    assert server["extensions"] == ["binary_tensor_data", "model_configuration", "statistics"]
    for path in ("/v2/models/cartpole", "/v2/models/cartpole/versions/1"):
        model = ask(app, path)
        assert (model["name"], model["versions"]) == ("cartpole", ["1"])
        assert model["platform"] == "pytorch_torchscript"
        tensors = [tuple(one.values()) for one in model["inputs"] + model["outputs"]]
        assert tensors == [
            ("observation", "FP32", [-1, 4]),
            ("logits", "FP32", [-1, 2]),
            ("value", "FP32", [-1, 1]),
            ("action", "INT64", [-1]),
        ]
        config = ask(app, f"{path}/config")
        assert config["max_batch_size"] == 4096
        assert [one["name"] for one in config["input"] + config["output"]] == [
            one[0] for one in tensors
        ]


def test_readiness(engine: Engine) -> None:
    predictor = Predictor(engine)
    ready = Ready(predictor)
    app = create_app(Inference(predictor), ready)
    of_model = ["/v2/models/cartpole/ready", "/v2/models/cartpole/versions/1/ready"]
    assert ask(app, "/v2/health/live") == {"live": True}
    assert ask(app, "/v2/health/ready") == {"ready": True}
    for path in of_model:
        assert ask(app, path) == {"name": "cartpole", "ready": True}
    ready.is_draining = True
    for path in ("/v2/health/ready", *of_model):
        status, _, body = get(app, path)
        assert (status, json.loads(body)["ready"]) == (503, False)
    assert ask(app, "/v2/health/live") == {"live": True}
    for path in ("/v2", "/v2/models/cartpole", "/v2/models/stats"):
        assert ask(app, path)
    assert post(app, INFER, infer())[0] == 200


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready":true}'])
def test_the_index(app: Starlette, body: bytes) -> None:
    status, _, answer = post(app, "/v2/repository/index", body)
    assert status == 200
    assert json.loads(answer) == [
        {"name": "cartpole", "version": "1", "state": "READY", "reason": ""}
    ]
    assert post(app, "/v2/repository/index", b"[]")[0] == 400


def statistics(app: Starlette) -> Any:
    (model,) = ask(app, "/v2/models/stats")["model_stats"]
    assert (model["name"], model["version"]) == ("cartpole", "1")
    return model


def test_statistics_count_rows_and_forwards(engine: Engine) -> None:
    wrapped = WrappedEngine(engine)
    app = create_app(Inference(Predictor(wrapped)))
    assert statistics(app)["inference_count"] == statistics(app)["last_inference"] == 0
    assert post(app, INFER, infer(tensor(600)))[0] == 200
    assert post(app, INFER, infer(outputs=wanted("value")))[0] == 200
    assert post(app, INFER, infer(tensor(0)))[0] == 400
    assert post(app, "/inference", b"[[0,0,0,0]]")[0] == 200
    assert get(app, "/inference", GOLDEN.encode())[0] == 200
    found = statistics(app)
    assert (found["inference_count"], found["execution_count"]) == (603, 6)
    assert found["last_inference"] > 1.7e12
    times = found["inference_stats"]
    parts = [times[part] for part in ("queue", "compute_input", "compute_infer", "compute_output")]
    assert (times["success"]["count"], times["fail"]["count"]) == (2, 1)
    assert {part["count"] for part in parts} == {2}
    assert sum(part["ns"] for part in parts) == times["success"]["ns"] > times["fail"]["ns"] > 0
    assert all(part["ns"] > 0 for part in parts)
    for path in ("/v2/models/cartpole/stats", "/v2/models/cartpole/versions/1/stats"):
        assert ask(app, path)["model_stats"] == [found]
    wrapped.error = RuntimeError("no forward today")
    assert post(app, INFER, infer())[0] == 500
    assert statistics(app)["inference_stats"]["fail"]["count"] == 2


def test_statistics_are_those_of_all_workers(engine: Engine) -> None:
    shared = SharedCounters(3)
    workers = [WorkerCounters(shared, row) for row in (1, 2)]
    first, second = (create_app(Inference(Predictor(engine, one))) for one in workers)
    for app in (first, second, second):
        assert post(app, INFER, infer(tensor(7)))[0] == 200
    assert statistics(first)["inference_count"] == 21
    assert statistics(first)["inference_stats"]["success"]["count"] == 3


def test_the_metrics_count_rows_and_routes(engine: Engine) -> None:
    app = create_app(Inference(Predictor(engine)))
    versioned = INFER.replace("cartpole/", "cartpole/versions/1/")
    for path in (INFER, versioned):
        assert post(app, path, infer(tensor(5)))[0] == 200
    assert post(app, "/inference", b"[[0,0,0,0]]")[0] == 200
    assert post(app, INFER, b"", (b"content-encoding", b"br"))[0] == 415
    found = read(get(app, "/metrics")[2])
    assert requests(found, INFER) == 2
    assert requests(found, INFER, 415) == 1
    assert requests(found, "/inference") == 1
    assert found["cartpole_rows_total", (("route", INFER),)] == 10
    assert found["cartpole_rows_total", (("route", "/inference"),)] == 1
    assert found["cartpole_batch_size_sum", ()] == 11


@pytest.mark.parametrize("end", ["", "/ready", "/config", "/stats", "/infer", "/versions/1/infer"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_models_and_versions(app: Starlette, method: str, end: str) -> None:
    status, _, body = get(app, f"/v2/models/nope{end}", method=method)
    assert (status, json.loads(body)["error"]) == (404, "there is no model 'nope', only cartpole")
    if "versions" not in end:
        status, _, body = get(app, f"/v2/models/cartpole/versions/2{end}", method=method)
        text = "there is no version '2' of cartpole, only 1"
        assert (status, json.loads(body)["error"]) == (404, text)
    status, _, body = get(app, f"/v2/models/{'é' * 5000}{end}", method=method)
    assert status == 404
    assert len(body) < 1000


@pytest.mark.parametrize("path", ["/v2/", "/v2/health", "/v2/models/cartpole/x", "/v2/repository"])
def test_unknown_paths(app: Starlette, path: str) -> None:
    status, _, body = get(app, path)
    assert (status, json.loads(body)["error"]) == (404, "no such path")
