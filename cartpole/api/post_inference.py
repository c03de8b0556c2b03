"""POST /inference: rows of observations as plain JSON, answered together."""

import struct
from typing import Any

from orjson import dumps

from cartpole.api.batches import Batch, BatchEndpoint, Reply
from cartpole.api.request_bodies import BodyHead, RequestError
from cartpole.api.responses import headers
from cartpole.api.rows import check_count, numbers_of, pack_numbers, parse_json

_LOGITS = struct.Struct("2f")


class PostInference(BatchEndpoint[Batch]):
    """{"observations": [[…4 numbers…], …]} to {"logits": [[left, right], …], "actions": [0, …]}

    A number is read and written as by GET /inference.
    """

    route = "/inference"

    def parse(self, head: BodyHead, body: bytes) -> Batch:
        numbers = numbers_of(_rows(parse_json(body)))
        return Batch(memoryview(pack_numbers(numbers, "f", "float32")))

    def render(self, head: BodyHead, batch: Batch) -> Reply:
        logits = list(_LOGITS.iter_unpack(batch.logits))
        actions = memoryview(batch.actions()).cast("q").tolist()
        body = dumps({"logits": logits, "actions": actions})
        return body, headers(len(body))


def _rows(value: Any) -> list[Any]:
    if type(value) is dict:
        if "observations" not in value:
            raise RequestError(400, "observations are missing")
        value = value["observations"]
    if type(value) is not list:
        raise RequestError(400, "observations are not a list of rows")
    check_count(len(value))
    return value
