"""The routes of the protocol, and what is said about models that don't exist."""

from starlette.routing import Route
from starlette.types import ASGIApp

from cartpole.api.batches import Batches, Endpoints
from cartpole.api.observation import printable
from cartpole.api.post_inference import PostInference
from cartpole.api.routes import METHODS, Ready
from cartpole.metrics.counters import SharedCounters
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


def protocol_routes(
    endpoints: Endpoints, ready: Ready, counters: SharedCounters, body_bytes: int
) -> list[Route]:
    """The routes of the Open Inference Protocol."""
    statistics = Statistics(counters)
    of_model: dict[str, ASGIApp] = {
        "": Document(METADATA),
        "/config": Document(CONFIGURATION),
        "/ready": IsReady(ready, {"name": MODEL}),
        "/stats": statistics,
    }
    infer = [f"{path}/infer" for path in _MODEL_PATHS]
    return [
        *(Route(path, endpoints[path], methods=_POST) for path in infer),
        Route("/v2", Document(SERVER), methods=METHODS),
        Route("/v2/health/live", Document({"live": True}), methods=METHODS),
        Route("/v2/health/ready", IsReady(ready, {}), methods=METHODS),
        *(
            Route(path + end, endpoint, methods=METHODS)
            for path in _MODEL_PATHS
            for end, endpoint in of_model.items()
        ),
        Route("/v2/models/stats", statistics, methods=METHODS),
        Route("/v2/repository/index", RepositoryIndex(body_bytes), methods=_POST),
    ]


def batch_endpoints(batches: Batches) -> Endpoints:
    """The endpoints that answer rows, for use by ASGI and without it."""
    infer = Infer(batches)
    return {
        "/inference": PostInference(batches),
        **{f"{path}/infer": infer for path in _MODEL_PATHS},
    }
