"""Every setting, declared once: name, type, default, group, help. Flag and variable follow.

Precedence: flag, then environment variable, then default.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from cartpole.options import (
    ANY_FILE,
    FileMode,
    GroupedCommand,
    Host,
    Setting,
    WholeNumber,
    choice,
    number,
    setting,
    switch,
)
from cartpole.version import __version__

# ruff: noqa: RUF009  (these calls make dataclass fields)
SERVE, WHERE, PROCESSES = "What to serve", "Where", "Processes"
LIMITS, LOGS, TLS = "Limits", "Logs", "TLS"


class BadSettings(Exception):
    """A flag or variable has no valid value. The text is one printable line that names it."""

    def __init__(self, text: str) -> None:
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        super().__init__("".join(shown))


def _bundled_model() -> Path:
    """The shipped policy: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "models/CartPole-v1/model_traced.pt"
    return inside if inside.exists() else package.parent / "models/CartPole-v1/model_traced.pt"


BUNDLED_MODEL = _bundled_model()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The value of every setting. --help lists them in this order."""

    model: Path = setting(
        BUNDLED_MODEL,
        SERVE,
        ANY_FILE,
        "TorchScript file of the policy.",
        "FILE",
        shown="the shipped policy",
    )
    engine: str = choice(
        "torchscript",
        SERVE,
        ("torchscript", "native", "auto"),
        "What runs the policy: PyTorch, code compiled for this machine at start (native), "
        "or native where it is available (auto).",
    )
    http: str = choice(
        "fast",
        SERVE,
        ("fast", "asgi"),
        "Way of GET /inference: past the ASGI application (fast), or through it.",
    )
    page: bool = switch(
        SERVE, "Serve the live page at / and the API's description at /docs.", default=True
    )

    host: str = setting("127.0.0.1", WHERE, Host(), "Host name or IP address.", "ADDRESS")
    port: int = number(3000, WHERE, 0, 65535, "PORT", "TCP port; 0 takes a free one.")
    reuse_port: bool = switch(WHERE, "Share the port with other instances.")
    uds: Path | None = setting(
        None, WHERE, ANY_FILE, "Unix socket to listen on, in place of a TCP port.", "SOCKET"
    )
    uds_mode: int = setting(
        0o666, WHERE, FileMode(), "Permissions of the Unix socket, octal.", "MODE", shown="0666"
    )

    workers: int = number(1, PROCESSES, 1, 1024, "COUNT", "Processes that serve.")
    pin: bool = switch(PROCESSES, "Pin each worker to a core of its own.")
    threads: int = number(1, PROCESSES, 1, 1024, "COUNT", "PyTorch's intra-op threads per worker.")
    worker_timeout: int = setting(
        10,
        PROCESSES,
        WholeNumber(3, 3600, or_zero=True),
        "Time that one of several workers may hang before it is replaced; 0: forever.",
        "SECONDS",
    )
    poll: str = choice(
        "auto",
        PROCESSES,
        ("auto", "always", "never"),
        "Whether to wait for the next request without sleeping: while that costs no more "
        "processor time than sleeping would (auto), always, or never.",
    )

    rehearse: bool = switch(
        PROCESSES,
        "While requests are rare, run made-up ones to keep the code in the processor's caches.",
        default=True,
    )

    limit_connections: int = number(
        10000, LIMITS, 1, 10**6, "COUNT", "Open connections per worker, then 503."
    )
    limit_requests: int = number(
        0,
        LIMITS,
        0,
        10**12,
        "COUNT",
        "Stop after this many requests, of all workers together; 0: never.",
    )
    limit_head: int = number(
        16384, LIMITS, 256, 2**20, "BYTES", "Size of a request head, then 431."
    )
    limit_body: int = number(
        1048576, LIMITS, 0, 2**30, "BYTES", "Size of a request body, then 413."
    )
    head_timeout: int = number(
        10, LIMITS, 1, 3600, "SECONDS", "Time to send a request head, then 408."
    )
    keep_alive: int = number(
        75, LIMITS, 1, 86400, "SECONDS", "Time an idle connection is kept open."
    )
    drain_seconds: int = number(
        0, LIMITS, 0, 3600, "SECONDS", "Time to keep serving after SIGTERM."
    )
    shutdown_timeout: int = number(
        30, LIMITS, 1, 3600, "SECONDS", "Time to finish responses when stopping."
    )

    log_level: str = choice(
        "info", LOGS, ("debug", "info", "warning", "error"), "Lowest level logged."
    )
    log_format: str = choice("text", LOGS, ("text", "json"), "Format of a log line.")
    access_log: bool = switch(LOGS, "Log a line per request.")

    ssl_certfile: Path | None = setting(
        None, TLS, ANY_FILE, "Certificate, PEM; the service then speaks https.", "FILE"
    )
    ssl_keyfile: Path | None = setting(None, TLS, ANY_FILE, "Private key, PEM.", "FILE")


def _settings(**values: Any) -> Settings:
    if values["pin"] and values["threads"] > 1:
        raise click.UsageError("--pin gives a worker one core: --threads must be 1")
    if values["ssl_keyfile"] and not values["ssl_certfile"]:
        raise click.UsageError("--ssl-keyfile needs --ssl-certfile")
    return Settings(**values)


SETTINGS = [Setting(f.name, f.default, **f.metadata) for f in fields(Settings)]
_COMMAND = click.version_option(__version__, message="cartpole %(version)s")(
    GroupedCommand(
        "cartpole",
        callback=_settings,
        params=list(SETTINGS),
        help="Serve a CartPole policy over HTTP. A flag overrides its environment variable.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )
)


def read_environment(environ: Mapping[str, str]) -> Settings:
    """The settings of the CARTPOLE_… variables; an empty variable counts as unset.

    Raises:
        BadSettings: a variable has no valid value.
    """
    return _read([], environ, complete_var="")


def read(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a command line and environment.

    Prints help, version or a shell's completions (see docs/configuration.md) and exits if asked to.

    Raises:
        BadSettings: a flag or variable has no valid value.
    """
    return _read(argv, environ, complete_var="_CARTPOLE_COMPLETE")


def _read(argv: Sequence[str], environ: Mapping[str, str], complete_var: str) -> Settings:
    try:
        result = _COMMAND.main(
            list(argv), "cartpole", complete_var, standalone_mode=False, obj=environ
        )
    except click.UsageError as error:
        raise BadSettings(error.format_message()) from error
    if not isinstance(result, Settings):
        raise SystemExit(result)
    return result
