"""One process that serves: policy, application and protocol put together, from ready to drained."""

import asyncio
import gc
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import uvicorn

from cartpole.api.inference import Inference
from cartpole.api.routes import Ready
from cartpole.app import create_app
from cartpole.http.busy_poll import BusyPoll
from cartpole.http.connection import HttpConnection
from cartpole.http.fast import FastConnection
from cartpole.http.limits import ClientLimits
from cartpole.http.shared import Shared, share
from cartpole.http.tls import TLSTransport
from cartpole.metrics.counters import WorkerCounters
from cartpole.predictor import Predictor, load_engine, set_threads
from cartpole.process import signals
from cartpole.process.reloading import Reloader
from cartpole.settings import Settings
from cartpole.version import __version__

LISTENERS = 16  # connections that a turn of the event loop takes in
MOST_ACCEPTED = 4096  # connections taken in before the listeners are closed

logger = logging.getLogger("cartpole")


def build(settings: Settings, counters: WorkerCounters) -> "Server":
    """All that serving needs, but for the sockets.

    Raises:
        BadPolicy: the model can't be served, or not by this engine.
        OSError: the TLS files are no good.
    """
    set_threads(settings.threads)
    predictor = Predictor(load_engine(settings.model, settings.engine), counters)
    inference, ready = Inference(predictor), Ready(predictor)
    shared, protocol = _protocol(settings, inference)
    config = uvicorn.Config(
        create_app(inference, ready, settings.access_log),
        loop="uvloop",
        http=cast(type[asyncio.Protocol], protocol),
        timeout_graceful_shutdown=settings.shutdown_timeout,
        ws="none",
        lifespan="off",
        log_config=None,
        # Its lines are ours in other words, or one for each bad request.
        log_level="debug" if settings.log_level == "debug" else "error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise OSError(f"--ssl-certfile or --ssl-keyfile is no good: {error}") from error
    if config.ssl:
        config.ssl.options |= ssl.OP_NO_RENEGOTIATION
        secured = partial(TLSTransport, shared, config.ssl, protocol)
        config.http_protocol_class = cast(type[asyncio.Protocol], secured)
        config.ssl = None  # asyncio serves TCP
    # What the start has made stays: later collections need not look at it, and copies of this
    # process share it. Collection goes on; stopping it gains nothing (bench/scale.py: garbage).
    gc.collect()
    gc.freeze()
    return Server(config, shared, predictor, ready, settings)


def _protocol(
    settings: Settings, inference: Inference
) -> tuple[Shared, Callable[..., HttpConnection]]:
    """The parts that connections share, and the callable that makes a connection."""
    limits = ClientLimits(
        head_bytes=settings.limit_head,
        head_seconds=settings.head_timeout,
        body_bytes=settings.limit_body,
        keep_alive_seconds=settings.keep_alive,
        connections=settings.limit_connections,
    )
    busy_poll = BusyPoll(settings.busy_poll_seconds) if settings.busy_poll else None
    fast = settings.http == "fast" and not settings.access_log
    shared = share(limits, inference, fast, busy_poll)
    return shared, partial(FastConnection if fast else HttpConnection, shared)


class Server(uvicorn.Server):
    """uvicorn's server, which drains before it stops and takes a new policy while it serves."""

    def __init__(
        self,
        config: uvicorn.Config,
        shared: Shared,
        predictor: Predictor,
        ready: Ready,
        settings: Settings,
    ) -> None:
        super().__init__(config)
        self._shared, self._predictor, self._ready = shared, predictor, ready
        self._settings, self._counters = settings, predictor.counters
        self._drained_at = float("inf")
        load = partial(load_engine, settings.model, settings.engine)
        self.reloader = Reloader(load, predictor.use)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In place of uvicorn's, which raises them again once it has stopped."""
        loop = asyncio.get_running_loop()
        signals.handle(lambda number: loop.call_soon_threadsafe(self._on_signal, number))
        try:
            yield
        finally:
            signals.handle(signals.ignore)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets
        address = _address(self._settings, sockets[0])
        for one in sockets:
            try:
                one.listen(self.config.backlog)  # uvloop doesn't tell where that fails
            except OSError as error:  # another program listens there since the socket was bound
                raise OSError(f"can't listen on {address}: {error.strerror}") from error
        self._shared.start(asyncio.get_running_loop())
        # libuv accepts one connection per listener and turn, which among busy connections is too
        # few (bench/overload.py): each socket is listened on several times.
        await super().startup([one.dup() for one in sockets for _ in range(LISTENERS)])
        self._counters.mark_ready()
        logger.info("%s", self._summary(address))

    def _on_signal(self, number: int) -> None:
        """SIGTERM drains; a second one, or SIGINT, ends at once."""
        if number == signal.SIGHUP:
            self.reloader.request()
        elif number == signal.SIGUSR1:  # another worker has taken over: no drain
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
        drained = time.monotonic() >= self._drained_at
        return await super().on_tick(counter) or drained or self._limit_reached()

    def _limit_reached(self) -> bool:
        """Among several workers it is the supervisor that adds up and stops them all."""
        limit = self._settings.limit_requests
        self._counters.set_total_requests(self.server_state.total_requests)
        is_alone = self._settings.workers == 1
        return bool(limit) and is_alone and self._counters.shared.limit_reached(limit)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._shared.connections.stop()
        # What the kernel has accepted for us is ours: a turn of the loop takes one connection, and
        # closing the listeners would reset the rest.
        for _ in range(MOST_ACCEPTED):
            before = self._counters.accepted
            for _ in range(3):
                await asyncio.sleep(0)
            if self._counters.accepted == before:
                break
        await super().shutdown(sockets)
        self._counters.set_total_requests(self.server_state.total_requests)
        logger.info("stopped after %d requests", self.server_state.total_requests)

    def _summary(self, address: str) -> str:
        settings, policy = self._settings, self._predictor.policy
        return (
            f"cartpole {__version__} serves {policy.path} ({policy.algorithm}, "
            f"sha256 {policy.sha256[:12]}) on {address} with "
            f"{self._predictor.engine.name}, threads: {settings.threads}, "
            f"workers: {settings.workers}, "
            f"connections: {settings.limit_connections}, heads: {settings.limit_head} B, "
            f"{settings.head_timeout} s, bodies: {settings.limit_body} B, "
            f"idle: {settings.keep_alive} s"
        )


def _address(settings: Settings, listener: socket.socket) -> str:
    if settings.uds:
        return f"unix:{settings.uds}"
    scheme = "https" if settings.ssl_certfile else "http"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
