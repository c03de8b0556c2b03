"""The sending half of a connection: answers to its requests, one at a time, and its end."""

import asyncio
from collections.abc import Callable
from enum import Enum

from starlette.types import Scope

from cartpole.api.inference import Query
from cartpole.api.observation import BadObservation, parse
from cartpole.api.responses import Headers
from cartpole.http.connections import Admission
from cartpole.http.exchange import Exchange, describe
from cartpole.http.reader import Request
from cartpole.http.responses import KEPT, KEPT_HTTP_1_0, LAST
from cartpole.http.shared import Shared
from cartpole.http.time_limits import Awaited, TimeLimits, Verdict
from cartpole.metrics.rejections import TOO_MANY_CONNECTIONS, TOO_SLOW, Rejection


class Phase(Enum):
    """How the bytes that a connection receives are treated."""

    OPEN = "they are read"
    FINISHED = "the last answer is written, or waits in the batcher: they are discarded"
    LOST = "there are none"


OPEN, FINISHED, LOST = Phase


class Answers:
    """The sending side of a connection.

    Attributes:
        phase: OPEN until the last answer.
        exchange: the request that the application answers now.
        half_closed: the client sends no more.
    """

    def __init__(
        self,
        shared: Shared,
        transport: asyncio.Transport,
        times: TimeLimits,
        admission: Admission,
        advance: Callable[[], None],
    ) -> None:
        """advance: called when the application has answered."""
        self._shared, self._times, self.transport = shared, times, transport
        self._admission, self._advance = admission, advance
        self.phase, self.half_closed = OPEN, False
        self.exchange: Exchange | None = None
        self._scope: Scope | None = None

    def infer(self, query: Query, persistence: bytes) -> None:
        """Answer GET /inference at the end of the turn."""
        self._times.idle = 0
        if persistence is LAST:
            self.phase = FINISHED
        self._shared.batcher.add(self, query, persistence)

    def answer(self, request: Request, head: bytes = b"") -> None:
        """Answer a request that is whole, or whose client waits for 100 Continue.

        Args:
            head: its bytes, if it has no body.
        """
        shared = self._shared
        if self.exchange:
            self.exchange.wake()
        elif shared.is_fast and request.is_inference() and request.is_whole:
            persistence = self.persistence(request)
            if not shared.connections.is_stopping:
                shared.known_heads.learn(head, persistence)
            request.body = b""
            self.infer(_parse(request.query), persistence)
        else:
            shared.batcher.flush()  # earlier requests are answered first
            if answered := shared.answer_directly(request):
                return self._write(request, *answered)
            self.exchange = Exchange(request, self.transport, self._end_exchange)
            self._scope = self._scope or describe(self.transport)
            self.exchange.task = shared.run(self.exchange, self._scope)

    def may_be_fast(self) -> bool:
        """Whether nothing is being answered, and the next answer need not be the last."""
        shared = self._shared
        is_open = shared.is_fast and not shared.connections.is_stopping
        return is_open and self.exchange is None and self._admission is Admission.ALL

    def read_on(self, wanted: bool) -> None:
        """Have the transport read, or pause."""
        if self.phase is not LOST and not wanted:
            self.transport.pause_reading()
        elif self.phase is not LOST and not self.half_closed:
            self.transport.resume_reading()

    def is_answering(self) -> bool:
        """Whether the application has a whole request."""
        return self.exchange is not None and self.exchange.request.is_whole

    def _end_exchange(self, status: int, body: bytes, lines: Headers) -> None:
        assert self.exchange
        request, self.exchange = self.exchange.request, None
        self._write(request, status, body, lines)
        self._advance()

    def persistence(self, request: Request) -> bytes:
        """LAST unless client and service both go on."""
        goes_on = self._admission is Admission.ALL and not self._shared.connections.is_stopping
        if not (goes_on and request.keep_alive and request.is_whole):
            return LAST
        return KEPT if request.version == "1.1" else KEPT_HTTP_1_0

    def _write(self, request: Request, status: int, body: bytes, lines: Headers) -> None:
        persistence = self.persistence(request)
        request.body = b""  # the reader keeps the request, in case that the next begins alike
        self._send(self._shared.encode(status, body, lines, persistence))
        self._shared.turns.mark_answered()
        if persistence is LAST:
            self.finish()

    def reject(self, rejection: Rejection, is_head: bool = False) -> None:
        """Answer with an error, and end."""
        self._shared.batcher.flush()  # earlier requests are answered first
        self._shared.connections.rejections.record(rejection)
        self._send(self._shared.encode_rejection(rejection, is_head))
        self.finish()

    def _send(self, answer: bytes) -> None:
        self._times.idle = 0
        if not self.transport.is_closing():
            self.transport.write(answer)

    def refuse(self) -> None:
        """Close a connection that is far past the limit: nothing is read from it."""
        self.half_closed = True
        self.reject(TOO_MANY_CONNECTIONS)

    def finish(self) -> None:
        """The last answer is written. End once the client has read it.

        Closing at once would reset the connection, and so lose the answer, if the client has sent
        more, or does so now: RFC 9112, section 9.6.
        """
        self._drop_exchange()
        if self.phase is OPEN:
            self.phase = FINISHED
        self._times.await_reader()
        if self.half_closed:
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.write_eof()

    def end_input(self) -> None:
        """All requests are answered: end, if the client sends no more."""
        if self.half_closed:
            self._shared.batcher.flush()
            self.finish()

    def lose(self) -> None:
        """The connection is gone."""
        self.phase, self._advance = LOST, _do_nothing
        self._drop_exchange()

    def _drop_exchange(self) -> None:
        if self.exchange:
            self.exchange.disconnect()
            self.exchange = None

    def abort(self) -> None:
        self.transport.abort()

    def check_time(self, awaited: Awaited, is_head: bool) -> bool:
        """End if the client has taken too long. Returns whether it has.

        Args:
            is_head: the request that is read is a HEAD.
        """
        if self.phase is not OPEN or self.transport.is_closing():
            awaited = Awaited.END
        in_reserve = self._admission is Admission.HEALTH
        verdict = self._times.check(awaited, self.transport, in_reserve)
        if verdict is Verdict.REJECT:
            self.reject(TOO_MANY_CONNECTIONS if in_reserve else TOO_SLOW, is_head)
        elif verdict is Verdict.FINISH:
            self.finish()
        elif verdict is Verdict.CLOSE:
            self.transport.close()
        elif verdict is Verdict.ABORT:
            self.transport.abort()
        return verdict is not None


def _do_nothing() -> None: ...


def _parse(query: bytes) -> Query:
    try:
        return parse(query)
    except BadObservation as error:
        return error
