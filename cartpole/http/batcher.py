"""One forward for all inference requests that arrive in the same turn of the event loop."""

from collections.abc import Callable
from time import perf_counter_ns as clock
from typing import Protocol

from uvicorn.server import ServerState

from cartpole.api.inference import Inference, Query
from cartpole.api.responses import Headers
from cartpole.http.failures import ConnectionFailures
from cartpole.http.response_heads import ResponseHeads
from cartpole.predictor import MAX_ROWS


class Writer(Protocol):
    """The part of a transport that answers need."""

    def is_closing(self) -> bool: ...
    def write(self, answer: bytes, /) -> None: ...


class Requester(Protocol):
    """The connection that a request came on."""

    @property
    def transport(self) -> Writer: ...

    @property
    def server_state(self) -> ServerState: ...

    def abort(self) -> None: ...


class Batcher:
    """Collects requests while the ready sockets are read, and answers them all at once."""

    def __init__(self, inference: Inference, failures: ConnectionFailures) -> None:
        self._inference, self._failures = inference, failures
        self._counters = inference.predictor.counters
        self._requesters: list[Requester] = []
        self._queries: list[Query] = []
        self._heads = ResponseHeads([])
        self._began_at = 0  # nanoseconds, when the first request of the batch was added
        self._has_answered: Callable[[], object] = bool  # does nothing

    def on_answers(self, has_answered: Callable[[], object]) -> None:
        """Call this after each batch."""
        self._has_answered = has_answered

    def add(self, requester: Requester, query: Query) -> None:
        if not self._requesters:
            self._began_at = clock()
        self._requesters.append(requester)
        self._queries.append(query)
        if len(self._requesters) >= MAX_ROWS:
            self.flush()

    def renew_heads(self, default: Headers) -> None:
        """Encode the response heads again, if uvicorn has replaced the default headers (the date).

        It does so once a second. Rehearsal calls this ahead of the next request.
        """
        if self._heads.default is not default:
            self._heads = self._heads.renewed(default)

    def flush(self) -> None:
        """Answer all requests that were added, in order."""
        requesters, queries = self._requesters, self._queries
        if requesters:
            self._requesters, self._queries = [], []
            self._answer(requesters, queries)
            self._has_answered()

    def _answer(self, requesters: list[Requester], queries: list[Query]) -> None:
        state = requesters[0].server_state
        state.total_requests += len(queries)
        self.renew_heads(state.default_headers)
        heads = self._heads
        try:
            answers = self._inference.answer_all(queries)
            # Counted before they leave: a client that has its answer finds it in the metrics.
            self._counters.record_answers(answers, clock() - self._began_at)
        except Exception:
            return self._failures.abort(*requesters)
        answered = zip(requesters, answers, strict=True)
        while True:
            try:
                for requester, answer in answered:
                    transport = requester.transport
                    if not transport.is_closing():
                        status, body = answer
                        transport.write(heads[status, len(body)] + body)
                return
            except Exception:  # ends this connection; the loop goes on with the next
                self._failures.abort(requester)
