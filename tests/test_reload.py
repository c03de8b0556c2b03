"""A process that takes a new policy again and again keeps its size."""

import os
import re
import signal
from pathlib import Path

import pytest

from bench.server import Server, serving
from tests.conftest import GOLDEN

WARM_UP, RELOADS = 5, 20


def reload(server: Server) -> None:
    assert server.process.stderr
    os.kill(server.process.pid, signal.SIGHUP)
    line = next(line for line in server.process.stderr if "reload" in line)
    assert "reload: serves" in line


def resident(server: Server) -> float:
    """MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


@pytest.mark.parametrize(("engine", "most"), [("torchscript", 3), ("native", 25)])
def test_memory_does_not_grow_with_reloads(engine: str, most: float) -> None:
    """Before, 20 reloads took 5 MiB with TorchScript and 100 with the native engine."""
    with serving("--engine", engine) as server:
        for _ in range(WARM_UP):
            reload(server)
        before = resident(server)
        for _ in range(RELOADS):
            reload(server)
        after = resident(server)
        assert server.get(f"/inference?{GOLDEN}")[0] == 200
    print(before, after)
    assert after - before < most
