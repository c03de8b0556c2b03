"""Asks a replica over HTTP whether it is ready, and which policy it serves."""

import asyncio
import re
import ssl

TIMEOUT_SECONDS = 2
_MAX_BYTES = 2**20


def trusting_context() -> ssl.SSLContext:
    """A context that checks no certificate: it names the service, and not the replica's node."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def is_ready(host: str, port: int, tls: ssl.SSLContext | None = None) -> bool:
    """Whether /health/ready answers 200 within TIMEOUT_SECONDS."""
    return (await _get(host, port, "/health/ready", tls)).startswith(b"HTTP/1.1 200 ")


async def policy_sha256(host: str, port: int, tls: ssl.SSLContext | None = None) -> str:
    """The SHA-256 of the model file that is served; empty if there is no answer."""
    answer = await _get(host, port, "/metrics", tls)
    found = re.search(rb'^cartpole_policy_info\{.*sha256="(\w+)"', answer, re.M)
    return found[1].decode() if found else ""


async def _get(host: str, port: int, target: str, tls: ssl.SSLContext | None) -> bytes:
    """The whole answer to a request on a connection of its own; empty if it fails."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=_MAX_BYTES)
            try:
                writer.write(f"GET {target} HTTP/1.0\r\nHost: cartpole\r\n\r\n".encode())
                return await reader.read(-1)
            finally:
                writer.transport.abort()
    except OSError:  # TimeoutError is one
        return b""
