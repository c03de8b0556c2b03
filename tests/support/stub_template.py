"""A stub of what a template loads: it starts in a tenth of a second, and its workers serve nothing.

Its orders are in the model file, which it copies as a template would. Those of workers are in the
file "workers" beside it, which each reads when it starts.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cartpole.metrics.counters import SharedCounters, WorkerCounters
from cartpole.process.exit_codes import Refused
from cartpole.process.parent import set_name
from cartpole.settings import Settings

HEARTBEAT_SECONDS = 0.01
LIFE_SECONDS = 120  # so that a stubborn worker does not outlive a failed test for ever


def prepare(
    settings: Settings, counters: int, copies: Sequence[int]
) -> tuple[str, Callable[..., int]]:
    """Follow the orders: refuse TEXT, exit CODE, die, crash, hang; else accept them as a policy."""
    copy = Path(f"/proc/self/fd/{copies[0]}")
    orders = copy.read_text() or settings.model.read_text()
    copy.write_text(orders)
    kind, *rest = orders.split()
    if kind == "refuse":
        raise Refused(" ".join(rest))
    if kind == "exit":
        sys.exit(int(rest[0]))
    if kind in ("die", "crash"):
        os.kill(os.getpid(), signal.SIGKILL if kind == "die" else signal.SIGSEGV)
    if kind == "hang":
        settings.model.with_name("hangs").touch()
        signal.pause()
    shared = SharedCounters.for_workers(settings.workers, counters)
    return orders, partial(_serve, shared, settings.model)


def _serve(
    shared: SharedCounters,
    model: Path,
    listener: socket.socket,
    supervisor: socket.socket,
    row: int,
    core: int,
) -> int:
    """Follow the orders: exit CODE, die, hang, stubborn (never ends); else serve."""
    set_name("cartpole-worker")
    counters = WorkerCounters(shared, row)
    kind, *rest = model.with_name("workers").read_text().split()
    if kind == "exit":
        return int(rest[0])
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        signal.pause()
    ended = threading.Event()

    def follow() -> None:
        while order := supervisor.recv(1):
            with open(model.with_name("signals"), "a") as file:
                file.write(f"{os.getpid()} {signal.Signals(order[0]).name}\n")
            if kind != "stubborn":
                ended.set()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    listener.listen()
    counters.mark_ready()
    until = time.monotonic() + LIFE_SECONDS
    while not ended.wait(HEARTBEAT_SECONDS) and time.monotonic() < until:
        counters.heartbeat()
    return 0
