"""The faults of `make mutations` can still be put into the code."""

import pytest

from tests.mutations import MUTATIONS, Mutation
from tests.support.paths import ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_code_that_a_mutation_changes_is_there_once(mutation: Mutation) -> None:
    assert (ROOT / mutation.file).read_text().count(mutation.old) == 1
    assert all((ROOT / "tests" / name).exists() for name in mutation.tests.split())
