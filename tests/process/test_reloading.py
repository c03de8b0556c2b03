"""Tests of cartpole/process/reloading.py, with loads that end when the test says so."""

import asyncio
import logging
import threading
from collections.abc import Callable

import pytest

from cartpole.process import progress
from cartpole.process.reloading import Reloader

HANGS = "reload: the load hangs; it is left behind, and the next may start"
HANGS_TOO = "reload: the load hangs as the one before does; waiting for either"


class Loads:
    """A reloader whose loads hang or work until they are let go.

    Attributes:
        begun: how many.
        used: which of them are in use, in turn.
    """

    def __init__(self, bad: tuple[int, ...] = (), busy: bool = False) -> None:
        self.begun, self.used, self._bad, self._busy = 0, list[int](), bad, busy
        self._going: dict[int, threading.Event] = {}
        self.reloader = Reloader(self._load, self.used.append)

    def _load(self) -> int:
        self.begun += 1
        number = self.begun
        going = self._going.setdefault(number, threading.Event())
        while self._busy and not going.is_set():
            pass
        assert going.wait(timeout=30)
        if number in self._bad:
            raise ValueError(f"load {number} is bad")
        return number

    async def begin(self, number: int) -> None:
        await until(lambda: number in self._going)

    async def let_go(self, number: int) -> None:
        """Let a load end, and wait until the event loop has noticed."""
        await self.begin(number)
        threads = [thread for thread in threading.enumerate() if thread.name == "reload"]
        self._going[number].set()
        await until(lambda: not all(thread.is_alive() for thread in threads))
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of the reloader's clock takes a millisecond."""
    monkeypatch.setattr("cartpole.process.reloading.CHECK_SECONDS", 0.001)


@pytest.mark.parametrize("requests", [1, 2, 5])
def test_requests_during_a_load_are_one_load_after_it(requests: int) -> None:
    async def check() -> None:
        loads = Loads()
        loads.reloader.request()
        for _ in range(requests):
            loads.reloader.request()
        await loads.let_go(1)
        assert loads.used == [1]
        assert loads.reloader.has_threads
        await loads.let_go(2)
        assert (loads.begun, loads.used, loads.reloader.has_threads) == (2, [1, 2], False)
        loads.reloader.request()
        await loads.let_go(3)
        assert (loads.begun, loads.used, loads.reloader.has_threads) == (3, [1, 2, 3], False)

    asyncio.run(check())


def test_a_bad_file_is_one_line_and_the_next_request_is_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "cartpole")

    async def check() -> None:
        loads = Loads(bad=(1,))
        loads.reloader.request()
        loads.reloader.request()
        await loads.let_go(1)
        await loads.let_go(2)
        assert (loads.begun, loads.used) == (2, [2])

    asyncio.run(check())
    assert caplog.messages == [
        "reload: the next load waits for the one under way",
        "reload rejected, still serving the previous policy: load 1 is bad",
    ]


def test_a_load_that_ends_after_the_loop_is_forgotten() -> None:
    async def begin() -> None:
        loads.reloader.request()
        await loads.begin(1)

    loads = Loads()
    asyncio.run(begin())
    (thread,) = (one for one in threading.enumerate() if one.name == "reload")
    assert thread.daemon  # the interpreter's end doesn't wait for it
    loads._going[1].set()
    thread.join(30)
    assert loads.reloader.has_threads  # pytest would tell of an exception in the thread
    assert loads.used == []


@pytest.mark.usefixtures("fast")
def test_a_load_that_works_for_long_is_finished(caplog: pytest.LogCaptureFixture) -> None:
    """However often another one is requested meanwhile."""
    caplog.set_level(logging.ERROR, "cartpole")

    async def check() -> None:
        loads = Loads(busy=True)
        for number in (1, 2, 3):
            for _ in range(2 * progress.STUCK_SECONDS):  # of the reloader's clock
                loads.reloader.request()
                await asyncio.sleep(0.001)
            assert loads.begun == number
            await loads.let_go(number)
        assert loads.used == [1, 2, 3]
        await loads.let_go(4)

    asyncio.run(check())
    assert caplog.messages == []


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("is_waiting", [True, False])
def test_a_load_that_hangs_gives_way_to_the_next(
    is_waiting: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "cartpole")

    async def check() -> None:
        loads = Loads()
        loads.reloader.request()
        if is_waiting:
            loads.reloader.request()
        await until(lambda: HANGS in caplog.messages)
        if not is_waiting:
            loads.reloader.request()
        await loads.let_go(2)
        assert (loads.begun, loads.used, loads.reloader.has_threads) == (2, [2], True)
        await loads.let_go(1)
        assert (loads.begun, loads.used, loads.reloader.has_threads) == (2, [2], False)

    asyncio.run(check())
    assert caplog.messages[0] == HANGS


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("first", [1, 2])
def test_two_loads_that_hang_are_all(first: int, caplog: pytest.LogCaptureFixture) -> None:
    """The next one starts when either of them has ended."""
    caplog.set_level(logging.ERROR, "cartpole")

    async def check() -> None:
        loads = Loads()
        for _ in range(2):
            loads.reloader.request()
        await until(lambda: HANGS_TOO in caplog.messages)
        for _ in range(5):
            loads.reloader.request()
            await asyncio.sleep(2 * progress.STUCK_SECONDS / 1000)
        assert loads.begun == 2
        assert caplog.messages == [HANGS, HANGS_TOO]
        await loads.let_go(first)
        await loads.let_go(3)
        await until(lambda: loads.used[-1:] == [3])
        assert loads.used == ([3] if first == 1 else [2, 3])
        await loads.let_go(3 - first)
        assert not loads.reloader.has_threads
        assert loads.used[-1] == 3

    asyncio.run(check())
