"""An HTTP connection: uvicorn's protocol with limits on heads, bodies, time and connections.

Leans on uvicorn's HttpToolsProtocol; tests/http/test_uvicorn.py says on what.
"""

import asyncio
import sys
from http import HTTPStatus
from time import perf_counter_ns as clock
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from cartpole.api.middleware import HEAD_READ_AT
from cartpole.http.closing import CycleTransport, has_unread_bytes
from cartpole.http.connections import HEALTH_RESERVE
from cartpole.http.head_rules import head_error, origin_form
from cartpole.http.message_sizes import BODY_TOO_LARGE, MessageSizes
from cartpole.http.rejections import encode_rejection
from cartpole.http.shared import Shared
from cartpole.http.time_limits import TimeLimits
from cartpole.http.whole_requests import WholeRequests

# A new connection's first bytes are read at once, past the bound of the turn, for so long.
NEW_SECONDS = 1


class HttpConnection(WholeRequests):
    """A connection whose client may take neither more memory nor more time than the limits say.

    Attributes:
        in_head, in_message: uvicorn's parser is inside a request's head, or anywhere inside one.
        rejection: the status that ends this connection, once earlier requests are answered.
        half_closed: the client sends no more.
        over_limit: there are more connections than the limit; this one may only ask for health.
    """

    def __init__(
        self,
        shared: Shared,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits, self._clock = shared.limits, shared.clock
        self._connections, self._turns = shared.connections, shared.turns
        self.in_head = self.in_message = False
        self.rejection: HTTPStatus | None = None
        self.half_closed = self.over_limit = False
        self._deferred = b""  # received, to be read in a later turn of the event loop
        self._has_read = False
        self._sizes = MessageSizes(shared.limits)
        self._times = TimeLimits(shared.limits, shared.clock, shared.connections)
        self._cycle_transport: CycleTransport | None = None

    # The transport's events

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        excess = self._connections.add(self)
        self.over_limit = self.over_limit or excess > 0
        if excess > HEALTH_RESERVE:
            self.reject(HTTPStatus.SERVICE_UNAVAILABLE)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        if self._running and not self._running.response_complete:
            self._running.disconnected = True  # uvicorn tells only the latest request
            self._running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)
        # Break the reference cycles, so that the memory is freed at once.
        if self._cycle_transport:
            self._cycle_transport.release()
        if self.cycle is not self._running:  # it has not started
            self.cycle = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        turns = self._turns
        if self.finished:
            return
        if self._deferred or (turns.bytes_this_turn > turns.bytes_per_turn and not self._is_new()):
            return self.defer(data)
        if not turns.bytes_this_turn:
            turns.begin()
        self.read(data)
        turns.bytes_this_turn += len(data) - len(self._deferred)
        self._has_read = True

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. What it has asked is still answered."""
        self.half_closed = True
        return self.is_answering() or bool(self._deferred)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._times.last_activity = self._clock.now
        self._pause_reading()  # a client that does not read its answers may not ask for more

    def resume_writing(self) -> None:
        super().resume_writing()
        self._times.last_activity = self._clock.now
        self._resume_reading()

    def abort(self) -> None:
        self.transport.abort()

    # Reading, now or in a later turn

    def _is_new(self) -> bool:
        """Whether these are a new connection's first bytes: they are not deferred, within bounds."""
        turns = self._turns
        is_new = not self._has_read and self._clock.now - self._times.opened_at <= NEW_SECONDS
        return is_new and turns.bytes_this_turn <= 2 * turns.bytes_per_turn

    def has_deferred(self) -> bool:
        return bool(self._deferred)

    def defer(self, data: bytes) -> None:
        """Read these bytes in a later turn, and receive no more until then."""
        if not self._deferred:
            self._pause_reading()
            self._turns.defer(self)
        self._deferred += data

    def resume(self) -> None:
        """Read the deferred bytes."""
        data, self._deferred = self._deferred, b""
        if self.finished or self.transport.is_closing():
            return
        self.read(data)
        self._turns.bytes_this_turn += len(data) - len(self._deferred)
        if self.half_closed and not self._deferred:
            self._turns.flush()
            if not self.is_answering():
                self.transport.close()
        self._resume_reading()

    def _pause_reading(self) -> None:
        if not self.flow.read_paused:
            self._times.pause()
        self.flow.pause_reading()

    def _resume_reading(self) -> None:
        is_busy = self._deferred or self.pipeline or self.flow.write_paused
        if self.flow.read_paused and not is_busy:
            self.flow.resume_reading()
            self._times.resume()

    def read(self, data: bytes) -> None:
        """Parse what the client has sent. Its requests are answered in order."""
        if self.rejection:
            return  # the connection ends: what follows is not read
        self._times.last_activity = self._clock.now
        was_in_body = self.in_message and not self.in_head
        self._sizes.begin_read()
        WholeRequests.data_received(self, data)
        if status := self._sizes.end_read(data, self.in_head, was_in_body):
            self.reject(status)
        self.run_expecting_continue()

    # The parser's events

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.in_head = self.in_message = True
        self._sizes.begin_message()
        self._times.begin_message()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if status := self._sizes.add_head(len(url)):
            self.reject(status)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # else it is a trailer, which is no header: RFC 9110, 6.5.1
            super().on_header(name, value)
        if status := self._sizes.add_head(len(name) + len(value) + 4):
            self.reject(status)

    def on_headers_complete(self) -> None:
        self.in_head = False
        if self.rejection:
            return
        self.scope[HEAD_READ_AT] = clock()  # type: ignore[literal-required]
        if status := self._head_error():
            return self.reject(status)
        super().on_headers_complete()
        cycle = self.cycle
        if cycle.keep_alive:  # else the client sends no more: nothing to close with care
            self._cycle_transport = self._cycle_transport or CycleTransport(self)
            cycle.transport = self._cycle_transport  # type: ignore[assignment]
        if self.parser.should_upgrade() or self._connections.is_stopping or self.over_limit:
            # llhttp reads no further request after one that asks for another protocol.
            cycle.keep_alive = False

    def _head_error(self) -> HTTPStatus | None:
        """The status to reject this head with, if any. Sets method and target for uvicorn."""
        version, method = self.parser.get_http_version(), self.parser.get_method()
        self.scope["method"] = method.decode("ascii")
        if status := head_error(version, method, self.url, self.headers):
            return status
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110, 10.1.1
        for name, value in self.headers:
            if name == b"content-length" and int(value) > self._limits.body_bytes:
                return BODY_TOO_LARGE
        self.url = origin_form(self.url)
        if self.over_limit and not self.url.startswith(b"/health/"):
            return HTTPStatus.SERVICE_UNAVAILABLE
        return None

    def on_body(self, body: bytes) -> None:
        if status := self._sizes.add_body(len(body)):
            self.reject(status)
        if not self.rejection:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.in_message = False
        if not self.rejection:
            super().on_message_complete()

    # Answers, rejections and the end

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # our time limits take the place of uvicorn's timer
        if self.finished:
            return
        if self._deferred or self.pipeline:
            self.flow.pause_reading()  # uvicorn reads on, however many requests wait
        elif self.in_message:
            self._times.begin_message()
        if not self.is_answering() and not self.transport.is_closing():
            if self.rejection:
                self._send_rejection()
            elif self.half_closed:
                self.transport.close()
            else:
                self.run_expecting_continue()

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this while it handles an error of its parser."""
        is_version = str(sys.exception()) == "Invalid HTTP version"
        self.reject(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED if is_version else HTTPStatus.BAD_REQUEST)

    def reject(self, status: HTTPStatus) -> None:
        """Answer with an error and close, once earlier requests are answered."""
        if self.rejection or self.finished or self.transport.is_closing():
            return
        self.rejection = status
        self._connections.rejections.record(status)
        self.in_head = False
        if not self.is_answering():
            self._send_rejection()

    def _send_rejection(self) -> None:
        assert self.rejection
        self.drop_request()
        is_head = self.in_message and self.scope.get("method") == "HEAD"
        default = self.server_state.default_headers
        self.transport.write(encode_rejection(self.rejection, default, is_head))
        self._finish(linger=True)

    def check_time(self) -> None:
        """Called once a second."""
        self._times.check(self)

    def shutdown(self) -> None:
        """The service stops: the current answer is the last on this connection.

        An idle connection is closed a little later, as a request may be on its way.
        """
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def hang_up(self) -> None:
        """Close after the last answer. The client can still read it: see closing.py."""
        if not self.finished and not self.transport.is_closing():
            asked_more = self.pipeline or self.in_message or self.flow.read_paused
            self._finish(linger=bool(asked_more or has_unread_bytes(self.transport)))

    def _finish(self, linger: bool) -> None:
        self.finished = True
        self._times.begin_closing()
        self.pipeline.clear()
        self._deferred = b""
        if linger and not self.half_closed and self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()
