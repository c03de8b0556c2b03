"""The live page in a real browser: it balances, and takes pushes, switches and keys."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest

from bench.server import Server
from tests.page.conftest import Open
from tests.support.live_page import LivePage, parse

PUSH = 0.4  # m/s
TILT = 0.1  # rad
MOST_CAUGHT_UP = 7  # steps: 100 ms, and the ends of the time in which they are counted


def cartpole() -> Any:
    """gymnasium's environment, with its state in float64."""
    env = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    return env


@pytest.fixture
def live(server: Server, open_page: Open) -> LivePage:
    live = open_page(server)
    live.wait_for_state("balancing")
    return live


@pytest.fixture
def paused(live: LivePage) -> LivePage:
    live.press("Pause")
    live.sleep(0.2)
    return live


def test_it_balances_for_500_steps_and_survives_a_push_and_a_tilt(live: LivePage) -> None:
    live.wait_for_steps(500)
    for disturbance in ("Push right", "Tilt left"):
        live.press(disturbance)
        live.wait_for_steps(200)
    assert live.state == "balancing"
    assert live.status == ""
    assert live.number("best") >= 900
    assert live.number("steps") >= 900
    assert 0 < live.number("p50") <= live.number("p99")
    logits = live.page.evaluate("[left, right, probability].map((e) => Number(e.textContent))")
    softmax = 1 / (1 + np.exp(-abs(logits[0] - logits[1])))
    assert logits[2] == pytest.approx(softmax, abs=0.002)


def disturbances(live: LivePage) -> list[list[float]]:
    """The changes of the state that are not a step with the answer to exactly that state."""
    observations, answers = live.recorded("observations"), live.recorded("answers")
    env, found = cartpole(), []
    for before, after in pairwise(observations[1:]):
        env.state = np.array(parse(before))
        if before in answers:
            env.step(answers[before])
        if parse(after) != pytest.approx(tuple(env.state), abs=1e-9):
            found.append(np.subtract(parse(after), parse(before)).round(9).tolist())
    return found


def test_each_step_follows_from_the_answer_to_exactly_its_state(live: LivePage) -> None:
    live.wait_for_steps(50)
    live.press("Push left")
    live.wait_for_steps(100)  # both at once can be too much for the policy
    live.press("Tilt right")
    live.wait_for_steps(50)
    assert live.recorded("most") == 1
    assert disturbances(live) == [[0, -PUSH, 0, 0], [0, 0, TILT, 0]]


def test_an_answer_to_a_state_that_is_no_more_is_not_used(live: LivePage) -> None:
    live.wait_for_steps(20)
    live.wait_until_held()
    live.press("Reset")
    live.page.evaluate("release()")
    live.wait_for_steps(20)
    assert len(disturbances(live)) == 1  # the new start


def test_a_late_answer_stops_time_and_nothing_is_caught_up(live: LivePage) -> None:
    live.wait_for_steps(20)
    live.wait_until_held()
    asked, observation = live.recorded("inFlight"), live.observation
    live.sleep(0.5)
    assert (asked, live.observation, live.state) == (1, observation, "balancing")
    live.page.evaluate("release()")
    live.wait_for_steps(50)
    assert live.recorded("most") == 1
    assert live.most_steps(0.5) <= 25 + MOST_CAUGHT_UP


PUSHES: dict[str, tuple[Callable[[LivePage], object], tuple[float, float]]] = {
    "push left": (lambda live: live.press("Push left"), (-PUSH, 0)),
    "push right": (lambda live: live.press("Push right"), (PUSH, 0)),
    "tilt left": (lambda live: live.press("Tilt left"), (0, -TILT)),
    "tilt right": (lambda live: live.press("Tilt right"), (0, TILT)),
    "arrow": (lambda live: live.page.keyboard.press("ArrowRight"), (PUSH, 0)),
    "shift and arrow": (lambda live: live.page.keyboard.press("Shift+ArrowLeft"), (0, -TILT)),
    "another key": (lambda live: live.page.keyboard.press("Alt+Shift+ArrowUp"), (0, 0)),
    "letters": (lambda live: live.page.keyboard.type("aprs PR"), (0, 0)),
    "left of the cart": (lambda live: click_stage(live, 0.1), (PUSH, 0)),
    "right of the cart": (lambda live: click_stage(live, 0.9), (-PUSH, 0)),
}


def test_what_pushes_and_by_how_much(paused: LivePage) -> None:
    """One after the other: each adds to the velocity (m/s) and the angle (rad)."""
    for name, (act, (push, tilt)) in PUSHES.items():
        x, v, angle, rate = paused.observation
        paused.page.evaluate("document.activeElement.blur()")
        act(paused)
        expected = (x, v + push, angle + tilt, rate)
        assert paused.observation == pytest.approx(expected, abs=1e-12), name


def click_stage(live: LivePage, share: float) -> None:
    """Click at a share of the stage's width."""
    stage = live.page.locator("#cartpole")
    box = stage.bounding_box()
    assert box
    stage.click(position={"x": share * box["width"], "y": box["height"] / 2})


def test_a_held_key_is_one_push(paused: LivePage) -> None:
    _, v, _, _ = paused.observation
    for _ in range(5):  # from the second on, the browser says that they are repeats
        paused.page.keyboard.down("ArrowLeft")
    assert paused.observation[1] == pytest.approx(v - PUSH)


def test_the_policy_switched_off_asks_nothing_and_the_pole_falls_and_stays_down(
    live: LivePage,
) -> None:
    live.wait_for_steps(20)
    live.switch_policy()
    live.sleep(0.1)
    asked = live.asked_during(lambda: live.wait_for_state("fallen"))
    fallen = live.observation
    assert asked == 0
    assert "fell" in live.status
    assert abs(fallen[2]) > np.radians(12) or abs(fallen[0]) > 2.4
    live.sleep(2.5)
    assert (live.state, live.observation) == ("fallen", fallen)
    live.switch_policy()
    live.wait_for_state("balancing")
    assert max(map(abs, parse(live.recorded("observations")[-1]))) < 1
    assert live.number("best") > live.number("steps")


def test_with_the_policy_on_it_starts_anew_after_two_seconds(live: LivePage) -> None:
    live.wait_for_steps(20)
    live.page.evaluate(
        "for (let i = 0; i < 3; i += 1) document.getElementById('tilt-left').click()"
    )
    live.wait_for_state("fallen")
    live.sleep(1)
    assert live.state == "fallen"
    live.wait_for_state("balancing")
    live.wait_for_steps(20)


def test_pause_reset_and_slow_motion(paused: LivePage) -> None:
    steps = paused.number("steps")
    assert paused.asked_during(lambda: paused.sleep(0.5)) == 0
    assert (paused.state, paused.number("steps")) == ("paused", steps)
    paused.press("Reset")
    assert (paused.state, paused.number("steps")) == ("paused", 0)
    assert max(map(abs, paused.observation)) <= 0.05
    paused.press("Slow motion")
    paused.press("Pause")
    since = len(paused.recorded("times"))
    paused.wait_for_steps(20)
    assert paused.most_steps(1, since) <= 10 + 2
    buttons = "[pause, slow].map((button) => button.getAttribute('aria-pressed'))"
    assert paused.page.evaluate(buttons) == ["false", "true"]


def test_hidden_it_rests_and_asks_nothing(live: LivePage) -> None:
    live.wait_for_steps(20)
    hide = """(hidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    live.page.evaluate(hide, True)
    live.sleep(0.2)
    steps = live.number("steps")
    assert live.asked_during(lambda: live.sleep(1)) == 0
    assert live.number("steps") == steps
    live.page.evaluate(hide, False)
    live.wait_for_steps(50)
    assert live.most_steps(0.5) <= 25 + MOST_CAUGHT_UP


def test_the_physics_is_gymnasium_s(live: LivePage) -> None:
    env = cartpole()
    script = """async ([state, actions]) => {
      const { step } = await import("/physics.js");
      return actions.map((action) => (state = step(state, action)));
    }"""
    start, actions, expected = tuple(env.state), [], []
    for _ in range(200):
        actions.append(int(env.state[2] + env.state[3] > 0))
        env.step(actions[-1])
        expected.append(pytest.approx(tuple(env.state), abs=1e-9))
    assert live.page.evaluate(script, [start, actions]) == expected
