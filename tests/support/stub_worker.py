"""A stub in place of a worker: it starts in a tenth of a second, and serves nothing.

It reads its orders from the model file, once. A real worker would load the policy from it.
"""

import os
import signal
import socket
import threading
import time
from pathlib import Path

from cartpole.metrics.counters import SharedCounters, WorkerCounters
from cartpole.settings import Settings

HEARTBEAT_SECONDS = 0.01
LIFE_SECONDS = 120  # so that a stubborn worker does not outlive a failed test for ever
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def serve(settings: Settings, sockets: list[socket.socket], counters_file: Path, row: int) -> int:
    """Follow the orders: exit CODE, exit CODE late, die, hang, stubborn (never ends), or serve."""
    shared = SharedCounters.for_workers(settings.workers, counters_file)
    counters = WorkerCounters(shared, row)
    orders = settings.model.read_text().split()  # blocks if it is a FIFO
    with open(settings.model.with_name("readers"), "a") as readers:
        readers.write(f"{os.getpid()}\n")
    if orders[0] == "exit":
        time.sleep(0.3 * len(orders[2:]))
        return int(orders[1])
    if orders[0] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if orders[0] == "hang":
        signal.pause()
    ended = threading.Event()

    def end(number: int, frame: object) -> None:
        with open(settings.model.with_name("signals"), "a") as file:
            file.write(f"{os.getpid()} {signal.Signals(number).name}\n")
        if orders[0] != "stubborn":
            ended.set()

    for number in SIGNALS:
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    counters.mark_ready()
    until = time.monotonic() + LIFE_SECONDS
    while not ended.wait(HEARTBEAT_SECONDS) and time.monotonic() < until:
        counters.heartbeat()
    return 0
