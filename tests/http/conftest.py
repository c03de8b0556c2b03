"""The shipped model behind an ASGI application."""

import pytest

from cartpole.app import Inference
from cartpole.policy.torchscript import Runner


@pytest.fixture(scope="module")
def inference(runner: Runner) -> Inference:
    return Inference(runner)
