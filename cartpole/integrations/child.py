"""`python -m cartpole.integrations.child PARENT ARGUMENT…`: the service, ended with its parent."""

import os
import sys

from cartpole.process.parent import end_with_parent


def main() -> None:
    """Never returns: the process becomes the service, or ends."""
    parent, arguments = int(sys.argv[1]), sys.argv[2:]
    end_with_parent(parent)
    os.execv(sys.executable, [sys.executable, "-m", "cartpole.serve", *arguments])


if __name__ == "__main__":
    main()
