"""schemathesis sends what openapi.json allows, and what it does not, to the real service.

To try other cases by hand, set SCHEMATHESIS_HOOKS=tests.openapi.hooks and run
`schemathesis --config-file tests/openapi/schemathesis.toml run cartpole/page/openapi.json
--url http://127.0.0.1:3000 --seed 2`.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.server import Server
from cartpole.page.routes import DESCRIPTION
from tests.support.paths import ROOT
from tests.support.processes import UNMEASURED

CONFIG = Path(__file__).with_name("schemathesis.toml")
RUN = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
UNIT = "examples,coverage,fuzzing"
SEED = "1"  # the same cases each time, so that a failure is one of the change at hand
LEAST_CASES = 2000


@dataclass(frozen=True)
class Part:
    """A part of the operations.

    Attributes:
        flags: which ones, and the phases.
        least: cases that must be run.
    """

    flags: tuple[str, ...]
    least: int


PARTS = {
    "inference": Part(("--include-tag", "Inference", "--phases", UNIT), 250),
    "infer": Part(
        ("--include-operation-id-regex", "^postInfer(Version)?$", "--phases", UNIT), 1000
    ),
    "protocol": Part(
        (
            *("--include-tag", "Open Inference Protocol", "--phases", UNIT),
            *("--exclude-operation-id-regex", "^postInfer(Version)?$"),
        ),
        1000,
    ),
    "health and pages": Part(
        ("--include-tag", "Health", "--include-tag", "Pages", "--phases", UNIT), 500
    ),
    "sequences": Part(("--phases", "stateful"), 250),
}


@pytest.mark.parametrize("name", PARTS)
def test_every_answer_is_as_described(server: Server, tmp_path: Path, name: str) -> None:
    part = PARTS[name]
    ran = subprocess.run(
        [
            *(*RUN, str(DESCRIPTION), "--url", f"http://127.0.0.1:{server.port}"),
            *("--checks", "all", "--seed", SEED, "--max-examples", "50", "--no-color"),
            *part.flags,
        ],
        cwd=tmp_path,
        env=os.environ
        | UNMEASURED
        | {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.openapi.hooks"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    cases = re.search(r"([\d,]+) generated, ([\d,]+) passed", ran.stdout)
    assert cases, ran.stdout
    generated, passed = (int(number.replace(",", "")) for number in cases.groups())
    assert generated == passed >= part.least, ran.stdout


def test_there_are_enough_cases() -> None:
    assert sum(part.least for part in PARTS.values()) >= LEAST_CASES
