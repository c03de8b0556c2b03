"""GET /inference without entering ASGI: recognised while reading, answered together.

Whatever is not plainly such a request goes, untouched and in order, to uvicorn's own machinery.
"""

import asyncio
import re
from time import perf_counter_ns as clock
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from cartpole.api.observation import BadObservation, Observation, parse, parse_usual
from cartpole.api.responses import Headers, headers
from cartpole.app import Inference
from cartpole.http.busy_poll import BusyPoll
from cartpole.http.connection import LimitedProtocol
from cartpole.http.head_rules import fault
from cartpole.http.limits import Limits, Worker
from cartpole.policy.contract import MAX_ROWS

# RFC 9112, section 3: method SP request-target SP HTTP-version CRLF; origin-form, no fragment.
_match_request_line = re.compile(rb"GET /inference\?([!$&-;=?-Z_a-z~%]*+) HTTP/1\.1\r\n").match

_TARGET, _VERSION = b"GET /inference?", b" HTTP/1.1\r\n"
_REMEMBERED_BLOCKS, _REMEMBERED_BYTES = 1024, 2048  # of all connections; others go to uvicorn

TURN_BYTES = 160 * 1024  # a thousand requests and more, some ten milliseconds
READ_BYTES = 1024  # of one connection that pipelines requests, before others have their turn

Asked = Observation | BadObservation


class HeaderBlocks:
    """Which header blocks, up to and with their empty line, let a GET be answered here.

    That is: valid, without a body, without an upgrade, on a connection that is kept alive.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, bytes | None] = {}

    def end_of_request(self, block: bytes) -> bytes | None:
        """What follows the query in a request that can be answered here, or None."""
        if block not in self._known:
            if len(block) > _REMEMBERED_BYTES:
                return None
            if len(self._known) >= _REMEMBERED_BLOCKS:
                self._known.clear()
            self._known[block] = _VERSION + block if _answerable(block) else None
        return self._known[block]


def _answerable(block: bytes) -> bool:
    judge = _Judge()
    try:
        judge.parser.feed_data(b"GET /" + _VERSION + block)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return False
    return judge.answerable and not fault("1.1", b"GET", b"/", judge.headers)


class _Judge:
    answerable = False

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.parser = httptools.HttpRequestParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_message_complete(self) -> None:
        # A message with a body is not complete here; afterwards llhttp has forgotten the rest.
        self.answerable = bool(self.parser.should_keep_alive())


class Batch(Worker):
    """The requests of all connections that arrived in one turn of the event loop.

    They are collected while the ready sockets are read, and answered by one forward right after.
    """

    def __init__(self, limits: Limits, busy_poll: BusyPoll | None, inference: Inference) -> None:
        super().__init__(limits, inference.metrics, busy_poll, turn_bytes=TURN_BYTES)
        self.blocks = HeaderBlocks()
        self._inference = inference
        self._asking: list[FastProtocol] = []
        self._asked: list[Asked] = []
        self._head_of = _Heads([])
        self._began = 0

    def add(self, connection: "FastProtocol", asked: Asked) -> None:
        if not self._asking:
            self._began = clock()
        self._asking.append(connection)
        self._asked.append(asked)
        if len(self._asking) >= MAX_ROWS:
            self.flush()

    def flush(self) -> None:
        """Answer all that was added, in order."""
        asking, asked = self._asking, self._asked
        if not asking:
            return
        self._asking, self._asked = [], []
        state = asking[0].server_state
        state.total_requests += len(asked)
        head_of = self._head_of
        if head_of.default is not state.default_headers:
            head_of = self._head_of = _Heads(state.default_headers)
        try:
            answers = self._inference.answer_all(asked)
            # Counted before the answers leave: whoever has one finds it in the metrics.
            self.metrics.answered(answers, clock() - self._began)
        except Exception:
            return self.failed(*asking)
        answered = zip(asking, answers, strict=True)
        while True:
            try:
                for connection, answer in answered:
                    transport = connection.transport
                    if not transport.is_closing():
                        status, body = answer
                        transport.write(head_of[status, len(body)] + body)
                return
            except Exception:  # concerns this one; the loop goes on after it
                self.failed(connection)


class _Heads(dict[tuple[int, int], bytes]):
    """Response heads by status and length of the body, while the default headers stay the same."""

    def __init__(self, default: Headers) -> None:
        self.default = default

    def __missing__(self, key: tuple[int, int]) -> bytes:
        status, size = key
        lines = [*self.default, *headers(size)]
        self[key] = STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n"
        return self[key]


class FastProtocol(LimitedProtocol):
    """A connection that answers GET /inference itself whenever uvicorn's machinery is at rest."""

    worker: Batch

    def __init__(
        self,
        worker: Batch,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(worker, config, server_state, app_state, _loop)
        # How the last request that was answered here ended; to begin with, as it well might.
        self._end = _VERSION + b"Host: localhost\r\n\r\n"
        self._fast = self._allowed = not worker.stopping

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.overloaded:
            self._fast = self._allowed = False

    def data_received(self, data: bytes) -> None:
        worker = self.worker
        taken, size, end = worker.taken, len(data), self._end
        # One request, its headers those of the request before (bench/micro.py: fast-path).
        if (
            self._fast
            and data.endswith(end)
            and data.startswith(_TARGET)
            and size <= worker.limits.head_bytes
            and taken <= worker.turn_bytes
            and not self._held
        ):
            observation = parse_usual(data, len(_TARGET), size - len(end))
            if observation is not None:
                self.last_data = worker.second
                if not taken:
                    worker.begin_turn()
                worker.taken = taken + size
                return worker.add(self, observation)
        super().data_received(data)

    def read(self, data: bytes) -> None:
        if not self._fast:
            return super().read(data)
        worker = self.worker
        self.last_data = worker.second
        rest = self._answer_here(data)
        if rest:
            worker.flush()  # what was asked before is answered before
            super().read(rest)

    def _answer_here(self, data: bytes) -> bytes:
        """Take the requests from the front that can be answered here; returns what is left."""
        start = 0
        while line := _match_request_line(data, start):
            end = data.find(b"\r\n\r\n", line.end() - 2) + 4
            if end < 4 or end - start > self.worker.limits.head_bytes:
                break
            known = self.worker.blocks.end_of_request(data[line.end() : end])
            if known is None:
                break
            self._end = known
            self.worker.add(self, _read(line[1]))
            start = end
            if start > READ_BYTES and start < len(data):
                self.hold(data[start:])
                return b""
        return data[start:]

    def eof_received(self) -> bool:  # type: ignore[override]
        self.worker.flush()
        return super().eof_received()

    def shutdown(self) -> None:
        self.worker.flush()
        self._fast = self._allowed = False
        super().shutdown()

    def hang_up(self) -> None:
        self._fast = self._allowed = False
        super().hang_up()

    def on_message_begin(self) -> None:
        self._fast = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._resume()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._resume()

    def _resume(self) -> None:
        """Answer here again, once uvicorn's machinery has done all that it was given."""
        busy = self.in_message or self.answering() or self.refusal or self.half_closed or self.ended
        self._fast = self._allowed and not busy


def _read(query: bytes) -> Asked:
    try:
        return parse(query)
    except BadObservation as error:
        return error
