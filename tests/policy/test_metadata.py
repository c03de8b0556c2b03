"""Metadata of model files: bad ones are rejected, good ones can be scraped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cartpole.metrics.counters import WorkerCounters
from cartpole.metrics.prometheus import PolicyInfo, render_metrics
from cartpole.policy.loading import load
from tests.support.models import Heads, rejection, save


@pytest.mark.parametrize(
    "metadata",
    [
        "[" * 200_000,
        '{"golden": ' + "[" * 200_000 + "]" * 200_000 + "}",
        '{"golden": {"observation": [0, 0, 0], "logits": [0, 0]}}',
        '{"golden": {"observation": [0, 0, 0, 0, 0], "logits": [0, 0]}}',
        '{"golden": {"observation": [0, 0, 0, 0], "logits": [0]}}',
        '{"golden": {"observation": [0, 0, 0, 0], "logits": [0, 0, 0]}}',
        '{"golden": {"observation": [[0, 0, 0, 0]], "logits": [[0, 0]]}}',
        '{"golden": {"observation": [0, 0, 0, 0], "logits": "ab"}}',
        '{"golden": {"observation": [0, 0, 0, "x"], "logits": [0, 0]}}',
        '{"golden": {"observation": [0, 0, 0, null], "logits": [0, 0]}}',
        '{"golden": {"observation": [0, 0, 0, 1' + "0" * 400 + '], "logits": [0, 0]}}',
        '{"golden": {"observation": [0, 0, 0, 1' + "0" * 5000 + '], "logits": [0, 0]}}',
        '{"golden": {"observation": ' + json.dumps([0] * 100_000) + ', "logits": [0, 0]}}',
        '{"golden": [1, 2]}',
        '{"outputs": 5}',
        '{"outputs": {"q_values": []}, "golden": {"observation": [0, 0, 0, 0], "logits": [0, 0]}}',
        '{"algorithm": "\\ud800"}',
        '{"algorithm": "PPO\\n# HELP"}',
        '{"algorithm": 5}',
        '{"algorithm": {"name": "PPO"}}',
        json.dumps({"algorithm": "x" * 101}),
        "null",
        "5",
        "\x00",
    ],
    ids=range(24),
)
def test_metadata(tmp_path: Path, metadata: str) -> None:
    path = save(tmp_path / "m.pt", nn.Linear(4, 2), metadata_json=metadata)
    assert "bad metadata" in rejection(path)


@pytest.mark.parametrize(
    ("metadata", "outputs"),
    [
        ("", "logits"),
        ("{}", "logits"),
        ('{"outputs": {}}', "logits"),
        ('{"outputs": {"logits": ["left", "right"], "value": ["value"]}}', "logits"),
        ('{"outputs": {"q_values": ["left", "right"], "value": ["value"]}}', "q_values"),
    ],
)
def test_outputs(tmp_path: Path, metadata: str, outputs: str) -> None:
    path = save(tmp_path / "m.pt", nn.Linear(4, 2), metadata_json=metadata)
    assert load(path).outputs == outputs


def test_metadata_that_is_not_utf8(tmp_path: Path) -> None:
    module = torch.jit.trace(Heads(nn.Linear(4, 2), nn.Linear(4, 1)), torch.zeros(1, 4))
    torch.jit.save(module, tmp_path / "m.pt", _extra_files={"metadata.json": b'{"a": "\xff"}'})
    assert "bad metadata" in rejection(tmp_path / "m.pt")


def test_every_algorithm_that_is_taken_can_be_scraped(tmp_path: Path) -> None:
    metadata = json.dumps({"algorithm": 'Größe 5 "\\'})
    policy = load(save(tmp_path / "m.pt", nn.Linear(4, 2), metadata_json=metadata))
    about = PolicyInfo(policy.algorithm, policy.sha256, "torchscript")
    assert "Größe 5".encode() in render_metrics(WorkerCounters().shared, about)


@pytest.mark.parametrize("metadata", ["[" * 200_000, '{"algorithm": "\\ud800"}'])
def test_the_service_says_it_in_one_line(tmp_path: Path, metadata: str) -> None:
    path = save(tmp_path / "m.pt", nn.Linear(4, 2), metadata_json=metadata)
    command = [sys.executable, "-m", "cartpole.serve", "--port", "0", "--model", str(path)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
