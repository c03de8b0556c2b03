"""The files of endpoints, and the command that runs when they change."""

import asyncio
import math
import subprocess
from pathlib import Path

import pytest

from cartpole.integrations import endpoints
from cartpole.integrations.endpoints import Publisher, join, render_list, render_upstream
from tests.support.needs import needs
from tests.support.waiting import wait_until

TWO = ["10.0.0.1:3000", "[fd00::1]:3001"]


def publisher(folder: Path, command: str = "") -> Publisher:
    return Publisher(folder / "list", folder / "upstream", command)


def publish(told: Publisher, found: list[str]) -> None:
    asyncio.run(told.last(found))


def test_an_ipv6_address_has_brackets() -> None:
    assert [join("10.0.0.1", 3000), join("fd00::1", 3001)] == TWO


def test_list_has_a_line_for_each() -> None:
    assert render_list(TWO) == "10.0.0.1:3000\n[fd00::1]:3001\n"
    assert render_list([]) == ""


@needs("nginx")
@pytest.mark.parametrize("found", [[], TWO[:1], TWO])
def test_nginx_reads_the_upstream(tmp_path: Path, found: list[str]) -> None:
    (tmp_path / "upstream").write_text(render_upstream(found))
    server = "server { listen 127.0.0.1:1; location / { proxy_pass http://cartpole; } }"
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}}"
        f"http {{ access_log off; include {tmp_path}/upstream; {server} }}"
    )
    done = subprocess.run(["nginx", "-t", "-c", config], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_upstream_without_replicas_is_down() -> None:
    assert render_upstream([]).count("server ") == 1
    assert " down;" in render_upstream([])
    assert " down;" not in render_upstream(TWO)


def test_command_runs_after_each_change(tmp_path: Path) -> None:
    told = publisher(tmp_path, f"cat {tmp_path}/list >> {tmp_path}/told; echo . >> {tmp_path}/told")
    for found in ([], ["b:1", "a:1"], ["a:1", "b:1"], ["a:1"]):
        publish(told, found)
    assert (tmp_path / "told").read_text().split() == [".", "a:1", "b:1", ".", "a:1", "."]
    assert told.published == ("a:1",)


def test_files_are_replaced_and_not_written_in_place(tmp_path: Path) -> None:
    told = publisher(tmp_path)
    publish(told, TWO)
    with (tmp_path / "list").open() as before:
        publish(told, [])
        assert before.read().split() == TWO
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list", "upstream"]


def test_failed_command_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = publisher(tmp_path, f"test -e {tmp_path}/good")
    publish(told, TWO)
    assert told.published is None
    assert "the reload command ended with 1; retrying in 1 s" in caplog.messages
    (tmp_path / "good").touch()
    due, told._tell_again_at = told._tell_again_at, math.inf
    told.publish(TWO)  # not yet: without a loop, no command could be started
    assert told.published is None
    told._tell_again_at = due
    publish(told, TWO)
    assert told.published == tuple(TWO)


def test_the_list_of_before_is_told_again_after_a_failure(tmp_path: Path) -> None:
    """Others may have read what was published between."""

    async def run() -> None:
        told = publisher(
            tmp_path, f"cat {tmp_path}/list >> {tmp_path}/told; test -e {tmp_path}/good"
        )
        (tmp_path / "good").touch()
        await told.last(TWO[:1])
        (tmp_path / "good").unlink()
        told.publish(TWO)
        assert told._telling
        await told._telling
        (tmp_path / "good").touch()
        await told.last(TWO[:1])

    asyncio.run(run())
    assert (tmp_path / "told").read_text().split() == [TWO[0], *TWO, TWO[0]]


def test_command_that_hangs_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "COMMAND_SECONDS", 0.1)
    told = publisher(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/child; wait")
    publish(told, TWO)
    assert any("the reload command took over" in line for line in caplog.messages)
    child = Path("/proc") / (tmp_path / "child").read_text().strip() / "stat"
    wait_until(lambda: not child.exists() or ") Z " in child.read_text())


def test_the_files_do_not_wait_for_the_command(tmp_path: Path) -> None:
    """A dead replica leaves the list at once, whatever the command does."""

    async def run() -> None:
        told = publisher(tmp_path, f"echo >> {tmp_path}/begun; exec sleep 1000")
        told.publish(TWO)
        async with asyncio.timeout(30):
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0.01)
        told.publish(TWO[:1])
        assert (tmp_path / "list").read_text() == f"{TWO[0]}\n"
        assert TWO[1] not in (tmp_path / "upstream").read_text()
        assert (tmp_path / "begun").read_text() == "\n"  # one command at a time
        assert told.published is None
        assert told._telling
        told._telling.cancel()

    asyncio.run(run())


def test_the_last_change_is_told_after_a_command_that_still_runs(tmp_path: Path) -> None:
    async def run() -> None:
        told = publisher(tmp_path, f"sleep 0.2; cat {tmp_path}/list >> {tmp_path}/told")
        told.publish(TWO)
        await asyncio.sleep(0)
        await told.last([TWO[0]])
        assert told.published == (TWO[0],)

    asyncio.run(run())
    assert (tmp_path / "told").read_text().split()[-1] == TWO[0]


def test_full_disk_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = publisher(tmp_path / "missing")
    publish(told, TWO)
    assert any("can't write the endpoints: " in line for line in caplog.messages)
    with pytest.raises(OSError, match="missing"):
        told.write(TWO)
