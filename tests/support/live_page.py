"""The live page in a browser, as the tests ask about it and act on it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import ConsoleMessage, Page

State = tuple[float, float, float, float]
OPEN_SECONDS = 30


@dataclass
class LivePage:
    """An open page.

    Attributes:
        page: Playwright's.
        complaints: errors and warnings in the console, uncaught errors, requests to other origins.
    """

    page: Page
    origin: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._check(request.url))

    def _hear(self, message: ConsoleMessage) -> None:
        # The browser itself reports requests that fail.
        if message.type in ("error", "warning") and "net::ERR_" not in message.text:
            self.complaints.append(message.text)

    def _check(self, url: str) -> None:
        if not url.startswith(self.origin):
            self.complaints.append(f"a request to {url}")

    def open(self) -> None:
        self.page.goto(self.origin)

    def wait(self, condition: str, seconds: float = OPEN_SECONDS) -> None:
        """Wait until a JavaScript expression is true."""
        # wait_for_function() needs eval, which the page's Content-Security-Policy forbids.
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"{condition} after {seconds} s"
            self.sleep(0.05)

    def wait_for_state(self, state: str, seconds: float = OPEN_SECONDS) -> None:
        self.wait(f"document.documentElement.dataset.state === '{state}'", seconds)

    def wait_for_steps(self, more: int, seconds: float = OPEN_SECONDS) -> None:
        """Wait until so many steps more are shown."""
        self.wait(f"Number(steps.textContent) >= {self.number('steps') + more}", seconds)

    def sleep(self, seconds: float) -> None:
        self.page.wait_for_timeout(seconds * 1000)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def switch_policy(self) -> None:
        self.page.get_by_role("switch", name="Policy", exact=True).click()

    @property
    def state(self) -> str | None:
        return self.page.locator("html").get_attribute("data-state")

    @property
    def status(self) -> str:
        return self.page.locator("#status[role=status]").inner_text()

    @property
    def observation(self) -> State:
        return parse(self.page.locator("#cartpole").get_attribute("data-observation") or "")

    def number(self, name: str) -> float:
        return float(self.page.locator(f"#{name}").inner_text())

    def recorded(self, name: str) -> Any:
        """A record of tests/page/recorder.js."""
        return self.page.evaluate(f"recorded.{name}")

    def asked_during(self, act: Callable[[], object]) -> int:
        """How many questions the page asks meanwhile."""
        before = self.recorded("asked")
        act()
        return int(self.recorded("asked") - before)

    def wait_until_held(self) -> None:
        """Hold the next answer back, and wait until time stands still; `release()` ends it."""
        self.page.evaluate("hold()")
        asked = -1
        while asked != (asked := self.recorded("asked")):
            self.sleep(0.2)

    def most_steps(self, seconds: float, since: int = 0) -> int:
        """The most changes of the observation within any time of this length."""
        times: list[float] = self.recorded("times")[since:]
        return max(sum(0 <= time - start <= seconds * 1000 for time in times) for start in times)


def parse(observation: str) -> State:
    x, v, angle, rate = map(float, observation.split(" "))
    return x, v, angle, rate
