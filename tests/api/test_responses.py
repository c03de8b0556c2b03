"""Tests of cartpole/api/responses.py."""

import orjson
import pytest

from cartpole.api.responses import headers, render, render_error


def test_logits_in_order_as_the_shortest_decimal() -> None:
    assert (
        render(15.974628448486328, -15.953770637512207)
        == b'{"left":15.974628448486328,"right":-15.953770637512207}'
    )
    assert render(0.0, -0.0) == b'{"left":0.0,"right":-0.0}'
    assert render(1e-45, 1.5e300) == b'{"left":1e-45,"right":1.5e+300}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_is_null(value: float) -> None:
    assert render(value, 1.0) == b'{"left":null,"right":1.0}'


def test_errors_are_json_whatever_their_text() -> None:
    for text in ("x", 'a "quoted" \\ text', "…", "\x00"):
        assert orjson.loads(render_error(text)) == {"error": text}


def test_headers() -> None:
    assert headers(123) == [
        (b"content-type", b"application/json"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-length", b"123"),
    ]
