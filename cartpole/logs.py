"""Log configuration: one line per event, as text or as JSON."""

import logging
from datetime import UTC, datetime

import orjson

from cartpole.settings import Settings


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
