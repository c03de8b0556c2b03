"""How a request is rejected before any route: the statuses, their metric labels and messages."""

from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True)
class Rejection:
    """One kind of rejection.

    Attributes:
        reason: the label of the metric cartpole_refusals.
        message: the error that the client reads.
    """

    reason: str
    message: str


REJECTIONS: dict[HTTPStatus, Rejection] = {
    HTTPStatus.BAD_REQUEST: Rejection("not valid HTTP", "the request is not valid HTTP"),
    HTTPStatus.REQUEST_TIMEOUT: Rejection("head too slow", "the request took too long"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Rejection(
        "body too large", "the request body is too large"
    ),
    HTTPStatus.EXPECTATION_FAILED: Rejection("expectation", "this expectation can't be met"),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: Rejection(
        "head too large", "the request head is too large"
    ),
    HTTPStatus.NOT_IMPLEMENTED: Rejection(
        "not implemented", "this method or transfer coding is not implemented"
    ),
    HTTPStatus.SERVICE_UNAVAILABLE: Rejection("too many connections", "too many connections"),
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: Rejection(
        "not HTTP/1", "this is not HTTP/1.0 or HTTP/1.1"
    ),
}
