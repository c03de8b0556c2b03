"""An ASGI application without a framework."""

import json
from typing import Any
from urllib.parse import parse_qs

from naive import infer


async def app(scope: Any, receive: Any, send: Any) -> None:
    query = parse_qs(scope["query_string"].decode())
    answer = infer(**{name: float(values[0]) for name, values in query.items()})
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
