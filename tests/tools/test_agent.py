"""Tests of tools/agent.py: zips that are read, and zips that are rejected."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sb3_contrib import QRDQN
from stable_baselines3 import DQN, PPO, SAC

from tests.support.agents import SHIPPED, change_weights, rewrite, sb3
from tools.agent import BadAgent, read_agent


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


def test_malicious_weights_are_rejected(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "was-run",))

    def replace(members: dict[str, bytes]) -> None:
        import pickle

        members["policy.pth"] = pickle.dumps(Malicious(), protocol=2)

    with pytest.raises(BadAgent, match="found unreadable contents"):
        read_agent(rewrite(tmp_path / "bad.zip", replace))
    assert not (tmp_path / "was-run").exists()


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
        (put("_stable_baselines3_version", b"1.0\n2"), "_stable_baselines3_version is no version"),
        (put("_stable_baselines3_version", b"\xff"), "found unreadable contents"),
        (
            put("data", b'{"policy_kwargs": {"features_extractor_class": "<class \'a.Own\'>"}}'),
            "found features extractor Own, expected FlattenExtractor",
        ),
        (
            put("data", b'{"action_space": {":type:": "<class \'gym.spaces.box.Box\'>"}}'),
            "found action space 'Box', expected Discrete",
        ),
        (
            put("data", b'{"action_space": {":type:": "<class \'a.Discrete\'>", "n": "3"}}'),
            r"found action space 'Discrete\(3\)', expected Discrete\(2\)",
        ),
        (
            put("data", b'{"policy_kwargs": {"activation_fn": "<class \'a.ELU\'>"}}'),
            "found activation ELU, expected Tanh or ReLU",
        ),
    ],
)
def test_other_zips_are_rejected(tmp_path: Path, change: Any, found: str) -> None:
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
        (put("action_net.bias", torch.zeros(1).expand(2)), "found another kind of"),
        (put("action_net.bias", torch.zeros(2, device="meta")), "found another kind of"),
        (put("action_net.bias", torch.zeros(2).to_sparse()), "found another kind of"),
        (put(f"mlp_extractor.policy_net.{'9' * 5000}.bias", torch.zeros(2)), "found weights 'mlp"),
        (lambda weights: weights.clear(), "found no weights, expected those of PPO"),
        (put("action_net.bias", "text"), "found another kind of `data` or `policy.pth`"),
        (put("mlp_extractor.policy_net.0.bias", torch.zeros(2, 2)), r"expected \[n, 4\] and \[n\]"),
    ],
)
def test_other_weights_are_rejected(tmp_path: Path, change: Any, found: str) -> None:
    with pytest.raises(BadAgent, match=found):
        read_agent(change_weights(tmp_path / "bad.zip", change))


@pytest.mark.parametrize(
    ("algorithm", "environment", "found"),
    [
        (PPO, "Acrobot-v1", r"found weight \[64, 6\]"),
        (PPO, "MountainCarContinuous-v0", "found weights 'log_std'"),
        (DQN, "Acrobot-v1", r"found weight \[64, 6\]"),
        (QRDQN, "MountainCar-v0", r"found weight \[64, 2\]"),
        (SAC, "MountainCarContinuous-v0", "found weights 'actor.*', expected those of PPO, A2C, T"),
    ],
)
def test_other_agents_are_rejected(
    tmp_path: Path, algorithm: Any, environment: str, found: str
) -> None:
    with pytest.raises(BadAgent, match=found):
        read_agent(sb3(tmp_path / "other.zip", algorithm, environment))


@pytest.mark.parametrize("kept", [0, 10, 50_000, -200, -1])
def test_truncated_zips_are_rejected(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.zip"
    path.write_bytes(SHIPPED.read_bytes()[:kept])
    with pytest.raises(BadAgent, match=r"found (no readable zip|unreadable contents)"):
        read_agent(path)


def test_damaged_members_are_rejected(tmp_path: Path) -> None:
    content = bytearray(SHIPPED.read_bytes())
    middle = content.index(b"policy.pth") + 20_000
    content[middle] ^= 255
    path = tmp_path / "damaged.zip"
    path.write_bytes(content)
    with pytest.raises(BadAgent, match=r"found no readable zip \(Bad CRC-32"):
        read_agent(path)


def test_oversized_members_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.agent.LARGEST_MEMBER", 1000)
    with pytest.raises(BadAgent, match="is over 0 MiB"):
        read_agent(SHIPPED)
