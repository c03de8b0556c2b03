"""The server of one process: composes policy, application and protocol; drains before it stops."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn

from cartpole.api.routes import Ready
from cartpole.http.rehearsal import Rehearsal
from cartpole.http.shared import Shared
from cartpole.predictor import Predictor, load_engine
from cartpole.process import signals
from cartpole.process.listeners import Listeners
from cartpole.process.reloading import Reloader
from cartpole.settings import Settings
from cartpole.version import __version__

# A bound on the turns of the event loop that accept pending connections before the listeners are
# closed, for clients that connect without end.
ACCEPT_TURNS = 4096

logger = logging.getLogger("cartpole")


class Server(uvicorn.Server):
    """uvicorn's server, with draining, reloads and a request limit.

    Attributes:
        reloader: loads a new policy on SIGHUP.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        shared: Shared,
        predictor: Predictor,
        ready: Ready,
        settings: Settings,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        super().__init__(config)
        self._rehearsal = rehearsal
        self._shared, self._predictor, self._ready = shared, predictor, ready
        self._settings, self._counters = settings, predictor.counters
        self._drained_at = float("inf")
        load = partial(load_engine, settings.model, settings.engine)
        self.reloader = Reloader(load, predictor.use)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Overrides uvicorn's method, which re-raises the signals when it stops."""
        loop = asyncio.get_running_loop()
        signals.deliver_to(lambda number: loop.call_soon_threadsafe(self._on_signal, number))
        try:
            yield
        finally:
            signals.deliver_to(signals.ignore)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets
        (listener,) = sockets
        address = _address(self._settings, listener)
        try:
            listener.listen(self.config.backlog)  # uvloop doesn't report if this fails
        except OSError as error:  # another program has begun to listen since the bind
            raise OSError(f"can't listen on {address}: {error.strerror}") from error
        loop = asyncio.get_running_loop()
        self._shared.start(loop, self.server_state)
        self._shared.connections.sweep(loop)
        if self._rehearsal:
            self._rehearsal.start(loop)
        await super().startup([listener.dup()])
        self._listeners = Listeners(self.servers, partial(self._listen, listener))
        self._shared.connections.on_growth(self._listeners.grow)
        self._counters.mark_ready()
        logger.info("%s", self._summary(address))

    async def _listen(self, listener: socket.socket) -> asyncio.base_events.Server:
        """Listen once more, as uvicorn's startup does."""
        protocol: Any = self.config.http_protocol_class
        connect = partial(
            protocol, config=self.config, server_state=self.server_state, app_state={}
        )
        loop = asyncio.get_running_loop()
        return await loop.create_server(connect, sock=listener.dup(), backlog=self.config.backlog)

    def _on_signal(self, number: int) -> None:
        """SIGTERM drains. A second SIGTERM, or SIGINT, stops at once."""
        if number == signal.SIGHUP:
            self.reloader.request()
        elif number == signal.SIGUSR1:  # another worker has taken over, so no drain
            self.should_exit = True
        elif number == signal.SIGINT or self._ready.is_draining:
            self.should_exit = self.force_exit = True
        else:
            self._drain()

    def _drain(self) -> None:
        self._ready.is_draining = True
        self._drained_at = time.monotonic() + self._settings.drain_seconds
        if self._settings.drain_seconds:
            logger.info("draining for %d s", self._settings.drain_seconds)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self._listeners.shrink()
        drained = time.monotonic() >= self._drained_at
        return await super().on_tick(counter) or drained or self._limit_reached()

    def _limit_reached(self) -> bool:
        """Whether --limit-requests is reached. With several workers, the supervisor checks that."""
        limit = self._settings.limit_requests
        self._counters.set_total_requests(self.server_state.total_requests)
        is_alone = self._settings.workers == 1
        return bool(limit) and is_alone and self._counters.shared.limit_reached(limit)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._shared.connections.stop()
        await self._accept_pending()
        await super().shutdown(sockets)
        self._counters.set_total_requests(self.server_state.total_requests)
        logger.info("stopped after %d requests", self.server_state.total_requests)

    async def _accept_pending(self) -> None:
        """Accept what waits in the kernel: closing the listeners would reset those connections."""
        for _ in range(ACCEPT_TURNS):
            before = self._counters.accepted
            for _ in range(3):
                await asyncio.sleep(0)
            if self._counters.accepted == before:
                break

    def _summary(self, address: str) -> str:
        settings, policy = self._settings, self._predictor.policy
        return (
            f"cartpole {__version__} serves on {address}: {policy.path} ({policy.algorithm}, "
            f"sha256 {policy.sha256[:12]}), engine {self._predictor.engine.name}, "
            f"workers {settings.workers}, threads {settings.threads}; limits: "
            f"{settings.limit_connections} connections, heads of {settings.limit_head} bytes in "
            f"{settings.head_timeout} s, bodies of {settings.limit_body} bytes, "
            f"idle {settings.keep_alive} s"
        )


def _address(settings: Settings, listener: socket.socket) -> str:
    if settings.uds:
        return f"unix:{settings.uds}"
    scheme = "https" if settings.ssl_certfile else "http"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
