"""Listening sockets: one instance per address, unless several agree to share it."""

import logging
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from bench.server import free_port
from cartpole.process.sockets import SPARE_DESCRIPTORS, bind_sockets, raise_descriptor_limit
from cartpole.settings import Settings
from tests.support.tripwire import tripped
from tests.support.waiting import wait_until

IN_USE = "Address already in use"


@contextmanager
def instance(listens: bool = True, port: int = 0, **settings: object) -> Iterator[int]:
    """The sockets of a service. Yields the port."""
    with bind_sockets(Settings(port=port, **settings)) as sockets:  # type: ignore[arg-type]
        for one in sockets if listens else []:
            one.listen()
        name = sockets[0].getsockname()
        yield 0 if settings.get("uds") else name[1]


@pytest.mark.parametrize("first_listens", [True, False])
@pytest.mark.parametrize("second_shares", [True, False])
@pytest.mark.parametrize("workers", [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_a_port_has_one_instance(
    first_listens: bool, second_shares: bool, workers: tuple[int, int]
) -> None:
    with instance(first_listens, workers=workers[0]) as port:
        message = f"^can't listen on 127.0.0.1:{port}: {IN_USE}$"
        with (
            pytest.raises(OSError, match=message),
            instance(port=port, workers=workers[1], reuse_port=second_shares),
        ):
            raise AssertionError("both have it")
    with instance(port=port, workers=workers[1], reuse_port=second_shares):
        pass


@pytest.mark.parametrize("workers", [1, 3])
def test_instances_that_agree_share_a_port(workers: int) -> None:
    with (
        instance(reuse_port=True, workers=workers) as port,
        instance(port=port, reuse_port=True, workers=workers),
        pytest.raises(OSError, match=IN_USE),
        instance(port=port),
    ):
        raise AssertionError("the third has it too")


@pytest.mark.parametrize("workers", [1, 3])
def test_old_connections_do_not_hinder_a_start(workers: int) -> None:
    with bind_sockets(Settings(port=0, workers=workers)) as sockets, ExitStack() as clients:
        for one in sockets:
            one.listen()
        port = sockets[0].getsockname()[1]
        client = clients.enter_context(socket.create_connection(("127.0.0.1", port)))
        for one in sockets:
            one.setblocking(False)
        for one in sockets:
            try:
                accepted, _ = one.accept()
            except BlockingIOError:
                continue
            accepted.close()  # the side that closes first holds the address in TIME_WAIT
        assert client.recv(1) == b""
    assert f":{port:04X} 0100007F:" in Path("/proc/net/tcp").read_text()
    with instance(port=port, workers=workers):
        pass


@pytest.mark.parametrize("first_listens", [True, False])
def test_a_unix_socket_has_one_instance(first_listens: bool, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with instance(first_listens, uds=path):
        with (
            pytest.raises(OSError, match=f"^can't listen on unix:{path}: {IN_USE}$"),
            instance(uds=path),
        ):
            raise AssertionError("both have it")
        assert path.is_socket()
    assert not path.exists()


def test_a_unix_socket_of_another_program_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(OSError, match=IN_USE), instance(uds=path):
            pass
        assert path.exists()
    with instance(uds=path, workers=2):  # it has ended, and left the file
        pass
    path.write_text("no socket")
    with pytest.raises(OSError, match=IN_USE), instance(uds=path):
        pass
    assert path.read_text() == "no socket"


def test_what_another_has_put_in_place_of_a_unix_socket_is_kept(tmp_path: Path) -> None:
    path, other = tmp_path / "socket", tmp_path / "other"
    with instance(uds=path):
        other.touch()
        other.rename(path)
    assert path.exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a" * 108, "path too long"), ("no/socket", "No such file or directory")],
)
def test_a_unix_socket_that_can_not_be(name: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with (
        pytest.raises(OSError, match=f"^can't listen on unix:{path}: {reason}$"),
        instance(uds=path),
    ):
        pass


def test_another_program_is_faster_to_listen() -> None:
    """Bound sockets don't keep others from listening, if both have SO_REUSEADDR."""
    port = free_port()
    command = [*tripped("cartpole.process.server", signal.SIGSTOP), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        state = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: state.read_text().rpartition(") ")[2].startswith("T"))
        with socket.create_server(("127.0.0.1", port)):
            process.send_signal(signal.SIGCONT)
            _, log = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 3
    assert log.endswith(f"] can't listen on http://127.0.0.1:{port}: {IN_USE}\n")
    assert log.count("\n") == 1


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
