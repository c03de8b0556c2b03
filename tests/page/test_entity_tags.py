"""Tests of cartpole/page/entity_tags.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartpole.page.entity_tags import names_tag

TAG = '"a1"'


@pytest.mark.parametrize(
    ("lines", "weakly", "strongly"),
    [
        (["*"], True, True),
        ([" * "], True, True),
        ([TAG], True, True),
        ([f'"b", {TAG}'], True, True),
        ([f'"b",{TAG},"c"'], True, True),
        ([f',, {TAG} ,"c",'], True, True),
        (['"b"', TAG], True, True),
        ([f"W/{TAG}"], True, False),
        ([f'W/"b", W/{TAG}'], True, False),
        ([f'W/"b", {TAG}'], True, True),
        ([""], False, False),
        (['"b"'], False, False),
        (['""'], False, False),
        (["a1"], False, False),
        (['"A1"'], False, False),
        (["'a1'"], False, False),
        (['"a1'], False, False),
        (['a1"'], False, False),
        (['"a1 "'], False, False),
        (['"x,a1"'], False, False),
        (['"a1,*"'], False, False),
        (['"*"'], False, False),
        (['"b", *'], False, False),
        (["**"], False, False),
    ],
    ids=repr,
)
def test_names_tag(lines: list[str], weakly: bool, strongly: bool) -> None:
    assert names_tag(lines, TAG, weak=True) is weakly
    assert names_tag(lines, TAG, weak=False) is strongly


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=40), max_size=4))
def test_any_text_has_an_answer(lines: list[str]) -> None:
    assert names_tag(lines, '"0123456789abcdef"', weak=True) in (True, False)
