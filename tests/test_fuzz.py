"""What fuzzing found worth keeping goes on being tried: fuzz/corpus."""

from pathlib import Path

import pytest

from fuzz.targets import TARGETS
from tests.conftest import ROOT

INPUTS = sorted((ROOT / "fuzz/corpus").glob("*/*"))


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_input(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


def test_every_target_has_inputs() -> None:
    assert {path.parent.name for path in INPUTS} == set(TARGETS)
