"""`python -m tests.fuzz.run TARGET [SECONDS]`: atheris, guided by coverage, on one of the targets.

Inputs that reach new code and inputs that crash are kept in tests/fuzz/.found.
Copy the ones worth keeping to tests/fuzz/corpus, which the tests run.
"""

import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent

with atheris.instrument_imports(include=["cartpole", "tools.agent", "tools.networks"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name = sys.argv[1]
    seconds = sys.argv[2] if len(sys.argv) > 2 else "300"
    found = HERE / ".found" / name
    found.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", "-timeout=30", f"-artifact_prefix={found}/"]
    folders = [str(found), str(HERE / "corpus" / name)]
    atheris.Setup([sys.argv[0], *options, *folders], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
