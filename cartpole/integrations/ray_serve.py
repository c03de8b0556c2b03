"""The predictor as a Ray Serve deployment: `serve run cartpole.integrations.ray_serve:app`.

For composition with other Ray applications. Requests that wait together share one forward.
"""

from collections.abc import Mapping
from pathlib import Path

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from cartpole.api.inference import Inference, Query
from cartpole.api.observation import BadObservation, parse
from cartpole.api.responses import Answer, headers, render_error
from cartpole.predictor import (
    MAX_ROWS,
    Logits,
    Observation,
    Predictor,
    checked,
    load_engine,
    set_threads,
)
from cartpole.settings import BUNDLED_MODEL


class Cartpole:
    """GET /inference through Serve's proxy, and `predict` through a deployment handle."""

    def __init__(self, model: str = str(BUNDLED_MODEL), engine: str = "torchscript") -> None:
        """Raises BadPolicy if the model file can't be served by this engine."""
        set_threads(1)
        self._engine = engine
        self._inference = Inference(Predictor(load_engine(Path(model), engine)))

    def reconfigure(self, user_config: Mapping[str, str]) -> None:
        """Serve the model file that `user_config` of the deployment names, without a restart.

        Raises:
            BadPolicy: it can't be served; the previous one stays.
        """
        if model := user_config.get("model"):
            self._inference.predictor.use(load_engine(Path(model), self._engine))

    async def __call__(self, request: Request) -> Response:
        if request.url.path.removeprefix(request.scope.get("root_path", "")) != "/inference":
            return _response(404, render_error("no such path"))
        if request.method not in ("GET", "HEAD"):
            error = render_error(f"{request.method} is not allowed here")
            return _response(405, error, {"allow": "GET, HEAD"})
        query: Query
        try:
            query = parse(request.scope["query_string"])
        except BadObservation as error:
            query = error
        return _response(*await self._answer_all(query))

    async def predict(
        self, position: float, velocity: float, angle: float, angular_velocity: float
    ) -> Logits:
        """The logits (left, right) of one observation, for other deployments.

        Raises:
            ValueError: a value is not finite as float32.
            Exception: whatever the policy's forward raises for it.
        """
        observation = checked((position, velocity, angle, angular_velocity))
        found: Logits | Exception = await self._predict_all(observation)
        if isinstance(found, Exception):
            raise found
        return found

    @serve.batch(max_batch_size=MAX_ROWS, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def _predict_all(self, observations: list[Observation]) -> list[Logits | Exception]:
        return predict_each(self._inference.predictor, observations)

    @serve.batch(max_batch_size=MAX_ROWS, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def _answer_all(self, queries: list[Query]) -> list[Answer]:
        return self._inference.answer_all(queries)


def predict_each(predictor: Predictor, observations: list[Observation]) -> list[Logits | Exception]:
    """By one forward; where that raises, each alone, since it may raise for one of them only."""
    try:
        return list(predictor.predict_all(observations))
    except Exception:
        return [_attempt(predictor, observation) for observation in observations]


def _attempt(predictor: Predictor, observation: Observation) -> Logits | Exception:
    try:
        return predictor.predict(observation)
    except Exception as error:
        return error


def _response(status: int, body: bytes, extra: Mapping[str, str] | None = None) -> Response:
    lines = {name.decode(): value.decode() for name, value in headers(len(body))}
    return Response(body, status, lines | dict(extra or {}))


app = serve.deployment(max_ongoing_requests=MAX_ROWS)(Cartpole).bind()
