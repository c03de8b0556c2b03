"""A connection in memory: the real protocols on a transport that keeps what they write."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from typing import Any

import httptools
import pytest
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from cartpole.api.batches import Batches
from cartpole.api.inference import Inference
from cartpole.app import create_app
from cartpole.http.connection import Connection as HttpConnection
from cartpole.http.limits import ClientLimits
from cartpole.http.shared import Shared
from cartpole.v2.routes import batch_endpoints

DATE = [(b"date", b"Sun, 22 Nov 2026 21:00:00 GMT")]
LIMITS = ClientLimits(head_bytes=2000, body_bytes=1000)


class Transport(asyncio.Transport):
    """Records all writes, as a socket whose client reads everything."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = self.aborted = self.ended = self.reading_paused = False
        self.unsent = 0  # bytes

    def write(self, data: Any) -> None:
        assert not self.closed, "written after close"
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def over(self) -> bool:
        return self.closed or self.ended

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


class Connection:
    """An HTTP connection on a recording transport, in either mode.

    Attributes:
        protocol: the connection.
    """

    def __init__(
        self,
        inference: Inference,
        fast: bool,
        limits: ClientLimits = LIMITS,
        app: ASGIApp | None = None,
    ) -> None:
        """app: in place of the service's own application."""
        endpoints = batch_endpoints(Batches(inference, limits.body_bytes))
        app = app or create_app(inference, endpoints=endpoints)
        self.state = ServerState()
        self.state.default_headers = DATE
        self.transport = Transport()
        loop = asyncio.get_running_loop()
        self.inference = inference
        self.shared = Shared(limits, inference, app, endpoints, fast)
        self.shared.start(loop, self.state)
        self._open()

    @property
    def protocol(self) -> Any:
        return self.transport.protocol

    def _open(self) -> None:
        self.transport.set_protocol(HttpConnection(self.shared))
        self.protocol.connection_made(self.transport)

    def another(self) -> "Connection":
        """Another connection of the same process."""
        other = copy(self)
        other.transport = Transport()
        other._open()
        return other

    async def rest(self) -> None:
        """Wait until no response is pending."""
        for turn in range(10_000):
            await asyncio.sleep(0)
            if turn > 8 and (self.transport.closed or not self._owes()):
                return
        raise AssertionError("the application does not answer")

    def _owes(self) -> bool:
        is_owing = self.protocol._is_waiting() or self.protocol._unread
        return bool(is_owing or self.shared.batcher._requesters)

    async def send(self, *parts: bytes, eof: bool = False) -> bytes:
        for part in parts:
            if self.transport.closed:
                break
            self.protocol.data_received(part)
            await asyncio.sleep(0)
        if eof and not self.transport.closed and not self.protocol.eof_received():
            self.transport.close()
        await self.rest()
        return bytes(self.transport.written)


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", answer)]


def answers(stream: bytes) -> list[tuple[bytes, bytes]]:
    return re.findall(rb"HTTP/1\.1 (\d+)[^{]*(\{[^}]*\})", stream)


class Requests:
    """Counts the requests in a stream with a separate parser, which sees no offer to upgrade."""

    def __init__(self, stream: bytes) -> None:
        self.begun, self.within = 0, False
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        with suppress(httptools.HttpParserUpgrade):
            try:
                parser.feed_data(re.sub(rb"(?i)\r\nupgrade:", b"\r\nX:", stream))
            except httptools.HttpParserError:
                self.begun += not self.within

    def on_message_begin(self) -> None:
        self.begun, self.within = self.begun + 1, True

    def on_message_complete(self) -> None:
        self.within = False


def both(inference: Inference, parts: Sequence[bytes], eof: bool = False) -> bytes:
    """Check that both modes answer the same bytes and end alike; return the answer.

    No request has two final answers, and the last of a connection that ends says so.
    """

    async def run() -> bytes:
        fast, asgi = Connection(inference, True), Connection(inference, False)
        answer = await fast.send(*parts, eof=eof)
        assert answer == await asgi.send(*parts, eof=eof)
        assert fast.transport.over() == asgi.transport.over()
        assert fast.state.total_requests == asgi.state.total_requests
        assert fast.transport.over() or not fast.transport.reading_paused
        assert asgi.transport.over() or not asgi.transport.reading_paused
        final = [status for status in statuses(answer) if status != 100]
        rejections = len(final) - fast.state.total_requests
        reader = fast.protocol._reader
        assert rejections in ((0, 1) if reader and reader.rejection else (0,))
        assert len(final) <= Requests(b"".join(parts)).begun
        closes = answer.count(b"\r\nconnection: close\r\n")
        assert closes == fast.transport.over() or (eof and closes == 0)
        return answer

    return asyncio.run(run())


SERVED = pytest.mark.parametrize("fast", [True, False], ids=["fast", "asgi"])


def wait(connection: Connection, seconds: int) -> None:
    for _ in range(seconds):
        connection.protocol.check_time()
