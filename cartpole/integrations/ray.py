"""`python -m cartpole.integrations.ray`: replicas placed by Ray, which clients reach directly."""

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from cartpole import logs
from cartpole.integrations import probe
from cartpole.integrations.endpoints import Publisher
from cartpole.integrations.ray_command import (
    CLAIM_SECONDS,
    NAME,
    NAMESPACE,
    STEP_SECONDS,
    Command,
    PolicyRefused,
    make_control,
    read_policy,
)
from cartpole.integrations.ray_fleet import Fleet
from cartpole.process import signals
from cartpole.process.exit_codes import EXIT_OK, EXIT_START, EXIT_USAGE
from cartpole.settings import BUNDLED_MODEL, BadSettings, Settings, read

STOP_GRACE_SECONDS = 5  # for a replica to stop, on top of the drain and the shutdown time-out
CHOSEN = ("--host", "--port", "--uds", "--model", "--reuse-port", "--no-reuse-port")


class RayFailure(Exception):
    """The cluster can't be used as asked. The text is one line."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The replicas to run, and the files to keep about them.

    Attributes:
        replicas: how many, at first.
        port: the first TCP port that a replica may take on its node.
        model: the model file; SIGHUP reads it again.
        endpoints: a file to keep, with a line host:port for each replica that is ready.
        nginx: a file to keep, with an upstream block of them.
        reload: a shell command that runs after the files were replaced; empty: none.
        flags: of cartpole.serve, for each replica.
    """

    replicas: int = 1
    port: int = 3000
    model: Path = BUNDLED_MODEL
    endpoints: Path | None = None
    nginx: Path | None = None
    reload: str = ""
    flags: tuple[str, ...] = ()


def run(plan: Plan, address: str | None = None) -> None:
    """Keep the replicas of a plan until SIGTERM or SIGINT, then drain them.

    It must run in the main thread. It connects to Ray, unless that was done before.

    Args:
        address: of the cluster, as ray.init takes it.

    Raises:
        BadSettings: a flag is not one of cartpole.serve, or is chosen for each replica.
        PolicyRefused: the model file can't be served.
        RayFailure: there is no such cluster, or this machine's node ends, or another command runs.
        OSError: a file of endpoints can't be written.
    """
    settings = _settings(plan.flags)
    read_again = partial(read_policy, plan.model, settings.engine)
    policy = read_again()
    _connect(address)
    try:
        control = _claim(plan.replicas)
        publisher = Publisher(plan.endpoints, plan.nginx, plan.reload)
        publisher.write([])
        drain_seconds = settings.drain_seconds + settings.shutdown_timeout + STOP_GRACE_SECONDS
        tls = probe.trusting_context() if settings.ssl_certfile else None
        fleet = Fleet(plan.port, plan.flags, drain_seconds, publisher, tls)
        fleet.use(policy)
        asyncio.run(Command(fleet, plan.replicas, control, read_again).run())
    except RayError as error:
        raise RayFailure(f"Ray has ended: {error}".splitlines()[0]) from error


def scale(replicas: int, address: str | None = None) -> None:
    """Change the number of replicas of the command that runs, and wait until they are ready.

    Raises:
        RayFailure: there is no such cluster, no command runs on it, or it ends meanwhile, or is
            told another number.
    """
    _connect(address)
    try:
        control: Any = ray.get_actor(NAME, NAMESPACE)
        ray.get(control.scale.remote(replicas))
        while (state := ray.get(control.state.remote())) != (replicas, replicas):
            if state[0] != replicas:
                raise RayFailure(f"another --scale wants {state[0]} replicas")
            time.sleep(STEP_SECONDS)
    except ValueError as error:
        raise RayFailure("no cartpole runs on this cluster") from error
    except RayError as error:
        raise RayFailure("the cartpole of this cluster has ended") from error


def _settings(flags: Sequence[str]) -> Settings:
    for flag in flags:
        if flag.partition("=")[0] in CHOSEN:
            raise BadSettings(f"{flag} can't be given after --: it is chosen for each replica")
    return read(flags, {})


def _connect(address: str | None) -> None:
    if ray.is_initialized():
        return
    try:
        ray.init(address=address, namespace=NAMESPACE, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RayFailure(f"can't connect to Ray at {address}: {error}") from error


def _claim(replicas: int) -> Any:
    """Make the Control actor, which only one command of a cluster has."""
    deadline = time.monotonic() + CLAIM_SECONDS
    while True:
        try:
            return make_control(replicas)
        except ValueError as error:
            if time.monotonic() > deadline:
                raise RayFailure("another cartpole runs on this cluster") from error
            time.sleep(STEP_SECONDS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m cartpole.integrations.ray",
        usage="%(prog)s [options] [-- flags of cartpole.serve]",
        description="Keep replicas of the service on a Ray cluster. Clients reach them directly.",
        allow_abbrev=False,
    )
    parser.add_argument("--address", default="auto", help="of the cluster, as ray.init takes it")
    parser.add_argument("--scale", type=_count, help="change the command that runs, and wait")
    parser.add_argument("--replicas", type=_count, default=1, help="how many, at first")
    parser.add_argument("--port", type=_port, default=3000, help="first port that one may take")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="TorchScript file")
    parser.add_argument("--endpoints", type=Path, help="file to keep: host:port of each, by line")
    parser.add_argument("--nginx", type=Path, help="file to keep: an upstream block of them")
    parser.add_argument("--reload", default="", help="command to run after these were replaced")
    return parser


def _whole_number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and least <= int(text[:9]) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")

    return parse


_count, _port = _whole_number(0, 10_000), _whole_number(1, 65535)


def main() -> int:
    """Run the command. Returns its exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the policy is served that it reads again
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = vars(_parser().parse_args(arguments[:end]))
    address, replicas = options.pop("address"), options.pop("scale")
    try:
        if replicas is not None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # it may wait for long
            scale(replicas, address)
            return EXIT_OK
        plan = Plan(**options, flags=tuple(arguments[end + 1 :]))
        logs.configure(_settings(plan.flags))
        run(plan, address)
    except (BadSettings, PolicyRefused, RayFailure, OSError) as error:
        print(f"cartpole: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, BadSettings) else EXIT_START
    return EXIT_OK


if __name__ == "__main__":
    code = main()
    ray.shutdown()
    # A load that hangs may be in C++, where the interpreter's shutdown would abort the process.
    signals.exit_immediately(code)
