"""The real clients against the real service: docs/protocol.md has the table."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from bench.server import Server, serving
from cartpole.policy.loading import Policy
from tests.support.paths import ROOT

# tritonclient leaves sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

STATES = np.array([[0, 0, -1, 0], [0, 0, 1, 0], [1, 2, 0, -3], [2, 0, 0, 0]])
DATATYPES = ["FP16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64"]
UNSIGNED = ["UINT8", "UINT16", "UINT32", "UINT64"]
Ask = Callable[..., Any]


@pytest.fixture(scope="module", params=["torchscript", "native"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving("--engine", request.param) as running:
        yield running


async def ask_asynchronously(url: str, method: str, *arguments: Any, **options: Any) -> Any:
    async with triton_aio.InferenceServerClient(url) as client:
        return await getattr(client, method)(*arguments, **options)


@pytest.fixture(params=["synchronous", "asyncio"])
def ask(request: pytest.FixtureRequest, server: Server) -> Iterator[Ask]:
    """Calls a method of a client."""
    url = f"127.0.0.1:{server.port}"
    if request.param == "asyncio":
        yield lambda *one, **options: asyncio.run(ask_asynchronously(url, *one, **options))
        return
    with triton.InferenceServerClient(url) as client:
        yield lambda method, *one, **options: getattr(client, method)(*one, **options)


def observation(states: Any, datatype: str = "FP32", binary: bool = True) -> triton.InferInput:
    made = triton.InferInput("observation", list(states.shape), datatype)
    made.set_data_from_numpy(states.astype(triton.triton_to_np_dtype(datatype)), binary_data=binary)
    return made


def check(answer: Any, policy: Policy, states: Any) -> None:
    logits, values = policy.module(torch.tensor(states, dtype=torch.float32))
    assert np.allclose(answer.as_numpy("logits"), logits.detach().numpy(), rtol=1e-4, atol=1e-4)
    assert np.allclose(answer.as_numpy("value"), values.detach().numpy(), rtol=1e-4, atol=1e-4)
    actions = answer.as_numpy("action")
    assert actions.dtype == np.int64
    assert actions.tolist() == answer.as_numpy("logits").argmax(1).tolist()


def test_what_the_service_says_of_itself(ask: Ask) -> None:
    assert ask("is_server_live")
    assert ask("is_server_ready")
    assert ask("is_model_ready", "cartpole")
    assert ask("is_model_ready", "cartpole", "1")
    assert not ask("is_model_ready", "other")
    assert "binary_tensor_data" in ask("get_server_metadata")["extensions"]
    for of_version in ("", "1"):
        assert ask("get_model_metadata", "cartpole", of_version)["inputs"][0]["shape"] == [-1, 4]
        assert ask("get_model_config", "cartpole", of_version)["max_batch_size"] == 4096
        assert ask("get_inference_statistics", "cartpole", of_version)["model_stats"]
    assert ask("get_model_repository_index")[0]["state"] == "READY"


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", [*DATATYPES, *UNSIGNED])
def test_each_datatype(ask: Ask, policy: Policy, datatype: str, binary: bool) -> None:
    if datatype == "FP16" and not binary:
        return  # the client sends FP16 as bytes only
    states = np.abs(STATES) if datatype in UNSIGNED else STATES
    check(ask("infer", "cartpole", [observation(states, datatype, binary)]), policy, states)


@pytest.mark.parametrize("rows", [1, 256, 257, 4096])
def test_batches(ask: Ask, policy: Policy, rows: int) -> None:
    states = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
    answer = ask("infer", "cartpole", [observation(states)], model_version="1")
    check(answer, policy, states)
    first = ask("infer", "cartpole", [observation(states[-1:])])
    assert (first.as_numpy("logits") == answer.as_numpy("logits")[-1:]).all()
    assert (first.as_numpy("value") == answer.as_numpy("value")[-1:]).all()


@pytest.mark.parametrize("binary", [True, False])
def test_selected_outputs_and_ids(ask: Ask, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput(name, binary) for name in ("action", "logits")]
    answer = ask("infer", "cartpole", [observation(STATES)], outputs=outputs, request_id="seven")
    reply = answer.get_response()
    assert reply["id"] == "seven"
    assert [one["name"] for one in reply["outputs"]] == ["action", "logits"]
    assert answer.as_numpy("value") is None
    assert answer.as_numpy("logits").shape == (4, 2)


@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("received", [None, "gzip", "deflate"])
def test_compression(ask: Ask, policy: Policy, sent: str | None, received: str | None) -> None:
    answer = ask(
        "infer",
        "cartpole",
        [observation(STATES)],
        request_compression_algorithm=sent,
        response_compression_algorithm=received,
    )
    check(answer, policy, STATES)


def test_statistics(ask: Ask) -> None:
    def counts() -> tuple[int, int, int]:
        (model,) = ask("get_inference_statistics")["model_stats"]
        succeeded = model["inference_stats"]["success"]["count"]
        return model["inference_count"], model["execution_count"], succeeded

    before = counts()
    ask("infer", "cartpole", [observation(np.zeros((300, 4)))])
    after = counts()
    assert [now - then for now, then in zip(after, before, strict=True)] == [300, 2, 1]


def test_errors(ask: Ask) -> None:
    nan = STATES.astype(np.float32)
    nan[2, 1] = np.nan
    for name, states, text in (
        ("other", STATES, "there is no model 'other', only cartpole"),
        ("cartpole", nan, "row 2: velocity is not finite as float32: nan"),
        ("cartpole", np.zeros((4097, 4)), "there are 4097 rows, more than 4096"),
        ("cartpole", np.zeros((2, 3)), "the shape of observation is not [rows, 4]"),
    ):
        for compressed in (None, "gzip"):
            with pytest.raises(InferenceServerException) as raised:
                ask("infer", name, [observation(states)], response_compression_algorithm=compressed)
            assert raised.value.message() == text
            assert raised.value.status() == ("404" if name == "other" else "400")
    for method in ("get_model_metadata", "get_model_config", "get_inference_statistics"):
        with pytest.raises(InferenceServerException, match="no version '2' of cartpole"):
            ask(method, "cartpole", "2")


@pytest.mark.parametrize("page", ["README.md", "docs/protocol.md"])
def test_the_example_of_the_page(page: str) -> None:
    text = (ROOT / page).read_text()
    (program, printed), *_ = re.findall(r"```python\n(.+?)```\n+```\n(.+?)```", text, re.S)
    assert "import tritonclient" in program
    with serving() as server:
        program = program.replace("127.0.0.1:3000", f"127.0.0.1:{server.port}")
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stderr, done.stdout) == ("", printed)


def test_the_page_names_the_versions() -> None:
    page = (ROOT / "docs/protocol.md").read_text()
    found = re.findall(r"^\| `(tritonclient)\S*` \| (\S+) \|", page, re.M)
    assert set(found) == {("tritonclient", version("tritonclient"))}


@pytest.mark.skipif("KSERVE_PYTHON" not in os.environ, reason="kserve needs its own environment")
def test_kserve(server: Server) -> None:
    """KSERVE_PYTHON is the interpreter of an environment that has kserve alone."""
    script = [str(ROOT / "tests/support/kserve_client.py"), f"http://127.0.0.1:{server.port}"]
    command = [os.environ["KSERVE_PYTHON"], *script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "passed\n"), done.stderr
