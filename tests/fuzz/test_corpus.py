"""The inputs in tests/fuzz/corpus, which fuzzing found, run as tests."""

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS
from tests.fuzz.targets import connection as check_connection
from tests.support.corpus import CORPUS, USUAL
from tests.support.paths import ROOT

INPUTS = sorted((ROOT / "tests/fuzz/corpus").glob("*/*"))


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_input(path: Path) -> None:
    check_target = TARGETS[path.parent.name]  # raises where the service behaves wrongly
    check_target(path.read_bytes())


def test_every_target_has_inputs() -> None:
    assert {path.parent.name for path in INPUTS} == set(TARGETS)


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("options", [8 + 16 + 32, 16 + 32, 8 + 64])
def test_the_corpus_under_harder_conditions(name: str, options: int) -> None:
    for halves, eof in ((1, 128), (7, 0)):
        check_connection(bytes([options + eof + halves]) + USUAL + CORPUS[name] + USUAL)
