"""The server of one process: puts its parts together, listens, drains, reloads and stops."""

import asyncio
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette

from cartpole import logs
from cartpole.api.batches import Batches
from cartpole.api.inference import Inference
from cartpole.api.routes import Ready
from cartpole.app import create_app
from cartpole.http.connection import Connection
from cartpole.http.limits import ClientLimits
from cartpole.http.listeners import Listeners
from cartpole.http.rehearsal import Rehearsal
from cartpole.http.shared import Shared
from cartpole.http.tls import TLSTransport
from cartpole.metrics.counters import WorkerCounters
from cartpole.predictor import Predictor, make_engine, set_threads
from cartpole.process import signals
from cartpole.process.loading import Loaded, load
from cartpole.process.reloading import Reloader
from cartpole.process.sockets import address
from cartpole.settings import Settings
from cartpole.v2.routes import batch_endpoints

# A bound on the turns of the event loop that accept pending connections before the listeners are
# closed, for clients that connect without end.
ACCEPT_TURNS = 4096
HURRY_SECONDS = 1  # for the event loop to end after a second signal to stop

logger = logging.getLogger("cartpole")


class Server(uvicorn.Server):
    """uvicorn's server, with draining, reloads and a request limit.

    Attributes:
        loaded: what is served.
        predictor: answers; its counters are those of the process.
        reloader: loads the files again on SIGHUP.
        ready_line: is logged once it serves; "": none.
    """

    def __init__(self, settings: Settings, loaded: Loaded, counters: WorkerCounters) -> None:
        """Put the parts together. No thread is started and no descriptor opened."""
        self.loaded = loaded
        self.predictor = predictor = Predictor(loaded.engine, counters)
        inference, self._ready = Inference(predictor), Ready(predictor)
        endpoints = batch_endpoints(Batches(inference, settings.limit_body))
        app = create_app(
            inference,
            self._ready,
            settings.access_log,
            settings.page,
            settings.limit_body,
            endpoints,
        )
        is_fast = settings.http == "fast" and not settings.access_log
        shared = Shared(_limits(settings), inference, app, endpoints, is_fast, settings.poll)
        self._shared = shared
        self._rehearsal = Rehearsal(shared, predictor) if is_fast and settings.rehearse else None
        super().__init__(_uvicorn_config(settings, app, self._connect))
        self._settings, self._counters = settings, counters
        self._drained_at, self.ready_line = float("inf"), ""
        self.reloader = Reloader(partial(load, settings), self._use)
        # All objects made so far live as long as the process, so no collection need traverse them.
        # Collections stay enabled: disabling them was measured to gain nothing.
        gc.collect()
        gc.freeze()

    def use_threads(self) -> None:
        """Compute with as many threads as the settings say, in a process forked from another.

        Raises:
            BadPolicy: the engine's answers are not the module's then.
        """
        if self._settings.threads > 1:
            set_threads(self._settings.threads)
            engine = self.loaded.engine
            self.predictor.use(make_engine(engine.policy, engine.name))

    def _connect(self, **_: Any) -> Connection | TLSTransport:
        tls = self.loaded.tls
        return TLSTransport(self._shared, tls) if tls else Connection(self._shared)

    def _use(self, loaded: Loaded) -> None:
        self.predictor.use(loaded.engine)
        self.loaded = loaded
        policy = loaded.engine.policy
        logger.info("reload: now serving %s (sha256 %s)", policy.path, policy.sha256[:12])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Overrides uvicorn's method, which re-raises the signals when it stops."""
        loop = asyncio.get_running_loop()
        stops: list[int] = []

        def deliver(number: int) -> None:
            loop.call_soon_threadsafe(self._on_signal, number)
            if number in signals.STOP_SIGNALS:
                stops.append(number)
            if len(stops) == 2:  # whatever the loop does: a forward may hang
                signals.exit_later(HURRY_SECONDS)

        signals.deliver_to(deliver)
        try:
            yield
        finally:
            signals.deliver_to(signals.ignore)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets
        (listener,) = sockets
        try:
            listener.listen(self.config.backlog)  # uvloop doesn't report if this fails
        except OSError as error:  # another program has begun to listen since the bind
            where = address(self._settings, listener)
            raise OSError(f"can't listen on {where}: {error.strerror}") from error
        loop = asyncio.get_running_loop()
        self._shared.start(loop, self.server_state)
        self._shared.connections.sweep(loop)
        if self._rehearsal:
            self._rehearsal.start(loop)
        await super().startup([listener.dup()])
        self._listeners = Listeners(self.servers, partial(self._listen, listener))
        self._shared.connections.on_growth(self._listeners.grow)
        self._counters.mark_ready()
        if self.ready_line:
            logger.info("%s", self.ready_line)

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
            logs.flush()
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


def _uvicorn_config(
    settings: Settings, app: Starlette, connect: Callable[..., asyncio.Protocol]
) -> uvicorn.Config:
    """uvicorn's configuration, loaded."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=cast(type[asyncio.Protocol], connect),
        timeout_graceful_shutdown=settings.shutdown_timeout,
        ws="none",
        lifespan="off",
        log_config=None,
        # uvicorn's other lines repeat ours, or come with each bad request.
        log_level="debug" if settings.log_level == "debug" else "error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    config.load()
    config.get_loop_factory()  # imports it
    return config


def _limits(settings: Settings) -> ClientLimits:
    return ClientLimits(
        head_bytes=settings.limit_head,
        head_seconds=settings.head_timeout,
        body_bytes=settings.limit_body,
        keep_alive_seconds=settings.keep_alive,
        connections=settings.limit_connections,
    )
