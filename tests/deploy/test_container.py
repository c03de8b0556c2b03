"""deploy/Containerfile: linted, its steps taken and its process run, without a container engine."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.server import Server, free_port, wait_until_ready
from cartpole.version import __version__
from tests.support.container import CONTAINERFILE, Image, context, send_signal
from tests.support.needs import needs
from tests.support.paths import GOLDEN, ROOT
from tests.support.waiting import wait_until

BIN = Path(sys.executable).parent


def test_linter_finds_nothing() -> None:
    done = subprocess.run([BIN / "hadolint", CONTAINERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_context_is_what_the_build_needs(tmp_path: Path) -> None:
    context(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "cartpole",
        "models",
    }
    files = [str(path) for path in tmp_path.rglob("*") if path.is_file()]
    assert not [name for name in files if name.endswith(".pyc")]
    models = [path.name for path in (tmp_path / "models").rglob("*") if path.is_file()]
    assert models == ["model_traced.pt"]


def test_tag_is_the_version() -> None:
    for path in (CONTAINERFILE, ROOT / "deploy/README.md"):
        assert set(re.findall(r"\bcartpole:(\d[\w.]+)", path.read_text())) == {__version__}
    assert "torch==2.13.0" in CONTAINERFILE.read_text()


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    # Not pytest's folder, which other users can't enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        made = Image(Path(folder))
        made.build()
        yield made


@contextmanager
def running(image: Image, *flags: str) -> Iterator[Server]:
    port = free_port()
    command = [*image.entrypoint(), *flags]
    process = image.start(command, CARTPOLE_HOST="127.0.0.1", CARTPOLE_PORT=str(port))
    server = Server(process, port)
    try:
        wait_until_ready(server)
        yield server
    finally:
        process.kill()
        process.communicate()


@needs("bwrap")
@pytest.mark.skipif(
    not os.environ.get("CARTPOLE_TEST_IMAGE"),
    reason="it installs PyTorch anew: CARTPOLE_TEST_IMAGE=1 runs it",
)
def test_image(image: Image) -> None:
    """One test, so that the steps are taken once."""
    (stated,) = re.findall(r"takes (\d+) MiB", (ROOT / "deploy/README.md").read_text())
    assert image.mebibytes() == pytest.approx(int(stated), rel=0.1)
    assert image.environment["CARTPOLE_HOST"] == "0.0.0.0"
    writing = ["sh", "-c", "touch /opt/cartpole/x /etc/x /tmp/x"]
    assert image.run(writing)[1].count("Read-only file system") >= 2
    for flags in ([], ["--workers", "2"]):
        with running(image, *flags) as server:
            port = str(server.port)
            assert server.get(f"/inference?{GOLDEN}")[0] == 200
            assert image.run(image.health_check(), CARTPOLE_PORT=port) == (0, "")
            send_signal(server.process, signal.SIGTERM)
            wait_until(lambda: server.get("/health/ready")[0] == 503)
            log = server.process.communicate(timeout=60)[1]
            assert server.process.returncode == 0, log
            assert '"process":1,' in log  # nothing stands between the container and the service
    assert image.run(image.health_check(), CARTPOLE_PORT=port)[0] == 1
