"""A new policy in a process that serves: the last request to reload wins."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from cartpole.runner import Runner

logger = logging.getLogger("cartpole")


class Reloader:
    """Loads the model file in a thread, one load at a time.

    Attributes:
        busy: whether one is under way.
    """

    def __init__(self, load: Callable[[], Runner], use: Callable[[Runner], None]) -> None:
        self._load, self._use = load, use
        self.busy, self._again = False, False

    def request(self) -> None:
        """Use the model file as it is now, if it is good; else go on as before.

        A load that is under way may have read the file already: then there is one more after it.
        """
        self._again = self.busy
        if not self.busy:
            self.busy = True
            # A daemon, unlike those of asyncio.to_thread: a load that hangs doesn't keep the
            # process from ending.
            arguments = (asyncio.get_running_loop(),)
            threading.Thread(target=self._run, args=arguments, daemon=True, name="reload").start()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        result: Runner | Exception
        try:
            result = self._load()
        except Exception as error:  # whatever it is, what serves goes on
            result = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._loaded, result)

    def _loaded(self, result: Runner | Exception) -> None:
        self.busy = False
        if isinstance(result, Exception):
            logger.error("reload refused, the policy from before serves on: %s", result)
        else:
            self._use(result)
            policy = result.policy
            logger.info("reload: serves %s (sha256 %s)", policy.path, policy.sha256[:12])
        if self._again:
            self.request()
