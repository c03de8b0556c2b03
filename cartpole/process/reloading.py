"""Reloads in a process that serves: each load is finished, and the newest file is loaded last."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from cartpole.process.progress import Progress

CHECK_SECONDS = 1  # how often a load is looked at

T = TypeVar("T")

logger = logging.getLogger("cartpole")


class Reloader(Generic[T]):
    """Loads in a thread, one load at a time.

    All requests during a load are one more load after it. A load that is stuck is left behind, and
    gives way to the next. Only one is: if the next is stuck too, nothing more is started until one
    of them ends.
    """

    def __init__(self, load: Callable[[], T], use: Callable[[T], None]) -> None:
        """Load nothing yet.

        Args:
            load: is called in a thread; what it raises is logged, and nothing changes.
            use: is called in the event loop with what was loaded; logs what is now in use.
        """
        self._load, self._use = load, use
        self._current: threading.Thread | None = None
        self._left_behind: threading.Thread | None = None
        self._is_requested = self._is_hang_logged = False

    @property
    def has_threads(self) -> bool:
        """Whether a load is under way, or was left behind and has not ended."""
        return bool(self._current or self._left_behind)

    def request(self) -> None:
        """Load the file as it is now. If it is bad, keep what is in use.

        The load under way may have read the file already, so another one follows it.
        """
        if self._current:
            logger.info("reload: the next load waits for the one under way")
        self._is_requested = True
        self._start_if_due()

    def _start_if_due(self) -> None:
        if self._current or not self._is_requested:
            return
        loop = asyncio.get_running_loop()
        # A daemon, unlike the threads of asyncio.to_thread: a load that hangs must not keep the
        # process from exiting.
        thread = threading.Thread(
            target=self._load_in_thread, args=(loop,), daemon=True, name="reload"
        )
        thread.start()
        self._current, self._is_requested, self._is_hang_logged = thread, False, False
        self._check(thread, Progress(Path(f"/proc/self/task/{thread.native_id}"), 0), 0)

    def _check(self, thread: threading.Thread, progress: Progress, now: int) -> None:
        """Look at the load each second.

        Args:
            now: seconds, one for each check: a pause of the whole process counts as one.
        """
        if thread is not self._current:
            return
        if progress.is_stuck(now):
            if not self._left_behind:
                logger.error("reload: the load hangs; it is left behind, and the next may start")
                self._left_behind, self._current = thread, None
                return self._start_if_due()
            if not self._is_hang_logged:
                logger.error("reload: the load hangs as the one before does; waiting for either")
                self._is_hang_logged = True
        loop = asyncio.get_running_loop()
        loop.call_later(CHECK_SECONDS, self._check, thread, progress, now + 1)

    def _load_in_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        result: T | Exception
        try:
            result = self._load()
        except Exception as error:  # no error of a load may end the service
            result = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._finish, threading.current_thread(), result)

    def _finish(self, thread: threading.Thread, result: T | Exception) -> None:
        if thread is self._left_behind:  # what it has loaded may be older than what is in use
            self._left_behind = None
            return
        self._current = None
        if isinstance(result, Exception):
            logger.error("reload rejected, still serving the previous policy: %s", result)
        else:
            self._use(result)
        self._start_if_due()
