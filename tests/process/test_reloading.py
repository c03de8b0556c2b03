"""Tests of cartpole/process/reloading.py, with loads that end when the test says so."""

import asyncio
import logging
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cartpole.process.reloading import Reloader


class Loads:
    """A reloader whose loads wait to be let go.

    Attributes:
        begun: how many.
        used: which of them serve, in turn.
    """

    def __init__(self, *bad: int) -> None:
        self.begun, self.used, self._bad = 0, list[int](), bad
        self._go = threading.Semaphore(0)
        self.reloader = Reloader(self._load, self._use)

    def _load(self) -> Any:
        self.begun += 1
        number = self.begun
        assert self._go.acquire(timeout=30)
        if number in self._bad:
            raise ValueError(f"load {number} is bad")
        policy = SimpleNamespace(path=Path("model.pt"), sha256="00" * 32)
        return SimpleNamespace(number=number, policy=policy)

    def _use(self, runner: Any) -> None:
        self.used.append(runner.number)

    async def let_go(self) -> None:
        """Let one load end, and wait until the event loop has noticed."""
        self._go.release()
        lasting = {thread for thread in threading.enumerate() if thread.name == "reload"}
        for thread in lasting:
            while thread.is_alive():
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)


@pytest.mark.parametrize("requests", [1, 2, 5])
def test_requests_during_a_load_are_one_load_after_it(requests: int) -> None:
    async def run() -> None:
        loads = Loads()
        loads.reloader.request()
        for _ in range(requests):
            loads.reloader.request()
        await loads.let_go()
        assert loads.used == [1]
        assert loads.reloader.is_loading
        await loads.let_go()
        assert (loads.begun, loads.used, loads.reloader.is_loading) == (2, [1, 2], False)
        loads.reloader.request()
        await loads.let_go()
        assert (loads.begun, loads.used, loads.reloader.is_loading) == (3, [1, 2, 3], False)

    asyncio.run(run())


def test_a_bad_file_is_one_line_and_the_next_request_is_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "cartpole")

    async def run() -> None:
        loads = Loads(1)
        loads.reloader.request()
        loads.reloader.request()
        await loads.let_go()
        await loads.let_go()
        assert (loads.begun, loads.used) == (2, [2])

    asyncio.run(run())
    assert caplog.messages == [
        "reload rejected, still serving the previous policy: load 1 is bad",
        "reload: now serving model.pt (sha256 000000000000)",
    ]


def test_a_load_that_ends_after_the_loop_is_forgotten() -> None:
    async def begin(loads: Loads) -> None:
        loads.reloader.request()

    loads = Loads()
    asyncio.run(begin(loads))
    (thread,) = (one for one in threading.enumerate() if one.name == "reload")
    assert thread.daemon  # the interpreter's end doesn't wait for it
    loads._go.release()
    thread.join(30)
    assert loads.reloader.is_loading  # pytest would tell of an exception in the thread
    assert loads.used == []


def test_a_load_that_hangs_gives_way_to_the_next(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cartpole.process.reloading.LOAD_TIMEOUT_SECONDS", 0.01)

    async def run() -> None:
        loads = Loads()
        loads.reloader.request()
        loads.reloader.request()
        while loads.begun < 2:
            await asyncio.sleep(0.001)
        for _ in range(2):
            loads._go.release()
        while loads.reloader.is_loading:
            await asyncio.sleep(0.001)
        assert (loads.begun, loads.used, loads.reloader.abandoned_loads) == (2, [2], 1)

    asyncio.run(run())
    assert caplog.messages[0] == "reload: the load hangs, starting the next one in its place"
