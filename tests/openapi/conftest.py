"""Fixtures: the document, and a service."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bench.server import Server, serving
from cartpole.page.routes import DESCRIPTION
from tests.support.processes import UNMEASURED


@pytest.fixture(scope="session")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DESCRIPTION.read_text())
    return found


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving("--poll", "never", environ=UNMEASURED) as running:
        yield running
