"""What a supervisor's worker runs in tests: it starts in a tenth of a second, and serves nothing.

It reads its orders from the model's file, once; cartpole.process.server would read the policy.
"""

import os
import signal
import socket
import threading
import time
from pathlib import Path

from cartpole.metrics.counters import Board, Metrics
from cartpole.settings import Settings

BEAT_SECONDS = 0.01
LIFE_SECONDS = 120  # a stubborn one outlives tests that fail, but not for ever
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def serve(settings: Settings, sockets: list[socket.socket], board: Path, row: int) -> int:
    """Orders: `exit CODE`, `exit CODE late`, `die`, `hang`, `stubborn` (it never ends), `serve`."""
    metrics = Metrics(Board.shared(settings.workers, board), row)
    orders = settings.model.read_text().split()  # a FIFO makes it wait here
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
    metrics.ready()
    until = time.monotonic() + LIFE_SECONDS
    while not ended.wait(BEAT_SECONDS) and time.monotonic() < until:
        metrics.beat()
    return 0
