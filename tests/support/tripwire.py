"""A service that gets a signal at the moment in which it imports a chosen module."""

import sys

PROGRAM = """
import os, sys
name, number = sys.argv.pop(1), int(sys.argv.pop(1))

class Tripwire:
    def find_spec(self, found, path=None, target=None):
        if found == name:
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Tripwire())
from cartpole.serve import main
main()
"""


def tripped(module: str, number: int) -> list[str]:
    return [sys.executable, "-c", PROGRAM, module, str(int(number))]
