"""One replica as the command sees it: its actor, its endpoint, and whether it is ready."""

import asyncio
import logging
import ssl
from dataclasses import dataclass
from typing import Any

from cartpole.integrations import probe
from cartpole.integrations.endpoints import join

PROBE_SECONDS = 0.2  # between two questions over HTTP
ACTOR_SECONDS = 1  # between two questions to the actor
SILENT_SECONDS = 30  # a replica that is not ready for longer is replaced
START_SECONDS = 120  # the same before it was ready once: an engine may have to compile

logger = logging.getLogger("cartpole")


@dataclass(eq=False)
class Member:
    """A replica.

    Attributes:
        actor: the handle of its Replica.
        node: the id of its node: where it was sent, if anywhere; once it has started, where it is.
        sha256: of the policy that it serves, or will.
        address: host and port, once it has started.
        is_ready: whether it said so when it was last asked.
        has_been_ready: whether it ever did.
        is_retiring: it is to get no more requests, and to end.
    """

    actor: Any
    node: str
    sha256: str
    address: tuple[str, int] | None = None
    is_ready: bool = False
    has_been_ready: bool = False
    is_retiring: bool = False

    @property
    def endpoint(self) -> str:
        return join(*self.address) if self.address else "a replica that was starting"

    async def live(
        self, port: int, policy: Any, flags: tuple[str, ...], tls: ssl.SSLContext | None
    ) -> str:
        """Start, and watch until the replica must be replaced. Returns the reason.

        Raises:
            RayError: the actor or its node has ended.
        """
        host, port, self.node = await self.actor.start.remote(port, policy, flags)
        self.address = host, port
        watching = [
            asyncio.create_task(self._watch_actor()),
            asyncio.create_task(self._watch_http(host, port, tls)),
        ]
        try:
            done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            self.is_ready = False
            for task in watching:
                task.cancel()

    async def _watch_actor(self) -> str:
        while (code := await self.actor.exit_code.remote()) is None:
            await asyncio.sleep(ACTOR_SECONDS)
        return f"ended with exit code {code}"

    async def _watch_http(self, host: str, port: int, tls: ssl.SSLContext | None) -> str:
        clock = asyncio.get_running_loop().time
        last_ready, patience = clock(), START_SECONDS
        while clock() <= last_ready + patience or self.is_retiring:
            self.is_ready = await probe.is_ready(host, port, tls)
            if self.is_ready:
                self.has_been_ready = True
                last_ready, patience = clock(), SILENT_SECONDS
            await asyncio.sleep(PROBE_SECONDS)
        return f"was not ready for {patience} s"
