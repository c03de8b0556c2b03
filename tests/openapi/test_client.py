"""A client that openapi-python-client generates from openapi.json, against the real service."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from bench.server import Server
from cartpole.page.routes import DESCRIPTION

OBSERVATIONS = [[0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of the generated package, which can be imported."""
    folder = tmp_path_factory.mktemp("client")
    config = folder / "config.yaml"
    config.write_text("post_hooks: []\n")  # they only format the code
    command = [str(Path(sys.executable).with_name("openapi-python-client")), "generate"]
    flags = ["--path", str(DESCRIPTION), "--output-path", str(folder / "made"), "--fail-on-warning"]
    subprocess.run([*command, *flags, "--config", str(config)], check=True, timeout=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "made")
        yield "cartpole_client"


@pytest.fixture
def client(package: str, server: Server) -> Iterator[Any]:
    with import_module(package).Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield client


def test_one_observation(package: str, client: Any) -> None:
    endpoint = import_module(f"{package}.api.inference.get_inference")
    answer = endpoint.sync(client=client, position=0, velocity=0, angle=-1, angular_velocity=0)
    assert type(answer).__name__ == "Logits"
    assert answer.left == pytest.approx(16.0077, abs=0.01)
    assert answer.right == pytest.approx(-15.989, abs=0.01)


def test_many_observations(package: str, client: Any) -> None:
    models = import_module(f"{package}.models")
    endpoint = import_module(f"{package}.api.inference.post_inference")
    for body in (OBSERVATIONS, models.ObservationsObject(observations=OBSERVATIONS)):
        answer = endpoint.sync(client=client, body=body)
        assert answer.actions == [0, 1]
        assert [left > right for left, right in answer.logits] == [True, False]


def test_tensors(package: str, client: Any) -> None:
    models = import_module(f"{package}.models")
    endpoint = import_module(f"{package}.api.open_inference_protocol.post_infer")
    tensor = models.InputTensor(
        name="observation", datatype=models.Datatype.FP32, shape=[2, 4], data=OBSERVATIONS
    )
    wanted = [models.RequestedOutput(name=models.OutputName.ACTION)]
    request = models.InferRequest(inputs=[tensor], outputs=wanted, id="7")
    answer = endpoint.sync(client=client, model=models.ModelName.CARTPOLE, body=request)
    assert (answer.id, answer.model_name) == ("7", models.ModelName.CARTPOLE)
    assert [(one.name, one.shape, one.data) for one in answer.outputs] == [("action", [2], [0, 1])]


def test_an_error(package: str, client: Any) -> None:
    endpoint = import_module(f"{package}.api.inference.post_inference")
    answer = endpoint.sync_detailed(client=client, body=[[0.0, 0.0, 1e39, 0.0]])
    assert answer.status_code == 400
    assert answer.parsed.error == "row 0: angle is beyond the range of float32: 1e+39"
