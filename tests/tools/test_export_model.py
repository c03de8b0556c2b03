"""Tests of tools/export_model.py."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from torch import nn

from cartpole.policy.contract import Engine
from cartpole.policy.loading import load
from cartpole.policy.tolerance import logits_close
from tests.support.agents import SHIPPED, change_weights, sb3
from tests.support.paths import ROOT
from tools.agent import read_agent
from tools.export_model import MODELS, export, main, observations, reference_logits


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (PPO, {}),
        (PPO, {"policy_kwargs": {"activation_fn": nn.ReLU, "net_arch": [32, 16, 8]}}),
        (PPO, {"policy_kwargs": {"net_arch": {"pi": [5], "vf": [300, 2]}}}),
        (PPO, {"policy_kwargs": {"net_arch": []}}),
        (A2C, {"policy_kwargs": {"net_arch": [7, 7]}}),
    ],
)
def test_agrees_with_stable_baselines3(tmp_path: Path, algorithm: Any, options: Any) -> None:
    path = sb3(tmp_path / "agent.zip", algorithm, **options)
    export(path, tmp_path / "model.pt")
    policy = load(tmp_path / "model.pt")
    assert policy.algorithm == algorithm.__name__
    inputs = torch.from_numpy(observations("relu")).float()
    with torch.no_grad():
        agent = algorithm.load(path, device="cpu").policy
        expected = agent.get_distribution(inputs).distribution.logits
        value = agent.predict_values(inputs)
    logits, found_value = torch.jit.load(tmp_path / "model.pt")(inputs)
    # Stable-Baselines3 normalizes its logits, so only their difference can be compared.
    assert logits_close(
        (logits[:, 0] - logits[:, 1])[:500], (expected[:, 0] - expected[:, 1])[:500]
    )
    assert torch.allclose(found_value[:500], value[:500], rtol=1e-4, atol=1e-4)


def test_the_shipped_model_is_the_shipped_zip(tmp_path: Path) -> None:
    table = export(SHIPPED, tmp_path / "model.pt")
    metadata = load(tmp_path / "model.pt").metadata
    shipped = load(MODELS / "model_traced.pt").metadata
    assert metadata == shipped
    assert metadata["zip_sha256"] == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert metadata["weights_sha256"] == table["sha256 of the weights"]
    card = (MODELS / "README.md").read_text()
    for name in ("CartPole-v1.zip", "model_traced.pt"):
        assert hashlib.sha256((MODELS / name).read_bytes()).hexdigest() in card
    assert "500.0 ± 0.0" in card


def test_the_shipped_policy_holds_the_pole_and_acts_like_stable_baselines3(engine: Engine) -> None:
    agent = PPO.load(SHIPPED, device="cpu")
    environment = gymnasium.make("CartPole-v1")
    for seed in range(30_000, 30_005):
        observation, _ = environment.reset(seed=seed)
        truncated = False
        for step in range(500):
            left, right = engine.one(*observation.tolist())
            action = int(right > left)
            if step % 10 == 0:
                assert action == agent.predict(observation, deterministic=True)[0]
            observation, _, terminated, truncated, _ = environment.step(action)
            assert not terminated
        assert truncated


def test_twice_gives_the_same_file(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/export_model.py"), "--output"]
    for name in ("a.pt", "b.pt"):
        done = subprocess.run([*command, str(tmp_path / name)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert "policy network         4-64-64-2, tanh" in done.stdout
    assert str(ROOT).encode() not in (tmp_path / "a.pt").read_bytes()


def test_shared_layers_of_old_versions(tmp_path: Path) -> None:
    def share(weights: dict[str, torch.Tensor]) -> None:
        for kind in ("weight", "bias"):
            first = weights.pop(f"mlp_extractor.policy_net.0.{kind}")
            del weights[f"mlp_extractor.value_net.0.{kind}"]
            weights[f"mlp_extractor.shared_net.0.{kind}"] = first
            for net in ("policy_net", "value_net"):
                layer = weights.pop(f"mlp_extractor.{net}.2.{kind}")
                weights[f"mlp_extractor.{net}.0.{kind}"] = layer

    path = change_weights(tmp_path / "shared.zip", share)
    export(path, tmp_path / "shared.pt")
    inputs = observations("tanh")
    agent, original = read_agent(path), read_agent(SHIPPED)
    assert np.array_equal(reference_logits(agent, inputs), reference_logits(original, inputs))
    assert torch.equal(agent.value[0][0], original.policy[0][0])


def test_a_failed_export_harms_nothing(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    output = tmp_path / "model.pt"
    output.write_text("what was there")
    assert main([str(tmp_path / "none.zip"), "--output", str(output)]) == 1
    assert "none.zip: No such file or directory" in capsys.readouterr().err
    monkeypatch.setattr("tools.export_model.TOLERANCE", 0.0)
    assert main([str(SHIPPED), "--output", str(output)]) == 1
    assert "export: the model differs from the zip" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert output.read_text() == "what was there"


@pytest.mark.parametrize(
    "command", [[str(ROOT / "tools/export_model.py")], ["-m", "tools.export_model"]]
)
def test_runs_from_another_folder(tmp_path: Path, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


def test_unwritable_output(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").touch()
    assert main(["--output", str(tmp_path / "file/model.pt")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_prints_a_table(tmp_path: Path, capsys: Any) -> None:
    assert main(["--output", str(tmp_path / "new/model.pt")]) == 0
    assert "golden answer          [0.0, 0.0, -1.0, 0.0] -> [" in capsys.readouterr().out
    assert (tmp_path / "new/model.pt").exists()
