"""Whether processes and threads are taken for stuck, by a clock of the test."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from cartpole.process.progress import STUCK_SECONDS, Progress
from tests.support.waiting import wait_until

BUSY = "while True: pass"
BUSY_CHILD = """
import os
parent = os.getpid()
if not os.fork():
    while os.getppid() == parent:
        pass
    os._exit(0)
os.wait()
"""
READING = "import os\nwhile os.read(0, 1): pass"


@contextmanager
def running(program: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", f"print(flush=True)\n{program}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout
        try:
            assert process.stdout.readline() == b"\n"
            yield process
        finally:
            process.kill()


def folder(process: subprocess.Popen[bytes]) -> Path:
    return Path(f"/proc/{process.pid}")


def halt(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    stat = folder(process) / "stat"
    wait_until(lambda: stat.read_text().rpartition(") ")[2].startswith("T"))


def test_a_halted_process_is_stuck_after_a_while() -> None:
    with running(BUSY) as process:
        halt(process)
        progress = Progress(folder(process), 100)
        assert not progress.is_stuck(100 + STUCK_SECONDS - 1)
        assert progress.is_stuck(100 + STUCK_SECONDS)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: not progress.is_stuck(1000))
        assert not progress.is_stuck(1000 + STUCK_SECONDS - 1)


def test_a_busy_process_is_not_stuck() -> None:
    with running(BUSY) as process:
        progress = Progress(folder(process), 0)
        wait_until(lambda: not progress.is_stuck(STUCK_SECONDS))
        wait_until(lambda: not progress.is_stuck(2 * STUCK_SECONDS))


def test_a_process_whose_child_is_busy_is_not_stuck() -> None:
    with running(BUSY_CHILD) as process:
        progress, clock = Progress(folder(process), 0), count(STUCK_SECONDS, STUCK_SECONDS)
        for _ in range(3):
            wait_until(lambda: not progress.is_stuck(next(clock)))


def test_a_process_that_reads_is_not_stuck() -> None:
    with running(READING) as process:
        progress, clock = Progress(folder(process), 0), count(STUCK_SECONDS, STUCK_SECONDS)
        assert process.stdin
        ticks = progress._work
        for _ in range(10):
            wait_until(lambda: progress.is_stuck(next(clock)))
            process.stdin.write(b"x")
            process.stdin.flush()
            wait_until(lambda: not progress.is_stuck(next(clock)))
        assert ticks and progress._work and progress._work[0][0] - ticks[0][0] <= 1


def test_a_thread_has_progress_of_its_own() -> None:
    def work() -> None:
        end.wait()
        while not done.is_set():
            pass
        rest.wait()

    end, done, rest = threading.Event(), threading.Event(), threading.Event()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        progress = Progress(Path(f"/proc/self/task/{thread.native_id}"), 0)
        sum(range(3_000_000))  # this thread's work is not that one's
        assert progress.is_stuck(STUCK_SECONDS)
        end.set()
        wait_until(lambda: not progress.is_stuck(STUCK_SECONDS))
    finally:
        for event in (end, done, rest):
            event.set()
        thread.join()


def test_what_can_not_be_read_counts_as_work(tmp_path: Path) -> None:
    with running(BUSY) as process:
        ended = Progress(folder(process), 0)
    assert not ended.is_stuck(STUCK_SECONDS)
    assert not Progress(tmp_path, 0).is_stuck(STUCK_SECONDS)


def test_processor_time_alone_will_do(tmp_path: Path) -> None:
    """Where the bytes can't be read, as those of another user's process."""
    stat = tmp_path / "stat"
    stat.write_text("7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 5 6 0 0 20")
    progress = Progress(tmp_path, 0)
    assert progress.is_stuck(STUCK_SECONDS)
    stat.write_text("7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 5 7 0 0 20")
    assert not progress.is_stuck(STUCK_SECONDS)
