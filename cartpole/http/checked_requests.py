"""Requests as uvicorn's parser reads them, held against the rules for heads and the size limits.

Leans on uvicorn's HttpToolsProtocol.
"""

import asyncio
import sys
from abc import ABC, abstractmethod
from http import HTTPStatus
from time import perf_counter_ns as clock
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from cartpole.api.middleware import HEAD_READ_AT
from cartpole.http.closing import CycleTransport
from cartpole.http.head_rules import head_error, origin_form
from cartpole.http.message_sizes import BODY_TOO_LARGE, MessageSizes
from cartpole.http.shared import Shared
from cartpole.http.time_limits import TimeLimits
from cartpole.http.whole_requests import WholeRequests


class CheckedRequests(WholeRequests, ABC):
    """The parser's events of a connection. A request that breaks a rule is rejected.

    Attributes:
        in_head, in_message: the parser is inside a request's head, or anywhere inside one.
        rejection: the status that ends this connection, once earlier requests are answered.
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
        self._limits, self._connections = shared.limits, shared.connections
        self.in_head = self.in_message = self.over_limit = False
        self.rejection: HTTPStatus | None = None
        self._sizes = MessageSizes(shared.limits)
        self._times = TimeLimits(shared.limits, shared.clock, shared.connections)
        self._cycle_transport: CycleTransport | None = None

    @abstractmethod
    def hang_up(self) -> None:
        """Close the connection after its last answer."""

    @abstractmethod
    def reject(self, status: HTTPStatus) -> None:
        """Answer with an error and close, once earlier requests are answered."""

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

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this while it handles an error of its parser."""
        is_version = str(sys.exception()) == "Invalid HTTP version"
        self.reject(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED if is_version else HTTPStatus.BAD_REQUEST)
