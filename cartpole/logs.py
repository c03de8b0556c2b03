"""Log configuration, one line per event as text or as JSON; and a bound on repeated lines."""

import logging
from datetime import UTC, datetime
from time import monotonic
from typing import Protocol

import orjson

from cartpole.settings import Settings

QUIET_SECONDS = 10  # between two lines about the same

_logger = logging.getLogger("cartpole")


class JsonFormatter(logging.Formatter):
    """{"time":…,"level":…,"logger":…,"process":…,"message":…} in one line."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": _utf8(record.getMessage()),
        }
        if record.exc_info:
            event["exception"] = _utf8(self.formatException(record.exc_info))
        return orjson.dumps(event).decode()


def _utf8(text: str) -> str:
    r"""Show surrogates as \udcxx: paths may hold bytes that are not UTF-8, and orjson fails."""
    return text.encode(errors="backslashreplace").decode()


class Throttle:
    """Bounds the lines about one kind of event: at most one in QUIET_SECONDS."""

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def is_quiet(self) -> bool:
        """Whether no line may be written yet."""
        return monotonic() < self._quiet_until

    def admit(self) -> bool:
        """Whether a line may be written now. If so, it is quiet from then on."""
        if self.is_quiet():
            return False
        self._quiet_until = monotonic() + QUIET_SECONDS
        return True


class Abortable(Protocol):
    """A connection."""

    def abort(self) -> None: ...


class Failures:
    """Logs errors of our own, each of which ends what it concerns, at a bounded rate."""

    def __init__(self) -> None:
        self._throttle = Throttle()
        self._count = 0  # since the last line

    def record(self, number: int = 1) -> None:
        """So many requests or connections end by the exception that is being handled."""
        self._count += number
        if self._throttle.admit():
            _logger.exception("%d ended by an error; one of them:", self._count)
            self._count = 0

    def abort(self, *connections: Abortable) -> None:
        """The same for connections, which are aborted."""
        self.record(len(connections))
        for connection in connections:
            connection.abort()


def configure(settings: Settings) -> None:
    """Log to standard error. The log level is ours; libraries log warnings and errors only."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter()
        if settings.log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s [%(process)d] %(message)s")
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("cartpole").setLevel(settings.log_level.upper())
