"""Counts and times what the application answers, and writes the access log."""

import logging
from collections.abc import Mapping
from time import perf_counter_ns as clock

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cartpole.api.observation import printable
from cartpole.api.responses import respond
from cartpole.api.routes import ALLOW
from cartpole.metrics.counters import WorkerCounters
from cartpole.metrics.routes import OTHER, ROUTE_OF

# The key of the scope under which our HTTP connections say when a request's head was read, in
# nanoseconds of perf_counter_ns. Other servers do not set it.
HEAD_READ_AT = "cartpole.head_read_at"

access = logging.getLogger("cartpole.access")


class MetricsMiddleware:
    """Counts each response, and logs it if `access_log` is set.

    Its route in the metrics is what `labels` says of its path, else what ROUTE_OF says, else
    "other".
    """

    def __init__(
        self, app: ASGIApp, counters: WorkerCounters, access_log: bool, labels: Mapping[str, str]
    ) -> None:
        self._app, self._counters = app, counters
        self._access_log = access_log
        self._labels = ROUTE_OF | dict(labels)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # lifespan, or WebSocket, which Starlette declines
            return await self._app(scope, receive, send)
        started = scope.get(HEAD_READ_AT) or clock()

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                nanoseconds = clock() - started
                route = self._labels.get(scope["path"], OTHER)
                self._counters.record_request(route, message["status"], nanoseconds)
                if self._access_log:
                    _log(scope, message["status"], nanoseconds)
            await send(message)

        if scope["path"] == "*":  # only OPTIONS may ask this: RFC 9112, section 3.2.4
            return await respond(scope, send_and_count, 204, b"", [(b"allow", ALLOW.encode())])
        await self._app(scope, receive, send_and_count)


def _log(scope: Scope, status: int, nanoseconds: int) -> None:
    target = scope["raw_path"] + (b"?" if scope["query_string"] else b"") + scope["query_string"]
    client = scope["client"][0] if scope["client"] else "-"
    shown = printable(target)
    access.info("%s %s %d %d µs %s", scope["method"], shown, status, nanoseconds // 1000, client)
