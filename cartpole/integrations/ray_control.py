"""The actor through which `--scale` talks to the command that runs."""


class Control:
    """The number of replicas that is wanted, and those that are ready."""

    def __init__(self, wanted: int) -> None:
        self._wanted, self._ready = wanted, 0

    def scale(self, wanted: int) -> None:
        """Want this number from now on."""
        self._wanted = wanted

    def report(self, ready: int) -> int:
        """Note how many are ready. Returns how many are wanted."""
        self._ready = ready
        return self._wanted

    def state(self) -> tuple[int, int]:
        """How many are wanted, and how many were ready when the command last looked."""
        return self._wanted, self._ready
