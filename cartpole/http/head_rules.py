"""Rules of RFC 9110 and 9112 for a request's head that llhttp does not check."""

import re
from http import HTTPStatus

from cartpole.api.responses import Headers

# RFC 3986, sections 3.3 and 3.4: no fragment, no quotes, no brackets but a host's.
_is_origin_form = re.compile(rb"/[!$&-;=?-Z_a-z~%]*+").fullmatch
_is_absolute_form = re.compile(
    rb"[Hh][Tt][Tt][Pp][Ss]?://(?P<authority>[^/?]++)(?P<rest>(?:[/?][!$&-;=?-Z_a-z~%]*+)?)"
).fullmatch
# RFC 9110, section 7.2: uri-host [ ":" port ]. Without userinfo, and without a comma, which shows
# that a proxy has joined two Host lines.
_is_host = re.compile(
    rb"(?:\[[0-9A-Fa-fVv:.]++\]|(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+)(?::[0-9]{0,5}+)?"
).fullmatch


def head_error(version: str, method: bytes, target: bytes, headers: Headers) -> HTTPStatus | None:
    """The status to reject a head with, or None if it keeps the rules.

    Args:
        version: of the request line, such as "1.1".
        target: of the request line, as it was sent.
        headers: in their order, names in lower case.
    """
    if version not in ("1.0", "1.1"):
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED  # 9110, 15.6.6
    if method == b"CONNECT":
        return HTTPStatus.NOT_IMPLEMENTED  # 9110, 9.3.6: this is no proxy
    if not _is_target(method, target) or not _has_host(version, headers):
        return HTTPStatus.BAD_REQUEST
    if any(name == b"content-length" and value[:1] == b"0" != value for name, value in headers):
        return HTTPStatus.BAD_REQUEST  # 9110, 8.6 allows leading zeros, but some proxies read octal
    return _coding_error(version, headers) or _expectation_error(version, headers)


def _is_target(method: bytes, target: bytes) -> bool:
    """9112, 3.2: origin-form, absolute-form, or "*" for OPTIONS."""
    if target == b"*":
        return method == b"OPTIONS"
    if _is_origin_form(target):
        return True
    absolute = _is_absolute_form(target)
    return bool(absolute and _is_host(absolute["authority"]))


def origin_form(target: bytes) -> bytes:
    """9112, 3.2.1: path and query of a valid target. An empty path is "/"."""
    absolute = target[:1] not in b"/*" and _is_absolute_form(target)
    if not absolute:
        return target
    return absolute["rest"] if absolute["rest"][:1] == b"/" else b"/" + absolute["rest"]


def _has_host(version: str, headers: Headers) -> bool:
    """9112, 3.2: exactly one Host in HTTP/1.1, at most one in HTTP/1.0."""
    hosts = [value.strip(b" \t") for name, value in headers if name == b"host"]
    if not hosts:
        return version == "1.0"
    return len(hosts) == 1 and bool(_is_host(hosts[0]))


def _coding_error(version: str, headers: Headers) -> HTTPStatus | None:
    """9112, 6.1: chunked is the only transfer coding here; HTTP/1.0 has none."""
    codings = [
        value.strip(b" \t").lower() for name, value in headers if name == b"transfer-encoding"
    ]
    if not codings or (version == "1.1" and codings == [b"chunked"]):
        return None
    if version == "1.0" or len(codings) > 1:
        return HTTPStatus.BAD_REQUEST
    return HTTPStatus.NOT_IMPLEMENTED


def _expectation_error(version: str, headers: Headers) -> HTTPStatus | None:
    """9110, 10.1.1: 100-continue is the only expectation; HTTP/1.0 has none."""
    for name, value in headers:
        if (
            name == b"expect"
            and version == "1.1"
            and value.strip(b" \t").lower() != b"100-continue"
        ):
            return HTTPStatus.EXPECTATION_FAILED
    return None
