"""Rules of RFC 9110 and 9112 for a request's head that llhttp does not check."""

import re

from cartpole.api.responses import Headers
from cartpole.metrics.rejections import (
    BAD_TARGET,
    NOT_HTTP,
    NOT_IMPLEMENTED,
    OTHER_VERSION,
    UNMET_EXPECTATION,
    Rejection,
)

# RFC 3986, sections 3.3 and 3.4: no fragment, no quotes, no brackets but a host's.
_PATH = rb"[!$&-;=@-Z_a-z~%]*+"
# Browsers send | [ ] { } ^ \ and the backtick as they are (WHATWG URL, query percent-encode set).
QUERY = rb"[!$%&-;=?-~]*+"
_is_origin_form = re.compile(rb"/%b(?:\?%b)?" % (_PATH, QUERY)).fullmatch
_is_absolute_form = re.compile(
    rb"[Hh][Tt][Tt][Pp][Ss]?://(?P<authority>[^/?]++)(?P<path>(?:/%b)?)(?P<query>(?:\?%b)?)"
    % (_PATH, QUERY)
).fullmatch
# RFC 9110, section 7.2: uri-host [ ":" port ]. Without userinfo, and without a comma, which shows
# that a proxy has joined two Host lines.
_is_host = re.compile(
    rb"(?:\[[0-9A-Fa-fVv:.]++\]|(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+)(?::[0-9]{0,5}+)?"
).fullmatch


_CHECKED = (b"host", b"content-length", b"transfer-encoding", b"expect")


def check_head(version: str, method: bytes, target: bytes, headers: Headers) -> Rejection | None:
    """Why a head is rejected, or None if it keeps the rules.

    Args:
        version: of the request line, such as "1.1".
        target: of the request line, as it was sent.
        headers: in their order; names in lower case, values without white space around them.
    """
    if version not in ("1.0", "1.1"):
        return OTHER_VERSION  # 9110, 15.6.6
    if method == b"CONNECT":
        return NOT_IMPLEMENTED  # 9110, 9.3.6: this is no proxy
    if not _is_target(method, target):
        return BAD_TARGET
    hosts, lengths, codings, expectations = (
        [value.lower() for name, value in headers if name == wanted] for wanted in _CHECKED
    )
    if not _has_host(version, hosts):
        return NOT_HTTP
    if any(value[:1] == b"0" != value for value in lengths):
        return NOT_HTTP  # 9110, 8.6 allows leading zeros, but some proxies read octal
    if codings and (version == "1.0" or codings != [b"chunked"]):
        # 9112, 6.1: chunked is the only transfer coding here; HTTP/1.0 has none.
        return NOT_HTTP if version == "1.0" or len(codings) > 1 else NOT_IMPLEMENTED
    if version == "1.1" and any(value != b"100-continue" for value in expectations):
        return UNMET_EXPECTATION  # 9110, 10.1.1: HTTP/1.0 has none
    return None


def _is_target(method: bytes, target: bytes) -> bool:
    """9112, 3.2: origin-form, absolute-form, or "*" for OPTIONS."""
    if _is_origin_form(target):
        return True
    if target == b"*":
        return method == b"OPTIONS"
    absolute = _is_absolute_form(target)
    return bool(absolute and _is_host(absolute["authority"]))


def origin_form(target: bytes) -> bytes:
    """9112, 3.2.1: path and query of a valid target. An empty path is "/"."""
    absolute = target[:1] not in b"/*" and _is_absolute_form(target)
    return (absolute["path"] or b"/") + absolute["query"] if absolute else target


def _has_host(version: str, hosts: list[bytes]) -> bool:
    """9112, 3.2: exactly one Host in HTTP/1.1, at most one in HTTP/1.0."""
    if not hosts:
        return version == "1.0"
    return len(hosts) == 1 and bool(_is_host(hosts[0]))
