"""The ASGI application: Starlette routes over parse, run and render.

The only place that maps errors to statuses.
"""

import logging
import os

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cartpole.observation import BadObservation, Observation, parse
from cartpole.policy import load
from cartpole.reply import headers, render, render_error
from cartpole.runner import Runner, set_threads
from cartpole.settings import read_environment

logger = logging.getLogger("cartpole")

METHODS = ["GET", "HEAD"]
_ALLOW = {"allow": ", ".join(METHODS)}
INTERNAL_ERROR = render_error("internal error")

Answer = tuple[int, bytes]  # status and JSON body


class Inference:
    """GET /inference?position=&velocity=&angle=&angular_velocity="""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._last_failure = ""

    def answer(self, query: bytes) -> Answer:
        """The status and JSON body for a raw query string. Never raises."""
        try:
            return 200, render(*self._runner.one(*parse(query)))
        except BadObservation as error:
            return refuse(error)
        except Exception as error:
            return self.fail(error)

    def answer_all(self, asked: list[Observation | BadObservation]) -> list[Answer]:
        """The same for what was parsed already: one forward for all, one answer for each."""
        try:
            if len(asked) == 1 and type(asked[0]) is tuple:
                return [(200, render(*self._runner.one(*asked[0])))]
            logits = self._runner.batch([one for one in asked if type(one) is tuple])
            good = [(200, render(left, right)) for left, right in logits]
        except Exception as error:
            good = [self.fail(error)] * sum(type(one) is tuple for one in asked)
        if len(good) == len(asked):
            return good
        answers = iter(good)
        return [refuse(one) if isinstance(one, BadObservation) else next(answers) for one in asked]

    def fail(self, error: Exception) -> Answer:
        """A forward raised: 500, and one log line until it raises something else."""
        if str(error) != self._last_failure:
            self._last_failure = str(error)
            logger.error("forward failed: %s", error)
        return 500, INTERNAL_ERROR

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, body = self.answer(scope["query_string"])
        await _respond(scope, send, status, body)


def refuse(error: BadObservation) -> Answer:
    return 400, render_error(str(error))


class Constant:
    """Answers 200 with a body that never changes."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _respond(scope, send, 200, self._body)


async def _respond(scope: Scope, send: Send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers(len(body))})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def create_app(inference: Inference | None = None) -> Starlette:
    """The application, for any ASGI server: `uvicorn --factory cartpole.app:create_app`.

    Args:
        inference: what answers; by default the model and threads of the CARTPOLE_… environment.

    Raises:
        BadPolicy: the model file can't be served.
        BadSettings: a CARTPOLE_… variable has no valid value.
    """
    if inference is None:
        settings = read_environment(os.environ)
        set_threads(settings.threads)
        inference = Inference(Runner(load(settings.model)))
    routes = [
        Route("/inference", inference, methods=METHODS),
        Route("/health/live", Constant(b'{"status":"live"}'), methods=METHODS),
        Route("/health/ready", Constant(b'{"status":"ready"}'), methods=METHODS),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route, Exception: _fail})
    app.router.redirect_slashes = False
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    """No such path (404), or not with this method (405)."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        body, extra = render_error(f"{request.method} is not allowed here"), _ALLOW
    else:
        body, extra = render_error("no such path"), None
    return Response(body, error.status_code, extra, "application/json")


async def _fail(request: Request, error: Exception) -> Response:
    return Response(INTERNAL_ERROR, 500, media_type="application/json")
