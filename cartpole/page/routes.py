"""The routes of files: the pages / and /docs with what they load, and /openapi.json."""

import gzip
from functools import cache
from hashlib import sha256
from pathlib import Path

from starlette.datastructures import Headers as RequestHeaders
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cartpole.api.content_codings import choose_coding
from cartpole.api.responses import Headers, headers, render_error, respond
from cartpole.api.routes import METHODS
from cartpole.page.entity_tags import names_tag

FILES = Path(__file__).parent / "files"
DESCRIPTION = FILES.parent / "openapi.json"
_CODINGS = ("gzip",)
_PAGES = {"index.html": "/", "docs.html": "/docs"}
_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".json": b"application/json",
    ".svg": b"image/svg+xml",
}
_POLICY = (
    b"default-src 'none'; connect-src 'self'; img-src 'self'; script-src 'self'; "
    b"style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CACHING = [(b"cache-control", b"no-cache"), (b"vary", b"Accept-Encoding")]
_SECURITY = [(b"content-security-policy", _POLICY), (b"referrer-policy", b"no-referrer")]


class _Representation:
    """A file in one content coding.

    Attributes:
        tag: its strong entity tag, a digest of the body.
        unchanged: the headers of a 304.
        headers: those of a 200.
    """

    def __init__(self, body: bytes, content_type: bytes, *coding: tuple[bytes, bytes]) -> None:
        self.body, self.tag = body, f'"{sha256(body).hexdigest()[:32]}"'
        self.unchanged = [(b"etag", self.tag.encode()), *_CACHING, *_SECURITY]
        self.headers = [*headers(len(body), content_type), *coding, *self.unchanged]


class PageFile:
    """GET of one file: as it is or compressed, whichever the client prefers."""

    def __init__(self, content: bytes, content_type: bytes) -> None:
        # mtime=0: equal files have equal tags, in all workers and after a restart.
        packed = gzip.compress(content, mtime=0)
        self._codings = {
            "identity": _Representation(content, content_type),
            "gzip": _Representation(packed, content_type, (b"content-encoding", b"gzip")),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(scope, send, *self._answer(RequestHeaders(scope=scope)))

    def _answer(self, request: RequestHeaders) -> tuple[int, bytes, Headers]:
        """Status, body and headers, in the order of RFC 9110, section 13.2.2."""
        coding = choose_coding(",".join(request.getlist("accept-encoding")), _CODINGS)
        if coding is None:
            return _error(406, "Accept-Encoding excludes both gzip and identity")
        chosen = self._codings[coding]
        expected, known = request.getlist("if-match"), request.getlist("if-none-match")
        if expected and not names_tag(expected, chosen.tag, weak=False):
            return _error(412, "If-Match does not name the file's present ETag")
        if known and names_tag(known, chosen.tag, weak=True):
            return 304, b"", [*chosen.unchanged]
        return 200, chosen.body, [*chosen.headers]  # a copy: middleware may add to it


def _error(status: int, message: str) -> tuple[int, bytes, Headers]:
    body = render_error(message)
    return status, body, headers(len(body)) + _CACHING


@cache
def page_routes() -> list[Route]:
    """A route for each file of the pages. The first call reads and compresses them.

    Raises:
        OSError: a file can't be read.
    """
    return [_route(path) for path in sorted(FILES.iterdir()) if path.suffix in _TYPES]


@cache
def description_route() -> Route:
    """GET /openapi.json: what the service answers, by OpenAPI 3.1.

    Raises:
        OSError: the file can't be read.
    """
    return _route(DESCRIPTION)


def _route(path: Path) -> Route:
    """GET of a file: a page by its own path, another file by its name."""
    file = PageFile(path.read_bytes(), _TYPES[path.suffix])
    return Route(_PAGES.get(path.name, f"/{path.name}"), file, methods=METHODS)
