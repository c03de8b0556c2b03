"""An HTTP connection: uvicorn's protocol with limits on heads, bodies, time and connections.

Leans on uvicorn's HttpToolsProtocol; tests/test_uvicorn.py says on what.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from cartpole.http.checked_requests import CheckedRequests
from cartpole.http.closing import has_unread_bytes
from cartpole.http.connections import HEALTH_RESERVE
from cartpole.http.rejections import encode_rejection
from cartpole.http.shared import Shared
from cartpole.http.whole_requests import WholeRequests

# A connection's first bytes are read at once, even in a turn that is full, if they come within this
# time of its opening and the turn has read at most twice its bound (bench/overload.py: health).
NEW_SECONDS = 1


class HttpConnection(CheckedRequests):
    """A connection whose client may take neither more memory nor more time than the limits say.

    Attributes:
        half_closed: the client sends no more.
    """

    def __init__(
        self,
        shared: Shared,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(shared, config, server_state, app_state, _loop)
        self._clock, self._turns = shared.clock, shared.turns
        self.half_closed = False
        self._deferred = b""  # received, to be read in a later turn of the event loop
        self._has_read = False

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
        if self.cycle is not self._running:  # it never entered the application
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
        """The client sends no more. Its earlier requests are still answered."""
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
        """Whether these are a new connection's first bytes, which a full turn still reads."""
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
        if self.in_message or data.strip(b"\r\n"):  # empty lines between requests are no activity
            self._times.last_activity = self._clock.now
        was_in_body = self.in_message and not self.in_head
        self._sizes.begin_read()
        WholeRequests.data_received(self, data)  # feeds the parser; ours would defer
        if status := self._sizes.end_read(data, self.in_head, was_in_body):
            self.reject(status)
        self.run_expecting_continue()

    # Answers, rejections and the end

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._turns.has_answered()
        self._unset_keepalive_if_required()  # our time limits take the place of uvicorn's timer
        if self.finished:
            return
        if self._deferred or self.pipeline:
            # uvicorn has resumed reading, however many requests wait. The pause goes on.
            self.flow.pause_reading()
        elif self.in_message:
            self._times.begin_message()
        if not self.is_answering() and not self.transport.is_closing():
            if self.rejection:
                self._send_rejection()
            elif self.half_closed:
                self.transport.close()
            else:
                self.run_expecting_continue()

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
