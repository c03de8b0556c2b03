"""The soak's policies, and how it sees processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.faults import BAD, GOOD, write_policies
from bench.machine import TEMPLATE, children, has_ended, pss_mebibytes
from cartpole.policy.loading import BadPolicy, load


def test_good_policies_differ_and_bad_ones_are_rejected(tmp_path: Path) -> None:
    write_policies(tmp_path)
    observation = torch.tensor([[0.1, -0.2, 0.03, 0.4]])
    one, other = (load(tmp_path / name).forward(observation) for name in GOOD)
    assert not torch.allclose(one, other, rtol=0.01)
    for name in BAD:
        with pytest.raises(BadPolicy):
            load(tmp_path / name)


def test_processes_are_found_by_name_until_they_end() -> None:
    program = f"open('/proc/self/comm', 'w').write('{TEMPLATE}'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert children(os.getpid(), TEMPLATE) == [process.pid]
        assert 0 < pss_mebibytes(process.pid) < pss_mebibytes(os.getpid(), process.pid)
        assert not has_ended(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(process.pid)  # though not waited for
        assert pss_mebibytes(process.pid) == 0
    assert has_ended(process.pid)
