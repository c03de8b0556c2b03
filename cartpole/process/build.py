"""Puts a server together: policy, application, connections, TLS, rehearsal."""

import asyncio
import gc
import ssl
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette

from cartpole.api.batches import Batches
from cartpole.api.inference import Inference
from cartpole.api.routes import Ready
from cartpole.app import create_app
from cartpole.http.connection import Connection
from cartpole.http.limits import ClientLimits
from cartpole.http.rehearsal import Rehearsal
from cartpole.http.shared import Shared
from cartpole.http.tls import TLSTransport
from cartpole.metrics.counters import WorkerCounters
from cartpole.predictor import Predictor, load_engine, set_threads
from cartpole.process.server import Server
from cartpole.settings import Settings
from cartpole.v2.routes import batch_endpoints


def build(settings: Settings, counters: WorkerCounters) -> Server:
    """Make a server, up to its sockets.

    Raises:
        BadPolicy: the model can't be served, or not by this engine.
        OSError: the TLS files can't be loaded.
    """
    set_threads(settings.threads)
    predictor = Predictor(load_engine(settings.model, settings.engine), counters)
    inference, ready = Inference(predictor), Ready(predictor)
    endpoints = batch_endpoints(Batches(inference, settings.limit_body))
    app = create_app(
        inference, ready, settings.access_log, settings.page, settings.limit_body, endpoints
    )
    is_fast = settings.http == "fast" and not settings.access_log
    shared = Shared(_limits(settings), inference, app, endpoints, is_fast, settings.poll)
    config = _uvicorn_config(settings, app, shared)
    rehearsal = Rehearsal(shared, predictor) if is_fast and settings.rehearse else None
    # All objects made so far live as long as the process, so no collection need traverse them.
    # Collections stay enabled, since disabling them gains nothing (bench/scale.py: garbage).
    gc.collect()
    gc.freeze()
    return Server(config, shared, predictor, ready, settings, rehearsal)


def _uvicorn_config(settings: Settings, app: Starlette, shared: Shared) -> uvicorn.Config:
    """uvicorn's configuration, loaded. Raises OSError if the TLS files can't be loaded."""

    def connect(**_: Any) -> Connection:
        return Connection(shared)

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
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )
    try:
        config.load()
    except OSError as error:  # among them ssl.SSLError
        raise OSError(f"can't load --ssl-certfile or --ssl-keyfile: {error}") from error
    if config.ssl:
        _terminate_tls(config, config.ssl, shared)
    return config


def _terminate_tls(config: uvicorn.Config, context: ssl.SSLContext, shared: Shared) -> None:
    """Put our own TLS transport below the connections, in place of asyncio's."""
    context.options |= ssl.OP_NO_RENEGOTIATION

    def connect(**_: Any) -> TLSTransport:
        return TLSTransport(shared, context)

    config.http_protocol_class = cast(type[asyncio.Protocol], connect)
    config.ssl = None  # for asyncio, connections are plain TCP


def _limits(settings: Settings) -> ClientLimits:
    return ClientLimits(
        head_bytes=settings.limit_head,
        head_seconds=settings.head_timeout,
        body_bytes=settings.limit_body,
        keep_alive_seconds=settings.keep_alive,
        connections=settings.limit_connections,
    )
