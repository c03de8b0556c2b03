"""--uds-mode: who may connect to the Unix socket."""

import os
import stat
from pathlib import Path

import pytest

from tests.support.family import listeners, sockets_of, templates, workers
from tests.support.processes import start_error
from tests.support.transports import UnixServer, serving_over
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    ("flags", "mode"),
    [((), 0o666), (("--uds-mode", "600"), 0o600), (("--uds-mode", "0660"), 0o660)],
)
@pytest.mark.parametrize("size", ["1", "2"])
def test_the_socket_has_this_mode(
    flags: tuple[str, ...], mode: int, size: str, certificate: Path
) -> None:
    with serving_over("fast-unix", certificate, "--workers", size, *flags) as server:
        assert isinstance(server, UnixServer)
        assert stat.S_IMODE(os.stat(server.path).st_mode) == mode
        assert server.get("/health/live")[0] == 200
        wait_until(lambda: size == "1" or len(workers(server)) == int(size))
        for template in templates(server):
            assert not sockets_of(template) & listeners()


@pytest.mark.parametrize("mode", ["9", "abc", "1777"])
def test_a_bad_mode_is_an_error_of_usage(mode: str, tmp_path: Path) -> None:
    code, line = start_error("--uds", str(tmp_path / "socket"), "--uds-mode", mode)
    assert code == 2
    assert "Invalid value for --uds-mode: " in line
