"""Tells others where replicas answer: two files, and a command that runs after each change."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COMMAND_SECONDS = 10  # for the command; one that takes longer is killed
RETRY_SECONDS = 1

_UPSTREAM = """upstream cartpole {{
{servers}
    keepalive 64;
    keepalive_timeout 60s;
    keepalive_requests 1000000;
}}
"""

logger = logging.getLogger("cartpole")


def join(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def render_list(endpoints: Sequence[str]) -> str:
    """One host:port a line."""
    return "".join(f"{endpoint}\n" for endpoint in endpoints)


def render_upstream(endpoints: Sequence[str]) -> str:
    """One `upstream` block. nginx rejects an empty one, so it then names a server marked down."""
    lines = [f"    server {endpoint} max_fails=1 fail_timeout=1s;" for endpoint in endpoints]
    return _UPSTREAM.format(servers="\n".join(lines or ["    server 127.0.0.1:1 down;"]))


@dataclass
class Publisher:
    """Writes the endpoints where they have changed.

    Attributes:
        endpoints: the file of host:port lines, if any.
        nginx: the file of the upstream block, if any.
        command: a shell command that runs after the files were replaced; empty: none.
        published: what the command has last told to others; None before the first.
    """

    endpoints: Path | None
    nginx: Path | None
    command: str
    published: tuple[str, ...] | None = None
    _written: tuple[str, ...] | None = None
    _telling: asyncio.Task[None] | None = None
    _write_again_at: float = 0.0
    _tell_again_at: float = 0.0  # after a failure

    def write(self, endpoints: Sequence[str]) -> None:
        """Replace both files. A reader finds the old or the new content, whole.

        Raises:
            OSError: a file can't be written.
        """
        for path, render in ((self.endpoints, render_list), (self.nginx, render_upstream)):
            if path:
                new = path.with_name(f".{path.name}.new")
                new.write_text(render(endpoints))
                new.replace(path)

    def publish(self, endpoints: Sequence[str]) -> None:
        """Write the files at once if the endpoints are others than before, then run the command.

        This does not wait for the command. While one runs, none is started: call this again and
        again. A failure is logged, and tried again by a call at least a second later.
        """
        found, now = tuple(sorted(endpoints)), time.monotonic()
        if found != self._written and now >= self._write_again_at:
            try:
                self.write(found)
                self._written = found
            except OSError as error:
                self._write_again_at = now + RETRY_SECONDS
                _log_failure(f"can't write the endpoints: {error}")
        is_telling = self._telling and not self._telling.done()
        has_failed = bool(self._tell_again_at)
        is_due = (self._written != self.published or has_failed) and now >= self._tell_again_at
        if self._written is not None and is_due and not is_telling:
            self._telling = asyncio.create_task(self._tell(self._written))

    async def last(self, endpoints: Sequence[str]) -> None:
        """Publish these, and wait until the command has been run for them."""
        for _ in range(2):  # at first, the command for other endpoints may still run, or fail
            await asyncio.sleep(self._tell_again_at - time.monotonic())
            self.publish(endpoints)
            if self._telling:
                await self._telling

    async def _tell(self, written: tuple[str, ...]) -> None:
        if failure := await self._run_command():
            self._tell_again_at = time.monotonic() + RETRY_SECONDS
            _log_failure(failure)
        else:
            self.published, self._tell_again_at = written, 0.0
            logger.info("endpoints: %s", ", ".join(written) or "none")

    async def _run_command(self) -> str:
        """Returns what went wrong, if anything."""
        if not self.command:
            return ""
        process = await asyncio.create_subprocess_shell(self.command, start_new_session=True)
        try:
            code = await asyncio.wait_for(process.wait(), COMMAND_SECONDS)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)  # the shell, and what it has started
            await process.wait()
            return f"the reload command took over {COMMAND_SECONDS} s"
        return f"the reload command ended with {code}" if code else ""


def _log_failure(failure: str) -> None:
    logger.error("%s; retrying in %d s", failure, RETRY_SECONDS)
