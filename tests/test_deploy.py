"""Tests of deploy/: each file is read by the program that it configures."""

import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from bench.server import free_port, serving
from tests.support.paths import GOLDEN, ROOT


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not on this machine")
def test_nginx_in_front(tmp_path: Path) -> None:
    with serving() as server:
        port = free_port()
        snippet = (ROOT / "deploy/nginx.conf").read_text()
        snippet = snippet.replace("127.0.0.1:3000", f"127.0.0.1:{server.port}")
        (tmp_path / "snippet.conf").write_text(snippet.replace("8080", f"127.0.0.1:{port}"))
        folders = " ".join(
            f"{name}_temp_path {tmp_path};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {tmp_path}/pid; error_log stderr;"
            f"events {{}} http {{ access_log off; {folders} include {tmp_path}/snippet.conf; }}"
        )
        process = subprocess.Popen(["nginx", "-c", str(tmp_path / "nginx.conf")])
        try:
            time.sleep(0.5)
            for _ in range(20):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/inference?{GOLDEN}") as found:
                    assert found.read() == server.get(f"/inference?{GOLDEN}")[1]
            kept = [
                pair for pair in server.get("/metrics")[1].splitlines() if b"accepted_t" in pair
            ]
            # nginx used one connection; the others are the health check's and this test's own.
            assert float(kept[-1].split()[-1]) <= 24
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")
        finally:
            process.terminate()
            process.wait()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not on this machine")
def test_systemd_unit(tmp_path: Path) -> None:
    unit = (ROOT / "deploy/cartpole.service").read_text()
    path = tmp_path / "cartpole.service"
    path.write_text(unit.replace("/opt/cartpole/bin/cartpole", shutil.which("python3") or ""))
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
