"""Rehearsal: made-up requests keep the code of the real ones in the processor's caches.

docs/rehearsal.md explains what that gains at low rates, and what it costs.
"""

import asyncio
from time import perf_counter_ns as clock
from time import thread_time
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from cartpole.api.forward_failures import ForwardFailures
from cartpole.api.inference import Inference
from cartpole.http.connection import Connection
from cartpole.http.shared import Shared
from cartpole.predictor import Predictor

# Chosen from the curve of bench/traffic.py (docs/rehearsal.md): caches are cold after some
# milliseconds.
PERIOD_SECONDS = 0.002
MOST_SHARE = 0.05  # of a core: where a rehearsal costs more, it has a longer period
REST_SECONDS = 0.1  # between two looks, while there is no reason to rehearse
ACTIVE_SECONDS = 5  # since the last request; then clients are taken to be gone

OBSERVATION = (0.0123, -0.4567, 0.0345, 0.789)
REQUEST = (
    b"GET /inference?position=%g&velocity=%g&angle=%g&angular_velocity=%g" % OBSERVATION
    + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
)


class Unlogged(ForwardFailures):
    """A rehearsal that fails concerns no client. It is the last with its engine."""

    def record(self, error: Exception) -> None:
        self.is_ongoing = True

    def recover(self) -> None: ...


class Rehearsal:
    """Sends a made-up request through a connection of its own, while real ones are rare.

    The connection has the classes and the engine of the real ones. Its counters, clocks and
    transport are its own, so a rehearsal is counted nowhere and answers nobody.
    """

    def __init__(self, shared: Shared, predictor: Predictor) -> None:
        """Prepare to rehearse for the connections that these two serve, by the fast path."""
        self._shared, self._predictor = shared, predictor
        self._rehearsed = Inference(Predictor(predictor.engine), Unlogged())
        self._own = Shared(shared.limits, self._rehearsed, _no_app, {}, is_fast=True, poll="never")
        self._seconds = PERIOD_SECONDS * MOST_SHARE  # of the processor for a period, on average
        self._used, self._answered_at = 0.0, 0  # processor time, last answer at the last look
        self._has_rehearsed = False  # since then

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._own.start(loop, ServerState())
        self._connection = Connection(self._own)
        self._connection.connection_made(_Discard())
        loop.call_later(REST_SECONDS, self._look)

    def _look(self) -> None:
        """Rehearse if a request came lately, but none within the last period."""
        self._learn_cost()
        period = max(PERIOD_SECONDS, self._seconds / MOST_SHARE)
        idle = (clock() - self._shared.turns.answered_at) / 1e9
        if idle > ACTIVE_SECONDS or not self._shared.connections.any_open():
            self._loop.call_later(REST_SECONDS, self._look)
        else:
            if idle > period:
                # Timers run before the sockets are read. The second call comes after that, so
                # that a request which is there goes first.
                self._loop.call_soon(self._loop.call_soon, self._rehearse)
            self._loop.call_later(period, self._look)

    def _rehearse(self) -> None:
        idle = clock() - self._shared.turns.answered_at
        if idle < PERIOD_SECONDS * 1e9 or not self._is_fit():
            return
        self._has_rehearsed = True
        self._connection.data_received(REQUEST)
        self._own.turns.end()

    def _learn_cost(self) -> None:
        """Count all that the last period took, wake-ups too, if it held nothing but a rehearsal."""
        used, answered_at = thread_time(), self._shared.turns.answered_at
        if self._has_rehearsed and answered_at == self._answered_at:
            self._seconds += (used - self._used - self._seconds) / 16
        self._used, self._answered_at, self._has_rehearsed = used, answered_at, False

    def _is_fit(self) -> bool:
        """Whether the present engine has not failed to answer the made-up request."""
        engine, rehearsed = self._predictor.engine, self._rehearsed
        if engine is not rehearsed.predictor.engine:
            rehearsed.predictor.use(engine)
            rehearsed.failures.is_ongoing = False
        return not rehearsed.failures.is_ongoing


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of a rehearsal, which the fast path never asks."""


class _Discard(asyncio.Transport):
    """A transport whose client reads everything."""

    def write(self, data: Any) -> None: ...

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default
