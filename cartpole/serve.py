"""`python -m cartpole.serve`: what must come before everything else is imported."""

import os
import sys

from cartpole.process import signals


def main() -> None:
    _open_standard_descriptors()
    signals.catch()
    from cartpole.start import run

    sys.exit(run(sys.argv[1:]))


def _open_standard_descriptors() -> None:
    """Those that are closed; else the next file that is opened would be standard error."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stderr = sys.stderr or os.fdopen(2, "w")


if __name__ == "__main__":
    main()
