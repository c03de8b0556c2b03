"""The live page for everybody: accessibility, narrow screens, reduced motion, hours of running."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import CDPSession

from bench.server import Server
from tests.page.conftest import Open
from tests.support.live_page import LivePage
from tests.support.needs import TEST_ALL

NARROW = {"width": 390, "height": 844}
SETTLING = 20  # seconds
MAX_GROWTH = 100_000  # bytes


@pytest.mark.parametrize(
    "options",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"viewport": NARROW}],
    ids=["light", "dark", "narrow"],
)
def test_axe_finds_nothing(server: Server, open_page: Open, options: dict[str, object]) -> None:
    live = open_page(server, **options)
    live.wait_for_steps(20)
    check_axe(live)
    live.press("Pause")
    live.press("Slow motion")
    check_axe(live)
    live.press("Pause")
    live.switch_policy()
    live.wait_for_state("fallen")
    check_axe(live)


def check_axe(live: LivePage) -> None:
    results = Axe().run(live.page)
    assert results.violations_count == 0, results.generate_report()


def test_390_pixels_hold_everything(server: Server, open_page: Open) -> None:
    live = open_page(server, viewport=NARROW)
    live.wait_for_steps(20)
    check_width(live)
    live.page.route("**/inference?*", lambda route: route.abort())
    live.wait_for_state("disconnected")
    check_width(live)


def check_width(live: LivePage) -> None:
    """Nothing is scrolled to sideways, and no control or number is cut off."""
    assert live.page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    edges = """[...document.querySelectorAll("button, .number, p, svg")].map((element) => {
      const { left, right } = element.getBoundingClientRect();
      return [left, right];
    })"""
    for left, right in live.page.evaluate(edges):
        assert 0 <= left <= right <= NARROW["width"]


def test_reduced_motion_starts_paused_and_animates_nothing(server: Server, open_page: Open) -> None:
    live = open_page(server, reduced_motion="reduce")
    live.sleep(1)
    assert (live.state, live.number("steps"), live.recorded("questions")) == ("paused", 0, [])
    live.press("Pause")
    live.wait_for_steps(20)
    moving = """[...document.querySelectorAll("*")].filter((element) => {
      const style = getComputedStyle(element);
      return parseFloat(style.transitionDuration) || style.animationName !== "none"
        || style.scrollBehavior !== "auto";
    }).length"""
    assert live.page.evaluate(moving) == 0


def test_every_control_is_reached_by_the_keyboard_and_shows_it(
    server: Server, open_page: Open
) -> None:
    live = open_page(server)
    live.wait_for_steps(1)
    seen = {}
    for _ in range(8):
        live.page.keyboard.press("Tab")
        focus = (
            "({ name: e.innerText.trim(), width: parseFloat(getComputedStyle(e).outlineWidth) })"
        )
        focused = live.page.evaluate(f"((e) => {focus})(document.activeElement)")
        seen[focused["name"]] = focused["width"]
    assert len(seen) == 8
    assert min(seen.values()) >= 2


def test_the_status_is_silent_while_nothing_happens(server: Server, open_page: Open) -> None:
    live = open_page(server)
    live.wait_for_steps(20)
    said = """new Promise((resolve) => {
      let changes = 0;
      const watched = { childList: true, characterData: true, subtree: true };
      new MutationObserver(() => { changes += 1; }).observe(status_, watched);
      setTimeout(() => resolve(changes), 2000);
    })""".replace("status_", "document.getElementById('status')")
    assert live.page.evaluate(said) == 0


def test_the_heap_does_not_grow(server: Server, open_page: Open) -> None:
    """In two minutes with CARTPOLE_TEST_ALL, as in CI, else in 20 s: it keeps a core busy."""
    live = open_page(server, recording=False)
    session = live.page.context.new_cdp_session(live.page)
    live.sleep(SETTLING)
    assert live.state == "balancing"  # this also loads Playwright's own scripts into the heap
    before = heap(session)
    live.sleep(120 if TEST_ALL else 20)
    assert live.state == "balancing"
    assert heap(session) - before < MAX_GROWTH


def heap(session: CDPSession) -> int:
    """Bytes of the JavaScript heap that are in use after a collection, the least of three."""
    used: list[int] = []
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
        used.append(session.send("Runtime.getHeapUsage")["usedSize"])
    return min(used)
