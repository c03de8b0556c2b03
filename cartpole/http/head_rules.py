"""What RFC 9110 and 9112 ask of a request's head beyond what llhttp has checked already."""

import re
from collections.abc import Sequence
from http import HTTPStatus

Headers = Sequence[tuple[bytes, bytes]]

# RFC 3986, sections 3.3 and 3.4: no fragment, no quotes, no brackets but a host's.
_is_origin_form = re.compile(rb"/[!$&-;=?-Z_a-z~%]*+").fullmatch
_is_absolute_form = re.compile(
    rb"[Hh][Tt][Tt][Pp][Ss]?://(?P<authority>[^/?]++)(?P<rest>(?:[/?][!$&-;=?-Z_a-z~%]*+)?)"
).fullmatch
# RFC 9110, section 7.2: uri-host [ ":" port ], here without userinfo and without a comma, which
# would be two Host lines that someone joined.
_is_host = re.compile(
    rb"(?:\[[0-9A-Fa-fVv:.]++\]|(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})++)(?::[0-9]{0,5}+)?"
).fullmatch


def fault(version: str, method: bytes, target: bytes, headers: Headers) -> HTTPStatus | None:
    """The status that a head is to be refused with, or None.

    Args:
        version: "1.1" or whatever the request line says.
        headers: in their order, names in lower case.
    """
    if version not in ("1.0", "1.1"):
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED  # 9110, 15.6.6
    if method == b"CONNECT":
        return HTTPStatus.NOT_IMPLEMENTED  # 9110, 9.3.6: no proxy
    if not _good_target(method, target) or not _good_host(version, headers):
        return HTTPStatus.BAD_REQUEST
    if any(name == b"content-length" and value[:1] == b"0" != value for name, value in headers):
        return HTTPStatus.BAD_REQUEST  # 9110, 8.6 allows padding, which some read as octal
    return _framing(version, headers) or _expectation(version, headers)


def _good_target(method: bytes, target: bytes) -> bool:
    """9112, 3.2: origin-form, absolute-form, or "*" for OPTIONS."""
    if target == b"*":
        return method == b"OPTIONS"
    if _is_origin_form(target):
        return True
    absolute = _is_absolute_form(target)
    return bool(absolute and _is_host(absolute["authority"]))


def origin_form(target: bytes) -> bytes:
    """9112, 3.2.1: path and query of a good target; an empty path is "/"."""
    absolute = target[:1] not in b"/*" and _is_absolute_form(target)
    if not absolute:
        return target
    return absolute["rest"] if absolute["rest"][:1] == b"/" else b"/" + absolute["rest"]


def _good_host(version: str, headers: Headers) -> bool:
    """9112, 3.2: exactly one in HTTP/1.1, at most one in HTTP/1.0."""
    hosts = [value.strip(b" \t") for name, value in headers if name == b"host"]
    if not hosts:
        return version == "1.0"
    return len(hosts) == 1 and bool(_is_host(hosts[0]))


def _framing(version: str, headers: Headers) -> HTTPStatus | None:
    """9112, 6.1: only one coding is known here; before HTTP/1.1 there was none."""
    codings = [
        value.strip(b" \t").lower() for name, value in headers if name == b"transfer-encoding"
    ]
    if not codings or (version == "1.1" and codings == [b"chunked"]):
        return None
    if version == "1.0" or len(codings) > 1:
        return HTTPStatus.BAD_REQUEST
    return HTTPStatus.NOT_IMPLEMENTED


def _expectation(version: str, headers: Headers) -> HTTPStatus | None:
    """9110, 10.1.1: other expectations fail; HTTP/1.0 has none."""
    for name, value in headers:
        if (
            name == b"expect"
            and version == "1.1"
            and value.strip(b" \t").lower() != b"100-continue"
        ):
            return HTTPStatus.EXPECTATION_FAILED
    return None
