"""Tells others where replicas answer: two files, and a command that runs after each change."""

import asyncio
import logging
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
        published: what the last completed step has published; None before the first.
    """

    endpoints: Path | None
    nginx: Path | None
    command: str
    published: tuple[str, ...] | None = None
    _retry_at: float = 0.0

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

    async def publish(self, endpoints: Sequence[str]) -> None:
        """Write the files and run the command, if the endpoints differ from those published.

        A failure is logged, and tried again by a call at least a second later.
        """
        found = tuple(sorted(endpoints))
        if found == self.published or time.monotonic() < self._retry_at:
            return
        try:
            self.write(found)
            failure = await self._run_command()
        except OSError as error:
            failure = f"can't write the endpoints: {error}"
        if failure:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            logger.error("%s; retrying in %d s", failure, RETRY_SECONDS)
        else:
            self.published = found
            logger.info("endpoints: %s", ", ".join(found) or "none")

    async def _run_command(self) -> str:
        """Returns what went wrong, if anything."""
        if not self.command:
            return ""
        process = await asyncio.create_subprocess_shell(self.command, start_new_session=True)
        try:
            code = await asyncio.wait_for(process.wait(), COMMAND_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
            return f"the reload command took over {COMMAND_SECONDS} s"
        return f"the reload command ended with {code}" if code else ""
