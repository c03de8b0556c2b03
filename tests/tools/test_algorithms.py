"""Agents of every algorithm, exported and served, against the library that saved them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import ARS, QRDQN, TRPO
from stable_baselines3 import A2C, DQN, PPO
from torch import Tensor, nn

from cartpole.policy.contract import MAX_ROWS, Observation
from cartpole.policy.engine import make_engine
from cartpole.policy.loading import load
from cartpole.policy.native import NativeEngine
from cartpole.policy.tolerance import TOLERANCE, rows_agree
from cartpole.policy.torchscript import TorchScriptEngine
from tests.support.agents import change_weights, rewrite, sb3
from tests.support.environments import cartpole_statistics
from tools.agent import BadAgent, read_agent
from tools.export_model import export, main

Build = Callable[[Path], Path]
TANH = {"activation_fn": nn.Tanh}


def ars(path: Path, **options: Any) -> Path:
    return sb3(path, ARS, zero_policy=False, **options)


def trained(path: Path, algorithm: Any, **options: Any) -> Path:
    model = algorithm("MlpPolicy", "CartPole-v1", seed=2, device="cpu", **options)
    model.learn(600).save(path)
    return path


def kwargs(**options: Any) -> dict[str, Any]:
    return {"policy_kwargs": options}


AGENTS: dict[str, tuple[Any, Build]] = {
    "DQN": (DQN, partial(sb3, algorithm=DQN)),
    "DQN, tanh": (DQN, partial(sb3, algorithm=DQN, **kwargs(net_arch=[5, 300], **TANH))),
    "DQN, linear": (DQN, partial(sb3, algorithm=DQN, **kwargs(net_arch=[]))),
    "DQN, trained": (DQN, partial(trained, algorithm=DQN, learning_starts=50, train_freq=8)),
    "QR-DQN": (QRDQN, partial(sb3, algorithm=QRDQN)),
    "QR-DQN, 1": (QRDQN, partial(sb3, algorithm=QRDQN, **kwargs(n_quantiles=1, net_arch=[7]))),
    "QR-DQN, 25": (QRDQN, partial(sb3, algorithm=QRDQN, **kwargs(n_quantiles=25, **TANH))),
    "QR-DQN, trained": (QRDQN, partial(trained, algorithm=QRDQN, learning_starts=50)),
    "ARS": (ARS, ars),
    "ARS, linear": (ARS, partial(ars, policy="LinearPolicy")),
    "ARS, bias": (ARS, partial(ars, policy="LinearPolicy", **kwargs(with_bias=True))),
    "ARS, no bias": (ARS, partial(ars, **kwargs(with_bias=False, net_arch=[9, 20]))),
    "ARS, tanh": (ARS, partial(ars, **kwargs(net_arch=[16], **TANH))),
    "ARS, zero": (ARS, partial(sb3, algorithm=ARS, policy="LinearPolicy")),
    "PPO, ReLU": (PPO, partial(sb3, algorithm=PPO, **kwargs(activation_fn=nn.ReLU))),
    "A2C": (A2C, partial(sb3, algorithm=A2C, **kwargs(net_arch={"pi": [6], "vf": []}))),
    "TRPO": (TRPO, partial(sb3, algorithm=TRPO)),
}
Q_NETWORKS = ("DQN", "QR-DQN")


def observations() -> Tensor:
    """10,000 observations in and around the range of an episode."""
    scale = [2.4, 3.0, 0.21, 3.0]
    rows = np.random.default_rng(5).normal(size=(10_000, 4)) * scale
    return torch.from_numpy(rows).float()


def library_answers(algorithm: Any, path: Path, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The library's own outputs [n, 2], values [n, 1] and greedy actions [n]."""
    agent = algorithm.load(path, device="cpu")
    policy = agent.policy
    actions = torch.from_numpy(agent.predict(inputs.numpy(), deterministic=True)[0])
    with torch.no_grad():
        if algorithm is DQN:
            outputs = policy.q_net(inputs)
        elif algorithm is QRDQN:
            outputs = policy.quantile_net(inputs).mean(1)
        elif algorithm is ARS:
            return policy.action_net(inputs), torch.zeros(len(inputs), 1), actions
        else:
            latent, _ = policy.mlp_extractor(inputs)
            return policy.action_net(latent), policy.predict_values(inputs), actions
    return outputs, outputs.amax(1, keepdim=True), actions


def engine_answers(path: Path, name: str, inputs: Tensor) -> Tensor:
    engine = make_engine(load(path), name)
    assert type(engine) is {"torchscript": TorchScriptEngine, "native": NativeEngine}[name]
    rows: list[Observation] = [(a, b, c, d) for a, b, c, d in inputs.tolist()]
    found = [engine.batch(rows[at : at + MAX_ROWS]) for at in range(0, len(rows), MAX_ROWS)]
    return torch.tensor([pair for batch in found for pair in batch])


def check_greedy(found: Tensor, expected: Tensor, actions: Tensor) -> None:
    """The larger output is the library's action, where its outputs differ by more than rounding."""
    close = (expected[:, 0] - expected[:, 1]).abs() <= TOLERANCE * expected.abs().amax(1)
    equal = expected[:, 0] == expected[:, 1]
    assert (close & ~equal).sum() < 20
    assert ((found.argmax(1) == actions) | (close & ~equal)).all()


@pytest.mark.parametrize("name", AGENTS)
def test_answers_are_the_librarys(tmp_path: Path, name: str) -> None:
    algorithm, build = AGENTS[name]
    path, model, inputs = build(tmp_path / "agent.zip"), tmp_path / "model.pt", observations()
    export(path, model)
    policy = load(model)
    assert policy.algorithm == name.partition(",")[0]
    assert policy.outputs == ("q_values" if policy.algorithm in Q_NETWORKS else "logits")
    expected, value, actions = library_answers(algorithm, path, inputs)
    found, found_value = policy.module(inputs)
    assert rows_agree(found, expected).all()
    assert torch.allclose(found_value, value, rtol=1e-5, atol=1e-5)
    for engine in ("torchscript", "native"):
        answers = engine_answers(model, engine, inputs)
        assert rows_agree(answers, expected).all()
        check_greedy(answers, expected, actions)


@pytest.mark.parametrize("name", ["PPO, ReLU", "DQN", "QR-DQN, 25", "ARS, linear", "ARS, no bias"])
def test_normalised_answers_are_the_librarys(tmp_path: Path, name: str) -> None:
    algorithm, build = AGENTS[name]
    path, model, inputs = build(tmp_path / "agent.zip"), tmp_path / "model.pt", observations()
    environment, statistics = cartpole_statistics(tmp_path)
    export(path, model, statistics=statistics)
    normalized = torch.from_numpy(environment.normalize_obs(inputs.numpy()))
    assert (normalized.abs() == environment.clip_obs).any()
    expected, value, actions = library_answers(algorithm, path, normalized)
    assert torch.allclose(load(model).module(inputs)[1], value, rtol=1e-5, atol=1e-5)
    for engine in ("torchscript", "native"):
        answers = engine_answers(model, engine, inputs)
        assert rows_agree(answers, expected).all()
        check_greedy(answers, expected, actions)


def rename(weights: dict[str, Tensor], old: str, new: str) -> None:
    for name in [name for name in weights if name.startswith(old)]:
        weights[name.replace(old, new)] = weights.pop(name)


@pytest.mark.parametrize("name", ["ARS, linear", "ARS, bias"])
def test_linear_ars_policies_of_old_versions(tmp_path: Path, name: str) -> None:
    """sb3-contrib 1.4 to 1.6: one layer outside a Sequential."""
    path = AGENTS[name][1](tmp_path / "new.zip")
    old = change_weights(
        tmp_path / "old.zip", partial(rename, old="action_net.0.", new="action_net."), path
    )
    found, expected = read_agent(old), read_agent(path)
    assert found.algorithm == "ARS"
    assert [tensor.tolist() for tensor in found.policy[0]] == [
        tensor.tolist() for tensor in expected.policy[0]
    ]


def test_no_separate_networks_in_old_versions(tmp_path: Path) -> None:
    """Up to 1.7, net_arch=[64, 64] made layers that policy and value share."""
    path = sb3(tmp_path / "new.zip", A2C)

    def share(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if name.startswith("mlp_extractor.value_net")]:
            del weights[name]
        rename(weights, "mlp_extractor.policy_net", "mlp_extractor.shared_net")

    old = read_agent(change_weights(tmp_path / "old.zip", share, path))
    expected = read_agent(path)
    assert (old.algorithm, len(old.policy), len(old.value)) == ("A2C", 3, 3)
    assert all(torch.equal(old.policy[i][0], expected.policy[i][0]) for i in range(3))
    assert old.value[1][0] is old.policy[1][0]


@pytest.mark.parametrize("name", ["DQN", "ARS, linear", "TRPO"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_weights_saved_on_a_gpu(tmp_path: Path, name: str, is_zip: bool) -> None:
    """The device of a tensor is a string in its pickle; PyTorch before 1.6 wrote no zip."""
    path = AGENTS[name][1](tmp_path / "cpu.zip")
    how = {"_use_new_zipfile_serialization": is_zip}
    rewritten = change_weights(tmp_path / "rewritten.zip", lambda _: None, path, **how)

    def move(members: dict[str, bytes]) -> None:
        before, after = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
        content = members["policy.pth"]
        if is_zip:  # its pickle is stored, not packed
            inner, moved = tmp_path / "inner.zip", tmp_path / "moved.zip"
            inner.write_bytes(content)
            pickle = {"archive/data.pkl": before}

            def move_pickle(parts: dict[str, bytes]) -> None:
                for part in pickle:
                    assert before in parts[part]
                    parts[part] = parts[part].replace(before, after)

            members["policy.pth"] = rewrite(moved, move_pickle, inner).read_bytes()
        else:
            assert before in content
            members["policy.pth"] = content.replace(before, after)

    agent = read_agent(rewrite(tmp_path / "gpu.zip", move, rewritten))
    expected = read_agent(path)
    assert agent.algorithm == name.partition(",")[0]
    for found, original in zip(agent.policy, expected.policy, strict=True):
        assert torch.equal(found[0], original[0]) and torch.equal(found[1], original[1])


def test_the_target_network_is_not_exported(tmp_path: Path) -> None:
    path = AGENTS["DQN"][1](tmp_path / "agent.zip")

    def spoil(weights: dict[str, Tensor]) -> None:
        for name in weights:
            if name.startswith("q_net_target"):
                weights[name] = torch.full((3,), torch.nan)

    spoiled = read_agent(change_weights(tmp_path / "spoiled.zip", spoil, path))
    assert torch.equal(spoiled.policy[2][0], read_agent(path).policy[2][0])


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("DQN", {"q_net.q_net.4.bias": torch.zeros(3)}, r"bias \[3\] in layer 3 of the policy"),
        ("DQN", {"q_net.q_net.0.weight": None}, "found no weights 'q_net.q_net.0.weight'"),
        ("DQN", {"q_net.features_extractor.0.weight": torch.zeros(2)}, "an MlpPolicy of DQN"),
        ("QR-DQN, 1", {"quantile_net.quantile_net.2.bias": torch.zeros(3)}, "2 rows for each"),
        (
            "QR-DQN, 1",
            {
                "quantile_net.quantile_net.2.bias": torch.zeros(0),
                "quantile_net.quantile_net.2.weight": torch.zeros(0, 7),
            },
            "2 rows for each quantile",
        ),
        (
            "QR-DQN, 1",
            {"quantile_net.quantile_net.2.bias": torch.tensor([0.0, torch.inf])},
            "found weights that are not finite in the last layer",
        ),
        ("ARS, linear", {"action_net.0.weight": torch.zeros(4, 2)}, r"found weight \[4, 2\]"),
        ("ARS, linear", {"action_net.0.weight": torch.zeros(())}, r"found weight \[\]"),
        ("ARS, linear", {"action_net.0.weight": torch.zeros(2, 4).half()}, "found torch.float16"),
        (
            "ARS, no bias",
            {"action_net.2.bias": torch.zeros(20)},
            "found no weights 'action_net.0.b",
        ),
    ],
)
def test_broken_agents(tmp_path: Path, name: str, change: Any, found: str) -> None:
    path = AGENTS[name][1](tmp_path / "agent.zip")

    def apply(weights: dict[str, Tensor]) -> None:
        weights.update(change)
        for name in [name for name, tensor in weights.items() if tensor is None]:
            del weights[name]

    with pytest.raises(BadAgent, match=found) as raised:
        read_agent(change_weights(tmp_path / "broken.zip", apply, path))
    assert "\n" not in str(raised.value)


def test_algo_overrules(tmp_path: Path, capsys: Any) -> None:
    path, model = sb3(tmp_path / "agent.zip", PPO), tmp_path / "model.pt"
    assert main([str(path), "--output", str(model), "--algo", "trpo"]) == 0
    assert load(model).algorithm == "TRPO"
    for algorithm in ("dqn", "QR-DQN", "qrdqn", "ars"):
        assert main([str(path), "--output", str(model), "--algo", algorithm]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "found weights 'mlp_extractor.policy_net.0.weight', expected those of an" in error
    with pytest.raises(SystemExit):
        main([str(path), "--algo", "sac"])
    assert (
        "found 'sac', expected one of PPO, A2C, TRPO, DQN, QR-DQN, ARS" in capsys.readouterr().err
    )
