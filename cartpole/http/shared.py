"""The parts that all connections of a serving process share, and what they do for each."""

import asyncio
from time import perf_counter_ns as clock

from starlette.types import ASGIApp, Scope
from uvicorn.server import ServerState

from cartpole.api.batches import Answered, Endpoints
from cartpole.api.inference import Inference
from cartpole.api.responses import Headers
from cartpole.http.batcher import Batcher
from cartpole.http.connections import Connections
from cartpole.http.exchange import Exchange
from cartpole.http.known_heads import KnownHeads
from cartpole.http.limits import ClientLimits
from cartpole.http.polling import Polling
from cartpole.http.reader import Request
from cartpole.http.responses import encode_head, encode_rejection
from cartpole.http.turns import ASGI_TURN_BYTES, FAST_TURN_BYTES, Turns
from cartpole.logs import Failures
from cartpole.metrics.rejections import Rejection


class Shared:
    """The shared parts of a process that serves one policy.

    Attributes:
        is_fast: connections answer GET /inference and small batches themselves; else the ASGI
            application does.
    """

    def __init__(
        self,
        limits: ClientLimits,
        inference: Inference,
        app: ASGIApp,
        endpoints: Endpoints,
        is_fast: bool,
        poll: str = "auto",
    ) -> None:
        """Put the parts together.

        Args:
            endpoints: of the application, that answer batches, by path.
            poll: "auto", "always" or "never"; see polling.py.
        """
        self.limits, self.is_fast = limits, is_fast
        self.failures, self.polling, self.known_heads = Failures(), Polling(poll), KnownHeads()
        self.batcher = Batcher(inference, self.failures)
        turn_bytes = FAST_TURN_BYTES if is_fast else ASGI_TURN_BYTES
        self.turns = Turns(turn_bytes, self.batcher.flush, self.polling)
        self._counters = inference.predictor.counters
        self.connections = Connections(
            limits, self._counters, self.batcher.flush, self.failures, self.polling
        )
        self._app = app
        self._endpoints = {path.encode(): each for path, each in endpoints.items()}

    def start(self, loop: asyncio.AbstractEventLoop, state: ServerState) -> None:
        self._loop, self._state = loop, state
        self.polling.start(loop)
        self.turns.start(loop)
        self.batcher.start(state, self.turns.mark_answered)
        self.connections.start(state)

    def run(self, exchange: Exchange, connection: Scope) -> asyncio.Task[None]:
        """Have the application answer a request; see Exchange.run."""
        task = self._loop.create_task(exchange.run(self._app, connection, self.failures.record))
        self._state.tasks.add(task)  # uvicorn waits for them when it stops
        task.add_done_callback(self._state.tasks.discard)
        return task

    def answer_directly(self, request: Request) -> Answered | None:
        """Answer a small batch in the place of the application; None if that is to do so."""
        if request.method != "POST" or not (self.is_fast and request.is_whole):
            return None
        endpoint = self._endpoints.get(request.path)
        answered = endpoint and endpoint.answer(request.headers, request.body)
        if not (endpoint and answered):
            return None
        nanoseconds = clock() - request.head_read_at
        self._counters.record_request(endpoint.route, answered[0], nanoseconds)
        return answered

    def encode(self, status: int, body: bytes, lines: Headers, persistence: bytes) -> bytes:
        """The bytes of an answer that is written now."""
        self._state.total_requests += 1
        return encode_head(status, [*self._state.default_headers, *lines], persistence) + body

    def encode_rejection(self, rejection: Rejection, is_head: bool = False) -> bytes:
        """The same for a rejection."""
        return encode_rejection(rejection, self._state.default_headers, is_head)
