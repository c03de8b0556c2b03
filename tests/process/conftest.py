"""Services for the tests of one module, and a supervisor whose workers end with the test."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.family import Family, family
from tests.support.supervised import Service, Start


@pytest.fixture
def make(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Start]:
    caplog.set_level(logging.INFO, "cartpole")
    made: list[Service] = []

    def start(orders: str = "serve", workers: int = 2, **settings: Any) -> Service:
        made.append(Service(tmp_path, caplog, workers, orders, **settings))
        return made[-1]

    yield start
    for service in made:
        service.end()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    with family(tmp_path_factory.mktemp("pair")) as started:
        yield started


@pytest.fixture
def pair(running: Family) -> Family:
    """Two workers, a template and a good model file; other tests may have replaced each of them."""
    running.settle()
    return running
