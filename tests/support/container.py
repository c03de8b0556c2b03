"""Builds and runs deploy/Containerfile without a container engine: each step in a bwrap sandbox.

The machine's own Debian and Python stand for the base image. A sandbox sees them read-only, runs as
a user without a name, and can write to /src and /opt/cartpole while it builds, to nothing later.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

CONTAINERFILE = ROOT / "deploy/Containerfile"
BUILDER = 10002  # the user of RUN; in an image it is root


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Containerfile and its arguments, continued lines joined."""
    lines = [line for line in CONTAINERFILE.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]  # type: ignore[misc]


def image_environment() -> dict[str, str]:
    """The variables that the image sets."""
    (found,) = (rest for name, rest in instructions() if name == "ENV")
    return dict(pair.split("=") for pair in found.split())


def context(folder: Path) -> None:
    """Copy what .dockerignore lets into the build."""
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert rules[0] == "*"
    for rule in rules[1:]:
        if rule.startswith("!"):
            source, target = ROOT / rule[1:], folder / rule[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(source, target, *(other.removeprefix("**/") for other in rules if "**/" in other))


def _copy(source: Path, target: Path, *ignored: str) -> None:
    if source.is_dir():
        ignore = shutil.ignore_patterns(*ignored)
        shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True)
    else:
        shutil.copy(source, target / source.name if target.is_dir() else target)


def send_signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to process 1 of a sandbox, which is bwrap's only child."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int(children), number)


@dataclass
class Image:
    """The image that the steps of the Containerfile make, as a folder.

    Attributes:
        root: the folder that holds opt/cartpole and src.
        settings: the last value of each instruction of the last stage.
        environment: its ENV.
    """

    root: Path
    settings: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def sandbox(self, user: int, *flags: str) -> list[str]:
        """bwrap and its flags: this machine's system and the image, read-only."""
        found = ["bwrap", "--die-with-parent", "--dev", "/dev", "--proc", "/proc"]
        for name in ("usr", "etc", "bin", "lib", "lib64", "sbin"):
            if Path("/", name).exists():
                found += ["--ro-bind", f"/{name}", f"/{name}"]
        for path in [*Path("/opt").iterdir(), self.root / "opt/cartpole"]:
            found += ["--ro-bind", str(path), f"/opt/{path.name}"]
        found += ["--unshare-user", "--uid", str(user), "--gid", str(user), "--unshare-pid"]
        return [*found, *flags, "--remount-ro", "/"]

    def build(self) -> None:
        """Take all steps of the first stage, and read the last."""
        sources = self.root / "context"
        (self.root / "opt/cartpole").mkdir(parents=True)
        (self.root / "src").mkdir()
        context(sources)
        stage = 0
        for name, rest in instructions():
            stage += name == "FROM"
            if stage == 1 and name == "RUN":
                self._run(rest)
            elif stage == 1 and name == "COPY":
                *names, target = rest.split()
                for one in names:
                    (self.root / "src" / target).mkdir(exist_ok=True, parents=True)
                    _copy(sources / one, self.root / "src" / target)
            elif stage == 2:
                self.settings[name] = rest
        self.environment = image_environment()

    def _run(self, command: str) -> None:
        writable = ["--tmpfs", "/tmp", "--chdir", "/src"]
        for name in ("/src", "/opt/cartpole"):
            writable[:0] = ["--bind", f"{self.root}{name}", name]
        done = subprocess.run(
            [*self.sandbox(BUILDER, *writable), "sh", "-euc", command],
            env=os.environ | {"HOME": "/nonexistent", "TORCH_INDEX": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout

    def start(self, command: list[str], *flags: str, **environment: str) -> subprocess.Popen[str]:
        """Run a command as the image's user, as process 1, with nothing that it could write to."""
        user = int(self.settings["USER"].partition(":")[0])
        as_user: dict[str, Any] = {"user": user, "group": user, "extra_groups": []}
        return subprocess.Popen(
            [*self.sandbox(user, "--as-pid-1", *flags), *command],
            env={"PATH": "/usr/bin:/bin"} | self.environment | environment,
            stderr=subprocess.PIPE,
            text=True,
            **(as_user if os.geteuid() == 0 else {}),
        )

    def run(self, command: list[str], **environment: str) -> tuple[int, str]:
        """Run a command as `start` does, to its end; return its exit code and standard error."""
        process = self.start(command, **environment)
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors

    def entrypoint(self) -> list[str]:
        found: list[str] = json.loads(self.settings["ENTRYPOINT"])
        return found

    def health_check(self) -> list[str]:
        (command,) = re.findall(r" CMD (\[.+\])$", self.settings["HEALTHCHECK"])
        found: list[str] = json.loads(command)
        return found

    def mebibytes(self) -> int:
        """The size of the installed environment, as `du` counts it."""
        command = ["du", "-sm", str(self.root / "opt/cartpole")]
        return int(subprocess.run(command, capture_output=True, check=True).stdout.split()[0])
