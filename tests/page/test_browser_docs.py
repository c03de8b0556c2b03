"""The page /docs in headless Chromium: it shows all of openapi.json, to everybody."""

import json
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from bench.server import Server
from cartpole.page.routes import DESCRIPTION
from tests.page.conftest import Open

NARROW = {"width": 390, "height": 844}
DOCUMENT = json.loads(DESCRIPTION.read_text())


def open_docs(server: Server, open_page: Open, fragment: str = "", **options: Any) -> Page:
    page: Page = open_page(server, recording=False, opening=False, **options).page
    page.goto(f"http://127.0.0.1:{server.port}/docs{fragment}")
    page.locator("#any").wait_for()
    return page


def test_it_shows_every_operation_and_schema(server: Server, open_page: Open) -> None:
    page = open_docs(server, open_page)
    shown = {
        (one.locator(".method").inner_text(), one.locator(".path").inner_text())
        for one in page.locator("details").all()
    }
    assert shown == {
        (method.upper(), path)
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if method != "head"
    }
    for name in DOCUMENT["components"]["schemas"]:
        assert page.locator(f"#schema-{name} h3").inner_text() == name
    targets = page.locator("main a[href^='#']").evaluate_all(
        "links => links.map((link) => link.hash).filter((hash) => !document.querySelector(hash))"
    )
    assert targets == []


def test_an_operation_says_what_it_takes_and_answers(server: Server, open_page: Open) -> None:
    page = open_docs(server, open_page, "#postInference")
    operation = page.locator("#postInference")
    text = operation.inner_text()
    for expected in ("Content-Encoding", "InferenceRequest", "InferenceAnswer", "415", "curl"):
        assert expected in text
    page.locator("#contents a[href='#getInference']").click()
    page.locator("#getInference[open]").wait_for()
    assert "angular_velocity" in page.locator("#getInference").inner_text()


@pytest.mark.parametrize(
    "options",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"viewport": NARROW}],
    ids=["light", "dark", "narrow"],
)
def test_axe_finds_nothing(server: Server, open_page: Open, options: dict[str, Any]) -> None:
    page = open_docs(server, open_page, "#postInfer", **options)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_says_when_the_document_is_not_there(server: Server, open_page: Open) -> None:
    page: Page = open_page(server, recording=False, opening=False).page
    page.route("**/openapi.json", lambda route: route.abort())
    page.goto(f"http://127.0.0.1:{server.port}/docs")
    message = page.get_by_text("openapi.json can't be read")
    message.wait_for()
    assert message.is_visible()
