"""The routes of the protocol, and what is said about models that don't exist."""

from typing import Any

from starlette.routing import Route
from starlette.types import ASGIApp

from cartpole.api.batches import BatchEndpoint, Batches
from cartpole.api.observation import printable
from cartpole.api.post_inference import PostInference
from cartpole.api.routes import METHODS, Ready
from cartpole.v2.contract import MODEL, VERSION
from cartpole.v2.infer import Infer
from cartpole.v2.metadata import CONFIGURATION, METADATA, SERVER, Document
from cartpole.v2.state import IsReady, RepositoryIndex, Statistics

_MODELS = "/v2/models/"
_MODEL_PATHS = (_MODELS + MODEL, f"{_MODELS}{MODEL}/versions/{VERSION}")
_POST = ["POST"]


def no_such_path(path: str) -> str:
    """Why no route has this path: the model or its version is unknown, or something else."""
    if path.startswith(_MODELS):
        name, _, rest = path.removeprefix(_MODELS).partition("/")
        version = rest.removeprefix("versions/").partition("/")[0]
        if name != MODEL:
            return f"there is no model {_shown(name)}, only {MODEL}"
        if rest.startswith("versions/") and version != VERSION:
            return f"there is no version {_shown(version)} of {MODEL}, only {VERSION}"
    return "no such path"


def _shown(name: str) -> str:
    return f"'{printable(name[:40].encode(errors='replace'))}'"


def protocol_routes(batches: Batches, ready: Ready) -> list[Route]:
    """The routes of the Open Inference Protocol."""
    statistics = Statistics(batches.inference.predictor.counters.shared)
    of_model: dict[str, ASGIApp] = {
        "": Document(METADATA),
        "/config": Document(CONFIGURATION),
        "/ready": IsReady(ready, {"name": MODEL}),
        "/stats": statistics,
    }
    infer = Infer(batches)
    return [
        *(Route(f"{path}/infer", infer, methods=_POST) for path in _MODEL_PATHS),
        Route("/v2", Document(SERVER), methods=METHODS),
        Route("/v2/health/live", Document({"live": True}), methods=METHODS),
        Route("/v2/health/ready", IsReady(ready, {}), methods=METHODS),
        *(
            Route(path + end, endpoint, methods=METHODS)
            for path in _MODEL_PATHS
            for end, endpoint in of_model.items()
        ),
        Route("/v2/models/stats", statistics, methods=METHODS),
        Route("/v2/repository/index", RepositoryIndex(batches.body_bytes), methods=_POST),
    ]


def batch_endpoints(batches: Batches) -> dict[str, BatchEndpoint[Any]]:
    """The endpoints that answer rows, by their paths, for use without ASGI."""
    infer = Infer(batches)
    return {"/inference": PostInference(batches)} | {
        f"{path}/infer": infer for path in _MODEL_PATHS
    }
