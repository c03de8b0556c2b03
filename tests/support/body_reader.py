"""An application that reads request bodies, on a connection in memory."""

from typing import Any

from cartpole.api.inference import Inference
from cartpole.http.limits import ClientLimits
from tests.support.memory import LIMITS, Connection


async def read_body(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the body and answers with its length."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RuntimeError("the client has gone")
        size, more = size + len(message["body"]), message["more_body"]
    lines = [(b"content-length", b"%d" % len(str(size)))]
    await send({"type": "http.response.start", "status": 200, "headers": lines})
    await send({"type": "http.response.body", "body": str(size).encode()})


def reading(inference: Inference, fast: bool, limits: ClientLimits = LIMITS) -> Connection:
    return Connection(inference, fast, limits, app=read_body)
