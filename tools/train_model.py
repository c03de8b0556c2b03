"""`make train`: trains PPO on CartPole-v1 with rl_zoo3's tuned hyperparameters.

A perfect agent is kept as CartPole-v1.zip and model_traced.pt, with a model card.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tools.agent import BadAgent
from tools.export_model import MODELS, export

SEED = 1
EPISODES, FIRST_EVALUATION_SEED, PERFECT = 100, 10_000, 500.0
PACKAGES = ("rl_zoo3", "stable_baselines3", "gymnasium", "torch", "numpy")


def train(seed: int, timesteps: int, folder: Path) -> Path:
    """Train with rl_zoo3's command line, with a progress bar; return the path of the zip."""
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", "ppo", "--env", "CartPole-v1"]
    command += ["--seed", str(seed), "--device", "cpu", "--num-threads", "1", "--eval-freq", "-1"]
    command += ["--log-folder", str(folder), "--progress", "--verbose", "0"]
    if timesteps:
        command += ["--n-timesteps", str(timesteps)]
    subprocess.run(command, check=True)
    return folder / "ppo/CartPole-v1_1/CartPole-v1.zip"


def evaluate(path: Path) -> list[float]:
    """Returns of 100 episodes with greedy actions, on seeds that training did not use."""
    import gymnasium
    from stable_baselines3 import PPO

    agent = PPO.load(path, device="cpu")
    environment = gymnasium.make("CartPole-v1")
    returns = []
    for seed in range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + EPISODES):
        observation, _ = environment.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            action, _ = agent.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = environment.step(int(action))
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


def read_hyperparameters(path: Path) -> dict[str, str]:
    """Read rl_zoo3's list of [name, value]: its Python tag makes safe YAML loaders reject it."""
    lines = [line.strip(" -") for line in path.read_text().splitlines()[1:]]
    return dict(zip(lines[::2], lines[1::2], strict=True))


def model_card(
    seed: int, hyperparameters: dict[str, str], returns: list[float], table: dict[str, str]
) -> str:
    mean = sum(returns) / len(returns)
    deviation = (sum((value - mean) ** 2 for value in returns) / len(returns)) ** 0.5
    last = FIRST_EVALUATION_SEED + len(returns) - 1
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {version(name)}" for name in PACKAGES]
    return f"""# CartPole-v1, PPO

Balances the pole of gymnasium's CartPole-v1. Trained and written by `make train`.

| | |
|---|---|
| return | {mean:.1f} ± {deviation:.1f} over {len(returns)} episodes (maximum {PERFECT}) |
| evaluation seeds | {FIRST_EVALUATION_SEED} to {last}, not used in training; greedy actions |
| training seed | {seed} |
| versions | {", ".join(versions)} |
| policy network | {table["policy network"]} |
| golden answer | {table["golden answer"]} |
| sha256 of `CartPole-v1.zip` | `{table["sha256 of the zip"]}` |
| sha256 of `model_traced.pt` | `{table["sha256 of the model"]}` |

`CartPole-v1.zip` is the agent as Stable-Baselines3 saved it. `make export` turns it into
`model_traced.pt`, TorchScript with `forward(observation: float32[n, 4]) ->
(logits float32[n, 2], value float32[n, 1])`. An observation is position (m), velocity (m/s),
angle (rad) and angular velocity (rad/s); the logits are those of pushing left and right.

Hyperparameters, rl_zoo3's tuned ones:

{", ".join(f"`{name}: {value}`" for name, value in hyperparameters.items())}.

Meant for serving, benchmarks and teaching. It knows no cart but CartPole-v1's, and its answers far
outside the states of its training look just as confident.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train, evaluate, export and describe an agent.")
    parser.add_argument("--seed", type=int, default=SEED, help="default %(default)s")
    parser.add_argument("--timesteps", type=int, default=0, help="default: the tuned number")
    parser.add_argument("--output", type=Path, default=MODELS, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as name:
        trained = train(arguments.seed, arguments.timesteps, Path(name))
        returns = evaluate(trained)
        print(f"return over {len(returns)} episodes: {min(returns)} to {max(returns)}")
        if min(returns) < PERFECT:
            message = f"train: not perfect; {output} is unchanged; try another --seed"
            print(message, file=sys.stderr)
            return 1
        hyperparameters = read_hyperparameters(trained.parent / "CartPole-v1/config.yml")
        os.replace(trained, output / "CartPole-v1.zip")
    try:
        table = export(output / "CartPole-v1.zip", output / "model_traced.pt")
    except BadAgent as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    card = model_card(arguments.seed, hyperparameters, returns, table)
    (output / "README.md").write_text(card)
    print(table["golden answer"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
