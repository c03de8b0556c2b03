"""Readiness, statistics and the index of models, which change while the service runs."""

from typing import Any

from orjson import dumps
from starlette.types import Receive, Scope, Send

from cartpole.api.request_bodies import (
    ClientGone,
    RequestError,
    decompress,
    read_head,
    receive_body,
)
from cartpole.api.responses import headers, render_error, respond
from cartpole.api.routes import Ready
from cartpole.api.rows import parse_json
from cartpole.metrics.counters import BATCH_SIZES, COLUMNS, SharedCounters
from cartpole.metrics.routes import INFER
from cartpole.v2.contract import MODEL, VERSION


class IsReady:
    """An ASGI endpoint: whether the service wants traffic, 503 if not.

    Args:
        about: what else the answer says.
    """

    def __init__(self, ready: Ready, about: dict[str, Any]) -> None:
        self._ready, self._about = ready, about

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_ready = not self._ready.is_draining
        body = dumps(self._about | {"ready": is_ready})
        await respond(scope, send, 200 if is_ready else 503, body)


class Statistics:
    """An ASGI endpoint: the counts and times of all workers since they were started."""

    def __init__(self, shared: SharedCounters) -> None:
        self._shared = shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(scope, send, 200, dumps({"model_stats": [model_statistics(self._shared)]}))


def model_statistics(shared: SharedCounters) -> dict[str, Any]:
    """Rows and forwards of every route; requests, and their times in nanoseconds, of infer."""
    infer, total = COLUMNS.batches[INFER], shared.total
    sizes = len(BATCH_SIZES) + 1
    good = total(infer.good)

    def taken(count: int, nanoseconds: int) -> dict[str, int]:
        return {"count": count, "ns": nanoseconds}

    parts = [total(cell) for cell in (infer.parse_time, infer.forward_time, infer.render_time)]
    whole = total(infer.good_time)
    return {
        "name": MODEL,
        "version": VERSION,
        "last_inference": max(row[infer.last_at] for row in shared.rows),
        "inference_count": total(COLUMNS.batch_size + sizes),
        "execution_count": sum(total(COLUMNS.batch_size + size) for size in range(sizes)),
        "inference_stats": {
            "success": taken(good, whole),
            "fail": taken(total(infer.bad), total(infer.bad_time)),
            "queue": taken(good, max(0, whole - sum(parts))),
            "compute_input": taken(good, parts[0]),
            "compute_infer": taken(good, parts[1]),
            "compute_output": taken(good, parts[2]),
            "cache_hit": taken(0, 0),
            "cache_miss": taken(0, 0),
        },
        "batch_stats": [],
    }


class RepositoryIndex:
    """An ASGI endpoint: the only model. Its body may be empty, or an object of options."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, lines = 200, []
        body = dumps([{"name": MODEL, "version": VERSION, "state": "READY", "reason": ""}])
        try:
            coding = read_head(scope["headers"]).coding
            options = decompress(await receive_body(receive, self._limit), coding, self._limit)
            if options and type(parse_json(options)) is not dict:
                raise RequestError(400, "the request is not a JSON object")
        except ClientGone:
            return
        except RequestError as error:
            status, body, lines = error.status, render_error(str(error)), error.lines
        await respond(scope, send, status, body, headers(len(body)) + lines)
