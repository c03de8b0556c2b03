"""Fixtures for all tests: the shipped model, an engine for it, a frozen model, a certificate."""

from pathlib import Path

import pytest
import torch

from bench.certificate import make_certificate
from cartpole.policy.contract import Engine
from cartpole.policy.engine import make_engine, set_threads
from cartpole.policy.loading import Policy, load
from cartpole.settings import BUNDLED_MODEL
from tests.support.paths import REFERENCE_MODEL


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread, as in the service: PyTorch's idle threads would slow down parallel tests."""
    set_threads(1)


@pytest.fixture(scope="session")
def policy() -> Policy:
    return load(BUNDLED_MODEL)


@pytest.fixture(scope="session")
def engine(policy: Policy) -> Engine:
    return make_engine(policy)


@pytest.fixture(scope="session", params=[None, REFERENCE_MODEL][: 1 + REFERENCE_MODEL.exists()])
def frozen_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[float, float]]:
    """A model file like that of cart-pole-rs, and the logits of (0, 0, -1, 0).

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
    """A folder with a self-signed certificate.pem and its key.pem."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder)
    return folder
