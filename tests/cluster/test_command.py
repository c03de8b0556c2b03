"""The command itself: its end, its exit codes, and a second one beside it."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bench.ray_nodes import CPUS, HEAD, OTHER, Cluster
from cartpole.integrations.ray_replica import claim_port, make_folder
from cartpole.settings import BUNDLED_MODEL
from tests.cluster.command import COMMAND, SECONDS, Command, ask, scale, until


def fails(*flags: object) -> tuple[int, str]:
    """Exit code and the last line of a command that can't start."""
    command = [*COMMAND, *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    return done.returncode, done.stderr.splitlines()[-1]


def test_stops_by_draining(cluster: Cluster, tmp_path: Path) -> None:
    command = Command(cluster, tmp_path, BUNDLED_MODEL.read_bytes(), 1)
    try:
        command.wait_for(1)
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(SECONDS) == 0, command.log
        assert command.endpoints() == []
        assert " down;" in command.nginx.read_text()
        assert command.logged("draining for 1 s")  # the child says so
        assert cluster.head.services() + cluster.other.services() == []
    finally:
        command.end()
    done = scale(cluster.address, 1)
    assert (done.returncode, done.stderr) == (3, "cartpole: no cartpole runs on this cluster\n")


def test_autoscaler_sees_replicas_without_a_cpu(cluster: Cluster, tmp_path: Path) -> None:
    command = Command(cluster, tmp_path, BUNDLED_MODEL.read_bytes(), 2 * CPUS + 2)
    try:
        command.wait_for(2 * CPUS)
        assert command.hosts() == [HEAD] * CPUS + [OTHER] * CPUS
        program = "import sys; from ray.autoscaler.v2.sdk import get_cluster_status as status;"
        program += "print(status(sys.argv[1]).resource_demands.ray_task_actor_demand)"
        asked = [sys.executable, "-c", program, cluster.address]
        until(lambda: "{'CPU': 1.0}, count=2" in subprocess.check_output(asked, text=True))
        command.process.terminate()
        assert command.process.wait(SECONDS) == 0, command.log
    finally:
        command.end()


def test_children_end_with_a_killed_command(cluster: Cluster, tmp_path: Path) -> None:
    command = Command(cluster, tmp_path, BUNDLED_MODEL.read_bytes(), 2)
    try:
        command.wait_for(2)
        command.process.kill()
        successor = Command(cluster, tmp_path, BUNDLED_MODEL.read_bytes(), 1)
        try:
            successor.wait_for(1)
            ask(*successor.endpoints())
        finally:
            successor.process.terminate()
            successor.process.wait(SECONDS)
            successor.end()
    finally:
        command.end()
    assert cluster.head.services() + cluster.other.services() == []


def test_control_actor_is_made_again(cluster: Cluster, tmp_path: Path) -> None:
    """With the number that was wanted last, and no replica notices."""
    command = Command(cluster, tmp_path, BUNDLED_MODEL.read_bytes(), 1)
    try:
        command.wait_for(1)
        command.scale(2)
        before = cluster.head.services(), cluster.other.services()
        (control,) = cluster.head.actors("Control")
        os.kill(control, signal.SIGKILL)
        until(lambda: command.logged("the control actor was lost, and is made again"))
        command.scale(2)
        assert (cluster.head.services(), cluster.other.services()) == before
        command.scale(1)
        (control,) = cluster.head.actors("Control")
        os.kill(control, signal.SIGSTOP)  # the command neither needs it nor waits for it
        command.process.terminate()
        assert command.process.wait(SECONDS) == 0, command.log
    finally:
        command.end()


def test_second_command_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    command = Command(cluster, tmp_path, BUNDLED_MODEL.read_bytes(), 1)
    try:
        command.wait_for(1)
        found = fails("--address", cluster.address)
        assert found == (3, "cartpole: another cartpole runs on this cluster")
        assert len(command.endpoints()) == 1
    finally:
        command.end()


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--", "--port", "80"], "--port can't be given after --: it is chosen for each replica"),
        (["--", "--engine", "x"], "Invalid value for --engine: "),
        (["--replicas", "-1"], "argument --replicas: "),
        (["--port", "0"], "argument --port: '0' is not a whole number from 1 to 65535"),
    ],
)
def test_bad_flags(flags: list[str], error: str) -> None:
    code, line = fails(*flags)
    assert code == 2
    assert error in line


def test_bad_model(tmp_path: Path) -> None:
    path = tmp_path / "missing"
    assert fails("--model", path) == (3, f"cartpole: model {path}: No such file or directory")


def test_model_that_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    assert fails("--model", path) == (3, f"cartpole: model {path}: not a regular file")


def test_ports_are_claimed_by_one_actor_each() -> None:
    first, claim = claim_port(HEAD, 22000)
    with claim:
        second, other = claim_port(HEAD, 22000)
        other.close()
        with socket.create_server((HEAD, second)):  # of any other program
            third, other = claim_port(HEAD, 22000)
            other.close()
    assert first < second < third
    again, claim = claim_port(HEAD, 22000)
    claim.close()
    assert again == first


def test_folder_of_another_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert make_folder("ours").stat().st_mode & 0o777 == 0o700
    assert make_folder("ours") == tmp_path / "ours"
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    with pytest.raises(OSError, match="belongs to another user"):
        make_folder("link")
