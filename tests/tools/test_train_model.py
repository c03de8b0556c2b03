"""Tests of tools/train_model.py."""

from pathlib import Path
from typing import Any

from tools.export_model import MODELS, export
from tools.train_model import evaluate, main, model_card, read_hyperparameters


def test_too_short_a_training_is_not_kept(tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "CartPole-v1.zip").write_text("what was there")
    assert main(["--seed", "1", "--timesteps", "256", "--output", str(tmp_path)]) == 1
    shown = capfd.readouterr()
    assert "train: not perfect" in shown.err
    assert "return over 100 episodes: " in shown.out
    assert [path.name for path in tmp_path.iterdir()] == ["CartPole-v1.zip"]
    assert (tmp_path / "CartPole-v1.zip").read_text() == "what was there"


def test_a_perfect_training_is_kept(tmp_path: Path, monkeypatch: Any) -> None:
    """The bar is lowered instead of faking the training, so the steps after it run for real."""
    monkeypatch.setattr("tools.train_model.PERFECT", 0.0)
    assert main(["--seed", "1", "--timesteps", "256", "--output", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "CartPole-v1.zip",
        "README.md",
        "model_traced.pt",
    ]
    card = (tmp_path / "README.md").read_text()
    assert "| training seed | 1 |" in card
    assert "`n_steps: 32`" in card


def test_the_shipped_agent_is_perfect(monkeypatch: Any) -> None:
    monkeypatch.setattr("tools.train_model.EPISODES", 10)  # test_serve.py drives a hundred
    assert evaluate(MODELS / "CartPole-v1.zip") == [500.0] * 10


def test_model_card(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(
        "!!python/object/apply:x\n- - - batch_size\n    - 256\n  - - gamma\n    - 0.98\n"
    )
    hyperparameters = read_hyperparameters(config)
    assert hyperparameters == {"batch_size": "256", "gamma": "0.98"}
    table = export(MODELS / "CartPole-v1.zip", tmp_path / "m.pt")
    card = model_card(7, hyperparameters, [500.0, 498.0], table)
    assert "499.0 ± 1.0 over 2 episodes" in card
    assert table["sha256 of the zip"] in card
