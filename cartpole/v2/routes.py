"""The routes of the protocol, and what it says about models that don't exist."""

from typing import Any

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cartpole.api.batches import BatchEndpoint, Batches
from cartpole.api.observation import printable
from cartpole.api.post_inference import PostInference
from cartpole.api.responses import render_error, respond
from cartpole.api.routes import METHODS, Ready
from cartpole.v2.contract import MODEL, VERSION
from cartpole.v2.infer import Infer
from cartpole.v2.metadata import CONFIGURATION, METADATA, SERVER, Document
from cartpole.v2.state import IsReady, RepositoryIndex, Statistics

_MODELS = "/v2/models/"
_MODEL_PATHS = (_MODELS + MODEL, f"{_MODELS}{MODEL}/versions/{VERSION}")
_POST = ["POST"]


class NoSuchModel:
    """An ASGI endpoint for all other paths below /v2/models/: 404, which says what is unknown."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name, _, rest = scope["path"].removeprefix(_MODELS).partition("/")
        version = rest.removeprefix("versions/").partition("/")[0]
        if name != MODEL:
            text = f"there is no model {_shown(name)}, only {MODEL}"
        elif rest.startswith("versions/") and version != VERSION:
            text = f"there is no version {_shown(version)} of {MODEL}, only {VERSION}"
        else:
            text = "no such path"
        await respond(scope, send, 404, render_error(text))


def _shown(name: str) -> str:
    return f"'{printable(name[:100].encode())}'"


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
        Route("/v2/models/{path:path}", NoSuchModel()),
    ]


def batch_endpoints(batches: Batches) -> dict[str, BatchEndpoint[Any]]:
    """The endpoints that answer rows, by their paths, for use without ASGI."""
    infer = Infer(batches)
    return {"/inference": PostInference(batches)} | {
        f"{path}/infer": infer for path in _MODEL_PATHS
    }
