"""create_app(): the ASGI application, complete under any ASGI server."""

import os
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from cartpole import logs
from cartpole.api.batches import Batches, Endpoints
from cartpole.api.inference import Inference
from cartpole.api.middleware import MetricsMiddleware
from cartpole.api.request_bodies import BODY_BYTES
from cartpole.api.routes import Ready, answer_internal_error, answer_no_route, routes
from cartpole.metrics.counters import WorkerCounters
from cartpole.metrics.routes import PAGE
from cartpole.page.routes import description_route, page_routes
from cartpole.predictor import load, set_threads
from cartpole.settings import read_environment
from cartpole.v2.routes import batch_endpoints, no_such_path, protocol_routes


def create_app(
    inference: Inference | None = None,
    ready: Ready | None = None,
    access_log: bool | None = None,
    page: bool | None = None,
    body_bytes: int = BODY_BYTES,
    endpoints: Endpoints | None = None,
) -> Starlette:
    """The application, for any ASGI server: `uvicorn --factory cartpole.app:create_app`.

    Args:
        inference: the endpoint of GET /inference; by default made as the CARTPOLE_… environment
            variables say.
        ready: the endpoint of GET /health/ready; by default one that is always ready.
        access_log: whether each request is logged; by default as CARTPOLE_ACCESS_LOG says.
        page: whether the pages / and /docs are served; by default as CARTPOLE_PAGE says.
        body_bytes: the bound on a request's body, before and after decompression; without
            `inference` as CARTPOLE_LIMIT_BODY says.
        endpoints: the endpoints of `inference` that answer batches, by path; by default made here.

    Raises:
        BadPolicy: the model file can't be served.
        BadSettings: a CARTPOLE_… variable has no valid value.
    """
    if inference is None:
        settings = read_environment(os.environ)
        logs.configure(settings)
        access_log = settings.access_log if access_log is None else access_log
        page = settings.page if page is None else page
        set_threads(settings.threads)
        inference = Inference(load(settings.model, settings.engine))
        body_bytes = settings.limit_body
    ready = ready or Ready(inference.predictor)
    endpoints = endpoints or batch_endpoints(Batches(inference, body_bytes))
    counters = inference.predictor.counters
    api = routes(inference, ready, endpoints)
    api += protocol_routes(endpoints, ready, counters.shared, body_bytes)
    return _assemble(api, counters, bool(access_log), page is not False)


def _assemble(
    api: list[Route], counters: WorkerCounters, access_log: bool, page: bool
) -> Starlette:
    page_files = page_routes() if page else []
    middleware = Middleware(
        MetricsMiddleware,
        counters=counters,
        access_log=access_log,
        labels={route.path: PAGE for route in page_files},
    )
    files = [description_route(), *page_files]
    no_route = partial(answer_no_route, no_such_path)
    app = Starlette(
        routes=[*api, *files],
        exception_handlers={HTTPException: no_route, Exception: answer_internal_error},
        middleware=[middleware],
    )
    app.router.redirect_slashes = False
    return app
