"""Busy polling: an event loop that never sleeps finds warm caches and needs no wake-up."""

import asyncio
import logging

logger = logging.getLogger("cartpole")

_TURNS_PER_CHECK = 256  # turns of the loop between two readings of the clock; a turn takes 1 µs


class BusyPoll:
    """Keeps the loop turning while requests arrive, and for a while after the last one.

    A callback that schedules itself keeps the loop from waiting for events. It uses one core.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_spinning = False  # our callback is scheduled
        self._was_asked = False  # since the last reading of the clock
        self._until = 0.0
        self._turns = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        logger.info("busy polling: uses a core until %g s after the last request", self._seconds)

    def wake(self) -> None:
        """A request has arrived."""
        self._was_asked = True
        if not self._is_spinning:
            self._is_spinning = True
            self._until = self._loop.time() + self._seconds
            self._loop.call_soon(self._spin)

    def stop(self) -> None:
        """No connection is open any more."""
        self._was_asked = False
        self._until, self._turns = float("-inf"), -1  # the next turn reads the clock

    def _spin(self) -> None:
        self._turns += 1
        if self._turns % _TURNS_PER_CHECK == 0:
            now = self._loop.time()
            if self._was_asked:
                self._was_asked = False
                self._until = now + self._seconds
            elif now > self._until:
                self._is_spinning = False
        if self._is_spinning:
            self._loop.call_soon(self._spin)
