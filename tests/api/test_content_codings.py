"""Tests of cartpole/api/content_codings.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartpole.api.content_codings import choose_coding


@pytest.mark.parametrize(
    ("lines", "coding"),
    [
        ([], "identity"),
        ([""], "identity"),
        (["gzip"], "gzip"),
        (["GZip"], "gzip"),
        (["x-gzip"], "gzip"),
        (["gzip, deflate, br, zstd"], "gzip"),
        (["deflate", "gzip"], "gzip"),
        (["br"], "identity"),
        (["br;q=1.0, gzip;q=0.001"], "gzip"),
        (["gzip \t; \tq=0.5"], "gzip"),
        (["gzip;Q=0"], "identity"),
        (["gzip;q=0"], "identity"),
        (["gzip;q=0.000"], "identity"),
        (["gzip;q=0, x-gzip"], "identity"),
        (["gzip;q=0, *"], "identity"),
        (["*"], "gzip"),
        (["*;q=0.1"], "gzip"),
        (["*;q=0, gzip"], "gzip"),
        (["*;q=0, gzip;q=0.2"], "gzip"),
        (["gzip;q=0.5, *;q=1"], "gzip"),
        (["identity"], "identity"),
        (["identity;q=0.5"], "identity"),
        (["*;q=0, identity;q=0.1"], "identity"),
        (["identity;q=0.5, gzip;q=0.5"], "gzip"),
        (["identity;q=0.6, gzip;q=0.5"], "identity"),
        (["identity, *;q=0.9"], "identity"),
        (["identity;q=0, gzip"], "gzip"),
        (["identity;q=0", "*"], "gzip"),
        (["*;q=0"], None),
        (["identity;q=0"], None),
        (["identity;q=0, gzip;q=0"], None),
        (["identity;q=0, br"], None),
        (["*;q=0, br"], None),
        ([",, gzip ,,"], "gzip"),
        (["gzip;q=2"], "identity"),
        (["gzip;q=1.001"], "identity"),
        (["gzip;q=.5"], "identity"),
        (["gzip;q=-1"], "identity"),
        (["gzip;q=nan"], "identity"),
        (["gzip;q=\u0660"], "identity"),
        (["gzip;q"], "identity"),
        (["gzip;x=1"], "identity"),
        (["gzip deflate"], "identity"),
        (['"gzip"'], "identity"),
        (["identity;q=0.0000"], "identity"),
    ],
    ids=repr,
)
def test_choose_coding(lines: list[str], coding: str | None) -> None:
    assert choose_coding(",".join(lines), ["gzip"]) == coding


CODINGS = ["gzip", "identity", "*", "br"]
WEIGHTS = st.dictionaries(st.sampled_from(CODINGS), st.integers(0, 1000))


@given(WEIGHTS, st.sampled_from([",", ", ", " ,\t", ",,"]))
def test_what_is_chosen_is_acceptable(weights: dict[str, int], comma: str) -> None:
    """The three rules of RFC 9110, section 12.5.3, about a field that is there."""
    items = [f"{coding};q={weight / 1000:.3f}" for coding, weight in weights.items()]
    chosen = choose_coding(comma.join(items), ["gzip"])
    gzip = weights.get("gzip", weights.get("*", 0))
    identity = weights.get("identity", weights.get("*", 1))
    assert {"gzip": gzip > 0, "identity": identity > 0, None: not gzip and not identity}[chosen]


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate", "gzip"),
        ("deflate, gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("gzip;q=0, *", "deflate"),
        ("*", "gzip"),
        ("br", "identity"),
        ("identity;q=0, deflate;q=0.1", "deflate"),
    ],
)
def test_between_two_codings(accepted: str, coding: str) -> None:
    assert choose_coding(accepted, ("gzip", "deflate")) == coding


@given(st.text(st.characters(max_codepoint=255), max_size=80))
def test_any_text_has_an_answer(accepted: str) -> None:
    assert choose_coding(accepted, ["gzip"]) in ("gzip", "identity", None)
