"""Polling starts while it pays, stops by itself, and is one chain of callbacks."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from cartpole.http import polling
from cartpole.http.polling import (
    ALWAYS_FOR,
    LONGEST,
    LONGEST_PAUSE,
    SHORTEST_PAUSE,
    WATCHED_TURNS,
    Polling,
)

MICROSECOND, SECOND = 1000, 1_000_000_000
STEP = 10 * MICROSECOND  # of a turn without a request


class Loop:
    """An event loop of callbacks, with a clock that moves when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ready: list[Any] = []
        self.now = SECOND
        self.interruptions = 0.0
        monkeypatch.setattr(polling, "clock", lambda: self.now)
        monkeypatch.setattr(
            polling, "getrusage", lambda _: SimpleNamespace(ru_nivcsw=int(self.interruptions))
        )

    def call_soon(self, callback: Any) -> None:
        self.ready.append(callback)

    def turn(self) -> None:
        """One turn without a request."""
        self.now += STEP
        ready, self.ready = self.ready, []
        for callback in ready:
            callback()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(monkeypatch)


def make(loop: Loop, mode: str) -> Polling:
    made = Polling(mode)
    made.start(loop)  # type: ignore[arg-type]
    return made


def request(loop: Loop, poll: Polling, gap: int) -> None:
    """A request `gap` nanoseconds after the answer to the one before, answered in 10 µs."""
    until = loop.now + gap
    while loop.ready and loop.now < until:
        loop.turn()
    loop.now = max(loop.now, until)
    poll.begin_turn()
    loop.now += 10 * MICROSECOND
    poll.end_turn(loop.now)


def requests(loop: Loop, poll: Polling, gap: int, number: int = 200, interrupted: float = 0) -> int:
    """After how many of them the loop polls. The kernel interrupts a share of the turns."""
    polled = 0
    for _ in range(number):
        request(loop, poll, gap)
        loop.interruptions += interrupted
        polled += bool(loop.ready)
    return polled


def test_short_gaps_start_it_and_long_ones_stop_it(loop: Loop) -> None:
    poll = make(loop, "auto")
    requests(loop, poll, 5000 * MICROSECOND)
    assert loop.ready == []
    requests(loop, poll, 60 * MICROSECOND)
    assert len(loop.ready) == 1
    requests(loop, poll, 30 * MICROSECOND)
    assert len(loop.ready) == 1
    requests(loop, poll, 5000 * MICROSECOND)
    assert loop.ready == []


def test_a_pause_ends_the_polling_but_not_the_mode(loop: Loop) -> None:
    """It never polls for longer than LONGEST at a stretch."""
    poll = make(loop, "auto")
    requests(loop, poll, 40 * MICROSECOND)
    answered = loop.now
    while loop.ready:
        loop.turn()
    assert LONGEST <= loop.now - answered <= LONGEST + 2 * STEP
    requests(loop, poll, 40 * MICROSECOND, 1)
    assert len(loop.ready) == 1


def test_one_late_request_does_not_stop_it(loop: Loop) -> None:
    poll = make(loop, "auto")
    requests(loop, poll, 30 * MICROSECOND)
    request(loop, poll, SECOND)
    requests(loop, poll, 30 * MICROSECOND, 1)
    assert len(loop.ready) == 1


def test_a_client_that_needs_this_core_stops_it_for_longer_each_time(loop: Loop) -> None:
    """Asleep, its gaps look short. While the loop polls, the client can't run."""
    poll = make(loop, "auto")
    starts = []
    was_polling = False
    while loop.now < 60 * SECOND:
        is_polling = bool(loop.ready)
        if is_polling and not was_polling:
            starts.append(loop.now)
        was_polling = is_polling
        request(loop, poll, 300 * MICROSECOND if is_polling else 60 * MICROSECOND)
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert len(starts) < 15
    assert pauses[0] >= SHORTEST_PAUSE
    assert pauses[-1] >= LONGEST_PAUSE
    assert all(later >= 0.9 * earlier for earlier, later in pairwise(pauses))


def test_a_core_that_others_need_stops_it_though_gaps_are_short(loop: Loop) -> None:
    """A client on this core that runs as soon as it is answered, or another worker."""
    poll = make(loop, "auto")
    requests(loop, poll, 30 * MICROSECOND, 20)
    assert len(loop.ready) == 1
    requests(loop, poll, 30 * MICROSECOND, 2 * WATCHED_TURNS, interrupted=0.02)
    assert len(loop.ready) == 1
    polled = requests(loop, poll, 30 * MICROSECOND, 100_000, interrupted=0.05)
    assert 2 * WATCHED_TURNS < polled < 10 * WATCHED_TURNS


def test_bursts_with_long_gaps_between_them_do_not_start_it_for_long(loop: Loop) -> None:
    """Four clients that ask at the same time, a thousand times a second."""
    poll, polled = make(loop, "auto"), 0
    for _ in range(10_000):
        for gap in (10, 10, 10, 930):
            request(loop, poll, gap * MICROSECOND)
            polled += bool(loop.ready)
    assert polled < 1000


def test_polling_that_paid_is_tried_again_soon(loop: Loop) -> None:
    poll = make(loop, "auto")
    for _ in range(5):
        requests(loop, poll, 30 * MICROSECOND, 20_000)
        assert len(loop.ready) == 1
        requests(loop, poll, 5000 * MICROSECOND)
        assert loop.ready == []
        loop.now += SHORTEST_PAUSE


def test_never(loop: Loop) -> None:
    poll = make(loop, "never")
    assert not poll.is_on
    requests(loop, poll, 30 * MICROSECOND)
    assert loop.ready == []


def test_always(loop: Loop) -> None:
    poll = make(loop, "always")
    request(loop, poll, SECOND)
    answered = loop.now
    while loop.ready:
        loop.turn()
    assert ALWAYS_FOR <= loop.now - answered <= ALWAYS_FOR + 2 * STEP
    request(loop, poll, 0)
    poll.stop()  # no connection is open
    loop.turn()
    assert loop.ready == []


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_it_is_one_chain_of_callbacks(loop: Loop, mode: str) -> None:
    poll = make(loop, mode)
    requests(loop, poll, 30 * MICROSECOND)
    for _ in range(500):
        poll.end_turn(loop.now)
        poll.stop()
        poll.end_turn(loop.now)
        assert len(loop.ready) == 1
        loop.turn()
        assert len(loop.ready) == 1
