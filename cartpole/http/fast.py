"""GET /inference without entering ASGI: recognised while reading, answered by the batcher.

Any other request goes, untouched and in order, to uvicorn's parser and the application.
"""

import asyncio
import re
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from cartpole.api.inference import Query
from cartpole.api.observation import BadObservation, parse, parse_usual
from cartpole.http.changing_headers import NO_GAP, gap_between
from cartpole.http.connection import HttpConnection
from cartpole.http.direct import Repeatable, repeatable
from cartpole.http.last_request import LastRequest
from cartpole.http.plain_headers import Plain
from cartpole.http.shared import Shared

# RFC 9112, section 3: method SP request-target SP HTTP-version CRLF; origin-form, no fragment.
_match_request_line = re.compile(rb"GET /inference\?([!$&-;=?-Z_a-z~%]*+) HTTP/1\.[01]\r\n").match
TARGET = b"GET /inference?"

# Bytes that one connection's pipelined requests may take of a turn before others are read
# (bench/overload.py): some seven requests.
PIPELINE_BYTES = 1024


class FastConnection(HttpConnection):
    """A connection that answers GET /inference itself whenever uvicorn's part is at rest."""

    def __init__(
        self,
        shared: Shared,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(shared, config, server_state, app_state, _loop)
        self._batcher, self._plain_headers = shared.batcher, shared.plain_headers
        self._direct = shared.direct
        self._rest = b""  # what the parser reads now, from the begin of a request
        self._repeatable: Repeatable | None = None
        self._head_bytes = shared.limits.head_bytes
        # The bytes after the query of the previous request on this connection; to begin with, none
        # that a request could have.
        self._usual_end = b"\0"
        self._gap = NO_GAP  # for what changes in them
        # The fast path is allowed for this connection; and it is usable at this moment.
        self._allowed = self._fast = not shared.connections.is_stopping

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.over_limit:
            self._forbid()

    def data_received(self, data: bytes) -> None:
        turns = self._turns
        read, size, end = turns.bytes_this_turn, len(data), self._usual_end
        # One request, usually with the headers of the previous one (bench/micro.py: fast-path).
        if (
            self._fast
            and data.startswith(TARGET)
            and size <= self._head_bytes
            and read <= turns.bytes_per_turn
            and not self._deferred
        ):
            query_end = size - len(end)
            if not data.endswith(end):
                query_end = self._gap.query_end(data, len(TARGET))
                if query_end < 0:
                    query_end = self._other_query_end(data)
            observation = parse_usual(data, len(TARGET), query_end)
            if observation is not None:
                self._times.last_activity = self._clock.now
                self._batcher.add(self, observation)
                if read:
                    turns.bytes_this_turn = read + size
                elif self._connections.is_one():  # nobody else can ask in this turn
                    turns.answer_now()
                else:
                    turns.begin()
                    turns.bytes_this_turn = size
                return None
        if self._repeatable and self._repeatable.is_repeated(data) and self._answer_again(data):
            return None
        super().data_received(data)

    def _answer_again(self, data: bytes) -> bool:
        """Answer a POST request whose head is that of the one before; False if not now."""
        turns, request = self._turns, self._repeatable
        is_full = turns.bytes_this_turn > turns.bytes_per_turn
        is_busy = is_full or self._deferred or self.flow.write_paused or not self._fast
        if request is None or is_busy or self.transport.is_closing():
            return False
        if not turns.bytes_this_turn:
            turns.begin()
        turns.bytes_this_turn += len(data)
        self._times.last_activity = self._clock.now
        self._batcher.flush()  # earlier requests are answered first
        state = self.server_state
        state.total_requests += 1
        self.transport.write(self._direct.answer_again(request, data, state.default_headers))
        turns.has_answered()
        return True

    def _other_query_end(self, data: bytes) -> int:
        """The same for a header block that differs from the usual one in more than its gap."""
        query_end = self._plain_headers.query_end(data, len(TARGET))
        if query_end > 0:
            block = data[query_end:]
            self._gap = gap_between(self._usual_end, block)
            self._usual_end, self._has_read = block, True
        return query_end

    def read(self, data: bytes) -> None:
        if not self._fast:
            return super().read(data)
        rest = self._read_inferences(data)
        if len(rest) < len(data):
            self._times.last_activity = self._clock.now
        if rest:
            self._batcher.flush()  # earlier requests are answered first
            self._rest = rest
            super().read(rest)
            self._rest = b""

    def _read_inferences(self, data: bytes) -> bytes:
        """Take the leading requests that the fast path can answer. Returns the bytes after them."""
        start = 0
        while line := _match_request_line(data, start):
            end = data.find(b"\r\n\r\n", line.end() - 2) + 4
            if end < 4 or end - start > self._head_bytes:
                break
            block = data[line.end(1) : end]
            plain = self._plain_headers.classify(block)
            if not plain:
                break
            query = _parse(line[1])
            if plain is Plain.LAST:
                self._add_last(query)
                return b""
            self._usual_end = block
            self._batcher.add(self, query)
            start = end
            if start > PIPELINE_BYTES and start < len(data):
                self.defer(data[start:])
                return b""
        return data[start:]

    def _add_last(self, query: Query) -> None:
        self._forbid()
        self.finished = True  # what follows is not read
        self._batcher.add(LastRequest(self), query)

    def eof_received(self) -> bool:  # type: ignore[override]
        self._batcher.flush()
        return super().eof_received()

    def shutdown(self) -> None:
        self._batcher.flush()
        self._forbid()
        super().shutdown()

    def hang_up(self) -> None:
        self._forbid()
        super().hang_up()

    def on_message_begin(self) -> None:
        self._fast = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._allow_if_at_rest()

    def run_whole(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running, size = cycle, len(cycle.body)
        if self._direct.answer(cycle):
            self._repeatable = repeatable(cycle, self._rest, size)
        else:
            super().run_whole(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._allow_if_at_rest()

    def _allow_if_at_rest(self) -> None:
        """Use the fast path again, once uvicorn's part has answered all that it was given."""
        is_ending = self.rejection or self.half_closed or self.finished
        is_busy = self.in_message or self.is_answering() or is_ending
        self._fast = self._allowed and not is_busy

    def _forbid(self) -> None:
        self._fast = self._allowed = False


def _parse(query: bytes) -> Query:
    try:
        return parse(query)
    except BadObservation as error:
        return error
