"""Both modes answer random sequences of requests with the same bytes, over each transport."""

from itertools import count

import pytest

from tests.fuzz.differential import compare
from tests.fuzz.services import TRANSPORTS
from tests.support.needs import TEST_ALL

SECONDS = 20 if TEST_ALL else 3  # for each transport


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_both_modes_answer_alike(transport: str) -> None:
    number, problem = compare(transport, count(1), SECONDS)
    assert not problem, problem
    assert number > SECONDS * 10
