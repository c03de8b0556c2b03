"""A new policy in a process that serves: the last request to reload wins."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from cartpole.policy.contract import Engine

PATIENCE_SECONDS = 5  # that a load has once there is a later request

logger = logging.getLogger("cartpole")


class Reloader:
    """Loads the model file in a thread, one load at a time.

    Attributes:
        busy: whether one is under way.
        abandoned: loads that hung, of which a later one has taken the place.
    """

    def __init__(self, load: Callable[[], Engine], use: Callable[[Engine], None]) -> None:
        self._load, self._use = load, use
        self.busy, self._again = False, False
        self._number = self.abandoned = 0

    def request(self) -> None:
        """Use the model file as it is now, if it is good; else go on as before.

        A load that is under way may have read the file already: then there is one more after it,
        or in its place if it hangs.
        """
        loop = asyncio.get_running_loop()
        if not self.busy:
            self._start(loop)
        elif not self._again:
            self._again = True
            loop.call_later(PATIENCE_SECONDS, self._give_up, loop, self._number)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self.busy, self._again = True, False
        self._number += 1
        # A daemon, unlike those of asyncio.to_thread: a load that hangs doesn't keep the process
        # from ending.
        arguments = (loop, self._number)
        threading.Thread(target=self._run, args=arguments, daemon=True, name="reload").start()

    def _give_up(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        if self.busy and self._number == number:
            logger.error("reload: it hangs, the next one takes its place")
            self.abandoned += 1
            self._start(loop)

    def _run(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        result: Engine | Exception
        try:
            result = self._load()
        except Exception as error:  # whatever it is, what serves goes on
            result = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._loaded, loop, number, result)

    def _loaded(
        self, loop: asyncio.AbstractEventLoop, number: int, result: Engine | Exception
    ) -> None:
        if number != self._number:
            return  # a later one has taken its place
        self.busy = False
        if isinstance(result, Exception):
            logger.error("reload refused, the policy from before serves on: %s", result)
        else:
            self._use(result)
            policy = result.policy
            logger.info("reload: serves %s (sha256 %s)", policy.path, policy.sha256[:12])
        if self._again:
            self._start(loop)
