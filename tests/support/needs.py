"""Skips tests whose programs are missing; with CARTPOLE_TEST_ALL=1, as in CI, they fail."""

import os
import shutil

import pytest

TEST_ALL = bool(os.environ.get("CARTPOLE_TEST_ALL"))


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip a test unless these programs are found."""
    missing = [program for program in programs if not shutil.which(program)]
    reason = f"not on this machine: {', '.join(missing)}"
    return pytest.mark.skipif(bool(missing) and not TEST_ALL, reason=reason)
