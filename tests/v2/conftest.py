"""Fixtures for the protocol's tests: the application, with either engine."""

import pytest
from starlette.applications import Starlette

from cartpole.api.inference import Inference
from cartpole.app import create_app
from cartpole.policy.contract import Engine
from cartpole.policy.engine import make_engine
from cartpole.policy.loading import Policy
from cartpole.predictor import Predictor


@pytest.fixture(scope="session")
def native(policy: Policy) -> Engine:
    return make_engine(policy, "native")


@pytest.fixture(scope="session")
def app(engine: Engine) -> Starlette:
    return create_app(Inference(Predictor(engine)))


@pytest.fixture(scope="session", params=["torchscript", "native"])
def either(request: pytest.FixtureRequest, engine: Engine, native: Engine) -> Starlette:
    """The application on each engine."""
    return create_app(Inference(Predictor(native if request.param == "native" else engine)))
