"""Polling: an event loop that does not sleep between requests needs no wake-up to answer them.

docs/polling.md explains when that pays.
"""

import asyncio
from resource import RUSAGE_THREAD, getrusage
from time import perf_counter_ns as clock

# Nanoseconds, by bench/traffic.py. A sleep and a wake-up cost some 50 µs of processor time, and
# so does polling for as long. A gap that ends a sleep contains the wake-up.
START_BELOW = 150_000  # average gap, while the loop sleeps between turns
STOP_ABOVE = 80_000  # average gap, while it polls
LONGEST = 200_000  # that it polls without a request
LONGEST_COUNTED = 300_000  # a longer gap counts as this: one alone must not end the polling
WEIGHT = 1 / 8  # of the latest gap in the average

# If the kernel has interrupted the loop more often than this within so many turns, other programs
# need its core. Among them may be the clients that it waits for (bench/polling.py).
INTERRUPTIONS, WATCHED_TURNS = 8, 256

# Polling that has not paid is tried again after a pause, which doubles each time up to the longest.
SHORTEST_PAUSE, LONGEST_PAUSE = 100_000_000, 10_000_000_000
ALWAYS_FOR = 1_000_000_000  # "always" polls for this long after the last request


class Polling:
    """Decides after each turn whether the loop polls for the next request or sleeps.

    The average gap between the end of a turn and the next request decides. Polling therefore stops
    by itself at low rates, and where a client needs this core in order to send its next request.
    """

    def __init__(self, mode: str = "auto") -> None:
        """mode: "auto", "always" or "never"."""
        self.is_on = mode != "never"
        self._is_adaptive = mode == "auto"
        self._polls = mode == "always"  # after turns; else the loop sleeps
        self._average = float(LONGEST_COUNTED)  # gap, nanoseconds
        self._longest = LONGEST if self._is_adaptive else ALWAYS_FOR
        self._is_spinning = False  # our callback is scheduled
        self._ended_at = self._until = 0  # nanoseconds
        self._polls_since = self._paused_until = 0
        self._turns = 0  # since interruptions were last counted
        self._interruptions = 0  # of this thread, at that time
        self._pause = SHORTEST_PAUSE

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_soon = loop.call_soon
        self._spin_again = self._spin  # bound once

    def begin_turn(self) -> None:
        """The first request of a turn was read."""
        if self._is_adaptive and self._ended_at:
            self._learn(clock() - self._ended_at)
            self._ended_at = 0

    def end_turn(self, now: int) -> None:
        """All requests that were read so far are answered."""
        self._ended_at = now
        if self._polls:
            self._until = now + self._longest
            if not self._is_spinning:
                self._is_spinning = True
                self._call_soon(self._spin_again)

    def stop(self) -> None:
        """No connection is open any more."""
        self._ended_at = self._until = 0

    def _learn(self, gap: int) -> None:
        self._average += (min(gap, LONGEST_COUNTED) - self._average) * WEIGHT
        if self._polls:
            self._turns += 1
            if self._turns == WATCHED_TURNS and self._new_interruptions() > INTERRUPTIONS:
                self._stop_polling(has_paid=False)
            elif self._average > STOP_ABOVE:
                self._stop_polling(has_paid=clock() - self._polls_since > self._pause)
        elif self._average < START_BELOW:
            now = clock()
            if now > self._paused_until:
                self._polls, self._polls_since, self._average = True, now, STOP_ABOVE / 2
                self._new_interruptions()  # those so far do not count

    def _new_interruptions(self) -> int:
        """How often the kernel has interrupted this thread since the last call."""
        before, self._interruptions = self._interruptions, getrusage(RUSAGE_THREAD).ru_nivcsw
        self._turns = 0
        return self._interruptions - before

    def _stop_polling(self, has_paid: bool) -> None:
        self._pause = SHORTEST_PAUSE if has_paid else min(2 * self._pause, LONGEST_PAUSE)
        self._paused_until = clock() + self._pause
        self._polls, self._average = False, float(LONGEST_COUNTED)

    def _spin(self) -> None:
        if clock() < self._until:
            self._call_soon(self._spin_again)
        else:
            self._is_spinning = False
