"""Whole POST requests answered without ASGI, where an endpoint can answer at once.

The bytes are those of the application's answer. Leans on uvicorn's RequestResponseCycle.
"""

from collections.abc import Mapping
from time import perf_counter_ns as clock
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from cartpole.api.batches import Answered, BatchEndpoint
from cartpole.api.middleware import HEAD_READ_AT
from cartpole.api.responses import CLOSE
from cartpole.http.response_heads import encode_head
from cartpole.metrics.counters import WorkerCounters
from cartpole.metrics.routes import ROUTE_OF


class DirectAnswers:
    """Answers small batches in the place of the ASGI application (bench/protocol.py)."""

    def __init__(
        self, endpoints: Mapping[str, BatchEndpoint[Any]], counters: WorkerCounters
    ) -> None:
        self._endpoints, self._counters = endpoints, counters

    def answer(self, cycle: RequestResponseCycle) -> bool:
        """Answer a request whose body is complete; False if the application is to do so."""
        scope = cycle.scope
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is None or scope["method"] != "POST" or cycle.flow.write_paused:
            return False
        answered = endpoint.answer(scope["headers"], bytes(cycle.body))
        if answered is None:
            return False
        nanoseconds = clock() - scope[HEAD_READ_AT]  # type: ignore[literal-required]
        self._counters.record_request(ROUTE_OF[scope["path"]], answered[0], nanoseconds)
        _complete(cycle, answered)
        return True


def _complete(cycle: RequestResponseCycle, answered: Answered) -> None:
    """Do what RequestResponseCycle.send does with a whole answer."""
    status, body, lines = answered
    end = [] if cycle.keep_alive else [CLOSE]
    cycle.transport.write(encode_head(status, [*cycle.default_headers, *lines, *end]) + body)
    cycle.response_started = cycle.response_complete = True
    cycle.body = bytearray()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    cycle.on_response = _do_nothing


def _do_nothing() -> None:
    pass
