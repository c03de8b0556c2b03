"""What several test modules share: the shipped model, a runner for it, and a bare ASGI client."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.certificate import make_certificate
from cartpole.policy.loading import Policy, load
from cartpole.policy.torchscript import Runner, set_threads
from cartpole.settings import BUNDLED_MODEL

ROOT = Path(__file__).resolve().parent.parent
# cart-pole-rs's own model file; it lies beside the checkout on some machines, and is not ours.
REFERENCE_MODEL = ROOT.parent / "shared/reference/cart-pole-rs-model_traced.pt"

GOLDEN = "position=0&velocity=0&angle=-1&angular_velocity=0"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As the service has it; PyTorch's idle threads would spin beside other tests."""
    set_threads(1)


@pytest.fixture(scope="session")
def policy() -> Policy:
    return load(BUNDLED_MODEL)


@pytest.fixture(scope="session")
def runner(policy: Policy) -> Runner:
    return Runner(policy)


@pytest.fixture(scope="session", params=[None, REFERENCE_MODEL][: 1 + REFERENCE_MODEL.exists()])
def frozen_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[float, float]]:
    """A file as cart-pole-rs's, and where it is, its own; with the logits of (0, 0, -1, 0).

    That is: traced, two heads, frozen, optimized for inference, without metadata.
    """
    if request.param:
        return request.param, (15.974627, -15.953771)
    path = tmp_path_factory.mktemp("frozen") / "model_traced.pt"
    frozen = torch.jit.freeze(torch.jit.load(BUNDLED_MODEL).eval())
    torch.jit.save(torch.jit.optimize_for_inference(frozen), path)
    return path, (16.007734, -15.989034)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of certificate.pem and key.pem, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder)
    return folder


async def call(app: Any, method: str, path: str, query: bytes = b"") -> tuple[int, Any, bytes]:
    """Status, headers and body that an ASGI application answers."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body
