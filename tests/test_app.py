"""Tests of cartpole/app.py."""

import asyncio
import json
import random
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Route

from bench.server import serving
from cartpole.api.inference import Inference
from cartpole.api.observation import NAMES
from cartpole.app import create_app
from cartpole.metrics.routes import PAGE, ROUTE_OF, ROUTES
from cartpole.page.routes import page_routes
from cartpole.policy.contract import Engine
from cartpole.policy.loading import BadPolicy
from cartpole.predictor import Predictor
from cartpole.settings import BadSettings
from tests.support.asgi import call, get
from tests.support.paths import GOLDEN, ROOT
from tests.support.wrapped_engine import WrappedEngine


@pytest.fixture(scope="module")
def app(engine: Engine) -> Starlette:
    return create_app(Inference(Predictor(engine)))


def test_inference(app: Starlette, engine: Engine) -> None:
    status, headers, body = get(app, "/inference", GOLDEN.encode())
    left, right = engine.one(0, 0, -1, 0)
    assert status == 200
    assert body == f'{{"left":{left!r},"right":{right!r}}}'.encode()
    assert headers == {
        b"content-type": b"application/json",
        b"x-content-type-options": b"nosniff",
        b"content-length": b"%d" % len(body),
    }


def test_every_route_is_counted_and_documented(app: Starlette) -> None:
    """A new route belongs in metrics/routes.py and in docs/api.md."""
    routes = {route.path: route.methods for route in app.routes if isinstance(route, Route)}
    for path in {route.path for route in page_routes()} - {"/"}:
        del routes[path]
    found = {PAGE if path == "/" else ROUTE_OF[path] for path in routes}
    assert found == set(ROUTES) - {"other"}
    page = (ROOT / "docs/api.md").read_text()
    for path, methods in routes.items():
        shown_path = path.replace("/versions/1", "").replace("/cartpole", "/cartpole[/versions/1]")
        for method in methods or ():
            shown = f"`{method} {shown_path}"
            assert method == "HEAD" or shown in page, f"docs/api.md does not describe {shown}"


def test_head_has_the_headers_and_no_body(app: Starlette) -> None:
    with_body = get(app, "/inference", GOLDEN.encode())
    assert get(app, "/inference", GOLDEN.encode(), "HEAD") == (200, with_body[1], b"")


def test_bad_observation(app: Starlette) -> None:
    status, headers, body = get(app, "/inference", b"position=0&velocity=x&angle=0")
    assert (status, headers[b"content-type"]) == (400, b"application/json")
    assert json.loads(body) == {"error": "velocity is not a finite decimal number: 'x'"}


@pytest.mark.parametrize(
    "path", ["/nothing", "/inference/", "/Inference", "/health", "/x/inference"]
)
def test_unknown_paths(app: Starlette, path: str) -> None:
    status, headers, body = get(app, path)
    assert (status, headers[b"content-type"]) == (404, b"application/json")
    assert json.loads(body) == {"error": "no such path"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/", "/v2/models/cartpole"])
def test_other_methods(app: Starlette, method: str, path: str) -> None:
    check_not_allowed(app, method, path, b"GET, HEAD")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
def test_other_methods_where_post_is_allowed(app: Starlette, method: str) -> None:
    check_not_allowed(app, method, "/inference", b"GET, HEAD, POST")
    for path in ("/v2/models/cartpole/versions/1/infer", "/v2/repository/index"):
        check_not_allowed(app, method, path, b"POST")
        check_not_allowed(app, "GET", path, b"POST")


def check_not_allowed(app: Starlette, method: str, path: str, allowed: bytes) -> None:
    status, headers, body = get(app, path, GOLDEN.encode(), method)
    assert (status, headers[b"allow"]) == (405, allowed)
    assert headers[b"content-type"] == b"application/json"
    assert json.loads(body) == {"error": f"{method} is not allowed here"}


def test_health(app: Starlette) -> None:
    assert get(app, "/health/live")[::2] == (200, b'{"status":"live"}')
    assert get(app, "/health/ready")[::2] == (200, b'{"status":"ready","engine":"torchscript"}')


def test_ten_thousand_random_queries(app: Starlette) -> None:
    async def run() -> None:
        chance = random.Random(0)
        parts = [*(f"{name}=".encode() for name in NAMES), b"&", b"1", b"%2", b"e"]
        for _ in range(10_000):
            query = chance.randbytes(chance.randrange(40))
            if chance.random() < 0.5:
                query = b"".join(chance.choice([*parts, query[:2]]) for _ in range(12))
            status, _, body = await call(app, "GET", "/inference", query)
            assert status in (200, 400)
            assert json.loads(body).keys() == ({"left", "right"} if status == 200 else {"error"})

    asyncio.run(run())


@given(st.binary(max_size=60), st.sampled_from(["GET", "HEAD", "POST"]), st.text(max_size=9))
def test_never_500(app: Starlette, query: bytes, method: str, path: str) -> None:
    status, _, _ = get(app, f"/{path}", query, method)
    assert status in (200, 400, 404, 405)


def test_a_failing_forward_is_a_json_500(engine: Engine, caplog: Any) -> None:
    failing = WrappedEngine(engine)
    failing.error = RuntimeError("no forward today")
    app = create_app(Inference(Predictor(failing)))
    for _ in range(3):
        status, headers, body = get(app, "/inference", GOLDEN.encode())
        assert (status, headers[b"content-type"]) == (500, b"application/json")
        assert json.loads(body) == {"error": "internal error"}
    assert [record.message for record in caplog.records] == ["forward failed: no forward today"]


async def exchange(app: Any, scope: dict[str, Any], *received: str) -> list[Any]:
    """The messages that the application sends when it receives messages of these types."""
    messages, sent = [{"type": one} for one in received], []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def test_lifespan(app: Starlette) -> None:
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    sent = asyncio.run(exchange(app, scope, "lifespan.startup", "lifespan.shutdown"))
    assert sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


@pytest.mark.parametrize("path", ["/inference", "/", "*"])
def test_a_websocket_is_refused(app: Starlette, path: str) -> None:
    scope = {"type": "websocket", "path": path, "query_string": b"", "headers": []}
    (sent,) = asyncio.run(exchange(app, scope, "websocket.connect"))
    assert sent["type"] == "websocket.close"


def test_served_by_uvicorn_alone() -> None:
    command = [sys.executable, "-m", "uvicorn", "--factory", "cartpole.app:create_app"]
    with serving(command=[*command, "--port", "{port}", "--lifespan", "on"]) as server:
        assert server.get(f"/inference?{GOLDEN}")[0] == 200
        server.process.terminate()
        assert server.process.stderr
        log = server.process.stderr.read()
    assert "Application startup complete." in log
    assert "Application shutdown complete." in log
    assert "Traceback" not in log


@pytest.mark.parametrize("path", [b"/\x1b[31m", b"/\xff", b"/a\nb"])
def test_the_access_log_is_printable(engine: Engine, caplog: Any, path: bytes) -> None:
    """Other ASGI servers may pass such a path on."""
    caplog.set_level("INFO", "cartpole.access")

    async def escaped(scope: Any, receive: Any, send: Any) -> None:
        await app(scope | {"raw_path": path, "query_string": b"\x00"}, receive, send)

    app = create_app(Inference(Predictor(engine)), access_log=True)
    assert asyncio.run(call(escaped, "GET", "/nothing"))[0] == 404
    (record,) = caplog.records
    assert record.getMessage().isprintable()


def test_created_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get(create_app(), "/inference", GOLDEN.encode())[0] == 200
    monkeypatch.setenv("CARTPOLE_PAGE", "off")
    assert get(create_app(), "/")[0] == 404
    assert get(create_app(page=True), "/")[0] == 200
    monkeypatch.setenv("CARTPOLE_MODEL", "none.pt")
    with pytest.raises(BadPolicy, match=r"none\.pt"):
        create_app()
    monkeypatch.setenv("CARTPOLE_THREADS", "none")
    with pytest.raises(BadSettings, match="CARTPOLE_THREADS: 'none'"):
        create_app()
