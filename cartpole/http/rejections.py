"""What a client is told whose request reaches no route."""

from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from cartpole.api.responses import CLOSE, Headers, headers, render_error

RETRY_AFTER = (b"retry-after", b"1")  # seconds

REFUSALS: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "the request is not valid HTTP",
    HTTPStatus.REQUEST_TIMEOUT: "the request took too long",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the request body is too large",
    HTTPStatus.EXPECTATION_FAILED: "this expectation can't be met",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "the request head is too large",
    HTTPStatus.NOT_IMPLEMENTED: "this method or transfer coding is not implemented",
    HTTPStatus.SERVICE_UNAVAILABLE: "too many connections",
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: "this is not HTTP/1.0 or HTTP/1.1",
}


def refusal(status: int, default: Headers, is_head: bool = False) -> bytes:
    """The last answer on a connection.

    Args:
        status: one of REFUSALS.
        default: headers that every answer carries.
        is_head: whether it answers HEAD, and has no body: RFC 9110, 9.3.2.
    """
    body = render_error(REFUSALS[status])
    retry = [RETRY_AFTER] if status == HTTPStatus.SERVICE_UNAVAILABLE else []
    lines = [*default, *headers(len(body)), *retry, CLOSE]
    head = b"".join(b"%b: %b\r\n" % line for line in lines)
    return b"%b%b\r\n%b" % (STATUS_LINE[status], head, b"" if is_head else body)
