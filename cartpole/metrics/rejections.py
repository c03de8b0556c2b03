"""Why a request is rejected before any route: statuses, metric labels and messages."""

from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True)
class Rejection:
    """One kind of rejection.

    Attributes:
        status: of the answer.
        reason: the label of the metric cartpole_refusals.
        message: the error that the client reads.
    """

    status: HTTPStatus
    reason: str
    message: str


NOT_HTTP = Rejection(HTTPStatus.BAD_REQUEST, "not valid HTTP", "the request is not valid HTTP")
BAD_TARGET = Rejection(
    HTTPStatus.BAD_REQUEST,
    "bad target",
    "the request target is not a valid path and query; other characters must be percent-encoded",
)
TOO_SLOW = Rejection(HTTPStatus.REQUEST_TIMEOUT, "head too slow", "the request took too long")
BODY_TOO_LARGE = Rejection(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body too large", "the request body is too large"
)
UNMET_EXPECTATION = Rejection(
    HTTPStatus.EXPECTATION_FAILED, "expectation", "this expectation can't be met"
)
HEAD_TOO_LARGE = Rejection(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head too large", "the request head is too large"
)
NOT_IMPLEMENTED = Rejection(
    HTTPStatus.NOT_IMPLEMENTED,
    "not implemented",
    "this method or transfer coding is not implemented",
)
TOO_MANY_CONNECTIONS = Rejection(
    HTTPStatus.SERVICE_UNAVAILABLE, "too many connections", "too many connections"
)
OTHER_VERSION = Rejection(
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "not HTTP/1", "this is not HTTP/1.0 or HTTP/1.1"
)
REJECTIONS = (
    NOT_HTTP,
    BAD_TARGET,
    TOO_SLOW,
    BODY_TOO_LARGE,
    UNMET_EXPECTATION,
    HEAD_TOO_LARGE,
    NOT_IMPLEMENTED,
    TOO_MANY_CONNECTIONS,
    OTHER_VERSION,
)
