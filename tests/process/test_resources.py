"""Cores and descriptors of a process."""

import logging
import resource
import subprocess
import sys

import pytest

from cartpole.process.resources import SPARE_DESCRIPTORS, raise_descriptor_limit


def test_a_limit_of_connections_beyond_the_descriptors_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "cartpole")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        raise_descriptor_limit(before[1] - SPARE_DESCRIPTORS)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
        assert caplog.messages == []
        connections = before[1] - SPARE_DESCRIPTORS + 1
        raise_descriptor_limit(connections)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caplog.messages == [
        f"--limit-connections {connections}: the system permits only {before[1]} descriptors"
    ]


def test_a_pinned_process_runs_on_one_core() -> None:
    program = (
        "import os; from cartpole.process.resources import pin_to_core;"
        "core = max(os.sched_getaffinity(0)); pin_to_core(core);"
        "print(os.sched_getaffinity(0) == {core})"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n"
