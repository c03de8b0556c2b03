"""The shipped model behind an ASGI application."""

import pytest

from cartpole.api.inference import Inference
from cartpole.policy.contract import Engine
from cartpole.predictor import Predictor


@pytest.fixture(scope="module")
def inference(engine: Engine) -> Inference:
    return Inference(Predictor(engine))
