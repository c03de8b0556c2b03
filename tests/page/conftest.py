"""Fixtures: headless Chromium, a service, and the service's page in it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from bench.server import Server, serving
from tests.support.live_page import LivePage
from tests.support.needs import TEST_ALL
from tests.support.processes import UNMEASURED

RECORDER = Path(__file__).with_name("recorder.js")
EXECUTABLES = ["chromium", "chromium-browser", "google-chrome"]
MISSING = "no Chromium, so tests/page/test_browser*.py are left out (Debian: apt install chromium)"

Open = Callable[..., LivePage]


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, EXECUTABLES)), None)


if not find_chromium():
    collect_ignore_glob = ["test_browser*"]  # test_chromium.py says so, in one line


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the test that watches the heap, for two minutes in CI: others run beside it."""
    items.sort(key=lambda item: item.name != "test_the_heap_does_not_grow")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium's executable. Where none is, tests fail if CARTPOLE_TEST_ALL is set."""
    executable = find_chromium()
    if executable is None:
        (pytest.fail if TEST_ALL else pytest.skip)(MISSING)
    return executable


# One for each module: while Playwright runs, its thread can't run another event loop.
@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(browser: Browser) -> Iterator[Server]:
    with serving(environ=UNMEASURED) as running:
        yield running


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """A function that opens a server's page, with what Browser.new_context takes.

    `recording=False` leaves tests/page/recorder.js out, `opening=False` leaves LivePage.open() to
    the caller. At the end of the test, nothing must have gone wrong on any page.
    """
    opened = []

    def open_page(
        server: Server, recording: bool = True, opening: bool = True, **options: Any
    ) -> LivePage:
        context = browser.new_context(**options)
        if recording:
            context.add_init_script(path=RECORDER)
        opened.append(LivePage(context.new_page(), f"http://127.0.0.1:{server.port}/"))
        if opening:
            opened[-1].open()
        return opened[-1]

    yield open_page
    for live in opened:
        live.page.context.close()
    assert [live.complaints for live in opened] == [[]] * len(opened)
