"""Whole POST requests answered without ASGI, where an endpoint can answer at once.

The bytes are those of the application's answer. Leans on uvicorn's RequestResponseCycle.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter_ns as clock
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from cartpole.api.batches import Answered, BatchEndpoint
from cartpole.api.middleware import HEAD_READ_AT
from cartpole.api.responses import CLOSE, Headers
from cartpole.http.response_heads import encode_head
from cartpole.metrics.counters import WorkerCounters
from cartpole.metrics.routes import ROUTE_OF


@dataclass(frozen=True, slots=True)
class Repeatable:
    """The last request of a connection, if another with the same head needs no parser.

    The same bytes mean the same method, target, headers and length of the body.

    Attributes:
        head: with the empty line that ends it.
        size: of the whole request.
    """

    head: bytes
    size: int
    path: str
    headers: Headers

    def is_repeated(self, data: bytes) -> bool:
        return len(data) == self.size and data.startswith(self.head)


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

    def answer_again(self, request: Repeatable, data: bytes, default: Headers) -> bytes:
        """The answer to a request with the head of an earlier one, as bytes."""
        started = clock()
        body = data[len(request.head) :]
        answered = self._endpoints[request.path].answer(request.headers, body)
        assert answered, "a body of the same size and coding was light"
        status, body, lines = answered
        self._counters.record_request(ROUTE_OF[request.path], status, clock() - started)
        return encode_head(status, [*default, *lines]) + body


def repeatable(cycle: RequestResponseCycle, data: bytes, size: int) -> Repeatable | None:
    """The answered request as one that may be repeated, if it and its body are all of `data`.

    Args:
        size: of its body.
    """
    head = data[: data.find(b"\r\n\r\n") + 4]
    headers = list(cycle.scope["headers"])
    framing = [value for name, value in headers if name == b"content-length"]
    has_more = any(name in (b"expect", b"transfer-encoding") for name, _ in headers)
    if (
        len(head) < 4
        or len(head) + size != len(data)
        or not framing
        or has_more
        or not cycle.keep_alive
    ):
        return None
    return Repeatable(head, len(data), cycle.scope["path"], headers)


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
