"""How many bytes one turn of the event loop reads; what exceeds that is deferred to later turns.

Excess requests stay in the kernel's socket buffers, so TCP slows their clients down.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns as clock

from cartpole.http.polling import Polling

# Bytes that a turn reads before other connections are deferred (bench/overload.py). On the fast
# path that is some thousand requests and ten milliseconds. On the ASGI path a request costs ten
# times as much.
FAST_TURN_BYTES = 160 * 1024
ASGI_TURN_BYTES = 16 * 1024

# Deferred connections get this share of a turn's bytes. The rest is for connections that were
# accepted meanwhile, so that they are answered soon (bench/overload.py: health).
DEFERRED_SHARE = 1 / 4


class Turns:
    """Bounds the work of a turn of the event loop, and ends it by answering what was read.

    Attributes:
        bytes_this_turn: read so far; 0 while no end of a turn is scheduled.
        bytes_per_turn: the bound. Past it, connections defer what they receive.
        flush: answers what has been read, where requests are collected in a batch. The batch then
            calls `mark_answered`.
        answered_at: when requests were last answered, in nanoseconds of perf_counter_ns.
    """

    def __init__(self, bytes_per_turn: int, flush: Callable[[], None], polling: Polling) -> None:
        self.bytes_this_turn = 0
        self.bytes_per_turn = bytes_per_turn
        self.answered_at = 0
        self.flush = flush
        self._polling = polling if polling.is_on else None
        self._deferred: deque[Callable[[], None]] = deque()
        self._bound_end = self.end  # one method object for all turns

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_soon = loop.call_soon

    def is_full(self) -> bool:
        """Whether this turn has read its share: what else has come waits for a later one."""
        return self.bytes_this_turn > self.bytes_per_turn

    def begin(self) -> None:
        """Call it when the first bytes of a turn are read."""
        self._call_soon(self._bound_end)
        if self._polling:
            self._polling.begin_turn()

    def ensure_begun(self) -> None:
        if not self.bytes_this_turn:
            self.begin()
            self.bytes_this_turn = 1

    def count(self, size: int) -> None:
        """So many bytes are read in this turn."""
        self.ensure_begun()
        self.bytes_this_turn += size

    def answer_now(self) -> None:
        """Call it in place of `begin` and `end`, if nothing else can be read in this turn."""
        if self._polling:
            self._polling.begin_turn()
        self.flush()

    def mark_answered(self) -> None:
        """Requests that were read in this turn, or in an earlier one, are answered."""
        now = self.answered_at = clock()
        if self._polling:
            self._polling.end_turn(now)

    def defer(self, resume: Callable[[], None]) -> None:
        """Call this in a later turn, after those that were deferred before it. It never raises."""
        self._deferred.append(resume)
        self.ensure_begun()

    def end(self) -> None:
        """Answer what this turn has read, then resume deferred connections within their share."""
        deferred = self._deferred
        had_deferred = bool(deferred)
        self.bytes_this_turn = int(had_deferred)  # 1: the end of the next turn is scheduled below
        try:
            self.flush()
            if had_deferred:
                for _ in range(len(deferred)):
                    if self.bytes_this_turn > self.bytes_per_turn * DEFERRED_SHARE:
                        break
                    deferred.popleft()()
                self.flush()
        finally:  # without a next turn, no request would ever be answered
            if had_deferred:
                # While some still wait, the next turn begins full, so that others join the line.
                self.bytes_this_turn = self.bytes_per_turn + 1 if deferred else 1
                self._call_soon(self._bound_end)
