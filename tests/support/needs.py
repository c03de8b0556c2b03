"""Skips tests whose programs are missing; with CARTPOLE_TEST_ALL=1, as in CI, they fail."""

import os
import shutil

import pytest

TEST_ALL = bool(os.environ.get("CARTPOLE_TEST_ALL"))


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip a test unless these programs are found. Debian's packages have them."""
    return may_lack(*([] if TEST_ALL else programs))


def may_lack(*programs: str) -> pytest.MarkDecorator:
    """Skip a test unless these programs are found, in CI too: Debian has none new enough."""
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"not on this machine: {', '.join(missing)}")
