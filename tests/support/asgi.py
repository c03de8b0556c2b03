"""A bare ASGI client."""

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette


async def call(
    app: Any,
    method: str,
    path: str,
    query: bytes = b"",
    lines: Sequence[tuple[bytes, bytes]] = (),
    body: bytes = b"",
) -> tuple[int, Any, bytes]:
    """Send a request to an ASGI application; return status, headers and body."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [*lines],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), answer


def get(
    app: Starlette,
    path: str,
    query: bytes = b"",
    method: str = "GET",
    lines: Sequence[tuple[bytes, bytes]] = (),
) -> tuple[int, Any, Any]:
    return asyncio.run(call(app, method, path, query, lines))


def post(
    app: Any, path: str, body: bytes, *lines: tuple[bytes, bytes]
) -> tuple[int, dict[bytes, bytes], bytes]:
    """The answer to a POST request with this body and these headers."""
    return asyncio.run(call(app, "POST", path, lines=lines, body=body))
