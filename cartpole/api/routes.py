"""The routes of the application, and its answers to requests that match none of them."""

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cartpole.api.batches import Endpoints
from cartpole.api.inference import Inference
from cartpole.api.responses import INTERNAL_ERROR, headers, render_error, respond
from cartpole.metrics.prometheus import PolicyInfo, render_metrics
from cartpole.predictor import Predictor

METHODS = ["GET", "HEAD"]
ALLOW = "GET, HEAD, POST"  # of the service as a whole
_PROMETHEUS_TEXT = b"text/plain; version=0.0.4; charset=utf-8"


class Live:
    """GET /health/live: the event loop turns."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(scope, send, 200, b'{"status":"live"}')


class Ready:
    """GET /health/ready: 200 while the service wants traffic, else 503.

    Attributes:
        is_draining: the service has been told to stop.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.is_draining = False
        self._predictor = predictor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, word = (503, b"draining") if self.is_draining else (200, b"ready")
        engine, outputs = self._predictor.engine.name, self._predictor.policy.outputs
        about = b'"engine":"%b","outputs":"%b"' % (engine.encode(), outputs.encode())
        await respond(scope, send, status, b'{"status":"%b",%b}' % (word, about))


class Metrics:
    """GET /metrics: the Prometheus text format."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        policy, engine = self._predictor.policy, self._predictor.engine.name
        info = PolicyInfo(policy.algorithm, policy.sha256, engine)
        body = render_metrics(self._predictor.counters.shared, info)
        await respond(scope, send, 200, body, headers(len(body), _PROMETHEUS_TEXT))


class GetOrPost:
    """/inference: one observation by GET, many by POST."""

    def __init__(self, inference: Inference, post: ASGIApp) -> None:
        self._inference, self._post = inference, post

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._post if scope["method"] == "POST" else self._inference
        await endpoint(scope, receive, send)


def routes(inference: Inference, ready: Ready, batches: Endpoints) -> list[Route]:
    """The routes of the service's own API.

    Args:
        batches: the endpoints that answer many rows, by path.
    """
    endpoints: dict[str, ASGIApp] = {
        "/health/live": Live(),
        "/health/ready": ready,
        "/metrics": Metrics(inference.predictor),
    }
    both = GetOrPost(inference, batches["/inference"])
    return [
        Route("/inference", both, methods=[*METHODS, "POST"]),
        *(Route(path, endpoint, methods=METHODS) for path, endpoint in endpoints.items()),
    ]


async def answer_no_route(
    reason: Callable[[str], str], request: Request, error: Exception
) -> Response:
    """No such path (404), for a reason that depends on it, or not with this method (405)."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        body = render_error(f"{request.method} is not allowed here")
        allowed = sorted((error.headers or {})["Allow"].split(", "))
        return _error(405, body, {"allow": ", ".join(allowed)})
    return _error(404, render_error(reason(request.scope["path"])))


async def answer_internal_error(request: Request, error: Exception) -> Response:
    return _error(*INTERNAL_ERROR)


def _error(status: int, body: bytes, extra: dict[str, str] | None = None) -> Response:
    lines = {"x-content-type-options": "nosniff"} | (extra or {})
    return Response(body, status, lines, "application/json")
