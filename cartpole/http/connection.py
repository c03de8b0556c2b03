"""uvicorn's HTTP protocol with the limits that it lacks: on heads, bodies, time and connections.

Leans on uvicorn's HttpToolsProtocol; tests/test_uvicorn.py says on what.
"""

import asyncio
import sys
from collections.abc import Callable
from fcntl import ioctl
from http import HTTPStatus
from termios import FIONREAD, TIOCOUTQ
from time import perf_counter_ns as clock
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from cartpole.app import HEAD_READ
from cartpole.http.head_rules import fault, origin_form
from cartpole.http.limits import HEALTH_RESERVE, RESERVE_SECONDS, Worker
from cartpole.http.rejections import refusal
from cartpole.http.whole_requests import WholeRequests

NEW_SECONDS = 1
CLOSE_SECONDS = 2  # after the last answer, or since the client has last read a part of it


class LimitedProtocol(WholeRequests):
    """A connection whose client may take neither more memory nor more time than the limits say."""

    def __init__(
        self,
        worker: Worker,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.worker = worker
        self.in_head = False  # of a message that uvicorn's parser reads
        self.in_message = False
        self.refusal = 0  # the status that ends this connection once what came before is answered
        self.half_closed = self.overloaded = False
        self._held = b""  # what was read and has to wait for a later turn of the event loop
        self._head_bytes = self._head_read = self._body_bytes = 0
        self._began_in_read = self._body_in_read = False
        self._heard = False
        self._closing_since: int | None = None
        self._unsent = 0  # bytes, a second ago
        self._cycle_transport: _CycleTransport | None = None
        self._made = self.last_data = self._message_began = self._paused = worker.second

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        excess = self.worker.admit(self)
        self.overloaded = self.overloaded or excess > 0
        if excess > HEALTH_RESERVE:
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.leave(self)
        if self._running and not self._running.response_complete:
            self._running.disconnected = True  # uvicorn says so to the last that was asked only
            self._running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)
        # Without reference cycles, all is freed at once.
        if self._cycle_transport:
            self._cycle_transport.release()
        if self.cycle is not self._running:  # it has not started
            self.cycle = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        worker = self.worker
        if self.ended:
            return
        if self._held or (worker.taken > worker.turn_bytes and not self._is_new()):
            return self.hold(data)
        if not worker.taken:
            worker.begin_turn()
        self.read(data)
        worker.taken += len(data) - len(self._held)
        self._heard = True

    def _is_new(self) -> bool:
        """Whether this is the first of a new connection: such need not wait, within bounds."""
        worker = self.worker
        new = not self._heard and worker.second - self._made <= NEW_SECONDS
        return new and worker.taken <= 2 * worker.turn_bytes

    def hold(self, data: bytes) -> None:
        """Have what was read wait for a later turn, and read no more until then."""
        if not self._held:
            self._pause_reading()
            self.worker.wait(self)
        self._held += data

    def go_on(self) -> None:
        """Read what was held."""
        data, self._held = self._held, b""
        if self.ended or self.transport.is_closing():
            return
        self.read(data)
        self.worker.taken += len(data) - len(self._held)
        if self.half_closed and not self._held:
            self.worker.flush()
            if not self.answering():
                self.transport.close()
        self._resume_reading()

    def _pause_reading(self) -> None:
        if not self.flow.read_paused:
            self._paused = self.worker.second
        self.flow.pause_reading()

    def _resume_reading(self) -> None:
        if self.flow.read_paused and not (self._held or self.pipeline or self.flow.write_paused):
            self.flow.resume_reading()
            now = self.worker.second  # meanwhile it was not the client that took long
            self._message_began = min(now, self._message_began + now - self._paused)

    def read(self, data: bytes) -> None:
        """Take what the client has sent; its answers come in order."""
        if self.refusal:
            return  # on its way out: whatever else it says is not read
        self.last_data = self.worker.second
        in_body = self.in_message and not self.in_head
        self._began_in_read = self._body_in_read = False
        WholeRequests.data_received(self, data)
        if self.in_head:
            self._count_unfinished(data)
        elif in_body and not (self._began_in_read or self._body_in_read):
            self._count_body(len(data))  # a chunk's extension, which the parser does not hand on
        self.start_waiting()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has sent all that it will; what it has asked is still answered."""
        self.half_closed = True
        return self.answering() or bool(self._held)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.last_data = self.worker.second
        self._pause_reading()  # who does not read answers may not ask for more

    def resume_writing(self) -> None:
        super().resume_writing()
        self.last_data = self.worker.second
        self._resume_reading()

    def shutdown(self) -> None:
        """The service stops: what is being answered is the last on this connection.

        An idle one is closed a little later: what its client has sent already is answered.
        """
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def check_time(self) -> None:
        """Called once a second: ends what took too long."""
        worker, patience = self.worker, self.worker.limits.keep_alive_seconds
        if self.ended or self.transport.is_closing():
            return self._check_closing()
        if self._held:
            return  # it is the service that takes long
        if not self.flow.write_paused:
            return self._check_asking()
        if worker.close_unfinished() or worker.second - self.last_data > patience:
            self.transport.abort()  # it does not read its answers

    def abort(self) -> None:
        self.transport.abort()

    def _check_closing(self) -> None:
        now, unsent = self.worker.second, _unsent(self.transport)
        reads, self._unsent = unsent < self._unsent, unsent
        if self._closing_since is None:
            self._closing_since = self.last_data = now
        elif reads and now - self._closing_since < self.worker.limits.keep_alive_seconds:
            self.last_data = now
        elif now - self.last_data >= CLOSE_SECONDS:
            self.transport.abort()

    def _check_asking(self) -> None:
        worker, now = self.worker, self.worker.second
        slow = now - self._message_began > worker.limits.head_seconds
        if self.in_head and slow and not self.flow.read_paused:
            return self.refuse(HTTPStatus.REQUEST_TIMEOUT)
        if self.in_message and not self.flow.read_paused:
            since, over = self._message_began, worker.close_unfinished()
        elif self.answering():
            return
        else:
            since, over = self.last_data, worker.close_idle()
        patience = worker.limits.keep_alive_seconds
        if self.overloaded:
            since, patience = self._made, RESERVE_SECONDS
        if not over and now - since <= patience:
            return
        if self.overloaded and not self.answering():
            return self.refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        if self.in_message and not (over or self.answering()):
            return self.refuse(HTTPStatus.REQUEST_TIMEOUT)
        self.hang_up()

    # What uvicorn's parser has read

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.in_head = self.in_message = self._began_in_read = True
        self._head_bytes = self._head_read = self._body_bytes = 0
        self._message_began = self.worker.second

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # a trailer is no header: RFC 9110, 6.5.1
            super().on_header(name, value)
        self._count_head(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        self.in_head = False
        if self.refusal:
            return
        self.scope[HEAD_READ] = clock()  # type: ignore[literal-required]
        version, method = self.parser.get_http_version(), self.parser.get_method()
        self.scope["method"] = method.decode("ascii")
        if status := fault(version, method, self.url, self.headers):
            return self.refuse(status)
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110, 10.1.1
        for name, value in self.headers:
            if name == b"content-length" and int(value) > self.worker.limits.body_bytes:
                return self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        self.url = origin_form(self.url)
        if self.overloaded and not self.url.startswith(b"/health/"):
            return self.refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        super().on_headers_complete()
        self._decide_on_the_end()

    def _decide_on_the_end(self) -> None:
        """Whether, and how, the connection ends with this answer."""
        cycle = self.cycle
        if cycle.keep_alive:  # else the client has said that it sends no more
            self._cycle_transport = self._cycle_transport or _CycleTransport(self)
            cycle.transport = self._cycle_transport  # type: ignore[assignment]
        if self.parser.should_upgrade() or self.worker.stopping or self.overloaded:
            # llhttp reads no further request after one that asks for another protocol.
            cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._body_in_read = True
        self._count_body(len(body))
        if not self.refusal:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.in_message = False
        if not self.refusal:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # check_time does it
        if self.ended:
            return
        if self._held or self.pipeline:
            self.flow.pause_reading()  # uvicorn would read on, however much there is to answer
        elif self.in_message:
            self._message_began = self.worker.second  # from now on it is the client that takes long
        if not self.answering() and not self.transport.is_closing():
            if self.refusal:
                self._send_refusal()
            elif self.half_closed:
                self.transport.close()
            else:
                self.start_waiting()

    def _count_body(self, size: int) -> None:
        self._body_bytes += size
        if self._body_bytes > self.worker.limits.body_bytes:
            self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.worker.limits.head_bytes:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _count_unfinished(self, data: bytes) -> None:
        """What a head has that the parser has not handed on: it may be one endless line.

        Counted apart, since the parser will hand it on.
        """
        if not self._began_in_read:
            self._head_read += len(data)
        elif not self._body_in_read:
            self._head_read = len(data) - data.rfind(b"\n") - 1
        if self._head_read > self.worker.limits.head_bytes:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    # Refusals

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls where its parser meets an error, which it has just caught."""
        version = str(sys.exception()) == "Invalid HTTP version"
        self.refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED if version else HTTPStatus.BAD_REQUEST)

    def refuse(self, status: HTTPStatus) -> None:
        """Answer with an error and close, once what was asked before has been answered."""
        if self.refusal or self.ended or self.transport.is_closing():
            return
        self.refusal = status
        self.worker.refused(status)
        self.in_head = False
        if not self.answering():
            self._send_refusal()

    def _send_refusal(self) -> None:
        self.discard()
        is_head = self.in_message and self.scope.get("method") == "HEAD"
        self.transport.write(refusal(self.refusal, self.server_state.default_headers, is_head))
        self._finish(linger=True)

    # The end

    def hang_up(self) -> None:
        """Close, but not before the client could read the last answer: RFC 9112, section 9.6.

        Closing a socket that has unread bytes, or gets more, resets the connection, and with it
        what the client has not read yet.
        """
        if not self.ended and not self.transport.is_closing():
            asked_more = self.pipeline or self.in_message or self.flow.read_paused
            unread = self.transport.get_write_buffer_size() or _queued(self.transport, FIONREAD)
            self._finish(linger=bool(asked_more or unread))

    def _finish(self, linger: bool) -> None:
        self.ended = True
        self._closing_since = self.last_data = self.worker.second
        self.pipeline.clear()
        self._held = b""
        if linger and not self.half_closed and self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()


class _CycleTransport:
    """What uvicorn's request and response write to and close."""

    def __init__(self, protocol: LimitedProtocol) -> None:
        self._protocol: LimitedProtocol | None = protocol
        self.write: Callable[[bytes], object] = protocol.transport.write
        self.close: Callable[[], object] = protocol.hang_up

    def is_closing(self) -> bool:
        protocol = self._protocol
        return protocol is None or protocol.ended or protocol.transport.is_closing()

    def release(self) -> None:
        """The connection is gone."""
        self._protocol = None
        self.write = self.close = _do_nothing


def _do_nothing(*_: object) -> None:
    pass


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes that the client's kernel has not acknowledged."""
    return transport.get_write_buffer_size() + _queued(transport, TIOCOUTQ)


def _queued(transport: asyncio.Transport, request: int) -> int:
    """Bytes in the kernel's queue of this connection: FIONREAD to read, TIOCOUTQ to send."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return 0
    return int.from_bytes(ioctl(connection.fileno(), request, bytes(4)), sys.byteorder)
