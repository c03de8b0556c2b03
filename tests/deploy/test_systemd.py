"""deploy/cartpole.service, read by systemd."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not on this machine")
def test_systemd_unit(tmp_path: Path) -> None:
    unit = (ROOT / "deploy/cartpole.service").read_text()
    path = tmp_path / "cartpole.service"
    path.write_text(unit.replace("/opt/cartpole/bin/cartpole", shutil.which("python3") or ""))
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
