"""Questions to a replica over HTTP."""

import asyncio
import hashlib
import signal
import socket
from pathlib import Path

import pytest

from bench.server import free_port, serving
from cartpole.integrations import probe
from cartpole.settings import BUNDLED_MODEL
from tests.support.waiting import wait_until


@pytest.mark.parametrize("is_tls", [False, True])
def test_service_is_ready_until_it_drains(is_tls: bool, certificate: Path) -> None:
    with serving("--drain-seconds", "60", tls=certificate if is_tls else None) as server:
        tls = probe.trusting_context() if is_tls else None

        def is_ready() -> bool:
            return asyncio.run(probe.is_ready("127.0.0.1", server.port, tls))

        wait_until(is_ready)
        sha256 = asyncio.run(probe.policy_sha256("127.0.0.1", server.port, tls))
        assert sha256 == hashlib.sha256(BUNDLED_MODEL.read_bytes()).hexdigest()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_ready())


def test_nobody_listens() -> None:
    port = free_port()
    assert not asyncio.run(probe.is_ready("127.0.0.1", port))
    assert asyncio.run(probe.policy_sha256("127.0.0.1", port)) == ""


def test_silence_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert not asyncio.run(probe.is_ready("127.0.0.1", listener.getsockname()[1]))
