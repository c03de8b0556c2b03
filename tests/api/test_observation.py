"""Tests of cartpole/api/observation.py."""

import re
from itertools import permutations
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cartpole.api.observation import NAMES, BadObservation, parse

GRAMMAR = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def query(**values: str) -> bytes:
    texts = dict.fromkeys(NAMES, "0") | values
    return "&".join(f"{name}={text}" for name, text in texts.items()).encode()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0.0),
        ("-1", -1.0),
        ("%2B1", 1.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1e3", 1000.0),
        ("1E-3", 0.001),
        ("1e%2B3", 1000.0),
        ("007", 7.0),
        ("%31%2e5", 1.5),
        ("1e-400", 0.0),
        ("3.4028235e38", 3.4028235e38),
        ("-3.4028235677973362e38", -3.4028235677973362e38),
    ],
)
def test_accepts(text: str, value: float) -> None:
    assert parse(query(velocity=text)) == (0.0, value, 0.0, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "nan",
            "inf",
            "-inf",
            "Infinity",
            "1e39",
            "-1e39",
            "3.4028235677973366e38",
            "9" * 400,
        ),
        *("1_000", "+1", "1e+3", " 1", "1 ", "%201", "1%20", "1%0a", "\t1", "0x10", "1,5", "1e"),
        *(".", "-", "--1", "1.2.3", "%", "%2", "%zz", "%00", "1%00", "%2D%2D1", "one", "1j", "e5"),
        *("1e5.0", "%D9%A1", "\u0661", "\uff11", "%FF", "=1", "1=", "1;velocity=1"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_refuses_and_names_the_parameter(name: str, text: str) -> None:
    with pytest.raises(BadObservation, match=rf"^{name} is "):
        parse(query(**{name: text}))


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_repeated(name: str) -> None:
    pairs = [f"{other}=0" for other in NAMES]
    with pytest.raises(BadObservation, match=f"^{name} is missing$"):
        parse("&".join(pair for pair in pairs if not pair.startswith(f"{name}=")).encode())
    with pytest.raises(BadObservation, match=f"^{name} is given more than once$"):
        parse("&".join([*pairs, f"{name}=0"]).encode())
    with pytest.raises(BadObservation, match=f"^{name} is given more than once$"):
        parse("&".join([*pairs, f"%{ord(name[0]):x}{name[1:]}=0"]).encode())


def test_names_all_that_is_missing() -> None:
    with pytest.raises(BadObservation, match=r"^position, velocity, .+ are missing$"):
        parse(b"")


def test_shows_a_long_value_shortened() -> None:
    with pytest.raises(BadObservation) as raised:
        parse(query(angle="x" * 100_000))
    assert str(raised.value) == f"angle is not a finite decimal number: '{'x' * 40}…'"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x00", r"\x00"),
        ("%00", r"\x00"),
        ("\x7f", r"\x7f"),
        ("1\n", r"1\x0a"),
        ("é", r"\xc3\xa9"),
        ("%ff", r"\xff"),
        ("a b~", "a b~"),
        ("\x1b" * 41, r"\x1b" * 40 + "…"),
    ],
)
def test_shows_what_is_not_printable_escaped(text: str, shown: str) -> None:
    with pytest.raises(BadObservation) as raised:
        parse(query(angle=text))
    assert str(raised.value) == f"angle is not a finite decimal number: '{shown}'"


def test_any_order_and_unknown_parameters() -> None:
    values = dict(zip(NAMES, ("1", "2.5", "-3e0", ".25"), strict=True))
    for names in permutations(NAMES):
        text = "&".join(f"{name}={values[name]}" for name in names)
        for spelled in (text, f"x=1&{text}", f"{text}&&y&=z&Position=7", f"&{text}&"):
            assert parse(spelled.encode()) == (1.0, 2.5, -3.0, 0.25)


def test_every_truncated_prefix() -> None:
    whole = query(position="1.5", velocity="-2e1", angle=".25", angular_velocity="12.75e1")
    accepted = {}
    for length in range(len(whole)):
        try:
            accepted[whole[:length]] = parse(whole[:length])
        except BadObservation as error:
            assert re.match(f"({'|'.join(NAMES)})", str(error))
    # Only a cut inside the last number still leaves a number.
    start = whole.index(b"angular_velocity=") + len(b"angular_velocity=")
    assert {length for length in map(len, accepted)} == {
        start + len(text) for text in (b"1", b"12", b"12.", b"12.7", b"12.75")
    }
    assert parse(whole) == (1.5, -20.0, 0.25, 127.5)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_every_float32_reads_back(values: list[float]) -> None:
    for spell in (repr, "{:.9g}".format, "{:.12e}".format, "{:f}".format):
        pairs = zip(NAMES, values, strict=True)
        plain = "&".join(f"{name}={spell(value)}" for name, value in pairs)
        text = plain.replace("+", "%2B").encode()
        assert parse(text) == tuple(float(spell(value)) for value in values)


@given(st.text(alphabet="0123456789.eE+-_ naif\u0661", max_size=12))
def test_agrees_with_grammar_and_float32(text: str) -> None:
    """Compare with an oracle: a regular expression, float() and numpy.float32."""
    encoded = query(angle=quote(text))
    with np.errstate(over="ignore"):
        good = bool(GRAMMAR.fullmatch(text)) and bool(np.isfinite(np.float32(float(text))))
    if good:
        assert parse(encoded)[2] == float(text)
    else:
        with pytest.raises(BadObservation, match=r"^angle is "):
            parse(encoded)


@given(st.one_of(st.binary(), st.lists(st.sampled_from([*NAMES, *"=&%1.e-+ \x00é"])).map("".join)))
@example(b"position=\x00")
@example(b"position=\x7f")
@example(b"position=1\n")
@example("position=é")
@example(b"position=\xff")
@example(b"position=\x9b31m")  # a control sequence in ISO 8859-1
@example("position=\u2028")
@example(b"position=%00%0d%0a%1b%5b31m")
@example(b"position=" + b"\x1b" * 50)
def test_is_total(text: Any) -> None:
    raw = text if isinstance(text, bytes) else text.encode()
    try:
        values = parse(raw)
    except BadObservation as error:
        assert str(error).isprintable()
        assert str(error).replace("…", "").isascii()
        assert re.match(f"({'|'.join(NAMES)})", str(error))
    else:
        assert all(abs(value) <= 3.4028235677973362e38 for value in values)
