"""`make download`: the PPO agent for CartPole-v1 that rl_zoo3 publishes on the Hugging Face hub."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.agent import BadAgent, read_agent

TARGET = Path(__file__).resolve().parent.parent / "models/CartPole-v1/CartPole-v1.zip"
SECONDS = 300

# Only the part of rl_zoo3's command line that downloads the agent. The whole also downloads other
# files, and with a current huggingface_hub it fails for agents without a normalization file.
# The hub is tried first, because rl_zoo3 retries an unreachable one for half a minute.
FETCH = """
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from huggingface_hub.constants import ENDPOINT

try:
    urlopen(Request(ENDPOINT, method="HEAD"), timeout=30).close()
except HTTPError:
    pass  # the hub answers
except OSError as error:
    sys.exit(f"{ENDPOINT} can't be reached: {getattr(error, 'reason', error)}")

from rl_zoo3.load_from_hub import EnvironmentName, ModelName, ModelRepoId, load_from_hub

name = ModelName("ppo", EnvironmentName("CartPole-v1"))
print(load_from_hub(ModelRepoId("sb3", name), name.filename))
"""


class DownloadFailed(Exception):
    """The agent could not be downloaded. The message is one line."""


def download(target: Path) -> None:
    """Download the agent to `target`, which is replaced only by a zip that can be exported.

    Raises:
        DownloadFailed: the hub can't be reached, or does not have the agent.
        BadAgent: the downloaded file can't be exported.
    """
    # rl_zoo3 requires this variable because it unpickles agents. Here nothing is unpickled:
    # tools/agent.py reads weights and plain JSON.
    environment = os.environ | {"TRUST_REMOTE_CODE": "True"}
    command = [sys.executable, "-c", FETCH]
    try:
        done = subprocess.run(
            command, env=environment, check=True, timeout=SECONDS, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired as error:
        raise DownloadFailed(f"no agent after {SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
        raise DownloadFailed(lines[-1][:300] if lines else "rl_zoo3 failed") from error
    fetched = Path(done.stdout.splitlines()[-1])
    read_agent(fetched)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".part")
    shutil.copyfile(fetched, draft)
    os.replace(draft, target)


def main() -> int:
    try:
        download(TARGET)
    except (DownloadFailed, BadAgent) as error:
        print(f"download: {error}; {TARGET.name} is unchanged", file=sys.stderr)
        return 1
    print(f"downloaded {TARGET}; run `make export` to export it as a model")
    return 0


if __name__ == "__main__":
    sys.exit(main())
