"""Puts a server together: policy, application, connections, TLS, rehearsal."""

import asyncio
import gc
import ssl
from collections.abc import Callable
from functools import partial
from typing import cast

import uvicorn
from starlette.applications import Starlette

from cartpole.api.inference import Inference
from cartpole.api.routes import Ready
from cartpole.app import create_app
from cartpole.http.connection import HttpConnection
from cartpole.http.fast import FastConnection
from cartpole.http.limits import ClientLimits
from cartpole.http.new_connection import NewConnection
from cartpole.http.rehearsal import Rehearsal, Unlogged
from cartpole.http.shared import Shared, share
from cartpole.http.tls import TLSTransport
from cartpole.metrics.counters import WorkerCounters
from cartpole.predictor import Predictor, load_engine, set_threads
from cartpole.process.server import Server
from cartpole.settings import Settings


def build(settings: Settings, counters: WorkerCounters) -> Server:
    """Make a server, up to its sockets.

    Raises:
        BadPolicy: the model can't be served, or not by this engine.
        OSError: the TLS files can't be loaded.
    """
    set_threads(settings.threads)
    predictor = Predictor(load_engine(settings.model, settings.engine), counters)
    inference, ready = Inference(predictor), Ready(predictor)
    is_fast = settings.http == "fast" and not settings.access_log
    shared = share(_limits(settings), inference, is_fast, settings.poll)
    connection_type = FastConnection if is_fast else HttpConnection
    protocol = partial(connection_type, shared)
    is_new = is_fast and not settings.ssl_certfile
    app = create_app(inference, ready, settings.access_log, settings.page, settings.limit_body)
    config = _uvicorn_config(settings, app, partial(NewConnection, shared) if is_new else protocol)
    if config.ssl:
        _terminate_tls(config, config.ssl, shared, protocol)
    rehearsal = _rehearsal(shared, connection_type, predictor) if settings.rehearse else None
    # All objects made so far live as long as the process, so no collection need traverse them.
    # Collections stay enabled, since disabling them gains nothing (bench/scale.py: garbage).
    gc.collect()
    gc.freeze()
    return Server(config, shared, predictor, ready, settings, rehearsal)


def _uvicorn_config(
    settings: Settings, app: Starlette, protocol: Callable[..., asyncio.Protocol]
) -> uvicorn.Config:
    """uvicorn's configuration, loaded. Raises OSError if the TLS files can't be loaded."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=cast(type[asyncio.Protocol], protocol),
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
    return config


def _terminate_tls(
    config: uvicorn.Config,
    context: ssl.SSLContext,
    shared: Shared,
    protocol: Callable[..., HttpConnection],
) -> None:
    """Put our own TLS transport below the protocol, in place of asyncio's."""
    context.options |= ssl.OP_NO_RENEGOTIATION
    secured = partial(TLSTransport, shared, context, protocol)
    config.http_protocol_class = cast(type[asyncio.Protocol], secured)
    config.ssl = None  # for asyncio, connections are plain TCP


def _limits(settings: Settings) -> ClientLimits:
    return ClientLimits(
        head_bytes=settings.limit_head,
        head_seconds=settings.head_timeout,
        body_bytes=settings.limit_body,
        keep_alive_seconds=settings.keep_alive,
        connections=settings.limit_connections,
    )


def _rehearsal(
    shared: Shared, connection_type: type[HttpConnection], predictor: Predictor
) -> Rehearsal:
    """Rehearsal through an endpoint, an application and counters of its own."""
    inference = Inference(Predictor(predictor.engine), Unlogged())
    config = uvicorn.Config(
        create_app(inference, page=False), lifespan="off", ws="none", log_config=None
    )
    config.load()
    return Rehearsal(shared, connection_type, config, predictor, inference)
