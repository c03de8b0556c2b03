"""Requests as bytes, and the status expected for each."""

from tests.support.paths import GOLDEN


def request(query: str = GOLDEN, *lines: str, start: str = "GET /inference?{} HTTP/1.1") -> bytes:
    return "\r\n".join([start.format(query), "Host: x", *lines, "", ""]).encode("latin-1")


USUAL = request()
OTHER = request("position=1&velocity=-2.5&angle=.1&angular_velocity=3e-1")
CORPUS = {
    "usual": USUAL,
    "other order": request("velocity=1&angle=0&position=2&angular_velocity=0"),
    "percent-encoded": request("posit%69on=%31&velocity=1&angle=0&angular_velocity=%2B0"),
    "bad": request("position=x&velocity=1&angle=0&angular_velocity=0"),
    "missing": request("position=1"),
    "no query": request("", start="GET /inference HTTP/1.1{}"),
    "empty query": request(""),
    "question marks": request("?position=1&velocity=?"),
    "fragment": request(f"{GOLDEN}#fragment"),
    "odd characters": request(GOLDEN + "&x=\"<>^`{|}\\~!'"),
    "not ascii": request(GOLDEN + "&x=é"),
    "control": request(GOLDEN + "&x=\x01"),
    "space": request(GOLDEN + " x"),
    "tab": request(GOLDEN + "\tx"),
    "head": request(start="HEAD /inference?{} HTTP/1.1"),
    "post": request(GOLDEN, "Content-Length: 2", start="POST /inference?{} HTTP/1.1") + b"{}",
    "post to health": request("", "Content-Length: 2", start="POST /health/live?{} HTTP/1.1")
    + b"{}",
    "lower case": request(start="get /inference?{} HTTP/1.1"),
    "path": request(start="GET /inference/?{} HTTP/1.1"),
    "absolute form": request(start="GET http://x/inference?{} HTTP/1.1"),
    "double slash": request(start="GET //inference?{} HTTP/1.1"),
    "health": request(start="GET /health/ready?{} HTTP/1.1"),
    "nothing there": request(start="GET /nothing?{} HTTP/1.1"),
    "page": request(start="GET /?{} HTTP/1.1"),
    "known page": request("", "If-None-Match: *", start="GET / HTTP/1.1{}"),
    "http/1.0": request(start="GET /inference?{} HTTP/1.0"),
    "http/1.0 keep-alive": request(
        GOLDEN, "Connection: keep-alive", start="GET /inference?{} HTTP/1.0"
    ),
    "http/2.0": request(start="GET /inference?{} HTTP/2.0"),
    "http/0.9": b"GET /inference?position=1\r\n\r\n",
    "close": request(GOLDEN, "Connection: close"),
    "keep-alive": request(GOLDEN, "Connection: keep-alive"),
    "many headers": request(GOLDEN, *(f"X-{i}: {'y' * i}" for i in range(30))),
    "body": request(GOLDEN, "Content-Length: 5") + b"hello",
    "body of nothing": request(GOLDEN, "Content-Length: 0"),
    "body of a request": request(GOLDEN, f"Content-Length: {len(USUAL)}") + USUAL,
    "chunked": request(GOLDEN, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    "bad chunk": request(GOLDEN, "Transfer-Encoding: chunked") + b"z\r\n",
    "both lengths": request(GOLDEN, "Content-Length: 1", "Transfer-Encoding: chunked")
    + b"0\r\n\r\n",
    "bad length": request(GOLDEN, "Content-Length: 1x"),
    "two lengths": request(GOLDEN, "Content-Length: 1", "Content-Length: 2"),
    "expect": request(GOLDEN, "Expect: 100-continue"),
    "upgrade": request(GOLDEN, "Connection: Upgrade", "Upgrade: websocket"),
    "upgrade h2c": request(GOLDEN, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
    "bad header": request(GOLDEN, "no colon"),
    "space before colon": request(GOLDEN, "X : y"),
    "folded": request(GOLDEN, "X: y\r\n z"),
    "null": request(GOLDEN, "X: a\x00b"),
    "bare line feed": USUAL.replace(b"\r\n", b"\n"),
    "bare carriage return": request(GOLDEN, "X: a\rb"),
    "no host": f"GET /inference?{GOLDEN} HTTP/1.1\r\n\r\n".encode(),
    "leading line": b"\r\n" + USUAL,
    "junk": b"\x16\x03\x01junk\r\n\r\n",
    "large head": request(GOLDEN, "X: " + "y" * 3000),
    "long query": request(GOLDEN + "&x=" + "y" * 3000),
    "long number": request(GOLDEN.replace("=0", "=0." + "0" * 2500, 1)),
    "large body": request(GOLDEN, "Content-Length: 1001") + b"x" * 1001,
    "large chunks": request(GOLDEN, "Transfer-Encoding: chunked") + b"3e9\r\n" + b"x" * 1001,
}
STATUSES = {
    200: "usual, other order, percent-encoded, head, absolute form, health, http/1.0, "
    "http/1.0 keep-alive, close, keep-alive, many headers, body, body of nothing, "
    "body of a request, chunked, expect, upgrade, upgrade h2c, leading line, page",
    304: "known page",
    400: "bad, missing, no query, empty query, question marks, fragment, odd characters, "
    "not ascii, control, space, tab, lower case, bad chunk, both lengths, bad length, two lengths, "
    "bad header, space before colon, folded, null, bare line feed, bare carriage return, "
    "no host, junk, post",
    404: "path, double slash, nothing there",
    405: "post to health",
    413: "large body, large chunks",
    431: "large head, long query, long number",
    505: "http/2.0, http/0.9",
}
EXPECTED = {name: status for status, names in STATUSES.items() for name in names.split(", ")}
POST = "POST /health/live?{} HTTP/1.1"  # not allowed
CHUNKED = request("", "Transfer-Encoding: chunked", start=POST)

EXPECTING = request("", "Content-Length: 3", "Expect: 100-continue", start=POST)
