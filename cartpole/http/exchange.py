"""One request in the ASGI application: its body is there already, its answer is written whole."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

from cartpole.api.middleware import HEAD_READ_AT
from cartpole.api.responses import INTERNAL_ERROR, Headers, headers
from cartpole.http.reader import Request

_ASGI = {"version": "3.0", "spec_version": "2.3"}


def describe(transport: asyncio.Transport) -> Scope:
    """The part of a scope that is the same for all requests of a connection."""
    return {
        "type": "http",
        "asgi": _ASGI,
        "scheme": "https" if transport.get_extra_info("sslcontext") else "http",
        "server": _address(transport.get_extra_info("sockname")),
        "client": _address(transport.get_extra_info("peername")),
        "root_path": "",
    }


def _address(name: Any) -> tuple[str, int | None] | None:
    """Host and port, or the path of a Unix socket; None if it has none."""
    if isinstance(name, tuple):
        return name[0], name[1]
    return (name, None) if name else None


class Exchange:
    """A request that the application answers.

    Attributes:
        request: its body may still be missing if the client waits for 100 Continue.
        task: what runs it.
    """

    task: asyncio.Task[None]

    def __init__(
        self,
        request: Request,
        transport: asyncio.Transport,
        answer: Callable[[int, bytes, Headers], None],
    ) -> None:
        """answer: called once with status, body and headers, unless the client goes first."""
        self.request = request
        self._transport, self._answer = transport, answer
        self._is_over = self._is_disconnected = self._has_received = False
        self._start: Message | None = None
        self._body = b""
        self._changed: asyncio.Event | None = None  # what _receive waits for

    async def run(self, app: ASGIApp, connection: Scope, failed: Callable[[], None]) -> None:
        """Answer the request.

        Args:
            connection: what `describe` says of it.
            failed: called while an error of the application is handled.
        """
        request, path = self.request, self.request.path.decode("ascii")
        scope: Scope = {
            **connection,
            "http_version": request.version,
            "method": request.method,
            "path": unquote(path) if "%" in path else path,
            "raw_path": request.path,
            "query_string": request.query,
            "headers": request.headers,
            "state": {},
            HEAD_READ_AT: request.head_read_at,
        }
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            if not self._is_disconnected:
                failed()
        if not self._is_over:
            status, body = INTERNAL_ERROR
            self._end(status, body, headers(len(body)))

    def wake(self) -> None:
        """The rest of the body has come, or the exchange is over."""
        if self._changed:
            self._changed.set()

    def disconnect(self) -> None:
        """The client has gone, or broken a rule: no answer is wanted any more."""
        self._is_over = self._is_disconnected = True
        if self.request.is_whole:  # its work must not keep others waiting
            self.task.cancel()
        self.wake()

    async def _receive(self) -> Message:
        if not (self._is_over or self._has_received or self.request.is_whole):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._is_over and (self._has_received or not self.request.is_whole):
            self._changed = asyncio.Event()
            await self._changed.wait()
        if self._is_over:
            return {"type": "http.disconnect"}
        self._has_received = True
        return {"type": "http.request", "body": self.request.body, "more_body": False}

    async def _send(self, message: Message) -> None:
        if self._is_over:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        assert self._start, "a body before its head"
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            body = b"" if self.request.method == "HEAD" else self._body
            self._end(self._start["status"], body, list(self._start["headers"]))

    def _end(self, status: int, body: bytes, lines: Headers) -> None:
        self._is_over = True
        self.wake()
        self._answer(status, body, lines)
