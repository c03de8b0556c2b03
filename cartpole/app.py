"""The ASGI application: Starlette routes over parse, run and render.

The only place that maps errors to statuses.
"""

import logging
import os
from time import perf_counter_ns as clock

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cartpole.api.observation import BadObservation, Observation, parse, printable
from cartpole.api.responses import Headers, headers, render, render_error
from cartpole.failures import Failures
from cartpole.metrics.counters import Metrics
from cartpole.metrics.prometheus import PolicyInfo, exposition
from cartpole.policy.loading import Policy, load
from cartpole.policy.torchscript import Runner, make_runner, set_threads
from cartpole.process import logs
from cartpole.settings import read_environment

logger = logging.getLogger("cartpole")
access = logging.getLogger("cartpole.access")

METHODS = ["GET", "HEAD"]
ALLOWED = ", ".join(METHODS)
INTERNAL_ERROR = render_error("internal error")

HEAD_READ = "cartpole.head_read"  # in the scope: when, by perf_counter_ns; under our protocol only
EXPOSITION = b"text/plain; version=0.0.4; charset=utf-8"

Answer = tuple[int, bytes]  # status and JSON body


class Inference:
    """GET /inference?position=&velocity=&angle=&angular_velocity=

    Attributes:
        policy: what answers.
        engine: what computes it.
        metrics: what counts it.
        draining: whether the service is on its way out.
    """

    def __init__(self, runner: Runner, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self.draining = False
        self._failures = Failures()
        self.use(runner)

    def use(self, runner: Runner) -> None:
        """Answer with another policy from now on."""
        self._runner = runner
        self.policy: Policy = runner.policy
        self.engine = runner.engine

    def answer(self, query: bytes) -> Answer:
        """The status and JSON body for a raw query string. Never raises."""
        try:
            observation = parse(query)
        except BadObservation as error:
            return refuse(error)
        except Exception as error:
            return self.fail(error)
        return self._answer_alone(observation)

    def answer_all(self, asked: list[Observation | BadObservation]) -> list[Answer]:
        """The same for what was parsed already: one forward for all, one answer for each."""
        if len(asked) == 1 and type(asked[0]) is tuple:
            return [self._answer_alone(asked[0])]
        observations = [one for one in asked if type(one) is tuple]
        good = self._answer_good(observations) if observations else []
        if len(good) == len(asked):
            return good
        answers = iter(good)
        return [refuse(one) if isinstance(one, BadObservation) else next(answers) for one in asked]

    def _answer_alone(self, observation: Observation) -> Answer:
        try:
            started = clock()
            left, right = self._runner.one(*observation)
            self.metrics.forward(1, clock() - started)
            answer = 200, render(left, right)
            if self._failures.ongoing:
                self._failures.recovered()
            return answer
        except Exception as error:
            return self.fail(error)

    def _answer_good(self, observations: list[Observation]) -> list[Answer]:
        try:
            started = clock()
            logits = self._runner.batch(observations)
            self.metrics.forward(len(observations), clock() - started)
            answers = [(200, render(left, right)) for left, right in logits]
            if self._failures.ongoing:
                self._failures.recovered()
            return answers
        except Exception:  # those for which the forward works get their answers
            return [self._answer_alone(observation) for observation in observations]

    def fail(self, error: Exception) -> Answer:
        """A forward raised."""
        self._failures.failed(error)
        return 500, INTERNAL_ERROR

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, body = self.answer(scope["query_string"])
        await _respond(scope, send, status, body)


def refuse(error: BadObservation) -> Answer:
    return 400, render_error(str(error))


class Live:
    """GET /health/live"""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _respond(scope, send, 200, b'{"status":"live"}')


class Ready:
    """GET /health/ready: 503 as soon as the service is told to stop."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, word = (503, "draining") if self._inference.draining else (200, "ready")
        body = b'{"status":"%b","engine":"%b"}' % (word.encode(), self._inference.engine.encode())
        await _respond(scope, send, status, body)


class Scrape:
    """GET /metrics: the Prometheus text format."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        policy = self._inference.policy
        about = PolicyInfo(policy.algorithm, policy.sha256, self._inference.engine)
        body = exposition(self._inference.metrics.board, about)
        await _respond(scope, send, 200, body, headers(len(body), EXPOSITION))


class Observed:
    """Counts what the application answers, and logs it where that is asked for."""

    def __init__(self, app: ASGIApp, metrics: Metrics, access_log: bool) -> None:
        self._app, self._metrics, self._access_log = app, metrics, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # lifespan and WebSocket, which Starlette declines
            return await self._app(scope, receive, send)
        started = scope.get(HEAD_READ) or clock()

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = clock() - started
                self._metrics.request(scope["path"], message["status"], took)
                if self._access_log:
                    _log_access(scope, message["status"], took)
            await send(message)

        if scope["path"] == "*":  # only OPTIONS asks that: RFC 9112, section 3.2.4
            return await _respond(scope, observe, 204, b"", [(b"allow", ALLOWED.encode())])
        await self._app(scope, receive, observe)


def _log_access(scope: Scope, status: int, nanoseconds: int) -> None:
    target = scope["raw_path"] + (b"?" if scope["query_string"] else b"") + scope["query_string"]
    client = scope["client"][0] if scope["client"] else "-"
    shown = printable(target)
    access.info("%s %s %d %d µs %s", scope["method"], shown, status, nanoseconds // 1000, client)


async def _respond(
    scope: Scope, send: Send, status: int, body: bytes, lines: Headers | None = None
) -> None:
    lines = lines or headers(len(body))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def create_app(inference: Inference | None = None, access_log: bool | None = None) -> Starlette:
    """The application, for any ASGI server: `uvicorn --factory cartpole.app:create_app`.

    Args:
        inference: what answers; by default as the CARTPOLE_… environment has it.
        access_log: whether each request is logged; by default as that environment has it.

    Raises:
        BadPolicy: the model file can't be served.
        BadSettings: a CARTPOLE_… variable has no valid value.
    """
    if inference is None:
        settings = read_environment(os.environ)
        logs.configure(settings)
        access_log = settings.access_log if access_log is None else access_log
        set_threads(settings.threads)
        inference = Inference(make_runner(load(settings.model), settings.engine))
    endpoints: dict[str, ASGIApp] = {
        "/inference": inference,
        "/health/live": Live(),
        "/health/ready": Ready(inference),
        "/metrics": Scrape(inference),
    }
    app = Starlette(
        routes=[Route(path, endpoint, methods=METHODS) for path, endpoint in endpoints.items()],
        exception_handlers={HTTPException: _no_route, Exception: _fail},
        middleware=[Middleware(Observed, metrics=inference.metrics, access_log=bool(access_log))],
    )
    app.router.redirect_slashes = False
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    """No such path (404), or not with this method (405)."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return _respond_error(405, f"{request.method} is not allowed here", {"allow": ALLOWED})
    return _respond_error(404, "no such path")


async def _fail(request: Request, error: Exception) -> Response:
    return _respond_error(500, "internal error")


def _respond_error(status: int, message: str, extra: dict[str, str] | None = None) -> Response:
    lines = {"x-content-type-options": "nosniff"} | (extra or {})
    return Response(render_error(message), status, lines, "application/json")
