"""Tests of bench/protocol.py."""

from bench.protocol import BARS, LOADS, ROWS_16, run, table
from bench.server import serving
from cartpole.metrics.routes import INFER
from tests.support.metrics import requests, scrape


def test_the_load_asks_for_rows() -> None:
    with serving() as server:
        assert run(ROWS_16, server, 1) > 0
        found = scrape(server)
        answered = requests(found, INFER)
        assert answered > 0
        assert requests(found, INFER, 400) == 0
        assert found["cartpole_rows_total", (("route", INFER),)] == 64 * answered


def test_ratios_are_those_of_rows() -> None:
    shown = table({load: [10.0 * max(1, load.rows)] for load in LOADS})
    assert shown.count("| 1.000 |") == len(BARS)
