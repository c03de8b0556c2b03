"""An HTTP connection: _advance holds all ordering of answers, _settle all pausing of reading.

One request is under way at a time; the bytes behind it stay unread until it is answered.
"""

import asyncio
import os

from cartpole.api.observation import parse_usual
from cartpole.http.answers import OPEN, Answers
from cartpole.http.connections import Admission
from cartpole.http.known_heads import TARGET
from cartpole.http.reader import BODY, ENDED, HEAD, IDLE, REJECTED, RequestReader
from cartpole.http.responses import KEPT, LAST
from cartpole.http.shared import Shared
from cartpole.http.time_limits import Awaited, TimeLimits
from cartpole.metrics.rejections import TOO_MANY_CONNECTIONS

# Bytes that one connection's pipelined requests may take of a turn before others are read
# (bench/overload.py): some seven requests.
PIPELINE_BYTES = 1024
# A connection's first bytes are read at once, even in a turn that is full, if they come within this
# time of its opening and the turn has read at most twice its bound (bench/overload.py: health).
NEW_SECONDS = 1
# Read together with accepting a connection. A request has a few hundred; more is read later.
FIRST_BYTES = 4096

_NO_END: bytes | tuple[bytes, ...] = ()  # nothing ends so
_AWAITED = {IDLE: Awaited.REQUEST, HEAD: Awaited.HEAD, BODY: Awaited.BODY}
_AWAITED |= dict.fromkeys((ENDED, REJECTED), Awaited.END)


class Connection(asyncio.Protocol):
    """One client's connection, over a TCP, TLS or Unix socket."""

    def __init__(self, shared: Shared, admission: Admission | None = None) -> None:
        """admission: of a connection that is counted already, since before its TLS handshake."""
        self._shared, self._admission = shared, admission
        self._batcher, self._turns = shared.batcher, shared.turns
        self._connections, self._head_bytes = shared.connections, shared.limits.head_bytes
        self._times = TimeLimits(shared.limits, shared.connections)
        self._unread, self._position = b"", 0  # received; how far it is read
        self._reader: RequestReader | None = None  # made for the first bytes that need it
        self._is_ready = self._is_deferred = self._is_paused = self._write_paused = False
        self._usual_end, self._usual_persistence = _NO_END, KEPT  # behind the last query

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        is_new = self._admission is None
        admission = self._admission = self._admission or self._connections.admit(self)
        self._answers = Answers(self._shared, transport, self._times, admission, self._advance)
        if admission is Admission.NOTHING:
            return self._answers.refuse()
        self._is_ready = self._answers.may_be_fast()
        if is_new and not self._turns.is_full() and (first := _read_at_once(transport)):
            self.data_received(first)
            if self._is_paused:  # in vain, as uvloop begins to read behind this method
                self._is_paused = False
                asyncio.get_running_loop().call_soon(self._settle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_ready, self._unread, self._position = False, b"", 0
        self._connections.remove(self)
        self._answers.lose()
        if self._reader:
            self._reader.close()

    def data_received(self, data: bytes) -> None:
        """Take the fast path, if nothing else is under way (bench/micro.py: fast-path)."""
        turns, size, end = self._turns, len(data), self._usual_end
        read = turns.bytes_this_turn
        if (
            self._is_ready
            and data.startswith(TARGET)
            and size <= self._head_bytes
            and read <= turns.bytes_per_turn
        ):
            if data.endswith(end):
                query_end, persistence = size - len(end), self._usual_persistence
            else:
                query_end, persistence = self._shared.known_heads.find(data)
                if query_end > 0 and persistence is not LAST:
                    self._usual_end, self._usual_persistence = data[query_end:], persistence
            observation = parse_usual(data, len(TARGET), query_end)
            if observation is not None:
                self._is_ready = persistence is not LAST
                self._answers.infer(observation, persistence)
                if read:
                    turns.bytes_this_turn = read + size
                elif self._connections.is_one():  # nobody else can ask in this turn
                    turns.answer_now()
                else:
                    turns.begin()
                    turns.bytes_this_turn = size
                return
        if self._answers.phase is OPEN and not (self._is_ready and self._answer_again(data)):
            self._receive(data)

    def _answer_again(self, data: bytes) -> bool:
        """Answer a request with the head of the previous one (bench/protocol.py)."""
        request = self._reader and self._reader.read_again(data)
        if not request or self._turns.is_full():
            return False
        self._turns.count(len(data))
        self._times.idle = 0
        self._answers.answer(request)
        self._is_ready &= self._answers.phase is OPEN and self._answers.may_be_fast()
        return True

    def eof_received(self) -> bool:
        """The client sends no more. Its earlier requests are still answered."""
        self._answers.half_closed = True
        self._batcher.flush()
        self._advance()
        return self._answers.phase is OPEN

    def pause_writing(self) -> None:
        self._write_paused = True
        self._times.await_reader()
        self._settle()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._times.idle = 0
        self._advance()

    def shutdown(self) -> None:
        self._settle()  # the next answer is the last

    def abort(self) -> None:
        self._answers.abort()

    def _receive(self, data: bytes) -> None:
        self._unread, self._position = self._unread[self._position :] + data, 0
        has_read = self._reader is not None or self._usual_end != _NO_END
        is_new = not has_read and self._times.age <= NEW_SECONDS
        if self._turns.bytes_this_turn > self._turns.bytes_per_turn * (2 if is_new else 1):
            self._defer()
        self._advance()

    def _defer(self) -> None:
        if not self._is_deferred:
            self._is_deferred = True
            self._turns.defer(self._resume)

    def _resume(self) -> None:
        self._is_deferred = False
        try:
            self._advance()
        except Exception:
            self._shared.failures.abort(self)

    def _advance(self) -> None:
        """Read and answer in order, as far as that goes: after reading, an answer, or the end."""
        begun, end = self._position, len(self._unread)
        if begun < end:
            self._turns.ensure_begun()
        while self._position < end and self._may_go_on():
            if self._position - begun > PIPELINE_BYTES:
                self._defer()
            elif not self._take_inference() and not self._take_request():
                break
        self._turns.bytes_this_turn += self._position - begun
        if self._position == end or self._answers.phase is not OPEN:
            self._unread, self._position = b"", 0
        if self._may_go_on():  # with bytes unread: the reader takes small pieces in several turns
            self._defer() if self._unread else self._answers.end_input()
        self._settle()

    def _may_go_on(self) -> bool:
        return self._answers.phase is OPEN and not self._is_waiting()

    def _is_waiting(self) -> bool:
        """Whether the next request must wait: for a turn, an answer, or the client to read."""
        return self._is_deferred or self._write_paused or self._answers.is_answering()

    def _settle(self) -> None:
        """Read no more while bytes are unread, or while the client does not read its answers."""
        answers = self._answers
        is_paused = answers.phase is OPEN and (self._write_paused or bool(self._unread))
        if is_paused is not self._is_paused:
            self._is_paused = is_paused
            answers.read_on(not is_paused)
        self._is_ready = answers.phase is OPEN and not is_paused and self._is_at_rest()

    def _is_at_rest(self) -> bool:
        """Whether nothing is under way, and the next answer need not be the last."""
        return (not self._reader or self._reader.state is IDLE) and self._answers.may_be_fast()

    def _take_inference(self) -> bool:
        """Take the fast path for one of several requests, if its header block is known."""
        data, start = self._unread, self._position
        if not (data.startswith(TARGET, start) and self._is_at_rest()):
            return False
        found = self._shared.known_heads.first(data, start, self._head_bytes)
        if found:
            observation, persistence, self._position = found
            self._answers.infer(observation, persistence)
        return found is not None

    def _take_request(self) -> bool:
        """Read on to the end of a request, and answer it. False if bytes are missing for that."""
        reader = self._reader = self._reader or RequestReader(self._shared.limits)
        was_idle, answers = reader.state is IDLE, self._answers
        self._position = reader.read(self._unread, self._position)
        request = reader.request
        if reader.state is IDLE and request is None:
            return False  # empty lines between requests are no activity
        self._times.idle = 0
        if was_idle and reader.state is not IDLE:
            self._times.message = 0
        is_barred = self._admission is Admission.HEALTH and not (request and request.is_health())
        if reader.rejection or (request and is_barred):
            answers.reject(reader.rejection or TOO_MANY_CONNECTIONS, reader.is_head)
        elif request and request.is_whole:
            reader.request = None
            answers.answer(request, b"" if reader.body_has_begun else reader.head)
        elif request and request.expects_continue and not reader.body_has_begun:
            answers.answer(request)  # with 100 Continue first, if the application wants the body
        else:
            return False
        return True

    def check_time(self) -> None:
        """Called once a second."""
        if self._write_paused:
            awaited = Awaited.READER
        elif self._unread or self._is_waiting():
            awaited = Awaited.ANSWER
        else:
            awaited = _AWAITED[self._reader.state] if self._reader else Awaited.REQUEST
        if self._answers.check_time(awaited, self._reader is not None and self._reader.is_head):
            self._advance()


def _read_at_once(transport: asyncio.Transport) -> bytes:
    """Most clients send their request at once: it is here before the event loop looks."""
    connection = transport.get_extra_info("socket")
    try:
        return os.read(connection.fileno(), FIRST_BYTES) if connection else b""
    except OSError:  # BlockingIOError: nothing has come yet
        return b""
