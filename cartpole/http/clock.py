"""A clock of whole seconds, so that a request needs no timer of its own."""


class Clock:
    """Seconds that the event loop has counted.

    Attributes:
        now: moved on once a second by Connections.tick.
    """

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0
