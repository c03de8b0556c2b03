"""Every setting, declared once: its flag, environment variable, default, type and help.

Precedence: flag, then environment, then default.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_type_hints

from cartpole.version import __version__

ENGINES = ("torchscript", "native", "auto")
LOG_LEVELS = ("debug", "info", "warning", "error")


class BadSettings(Exception):
    """A flag or variable has no valid value. The text is one line that names it."""

    def __init__(self, text: str) -> None:
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        super().__init__("".join(shown))


def _bundled_model() -> Path:
    """The shipped model: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "models/CartPole-v1/model_traced.pt"
    return inside if inside.exists() else package.parent / "models/CartPole-v1/model_traced.pt"


BUNDLED_MODEL = _bundled_model()


def _integer(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        digits = text.isascii() and text.isdigit()
        value = int(text.lstrip("0")[:20] or "0") if digits else -1  # 20 are beyond any limit
        if not least <= value <= most:
            raise ValueError(f"expected a whole number from {least} to {most:,}")
        return value

    return parse


def _integer_or_zero(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            return 0 if text == "0" else _integer(least, most)(text)
        except ValueError as error:
            raise ValueError(f"{error}, or 0") from error

    return parse


def _choice(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return text

    return parse


def _switch(text: str) -> bool:
    values = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}
    if text.lower() not in values:
        raise ValueError(f"expected one of {', '.join(values)}")
    return values[text.lower()]


def _host(text: str) -> str:
    try:
        text.encode("idna")  # as socket.bind() does
    except UnicodeError as error:
        raise ValueError("expected a host name or an IP address") from error
    return text


def _file(text: str) -> Path:
    try:
        with open(text, "rb"):
            return Path(text)
    except OSError as error:
        raise ValueError(error.strerror) from error


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Each field: its type, how its text is parsed, its help, its default."""

    host: Annotated[str, _host, "address to listen on"] = "127.0.0.1"
    port: Annotated[int, _integer(0, 65535), "TCP port; 0 takes a free one"] = 3000
    reuse_port: Annotated[bool, _switch, "share the port with other instances"] = False
    uds: Annotated[Path | None, Path, "Unix socket to listen on instead of a TCP port"] = None
    model: Annotated[Path, Path, "TorchScript file of the policy"] = BUNDLED_MODEL
    engine: Annotated[str, _choice(*ENGINES), "native: compiled for this machine"] = "torchscript"
    workers: Annotated[int, _integer(1, 1024), "processes that serve"] = 1
    pin: Annotated[bool, _switch, "give each worker a core of its own"] = False
    worker_timeout: Annotated[
        int, _integer_or_zero(3, 3600), "seconds that one of several may hang; 0: for ever"
    ] = 10
    threads: Annotated[int, _integer(1, 1024), "PyTorch's intra-op threads, of each worker"] = 1
    log_level: Annotated[str, _choice(*LOG_LEVELS), "least level that is logged"] = "info"
    log_format: Annotated[str, _choice("text", "json"), "how a line is written"] = "text"
    access_log: Annotated[bool, _switch, "log a line per request"] = False
    http: Annotated[str, _choice("fast", "asgi"), "fast: /inference without entering ASGI"] = "fast"
    limit_head: Annotated[int, _integer(256, 2**20), "bytes of a request head, then 431"] = 16384
    limit_body: Annotated[int, _integer(0, 2**30), "bytes of a request body, then 413"] = 1048576
    limit_connections: Annotated[int, _integer(1, 10**6), "open connections, then 503"] = 10000
    limit_requests: Annotated[
        int, _integer(0, 10**12), "stop after so many, of all workers together; 0: never"
    ] = 0
    busy_poll: Annotated[bool, _switch, "never sleep while requests arrive; uses a core"] = False
    busy_poll_seconds: Annotated[int, _integer(1, 3600), "silence that ends busy polling"] = 1
    head_timeout: Annotated[int, _integer(1, 3600), "seconds to send a head, then 408"] = 10
    keep_alive: Annotated[int, _integer(1, 86400), "seconds an idle connection is kept"] = 75
    drain_seconds: Annotated[int, _integer(0, 3600), "seconds from SIGTERM to the end"] = 0
    shutdown_timeout: Annotated[int, _integer(1, 3600), "seconds to finish answers in"] = 30
    ssl_certfile: Annotated[Path | None, _file, "TLS certificate, PEM; serves https"] = None
    ssl_keyfile: Annotated[Path | None, _file, "TLS private key, PEM"] = None


@dataclass(frozen=True)
class Setting:
    """What Settings declares of one setting."""

    name: str
    default: Any
    type: Any
    parse: Callable[[str], Any]
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "CARTPOLE_" + self.name.upper()

    def read(self, text: str) -> Any:
        """The value that a flag or variable gives. Raises ValueError."""
        if not text:
            raise ValueError("expected a value")
        if any(character < " " or character == "\x7f" for character in text):
            raise ValueError("control characters")
        return self.parse(text)


DECLARED = [
    Setting(name, getattr(Settings, name), *get_args(hint))
    for name, hint in get_type_hints(Settings, include_extras=True).items()
]


def read_environment(environ: Mapping[str, str]) -> Settings:
    """The settings that the CARTPOLE_… variables give; an empty variable counts as unset.

    Raises:
        BadSettings: a variable has no valid value.
    """
    return _checked(**_environment_values(environ))


def read(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a command line and environment. Prints help and version, and exits 0.

    Raises:
        BadSettings: a flag or variable has no valid value.
    """
    flags = vars(_parser().parse_args(argv))
    return _checked(**_environment_values(environ) | flags)


def _checked(**values: Any) -> Settings:
    settings = Settings(**values)
    if settings.pin and settings.threads > 1:
        raise BadSettings("--pin gives a worker one core: --threads must be 1")
    if settings.ssl_keyfile and not settings.ssl_certfile:
        raise BadSettings("--ssl-keyfile needs --ssl-certfile")
    return settings


def _environment_values(environ: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for setting in DECLARED:
        if text := environ.get(setting.variable):
            try:
                values[setting.name] = setting.read(text)
            except ValueError as error:
                raise BadSettings(f"{setting.variable}={text}: {error}") from error
    return values


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadSettings(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m cartpole.serve",
        description="Serves a CartPole policy over HTTP.",
        epilog="Each is also an environment variable: --log-level is CARTPOLE_LOG_LEVEL.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cartpole {__version__}")
    for setting in DECLARED:
        if setting.type is bool:
            text = f"{setting.help} (default: {'on' if setting.default else 'off'})"
            action = argparse.BooleanOptionalAction
            parser.add_argument(setting.flag, action=action, help=text)
        else:
            shown = "" if setting.default is None else f" (default: {setting.default})"
            parser.add_argument(
                setting.flag,
                type=_flag_type(setting.read),
                metavar=setting.name.rpartition("_")[2].upper(),
                help=setting.help + shown,
            )
    return parser


def _flag_type(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text or repr(text)}: {error}") from error

    return convert
