"""The Ray Serve deployment of deploy/serve.yaml, on the cluster."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.ray_nodes import Cluster
from bench.server import free_port
from bench.sessions import end_session
from cartpole.predictor import Logits, Observation, load
from tests.cluster.command import SECONDS
from tests.support.paths import GOLDEN, ROOT

# A driver of its own: another application that holds a handle.
DRIVER = """
import sys, ray
from ray import serve
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
handle = serve.get_app_handle("cartpole")
asked = [handle.predict.remote(0.0, 0.0, -1.0, 0.0) for _ in range(50)]
bad = handle.predict.remote(0.0, 0.0, float("nan"), 0.0)
found = {response.result() for response in asked}
try:
    bad.result()
except ValueError as error:
    assert "finite as float32" in str(error), error
    (logits,) = found
    print(*logits)
"""


@pytest.fixture(scope="module")
def url(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the applications of deploy/serve.yaml answer."""
    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    config = (ROOT / "deploy/serve.yaml").read_text().replace("port: 8000", f"port: {port}")
    assert str(port) in config
    (folder / "serve.yaml").write_text(config)
    serve = str(Path(sys.executable).with_name("serve"))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [serve, "run", "--address", cluster.address, str(folder / "serve.yaml")],
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
    try:
        found = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + SECONDS
        while get(found, f"/inference?{GOLDEN}")[0] != 200:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            end_session(process.pid)


def get(url: str, target: str, method: str = "GET") -> tuple[int, bytes]:
    request = urllib.request.Request(url + target, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def test_same_bytes_as_the_service(url: str, answer: bytes) -> None:
    with ThreadPoolExecutor(32) as pool:  # batches too
        found = set(pool.map(lambda _: get(url, f"/inference?{GOLDEN}"), range(200)))
    assert found == {(200, answer)}


@pytest.mark.parametrize(
    ("method", "target", "status", "error"),
    [
        ("GET", "/inference?position=0", 400, "velocity, angle, angular_velocity are missing"),
        ("POST", f"/inference?{GOLDEN}", 405, "POST is not allowed here"),
        ("GET", "/other", 404, "no such path"),
    ],
)
def test_errors(url: str, method: str, target: str, status: int, error: str) -> None:
    found, body = get(url, target, method)
    assert (found, json.loads(body)) == (status, {"error": error})


def test_calls_by_handle_share_a_forward_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray's
        from cartpole.integrations.ray_serve import predict_each

    def forwards(observations: list[Observation]) -> list[Logits]:
        forwarded.append(len(observations))
        if any(row[0] == 7 for row in observations):
            raise ZeroDivisionError
        return real(observations)

    predictor = load()
    real, forwarded = predictor.predict_all, list[int]()
    monkeypatch.setattr(predictor, "predict_all", forwards)
    monkeypatch.setattr(predictor, "predict", lambda observation: forwards([observation])[0])
    row: Observation = (0.0, 0.0, -1.0, 0.0)
    assert predict_each(predictor, [row] * 3) == real([row]) * 3
    assert forwarded == [3]
    one, failed, other = predict_each(predictor, [row, (7.0, 0.0, -1.0, 0.0), row])
    assert [one, other] == real([row]) * 2
    assert isinstance(failed, ZeroDivisionError)


def test_other_applications_use_a_handle(url: str, cluster: Cluster, answer: bytes) -> None:
    command = [sys.executable, "-c", DRIVER, cluster.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    left, right = map(float, done.stdout.split())
    assert {"left": left, "right": right} == json.loads(answer)
