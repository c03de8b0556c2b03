"""Bounds on what one client may ask of a serving process."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ClientLimits:
    """Bounds on one client's memory and time; the settings have the same names.

    Attributes:
        head_bytes: of a request's head, from the method to the empty line, and of its trailers
            with it; then 431.
        head_seconds: to send a request's head, then 408; for a TLS handshake too.
        body_bytes: of a request's body with its chunk extensions, then 413.
        keep_alive_seconds: that an idle connection is kept.
        connections: open at a time in this process, then 503.
    """

    head_bytes: int = 16 * 1024
    head_seconds: int = 10
    body_bytes: int = 1024 * 1024
    keep_alive_seconds: int = 75
    connections: int = 10_000
