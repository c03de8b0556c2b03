"""The live page and its service: outages, the decision map, the batch route."""

import json
import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import pytest
from playwright.sync_api import Browser, Route

from bench.server import Server, free_port, serving
from tests.page.conftest import Open
from tests.support.live_page import LivePage, State, parse
from tests.support.processes import UNMEASURED

CELLS = 41 * 41
# Seconds. The page promises 3 and 5; the machine may be busy.
FOUND = 6
RECOVERED = 10


@pytest.fixture
def live(server: Server, open_page: Open) -> LivePage:
    live = open_page(server)
    live.wait_for_steps(20)
    return live


@dataclass
class Outage:
    """The page at the moment when it found the outage; asked: its questions so far."""

    steps: float
    observation: State
    asked: int

    def check(self, live: LivePage) -> None:
        """The message is there, the state stays, the page tries again."""
        assert "No answer" in live.status
        tries = live.asked_during(lambda: live.sleep(4))
        assert 3 <= tries <= 16  # in 4 s
        assert (live.observation, live.number("steps")) == (self.observation, self.steps)

    def check_recovery(self, live: LivePage) -> None:
        """The pole goes on where it was."""
        live.wait_for_state("balancing", seconds=RECOVERED)
        live.wait_for_steps(20)
        assert live.number("steps") >= self.steps + 20
        steps = [parse(question) for question in live.recorded("questions")[self.asked - 1 :]]
        assert steps[0] == self.observation
        moved = np.abs(np.diff([step for step in steps if step[:2] != (0, 0)], axis=0))
        assert moved[:, [0, 2]].max() < 0.1  # no jump


def find_outage(live: LivePage) -> Outage:
    live.wait_for_state("disconnected", seconds=FOUND)
    return Outage(live.number("steps"), live.observation, len(live.recorded("questions")))


def test_a_service_that_hangs(live: LivePage, server: Server) -> None:
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        outage = find_outage(live)
        outage.check(live)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    outage.check_recovery(live)


def test_a_service_that_stops_and_comes_back(browser: Browser, open_page: Open) -> None:
    port = free_port()
    with serving(port=port, environ=UNMEASURED) as running:
        live = open_page(running)
        live.wait_for_steps(20)
    outage = find_outage(live)
    outage.check(live)
    with serving(port=port, environ=UNMEASURED):
        outage.check_recovery(live)


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 200, "json": {"left": None, "right": 1}},
        {"status": 200, "body": "left"},
        {"status": 200, "json": {}},
    ],
    ids=["a logit is null", "not JSON", "no logits"],
)
def test_an_answer_that_is_none(live: LivePage, answer: dict[str, object]) -> None:
    live.page.route("**/inference?*", lambda route: route.fulfill(**answer))
    live.wait_for_state("disconnected", seconds=FOUND)
    live.page.unroute("**/inference?*")
    live.wait_for_state("balancing", seconds=RECOVERED)


def shown(live: LivePage, angle: float, rate: float) -> int | None:
    """The action that the map shows there; None for none."""
    inside = """([x, y]) => ["left", "right"].findIndex((side) => {
      const path = document.querySelector(`#map path.${side}`);
      return path.isPointInFill(new DOMPoint(x, y));
    })"""
    column = (angle / 0.20943951 + 1) * 20 + 0.5
    row = (1 - rate / 2) * 20 + 0.5
    found: int = live.page.evaluate(inside, [column, row])
    return None if found < 0 else found


@pytest.fixture
def with_batches(server: Server, open_page: Open) -> tuple[LivePage, list[list[list[float]]]]:
    """A page, before it is opened, and what it sends to POST /inference."""
    live = open_page(server, opening=False)
    batches = []

    def answer(route: Route) -> None:
        if route.request.method != "POST":
            return route.fallback()
        rows = json.loads(route.request.post_data or "")["observations"]
        batches.append(rows)
        actions = [int(x + v + angle + rate > 0) for x, v, angle, rate in rows]
        route.fulfill(json={"logits": [], "actions": actions})

    live.page.route("**/inference", answer)
    live.open()
    return live, batches


def test_the_map_is_renewed_where_the_cart_is(
    with_batches: tuple[LivePage, list[list[list[float]]]],
) -> None:
    live, batches = with_batches
    live.wait_for_steps(20)
    before, start = len(batches), time.monotonic()
    live.sleep(2)
    while len(batches) == before and time.monotonic() < start + 60:  # on a busy machine
        live.sleep(0.5)
    assert 1 <= len(batches) - before <= 4 * (time.monotonic() - start) + 1
    states = {parse(observation)[:2] for observation in live.recorded("observations")}
    for rows in batches:
        assert len(rows) == len({tuple(row) for row in rows}) == CELLS
        assert {tuple(row[:2]) for row in rows} <= states
    live.press("Pause")
    live.sleep(0.5)
    asked = len(batches)
    live.sleep(0.5)
    assert len(batches) == asked
    [x, v, *_] = batches[-1][0]
    for angle, rate in [(0.1, 1.5), (-0.1, -1.5), (0.2, -0.1)]:
        assert shown(live, angle, rate) == (x + v + angle + rate > 0)


def test_the_map_shows_what_the_service_decides(live: LivePage) -> None:
    """The shipped policy pushes to the side that the pole falls to."""
    live.wait_for_steps(20)
    assert shown(live, 0.2, 1.5) == 1
    assert shown(live, -0.2, -1.5) == 0
