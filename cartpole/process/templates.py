"""Which policy the workers serve: the template of the one that was accepted, and the next load."""

import logging
import signal
from collections.abc import Sequence

from cartpole.process.children import Copies, Template

BACKOFF_SECONDS = (1, 2, 5, 10, 30)  # before the next attempt, by the number of failures in a row

logger = logging.getLogger("cartpole")


class Backoff:
    """When the next attempt is due."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget failures: the next attempt is due at once."""
        self._failures, self._due = 0, 0.0

    @property
    def has_failed(self) -> bool:
        return self._failures > 0

    def is_due(self, now: float) -> bool:
        return now >= self._due

    def fail(self, now: float) -> int:
        """Note a failure. Returns how many seconds to wait."""
        wait = BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS) - 1)]
        self._failures, self._due = self._failures + 1, now + wait
        return wait


class Templates:
    """The template of the accepted policy, and one that loads.

    One load is under way at a time. A request for a reload waits until that has ended, since it
    may have read the files already.

    Attributes:
        accepted: copies of the files that were accepted last; None until some are.
        policy: the accepted one in words.
        current: the process that forks workers which serve them; None while there is none.
        loading: a process that loads the next, or the accepted ones again.
        is_refused: there is nothing to serve.
    """

    def __init__(self, prepare: str, flags: Sequence[str], counters: int) -> None:
        """Prepare to start templates; see Template."""
        self._prepare, self._flags, self._counters = prepare, flags, counters
        self.accepted: Copies | None = None
        self.policy = ""
        self.current: Template | None = None
        self.loading: Template | None = None
        self.is_refused, self._is_requested, self._backoff = False, True, Backoff()

    @property
    def all(self) -> list[Template]:
        return [template for template in (self.current, self.loading) if template]

    def request(self) -> None:
        """Load the files as they are now, and serve them if they are accepted."""
        if self.loading:
            logger.info("reload: the next load waits for the one under way")
        self._is_requested = True
        self._backoff.reset()

    def step(self, now: float) -> None:
        """Do all that is due."""
        if self.current and self.current.has_ended:
            pid, failure = self.current.pid, self.current.failure(now)
            logger.error("template %d %s; making it again", pid, failure)
            self.current = None
        if self.loading:
            self._check(self.loading, now)
        elif (self._is_requested or not self.current) and self._backoff.is_due(now):
            self._load(now)

    def _load(self, now: float) -> None:
        try:
            copies = Copies() if self._is_requested or not self.accepted else self.accepted
            self.loading = Template(self._prepare, self._flags, self._counters, copies)
            self._is_requested = False
        except OSError as error:
            wait = self._backoff.fail(now)
            logger.error("can't start a template: %s; retrying in %d s", error.strerror, wait)

    def _check(self, loading: Template, now: float) -> None:
        is_new = loading.copies is not self.accepted
        if loading.policy:
            if self.current:
                self.current.kill()
            self.current, self.accepted, self.loading = loading, loading.copies, None
            self.policy = loading.policy
            self._backoff.reset()
        elif is_new and loading.refusal:
            self._refuse(loading.refusal)
        elif failure := loading.refusal or loading.failure(now):
            was_killed = loading.has_ended and loading.exit_code == -signal.SIGKILL
            loading.kill()
            if is_new and self.accepted and not was_killed:
                return self._refuse(f"template {loading.pid} {failure}")
            self.loading = None
            self._is_requested |= is_new
            wait = self._backoff.fail(now)
            logger.error("template %d failed: %s; retrying in %d s", loading.pid, failure, wait)

    def _refuse(self, reason: str) -> None:
        if self.loading:
            self.loading.kill()
        self.loading = None
        if self.accepted:
            logger.error("reload rejected, the previous workers keep serving: %s", reason)
        else:
            logger.error("%s", reason)
            self.is_refused = not self._is_requested
