"""A query string to an observation: four float32 values, or a BadObservation that says why not.

value  = [sign] ( 1*DIGIT [ "." *DIGIT ] / "." 1*DIGIT ) [ ( "e" / "E" ) [sign] 1*DIGIT ]
sign   = "+" / "-"
"""

import re
import sys
from urllib.parse import unquote_to_bytes

from cartpole.predictor import FLOAT32_OVERFLOW, Observation

NAMES = ("position", "velocity", "angle", "angular_velocity")
_RAW_NAMES = tuple(name.encode() for name in NAMES)

# Possessive quantifiers: a value that does not match is rejected in time linear in its length.
_is_number = re.compile(rb"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?").fullmatch

# The four parameters in their usual order and spelling, in one step (bench/micro.py: parse).
# float() decides about the dots. Thirty characters without an exponent are always a float32.
_match_usual = re.compile(
    b"&".join(b"%s=(-?[0-9.]{1,30}+)" % name for name in _RAW_NAMES)
).fullmatch

_MAX_SHOWN = 40  # characters of a bad value in an error message
_escape = re.compile(rb"[^ -~]").sub


class BadObservation(ValueError):
    """The query string is no observation. The text names the parameter and the problem."""


def parse(query: bytes) -> Observation:
    """Read the observation from a query string.

    Args:
        query: the raw bytes between "?" and the end of the request target, percent-encoded.

    Returns:
        position (m), velocity (m/s), angle (rad) and angular velocity (rad/s), each finite as
        float32: the order of gymnasium's CartPole-v1.

    Raises:
        BadObservation: a parameter is missing, repeated, or not a finite decimal number.
    """
    return parse_usual(query) or _parse_any(query)


def parse_usual(data: bytes, start: int = 0, end: int = sys.maxsize) -> Observation | None:
    """Read the usual order and spelling from data[start:end]; None for anything else."""
    usual = _match_usual(data, start, end)
    if usual is None:
        return None
    position, velocity, angle, angular_velocity = usual.groups()
    try:
        return float(position), float(velocity), float(angle), float(angular_velocity)
    except ValueError:
        return None


def _parse_any(query: bytes) -> Observation:
    """Any order, any percent-encoding and unknown parameters. Finds the reason of an error."""
    is_encoded = b"%" in query or b"+" in query
    found: dict[bytes, float] = {}
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if is_encoded:
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
    r"""Text for people, logs and terminals: bytes outside printable ASCII become \x and digits."""
    return _escape(lambda byte: b"\\x%02x" % ord(byte[0]), raw).decode()


def _number(name: str, value: bytes) -> float:
    if not value:
        raise BadObservation(f"{name} is empty")
    if not _is_number(value):
        shown = printable(value[:_MAX_SHOWN]) + "…" * (len(value) > _MAX_SHOWN)
        raise BadObservation(f"{name} is not a finite decimal number: '{shown}'")
    number = float(value)
    if not -FLOAT32_OVERFLOW < number < FLOAT32_OVERFLOW:
        shown = value[:_MAX_SHOWN].decode()
        raise BadObservation(f"{name} is beyond the range of float32: '{shown}'")
    return number
