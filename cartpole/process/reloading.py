"""Reloads the policy in a process that serves: the last request for a reload wins."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from cartpole.predictor import Engine

LOAD_TIMEOUT_SECONDS = 5  # for a load, counted from the next request for a reload

logger = logging.getLogger("cartpole")


class Reloader:
    """Loads the model file in a thread, one load at a time.

    Attributes:
        is_loading: a load is under way.
        abandoned_loads: how many loads hung and were replaced by a later one.
    """

    def __init__(self, load: Callable[[], Engine], use: Callable[[Engine], None]) -> None:
        self._load, self._use = load, use
        self.is_loading, self._is_requested_again = False, False
        self._load_number = self.abandoned_loads = 0

    def request(self) -> None:
        """Use the model file as it is now. If it is bad, keep the present policy.

        The load under way may have read the file already. So another load follows it, or replaces
        it if it hangs.
        """
        loop = asyncio.get_running_loop()
        if not self.is_loading:
            self._start(loop)
        elif not self._is_requested_again:
            self._is_requested_again = True
            loop.call_later(LOAD_TIMEOUT_SECONDS, self._time_out, loop, self._load_number)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_loading, self._is_requested_again = True, False
        self._load_number += 1
        # A daemon, unlike the threads of asyncio.to_thread: a load that hangs must not keep the
        # process from exiting.
        arguments = (loop, self._load_number)
        threading.Thread(
            target=self._load_in_thread, args=arguments, daemon=True, name="reload"
        ).start()

    def _time_out(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        if self.is_loading and self._load_number == number:
            logger.error("reload: the load hangs, starting the next one in its place")
            self.abandoned_loads += 1
            self._start(loop)

    def _load_in_thread(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        result: Engine | Exception
        try:
            result = self._load()
        except Exception as error:  # no error of a load may end the service
            result = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._finish, loop, number, result)

    def _finish(
        self, loop: asyncio.AbstractEventLoop, number: int, result: Engine | Exception
    ) -> None:
        if number != self._load_number:
            return  # abandoned: a later load has replaced it
        self.is_loading = False
        if isinstance(result, Exception):
            logger.error("reload rejected, still serving the previous policy: %s", result)
        else:
            self._use(result)
            policy = result.policy
            logger.info("reload: now serving %s (sha256 %s)", policy.path, policy.sha256[:12])
        if self._is_requested_again:
            self._start(loop)
