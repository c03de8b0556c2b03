"""`python -m cartpole.serve`: settings, then policy, then application, then uvicorn."""

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, cast

import uvicorn

from cartpole import __version__
from cartpole.settings import BadSettings, Settings, read

if TYPE_CHECKING:
    from cartpole.app import Inference
    from cartpole.protocol import Worker
    from cartpole.runner import Runner

EXIT_USAGE, EXIT_START = 2, 3
BACKLOG = 2048

logger = logging.getLogger("cartpole")


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Serve until told to stop. Returns the exit code: 0 stopped, 2 bad setting, 3 can't start."""
    try:
        settings = read(argv)
    except BadSettings as error:
        print(f"cartpole: {error}", file=sys.stderr)
        return EXIT_USAGE
    _configure_logging(settings)
    # Before uvicorn handles signals, and after: it ends by raising the one that stopped it again.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    # PyTorch takes a second or more to import: only now that the settings are known to be good.
    from cartpole.policy import BadPolicy, load
    from cartpole.runner import Runner, set_threads

    set_threads(settings.threads)
    try:
        _serve(settings, Runner(load(settings.model)))
    except (BadPolicy, OSError) as error:
        logger.error("%s", error)
        return EXIT_START
    return 0


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _serve(settings: Settings, runner: "Runner") -> None:
    """Raises OSError where the address can't be had or the TLS files are no good."""
    from cartpole.app import Inference, create_app

    inference = Inference(runner)
    worker, protocol = _protocol(settings, inference)
    config = uvicorn.Config(
        create_app(inference),
        uds=str(settings.uds) if settings.uds else None,
        loop="uvloop",
        http=cast(type[asyncio.Protocol], protocol),
        limit_max_requests=settings.limit_requests or None,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=settings.access_log,
        proxy_headers=False,
        server_header=False,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise OSError(f"--ssl-certfile or --ssl-keyfile is no good: {error}") from error
    listener = None if settings.uds else _listen(settings.host, settings.port)
    # What the start has made stays: later collections need not look at it, and copies of this
    # process share it. Collection goes on; stopping it gains nothing (bench/scale.py: garbage).
    gc.collect()
    gc.freeze()
    server = _Server(config, worker, _summary(settings, runner, listener))
    try:
        server.run([listener] if listener else None)
    except OSError as error:
        raise OSError(f"can't listen on {settings.uds}: {error.strerror}") from error
    finally:
        if settings.uds:
            settings.uds.unlink(missing_ok=True)


def _protocol(
    settings: Settings, inference: "Inference"
) -> tuple["Worker", Callable[..., asyncio.Protocol]]:
    """What the connections share, and what makes one."""
    from cartpole.fastpath import Batch, FastProtocol
    from cartpole.polling import BusyPoll
    from cartpole.protocol import LimitedProtocol, Limits, Worker

    limits = Limits(
        head_bytes=settings.limit_head,
        head_seconds=settings.head_timeout,
        body_bytes=settings.limit_body,
        keep_alive_seconds=settings.keep_alive,
        connections=settings.limit_connections,
    )
    busy_poll = BusyPoll(settings.busy_poll_seconds) if settings.busy_poll else None
    if settings.http == "fast":
        batch = Batch(limits, busy_poll, inference)
        return batch, partial(FastProtocol, batch)
    worker = Worker(limits, busy_poll)
    return worker, partial(LimitedProtocol, worker)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, worker: "Worker", summary: str) -> None:
        super().__init__(config)
        self._worker = worker
        self._summary = summary

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._worker.start(asyncio.get_running_loop())
        await super().startup(sockets)
        logger.info("%s", self._summary)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._worker.stopping = True
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise OSError(f"can't listen on {host}:{port}: {reason}") from error


def _summary(settings: Settings, runner: "Runner", listener: socket.socket | None) -> str:
    policy = runner.policy
    where = f"unix:{settings.uds}"
    if listener:
        scheme = "https" if settings.ssl_certfile else "http"
        host, port = listener.getsockname()[:2]
        where = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    return (
        f"cartpole {__version__} serves {policy.path} ({policy.algorithm}, "
        f"sha256 {policy.sha256[:12]}) on {where} with {runner.engine}, threads: {settings.threads}"
    )


def _configure_logging(settings: Settings) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logger.setLevel(settings.log_level.upper())
    logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    if settings.log_level != "info":  # its start and stop lines are ours in other words
        logging.getLogger("uvicorn").setLevel(settings.log_level.upper())


if __name__ == "__main__":
    main()
