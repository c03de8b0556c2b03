"""A forward that never ends keeps no process from its end."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from bench.machine import cpu_seconds
from cartpole.predictor import load_engine
from tests.support.clients import connect
from tests.support.corpus import request
from tests.support.family import Family, family, group
from tests.support.models import HANGING, Hangs, Tiring, scripted
from tests.support.processes import SERVE
from tests.support.waiting import children, is_alive, wait_until, wait_until_taken

BUSY_SECONDS = 0.5  # of processor time, which an idle process does not use


@contextmanager
def hung(folder: Path, *flags: str, size: int, hangs: bool = True) -> Iterator[Family]:
    """A service of which one worker hangs in a forward, without a supervisor that minds."""
    scripted(folder / "model.pt", Hangs())
    flags = ("--worker-timeout", "0", "--poll", "never", "--no-rehearse", *flags)
    query = f"position={HANGING}&velocity=0&angle=0&angular_velocity=0"
    with family(folder, *flags, size=size) as service, connect(service.server) as client:
        if hangs:
            pid = service.server.process.pid
            before = cpu_seconds(pid)
            client.sendall(request(query))
            wait_until(lambda: cpu_seconds(pid) > before + BUSY_SECONDS)
        yield service


@pytest.mark.parametrize("size", [1, 2])
def test_a_second_signal_ends_a_hung_forward(tmp_path: Path, size: int) -> None:
    with hung(tmp_path, size=size) as service:
        process = service.server.process
        service.signal(signal.SIGTERM)
        wait_until_taken(process.pid, signal.SIGTERM)
        service.signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        wait_until(partial(_is_free, service))
        assert not group(service.server)


@pytest.mark.parametrize("state", ["hung", "draining", "draining and hung"])
def test_no_child_outlives_a_killed_supervisor(tmp_path: Path, state: str) -> None:
    with hung(tmp_path, "--drain-seconds", "600", size=2, hangs="hung" in state) as service:
        if "draining" in state:
            service.signal(signal.SIGTERM)
            service.log.wait("draining for 600 s")
        service.server.process.kill()
        service.server.process.wait()
        wait_until(partial(_is_free, service))
        assert not group(service.server)


def _is_free(service: Family) -> bool:
    """Whether no process of it is left, nor one that has its port."""
    if group(service.server):
        return False
    with socket.create_server(("127.0.0.1", service.server.port)):
        return True


def test_a_hung_trial_of_threads_ends_with_the_supervisor(tmp_path: Path) -> None:
    """A template tries as many threads as workers use in a process of its own."""
    model = scripted(tmp_path / "model.pt", Tiring(10**9))
    calls = int(load_engine(model, "torchscript").policy.module.count)
    scripted(model, Tiring(calls))
    command = [*SERVE[:3], "--port", "0", "--workers", "2", "--threads", "2", "--model", str(model)]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE) as supervisor:
        try:
            wait_until(lambda: children(supervisor.pid, "cartpole-templa"))
            (template,) = children(supervisor.pid, "cartpole-templa")
            wait_until(lambda: children(template, "cartpole-templa"))
            (trial,) = children(template, "cartpole-templa")
            before = cpu_seconds(trial)
            wait_until(lambda: cpu_seconds(trial) > before + BUSY_SECONDS)
        finally:
            supervisor.kill()
    wait_until(lambda: not is_alive(template))
    wait_until(lambda: not is_alive(trial))
    assert supervisor.returncode == -signal.SIGKILL
