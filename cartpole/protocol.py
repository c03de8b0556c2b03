"""uvicorn's HTTP protocol with the limits that it lacks: on heads, bodies, time and connections.

Leans on uvicorn's HttpToolsProtocol; tests/test_uvicorn.py says on what.
"""

import asyncio
import sys
from http import HTTPStatus
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from cartpole.limits import Worker
from cartpole.reply import CLOSE, headers, render_error
from cartpole.strict import fault

RETRY_AFTER_SECONDS = 1
LINGER_SECONDS = (
    1  # a refused client may read why before what it still sends is answered by a reset
)


class LimitedProtocol(HttpToolsProtocol):
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
        self._head_bytes = 0
        self._body_bytes = 0
        self._body_in_read = False
        self.last_data = self._message_began = worker.second

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connections = self.worker.connections
        connections.add(self)
        self.worker.metrics.connections(len(connections), accepted=1)
        self.overloaded = len(connections) > self.worker.limits.connections
        if self.overloaded:
            self.worker.refused(HTTPStatus.SERVICE_UNAVAILABLE)
            self.app = _Overloaded(self.app)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)
        self.worker.metrics.connections(len(self.worker.connections))
        if self.worker.busy_poll and not self.worker.connections:
            self.worker.busy_poll.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.refusal:
            return  # on its way out: whatever else it says is not read
        self.last_data = self.worker.second
        if self.worker.busy_poll:
            self.worker.busy_poll.wake()
        went_on, self._body_in_read = self.in_head, False
        super().data_received(data)
        if self.in_head and not self._body_in_read:
            # What the parser has not handed on: the line that is not complete, or all of a read
            # that did not complete the head.
            self._count_head(len(data) if went_on else len(data) - data.rfind(b"\n") - 1)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has sent all that it will; what it has asked is still answered."""
        self.half_closed = True
        return self.answering() and not self.refusal

    def pause_writing(self) -> None:
        super().pause_writing()
        self.flow.pause_reading()  # who does not read answers may not ask for more

    def resume_writing(self) -> None:
        super().resume_writing()
        self.last_data = self.worker.second
        if not self.pipeline:
            self.flow.resume_reading()

    def shutdown(self) -> None:
        """The service stops: what is being answered is the last on this connection.

        An idle one is closed a little later: what its client has sent already is answered.
        """
        if self.answering():
            self.cycle.keep_alive = False

    def answering(self) -> bool:
        """Whether the application still owes an answer on this connection."""
        return self.cycle is not None and not self.cycle.response_complete

    def check_time(self) -> None:
        """Called once a second: ends what took too long."""
        limits, now = self.worker.limits, self.worker.second
        if self.refusal and not self.answering():
            if now - self.last_data > LINGER_SECONDS:
                self.transport.abort()
            return
        if self.in_head and now - self._message_began > limits.head_seconds:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT)
        if self.worker.close_idle() and not self.in_message and not self.answering():
            self.transport.close()
        began = self._message_began if self.in_message else self.last_data
        if now - began > limits.keep_alive_seconds and not self.answering():
            self.transport.abort() if self.flow.write_paused else self.transport.close()

    # What uvicorn's parser has read

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.in_head = self.in_message = True
        self._head_bytes = self._body_bytes = 0
        self._message_began = self.worker.second

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count_head(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        self.in_head = False
        if self.refusal:
            return
        version, method = self.parser.get_http_version(), self.parser.get_method()
        if status := fault(version, method, self.url, self.headers):
            return self.refuse(status)
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110, 10.1.1
        for name, value in self.headers:
            if name == b"content-length" and int(value) > self.worker.limits.body_bytes:
                return self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        super().on_headers_complete()
        if self.parser.should_upgrade() or self.worker.stopping:
            # llhttp reads no further request after one that asks for another protocol.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._body_in_read = True
        self._body_bytes += len(body)
        if self._body_bytes > self.worker.limits.body_bytes:
            self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        elif not self.refusal:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.in_message = False
        if not self.refusal:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # check_time does it
        if not self.answering() and not self.transport.is_closing():
            if self.refusal:
                self._send_refusal()
            elif self.half_closed:
                self.transport.close()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.worker.limits.head_bytes:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    # Refusals

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls where its parser meets an error, which it has just caught."""
        version = str(sys.exception()) == "Invalid HTTP version"
        self.refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED if version else HTTPStatus.BAD_REQUEST)

    def refuse(self, status: HTTPStatus) -> None:
        """Answer with an error and close, once what was asked before has been answered."""
        if self.refusal or self.transport.is_closing():
            return
        self.refusal = status
        self.worker.refused(status)
        self.in_head = False
        if not self.answering():
            self._send_refusal()

    def _send_refusal(self) -> None:
        body = render_error(REFUSALS[self.refusal])
        lines = [*self.server_state.default_headers, *headers(len(body)), CLOSE]
        head = b"".join(b"%b: %b\r\n" % line for line in lines)
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[self.refusal], head, body))
        self.last_data = self.worker.second
        if self.half_closed or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()


REFUSALS: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "the request is not valid HTTP",
    HTTPStatus.REQUEST_TIMEOUT: "the request head took too long",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the request body is too large",
    HTTPStatus.EXPECTATION_FAILED: "this expectation can't be met",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "the request head is too large",
    HTTPStatus.NOT_IMPLEMENTED: "this method or transfer coding is not implemented",
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: "this is not HTTP/1.0 or HTTP/1.1",
}


class _Overloaded:
    """What a connection past the limit gets: health answers, and 503 for all else."""

    _body = render_error("too many connections")

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/health/"):
            return await self._app(scope, receive, send)
        retry = (b"retry-after", b"%d" % RETRY_AFTER_SECONDS)
        lines = [*headers(len(self._body)), retry, CLOSE]
        await send({"type": "http.response.start", "status": 503, "headers": lines})
        await send({"type": "http.response.body", "body": self._body})
