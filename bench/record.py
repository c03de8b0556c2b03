"""`python -m bench.record NAME [pyperf's flags]`: run a pyperf benchmark and compare it.

The result is kept as JSON in bench/results/; the change since the previous run is printed.
"""

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

RESULTS = Path(os.environ.get("CARTPOLE_BENCH_RESULTS", Path(__file__).parent / "results"))


def main() -> int:
    name, flags = sys.argv[1], sys.argv[2:]
    RESULTS.mkdir(exist_ok=True)
    previous = sorted(RESULTS.glob(f"{name}-*.json"))
    current = RESULTS / f"{name}-{datetime.now().strftime('%Y%m%d-%H%M%S-%f')}.json"
    command = [sys.executable, "-m", f"bench.{name}", "--output", str(current), *flags]
    if code := subprocess.run(command).returncode:
        return code
    if previous:
        print(f"\nChange against {previous[-1].name}:", flush=True)
        compare = [sys.executable, "-m", "pyperf", "compare_to", str(previous[-1]), str(current)]
        return subprocess.run(compare).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
