"""The pages' files as the application and the service serve them: cartpole/page/routes.py."""

import asyncio
import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from bench.server import Server, serving
from cartpole.api.inference import Inference
from cartpole.app import create_app
from cartpole.page.routes import FILES, PageFile, page_routes
from cartpole.policy.contract import Engine
from cartpole.predictor import Predictor
from tests.support.asgi import call, get
from tests.support.clients import connect, read_all
from tests.support.memory import statuses
from tests.support.metrics import requests, scrape
from tests.support.paths import GOLDEN

NAMES = sorted(path.name for path in FILES.iterdir())
TYPES = {
    "css": b"text/css; charset=utf-8",
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}


def url(name: str) -> str:
    return {"index.html": "/", "docs.html": "/docs"}.get(name, f"/{name}")


PATHS = [url(name) for name in NAMES]


@pytest.fixture(scope="module")
def app(engine: Engine) -> Starlette:
    return create_app(Inference(Predictor(engine)))


@pytest.fixture(scope="module", params=["fast", "asgi"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving("--http", request.param, "--log-level", "error") as running:
        yield running


def ask(app: Starlette, path: str, method: str = "GET", **fields: str) -> tuple[int, Any, bytes]:
    """Ask with these header fields: `if_match` is If-Match."""
    lines = [(name.replace("_", "-").encode(), text.encode()) for name, text in fields.items()]
    return get(app, path, b"", method, lines)


@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_served(app: Starlette, name: str) -> None:
    status, headers, body = ask(app, url(name))
    assert (status, body) == (200, (FILES / name).read_bytes())
    tag = headers.pop(b"etag")
    assert re.fullmatch(rb'"[0-9a-f]{32}"', tag)
    assert headers == {
        b"content-type": TYPES[name.rpartition(".")[2]],
        b"x-content-type-options": b"nosniff",
        b"content-length": b"%d" % len(body),
        b"cache-control": b"no-cache",
        b"vary": b"Accept-Encoding",
        b"content-security-policy": headers[b"content-security-policy"],
        b"referrer-policy": b"no-referrer",
    }


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_policy_allows_its_own_origin_or_nothing(app: Starlette, path: str) -> None:
    text = ask(app, path)[1][b"content-security-policy"].decode()
    policy = dict(part.split(maxsplit=1) for part in text.split(";"))
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) <= {"'self'", "'none'"}
    assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}


@pytest.mark.parametrize("name", NAMES)
def test_gzip(app: Starlette, name: str) -> None:
    plain = ask(app, url(name))
    status, headers, body = ask(app, url(name), accept_encoding="gzip, deflate, br")
    assert (status, gzip.decompress(body)) == (200, plain[2])
    assert (headers[b"content-encoding"], headers[b"vary"]) == (b"gzip", b"Accept-Encoding")
    assert headers[b"content-length"] == b"%d" % len(body)
    assert headers[b"etag"] != plain[1][b"etag"]
    assert headers[b"content-type"] == plain[1][b"content-type"]
    assert b"content-encoding" not in ask(app, url(name), accept_encoding="gzip;q=0")[1]


def test_equal_files_have_equal_tags_whenever_they_are_compressed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tags = []
    for now in (1e9, 2e9):
        monkeypatch.setattr("time.time", lambda now=now: now)
        app = Starlette(routes=[Route("/", PageFile(b"a" * 99, b"text/css"))])
        tags.append(ask(app, "/", accept_encoding="gzip")[1][b"etag"])
    assert tags[0] == tags[1]


@pytest.mark.parametrize("accepted", ["gzip", "identity"])
@pytest.mark.parametrize("path", PATHS)
def test_if_none_match(app: Starlette, path: str, accepted: str) -> None:
    other = "identity" if accepted == "gzip" else "gzip"
    _, found, _ = ask(app, path, accept_encoding=accepted)
    tag = found[b"etag"].decode()
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        for method in ("GET", "HEAD"):
            status, headers, body = ask(
                app, path, method, accept_encoding=accepted, if_none_match=known
            )
            assert (status, body) == (304, b"")
            kept = found.keys() - {b"content-type", b"content-length", b"content-encoding"}
            assert headers == {name: found[name] for name in kept - {b"x-content-type-options"}}
    for known in ('"x"', tag[:-2] + '"', tag.strip('"'), ""):
        assert ask(app, path, accept_encoding=accepted, if_none_match=known)[0] == 200
    assert ask(app, path, accept_encoding=other, if_none_match=tag)[0] == 200


def test_if_match(app: Starlette) -> None:
    tag = ask(app, "/")[1][b"etag"].decode()
    for expected in (tag, f'"x", {tag}', "*"):
        assert ask(app, "/", if_match=expected)[0] == 200
    assert ask(app, "/", if_match=tag, if_none_match=tag)[0] == 304
    for expected in ('"x"', f"W/{tag}", "x"):
        status, _, body = ask(app, "/", if_match=expected, if_none_match=tag)
        assert status == 412
        assert json.loads(body) == {"error": "If-Match does not name the file's present ETag"}


@pytest.mark.parametrize(
    "accepted", ["*;q=0", "identity;q=0", "gzip;q=0, identity;q=0", "br, *;q=0"]
)
def test_nothing_acceptable(app: Starlette, accepted: str) -> None:
    status, headers, body = ask(app, "/", accept_encoding=accepted, if_none_match="*")
    assert (status, headers[b"content-type"]) == (406, b"application/json")
    assert (headers[b"vary"], headers[b"cache-control"]) == (b"Accept-Encoding", b"no-cache")
    assert json.loads(body) == {"error": "Accept-Encoding excludes both gzip and identity"}


@pytest.mark.parametrize("coding", ["gzip", "identity", "*;q=0"])
@pytest.mark.parametrize("path", PATHS)
def test_head(app: Starlette, path: str, coding: str) -> None:
    with_body = ask(app, path, accept_encoding=coding)
    assert ask(app, path, "HEAD", accept_encoding=coding) == (*with_body[:2], b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", PATHS)
def test_other_methods(app: Starlette, path: str, method: str) -> None:
    status, headers, body = ask(app, path, method)
    assert (status, headers[b"allow"]) == (405, b"GET, HEAD")
    assert json.loads(body) == {"error": f"{method} is not allowed here"}


@pytest.mark.parametrize("path", PATHS)
def test_no_page(engine: Engine, path: str) -> None:
    app = create_app(Inference(Predictor(engine)), page=False)
    for method in ("GET", "HEAD", "POST"):
        status, headers, body = ask(app, path, method, accept_encoding="gzip", if_none_match="*")
        assert (status, headers[b"content-type"]) == (404, b"application/json")
        assert method == "HEAD" or json.loads(body) == {"error": "no such path"}


def test_no_page_from_the_command_line() -> None:
    with serving("--no-page") as server:
        assert {server.get(path) for path in PATHS} == {(404, b'{"error":"no such path"}')}
        assert server.get(f"/inference?{GOLDEN}")[0] == 200
        assert requests(scrape(server), "other", 404) == len(PATHS)


def test_the_routes_of_the_page_come_last(app: Starlette) -> None:
    """A request for another route is matched before it comes to them, however many they are."""
    paths = [route.path for route in app.routes if isinstance(route, Route)]
    assert paths[0] == "/inference"
    assert paths[-len(PATHS) :] == [route.path for route in page_routes()]
    assert sorted(paths[-len(PATHS) :]) == sorted(PATHS)


def test_the_page_is_one_route_of_the_metrics(engine: Engine) -> None:
    predictor = Predictor(engine)
    app = create_app(Inference(predictor))
    for path in PATHS:
        ask(app, path)
    ask(app, "/", "HEAD")
    ask(app, "/", if_none_match="*")
    ask(app, "/", if_match='""')
    ask(app, "/", accept_encoding="*;q=0")
    ask(app, "/", "POST")
    ask(app, "/page")
    text = ask(app, "/metrics")[2].decode()
    counts = {
        int(status): float(count)
        for status, count in re.findall(r'_total\{route="page",status="(\d+)"\} (\S+)', text)
    }
    assert counts == {200: len(PATHS) + 1, 304: 1, 405: 1, 406: 1, 412: 1, 500: 0}
    assert '_total{route="other",status="404"} 1.0' in text


ODD = {
    200: ["/?", "/?x=/../&y=%00", "http://a", "http://a/", "http://a?x=1"],
    404: [
        *("//", "///", "/.", "/..", "/../", "/%2e", "/%2e%2e/", "/%2e%2e/routes.py", "/%2f"),
        *("/%00", "/%ff", "/%", "/%zz", "/*", "/;", "/%20", "/index.html/", "/index%2ehtml"),
        *("/index.html", "/docs.html", "/index.htm", "/INDEX.HTML", "/files/", "/files/index.html"),
        *("/routes.py", "/__init__.py", "/../routes.py", "/..%2froutes.py", "/..%5croutes.py"),
        *("/page", "/page/", "/favicon.ico", "/robots.txt", "http://a/index.html", "http://a//"),
        *(f"{path}/" for path in PATHS),
        *(f"/{path}" for path in PATHS),
        *(f"/.{path}" for path in PATHS),
        *(f"{path}%00" for path in PATHS),
        *(f"{path}~" for path in PATHS),
    ],
}  # fmt: skip


def exchange(server: Server, *requests: bytes) -> bytes:
    with connect(server) as client:
        client.sendall(b"".join(requests))
        client.shutdown(1)
        return read_all(client)


def head(target: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


def test_odd_targets(server: Server) -> None:
    for status, targets in ODD.items():
        for target in targets:
            assert statuses(exchange(server, head(target))) == [status], target


def test_in_a_pipeline(server: Server) -> None:
    """Answers without a body, or with a compressed one, leave the connection as it was."""
    good = head(f"/inference?{GOLDEN}")
    page = head("/", "Accept-Encoding: gzip")
    known = head("/", "If-None-Match: *")
    only_head = head("/", "Accept-Encoding: gzip", method="HEAD")
    received = exchange(server, good, page, good, known, good, only_head, good)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200"] * 3 + [b"304"] + [b"200"] * 3
    assert received.count(b'{"left":') == 4
    assert received.count(b"\r\ncontent-encoding: gzip\r\n") == 2
    assert b"transfer-encoding" not in received


def test_long_header_fields(server: Server) -> None:
    """Almost as long as a head may be, in shapes for which a careless expression would be slow."""
    tag = re.findall(rb'etag: ("\w+")', exchange(server, head("/")))[0].decode()
    listed = ", ".join(['"x"'] * 2400 + [tag])
    assert statuses(exchange(server, head("/", f"If-None-Match: {listed}"))) == [304]
    for text in ('"' * 12000, '"a' * 6000, "W/" * 6000, ", " * 6000, "é" * 6000):
        assert statuses(exchange(server, head("/", f"If-None-Match: {text}"))) == [200]
    for text in ("gzip;q=0" * 1500, "," * 12000, "gzip ;" + " \t" * 6000 + "!", "a" * 12000):
        assert statuses(exchange(server, head("/", f"Accept-Encoding: {text}"))) == [200]
    assert statuses(exchange(server, head("/", f"If-None-Match: {'x' * 20000}"))) == [431]


def test_the_page_does_not_stop_a_batch(server: Server) -> None:
    with connect(server) as first, connect(server) as second:
        first.sendall(head("/") * 3 + head(f"/inference?{GOLDEN}"))
        second.sendall(head(f"/inference?{GOLDEN}") * 3)
        for client in (first, second):
            client.shutdown(1)
        assert [statuses(read_all(client)).count(200) for client in (first, second)] == [4, 3]


def test_a_middleware_may_change_the_headers_of_an_answer(app: Starlette) -> None:
    async def with_more_headers(scope: Any, receive: Any, send: Any) -> None:
        async def add_and_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x", b"y"))
            await send(message)

        await app(scope, receive, add_and_send)

    for known in ([], [(b"if-none-match", b"*")]):
        before = get(app, "/", lines=known)
        added = asyncio.run(call(with_more_headers, "GET", "/", lines=known))
        assert added[1] == before[1] | {b"x": b"y"}
        assert get(app, "/", lines=known) == before
