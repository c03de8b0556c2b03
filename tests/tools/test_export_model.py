"""Tests of tools/export_model.py."""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO
from torch import nn

from cartpole.policy.loading import close, load
from cartpole.policy.torchscript import Runner
from tests.support.paths import ROOT
from tools.agent import BadAgent, read_agent
from tools.export_model import MODELS, export, main, observations, reference_logits

SHIPPED = MODELS / "CartPole-v1.zip"


def sb3(path: Path, algorithm: Any = PPO, environment: str = "CartPole-v1", **options: Any) -> Path:
    algorithm("MlpPolicy", environment, seed=1, device="cpu", **options).save(path)
    return path


def rewrite(target: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """The shipped zip with its members changed."""
    with zipfile.ZipFile(SHIPPED) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def change_weights(target: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    import io

    def rewrite_weights(members: dict[str, bytes]) -> None:
        weights = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
        change(weights)
        buffer = io.BytesIO()
        torch.save(weights, buffer)
        members["policy.pth"] = buffer.getvalue()

    return rewrite(target, rewrite_weights)


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
    # Stable-Baselines3 subtracts the logarithm of the sum: what remains is their difference.
    assert close((logits[:, 0] - logits[:, 1])[:500], (expected[:, 0] - expected[:, 1])[:500])
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


def test_the_shipped_policy_holds_the_pole_and_acts_like_stable_baselines3(runner: Runner) -> None:
    agent = PPO.load(SHIPPED, device="cpu")
    environment = gymnasium.make("CartPole-v1")
    for seed in range(30_000, 30_005):
        observation, _ = environment.reset(seed=seed)
        truncated = False
        for step in range(500):
            left, right = runner.one(*observation.tolist())
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


def test_no_code_of_the_zip_is_run(tmp_path: Path) -> None:
    """Pickles that can't be unpickled, as those of old versions with gym in them, do not matter."""

    def break_pickles(members: dict[str, bytes]) -> None:
        data = json.loads(members["data"])
        for value in data.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = "Y2d5bQpCb3gKLg=="  # a pickle of gym.Box
        members["data"] = json.dumps(data).encode()
        members["pytorch_variables.pth"] = b"cos\nsystem\n(S'exit 1'\ntR."
        del members["_stable_baselines3_version"], members["system_info.txt"]

    agent = read_agent(rewrite(tmp_path / "old.zip", break_pickles))
    assert agent.written_by == "unknown"
    assert torch.equal(agent.policy[0][0], read_agent(SHIPPED).policy[0][0])


def test_malicious_weights_are_refused(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "was-run",))

    def replace(members: dict[str, bytes]) -> None:
        import pickle

        members["policy.pth"] = pickle.dumps(Malicious(), protocol=2)

    with pytest.raises(BadAgent, match="found unreadable contents"):
        read_agent(rewrite(tmp_path / "bad.zip", replace))
    assert not (tmp_path / "was-run").exists()


def test_shared_layers_of_old_versions(tmp_path: Path) -> None:
    def share(weights: dict[str, torch.Tensor]) -> None:
        for kind in ("weight", "bias"):
            first = weights.pop(f"mlp_extractor.policy_net.0.{kind}")
            del weights[f"mlp_extractor.value_net.0.{kind}"]
            weights[f"mlp_extractor.shared_net.0.{kind}"] = first
            for net in ("policy_net", "value_net"):
                second = weights.pop(f"mlp_extractor.{net}.2.{kind}")
                weights[f"mlp_extractor.{net}.0.{kind}"] = second

    path = change_weights(tmp_path / "shared.zip", share)
    export(path, tmp_path / "shared.pt")
    inputs = observations("tanh")
    agent, original = read_agent(path), read_agent(SHIPPED)
    assert np.array_equal(reference_logits(agent, inputs), reference_logits(original, inputs))
    assert torch.equal(agent.value[0][0], original.policy[0][0])


def drop(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda members: members.pop(name)


def put(name: str, content: Any) -> Callable[[dict[str, Any]], object]:
    return lambda members: members.update({name: content})


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (drop("data"), "found unreadable contents .no member 'data'."),
        (drop("policy.pth"), "no member 'policy.pth'"),
        (put("data", b"[]"), "found another kind of `data`"),
        (put("data", b"{"), "found unreadable contents"),
        (put("policy.pth", b""), "found unreadable contents"),
        (put("policy.pth", b"junk"), "found unreadable contents"),
        (
            put("data", b'{"policy_kwargs": {"activation_fn": "<class \'a.ELU\'>"}}'),
            "found activation ELU, expected Tanh or ReLU",
        ),
    ],
)
def test_other_zips_are_refused(tmp_path: Path, change: Any, found: str) -> None:
    with pytest.raises(BadAgent, match=found) as raised:
        read_agent(rewrite(tmp_path / "bad.zip", change))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (drop("action_net.bias"), "found no weights 'action_net.bias'"),
        (drop("value_net.weight"), "found no weights 'value_net.weight'"),
        (drop("mlp_extractor.policy_net.2.bias"), "found no weights 'mlp_extractor.policy_net.2.b"),
        (
            put("features_extractor.cnn.0.weight", torch.zeros(1)),
            "found weights 'features_ext",
        ),
        (put("log_std", torch.zeros(2)), "found weights 'log_std'"),
        (put("mlp_extractor.policy_net.5.bias", torch.zeros(2)), r"found layers \[0, 2, 5\]"),
        (put("action_net.bias", torch.zeros(3)), r"expected \[2, 64\] and \[2\]"),
        (
            put("action_net.bias", torch.zeros(2).double()),
            "found torch.float32 weights and",
        ),
        (put("action_net.bias", torch.tensor([0, torch.nan])), "found weights that are not finite"),
        (put("action_net.bias", "text"), "found another kind of `data` or `policy.pth`"),
        (put("mlp_extractor.policy_net.0.bias", torch.zeros(2, 2)), r"expected \[n, 4\] and \[n\]"),
    ],
)
def test_other_weights_are_refused(tmp_path: Path, change: Any, found: str) -> None:
    with pytest.raises(BadAgent, match=found):
        read_agent(change_weights(tmp_path / "bad.zip", change))


@pytest.mark.parametrize(
    ("algorithm", "environment", "found"),
    [
        (PPO, "Acrobot-v1", r"found weight \[64, 6\]"),
        (PPO, "MountainCarContinuous-v0", "found weights 'log_std'"),
        (
            DQN,
            "CartPole-v1",
            "found weights 'q_net.q_net.0.weight', expected those of an Mlp",
        ),
    ],
)
def test_other_agents_are_refused(
    tmp_path: Path, algorithm: Any, environment: str, found: str
) -> None:
    with pytest.raises(BadAgent, match=found):
        read_agent(sb3(tmp_path / "other.zip", algorithm, environment))


@pytest.mark.parametrize("kept", [0, 10, 50_000, -200, -1])
def test_truncated_zips_are_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.zip"
    path.write_bytes(SHIPPED.read_bytes()[:kept])
    with pytest.raises(BadAgent, match=r"found (no readable zip|unreadable contents)"):
        read_agent(path)


def test_damaged_members_are_refused(tmp_path: Path) -> None:
    content = bytearray(SHIPPED.read_bytes())
    middle = content.index(b"policy.pth") + 20_000
    content[middle] ^= 255
    path = tmp_path / "damaged.zip"
    path.write_bytes(content)
    with pytest.raises(BadAgent, match=r"found no readable zip \(Bad CRC-32"):
        read_agent(path)


def test_oversized_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.agent.LARGEST_MEMBER", 1000)
    with pytest.raises(BadAgent, match="is over 0 MiB"):
        read_agent(SHIPPED)


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


def test_unwritable_output(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").touch()
    assert main(["--output", str(tmp_path / "file/model.pt")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_prints_a_table(tmp_path: Path, capsys: Any) -> None:
    assert main(["--output", str(tmp_path / "new/model.pt")]) == 0
    assert "golden answer          [0.0, 0.0, -1.0, 0.0] -> [" in capsys.readouterr().out
    assert (tmp_path / "new/model.pt").exists()
