"""A query string to an observation: four float32 values, or a BadObservation that says why not.

value  = [sign] ( 1*DIGIT [ "." *DIGIT ] / "." 1*DIGIT ) [ ( "e" / "E" ) [sign] 1*DIGIT ]
sign   = "+" / "-"
"""

import re
import sys
from urllib.parse import unquote_to_bytes

Observation = tuple[float, float, float, float]

NAMES = ("position", "velocity", "angle", "angular_velocity")
_RAW_NAMES = tuple(name.encode() for name in NAMES)

# Doubles from here on round to infinity in float32: the largest float32 plus half its last digit.
FLOAT32_OVERFLOW = 2.0**128 - 2.0**103

# Possessive throughout: a value that does not match is refused in time linear in its length.
_is_number = re.compile(rb"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?").fullmatch

# The four parameters in usual order and spelling, in one step (bench/micro.py: parse). float()
# judges the rest; thirty characters without an exponent are never beyond float32.
_match_usual = re.compile(
    b"&".join(b"%s=(-?[0-9.]{1,30}+)" % name for name in _RAW_NAMES)
).fullmatch

_SHOWN = 40
_escape = re.compile(rb"[^ -~]").sub


class BadObservation(ValueError):
    """The query string is no observation. Its text names the parameter and says what is wrong."""


def parse(query: bytes) -> Observation:
    """Read the observation out of a query string.

    Args:
        query: the raw bytes between "?" and the end of the request target, percent-encoded.

    Returns:
        position (m), velocity (m/s), angle (rad) and angular velocity (rad/s), each finite as
        float32, in this order: that of gymnasium's CartPole-v1.

    Raises:
        BadObservation: a parameter is missing, repeated, or not a finite decimal number.
    """
    return parse_usual(query) or _parse_any(query)


def parse_usual(data: bytes, start: int = 0, end: int = sys.maxsize) -> Observation | None:
    """The same for the usual order and spelling in data[start:end]; None for all else."""
    usual = _match_usual(data, start, end)
    if usual is None:
        return None
    position, velocity, angle, angular_velocity = usual.groups()
    try:
        return float(position), float(velocity), float(angle), float(angular_velocity)
    except ValueError:
        return None


def _parse_any(query: bytes) -> Observation:
    """Any order, any percent-encoding, unknown parameters; and the reason where it is refused."""
    encoded = b"%" in query or b"+" in query
    found: dict[bytes, float] = {}
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if encoded:
            name, value = _decode(name), _decode(value)
        if name not in _RAW_NAMES:
            continue
        if name in found:
            raise BadObservation(f"{name.decode()} is given more than once")
        found[name] = _number(name.decode(), value)
    if len(found) < len(NAMES):
        missing = [name.decode() for name in _RAW_NAMES if name not in found]
        raise BadObservation(f"{', '.join(missing)} {'are' if missing[1:] else 'is'} missing")
    position, velocity, angle, angular_velocity = map(found.__getitem__, _RAW_NAMES)
    return position, velocity, angle, angular_velocity


def _decode(raw: bytes) -> bytes:
    return unquote_to_bytes(raw.replace(b"+", b" "))


def printable(raw: bytes) -> str:
    r"""For people, logs and terminals: all that is not printable ASCII as \x and two digits."""
    return _escape(lambda byte: b"\\x%02x" % ord(byte[0]), raw).decode()


def _number(name: str, value: bytes) -> float:
    if not value:
        raise BadObservation(f"{name} is empty")
    if not _is_number(value):
        shown = printable(value[:_SHOWN]) + "…" * (len(value) > _SHOWN)
        raise BadObservation(f"{name} is not a finite decimal number: '{shown}'")
    number = float(value)
    if not -FLOAT32_OVERFLOW < number < FLOAT32_OVERFLOW:
        raise BadObservation(f"{name} is beyond the range of float32: '{value[:_SHOWN].decode()}'")
    return number
