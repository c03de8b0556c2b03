"""One forward for all inference requests that arrive in the same turn of the event loop."""

import asyncio
from collections.abc import Callable
from time import perf_counter_ns as clock
from typing import Protocol

from uvicorn.server import ServerState

from cartpole.api.inference import Inference, Query
from cartpole.http.responses import LAST, ResponseHeads
from cartpole.logs import Failures
from cartpole.predictor import MAX_ROWS


class Requester(Protocol):
    """The connection that a request came on."""

    transport: asyncio.Transport

    def finish(self) -> None: ...
    def abort(self) -> None: ...


class Batcher:
    """Collects requests while the ready sockets are read, and answers them all at once."""

    def __init__(self, inference: Inference, failures: Failures) -> None:
        self._inference, self._failures = inference, failures
        self._counters = inference.predictor.counters
        self._requesters: list[Requester] = []
        self._queries: list[Query] = []
        self._persistences: list[bytes] = []
        self._heads = ResponseHeads([])
        self._began_at = 0  # nanoseconds, when the first request of the batch was added

    def start(self, state: ServerState, mark_answered: Callable[[], None]) -> None:
        """mark_answered: called after each batch."""
        self._state, self._mark_answered = state, mark_answered

    def add(self, requester: Requester, query: Query, persistence: bytes) -> None:
        """Answer a query; see responses.py for its persistence. LAST ends the connection."""
        if not self._requesters:
            self._began_at = clock()
        self._requesters.append(requester)
        self._queries.append(query)
        self._persistences.append(persistence)
        if len(self._requesters) >= MAX_ROWS:
            self.flush()

    def flush(self) -> None:
        """Answer all requests that were added, in order."""
        requesters = self._requesters
        if requesters:
            queries, persistences = self._queries, self._persistences
            self._requesters, self._queries, self._persistences = [], [], []
            self._answer(requesters, queries, persistences)
            self._mark_answered()

    def _answer(
        self, requesters: list[Requester], queries: list[Query], persistences: list[bytes]
    ) -> None:
        state = self._state
        state.total_requests += len(queries)
        if self._heads.default is not state.default_headers:  # uvicorn's date, once a second
            self._heads = ResponseHeads(state.default_headers)
        heads = self._heads
        try:
            answers = self._inference.answer_all(queries)
            # Counted before they leave: a client that has its answer finds it in the metrics.
            self._counters.record_answers(answers, clock() - self._began_at)
        except Exception:
            return self._failures.abort(*requesters)
        answered = zip(requesters, answers, persistences, strict=True)
        while True:
            try:
                for requester, answer, persistence in answered:
                    transport = requester.transport
                    if not transport.is_closing():
                        status, body = answer
                        transport.write(heads[status, len(body), persistence] + body)
                        if persistence is LAST:
                            requester.finish()
                return
            except Exception:  # ends this connection; the loop goes on with the next
                self._failures.abort(requester)
