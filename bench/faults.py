"""Faults for the soak: reloads, bad files, killed and stopped processes, a full standard error."""

import asyncio
import hashlib
import os
import random
import shutil
import signal
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path

import orjson

from bench.machine import TEMPLATE, WORKER, children, has_ended
from bench.server import Server
from cartpole.policy.loading import METADATA, load
from cartpole.settings import BUNDLED_MODEL

FAULTS = (
    "SIGHUP",
    "two SIGHUP",
    "SIGHUP with a bad file",
    "SIGKILL of a worker",
    "SIGSTOP of a worker",
    "SIGKILL of a template",
    "full standard error",
)
GOOD, BAD = ("good", "other"), ("truncated", "empty", "wrong")
WORKER_TIMEOUT = 3
FULL_SECONDS = 2 * WORKER_TIMEOUT  # a worker that waited for a reader so long would be replaced
RECOVERY_SECONDS = 60
SAME_ANSWERS = 16  # on new connections; two workers give all to one in 1 of 2^15 times


def write_policies(folder: Path) -> None:
    """Write the good and the bad files. One of the bad has another policy's golden answer."""
    shutil.copy(BUNDLED_MODEL, folder / "good")
    (folder / "truncated").write_bytes(BUNDLED_MODEL.read_bytes()[:-1000])
    (folder / "empty").touch()
    for name, factor in (("other", 1.5), ("wrong", 2)):
        policy = load(BUNDLED_MODEL)
        for parameter in policy.module.parameters():
            parameter.mul_(factor)
        extra = {METADATA: orjson.dumps(policy.metadata)} if name == "wrong" else {}
        policy.module.save(str(folder / name), _extra_files=extra)


class Faults:
    """Causes faults in one service. It must recover from each before the next.

    Attributes:
        are_over: all have been caused, and the clients may end.
        may_serve: the policies that may answer now.
        killed_at: when a worker was last killed; infinity while one is about to be.
        counts: how many of each fault.
        stuck: faults that the service has not recovered from in time.
        errors: the last lines about errors in its log.
    """

    def __init__(self, server: Server, workers: int, policies: Path, model: Path) -> None:
        """The service reads `model`; the files to put there are in the folder `policies`."""
        self._server, self._workers, self._policies, self._model = server, workers, policies, model
        self._pid, self._accepted, self._chance = server.process.pid, "good", random.Random(0)
        assert server.process.stderr
        self._log = server.process.stderr.fileno()
        self.are_over, self.may_serve, self.killed_at = False, frozenset({"good"}), 0.0
        self.counts: Counter[str] = Counter()
        self.stuck: list[str] = []
        self.errors: deque[str] = deque(maxlen=20)

    def read_log(self) -> None:
        """Read the service's standard error from now on, in the running event loop."""
        asyncio.get_running_loop().add_reader(self._log, self._read)

    def _read(self) -> None:
        for line in os.read(self._log, 1 << 20).decode(errors="replace").splitlines():
            if " ERROR " in line or "Error" in line:
                self.errors.append(line)

    async def cause_all(self) -> None:
        """Cause all faults that this service can have, in random order."""
        self.are_over = False
        for fault in self._chance.sample(FAULTS, len(FAULTS)):
            kind = TEMPLATE if "template" in fault else WORKER if "worker" in fault else ""
            await asyncio.sleep(2)
            if kind and self._workers == 1 and not children(self._pid, kind):
                continue  # it has no supervisor
            self.counts[fault] += 1
            try:
                async with asyncio.timeout(RECOVERY_SECONDS):
                    await self._cause(fault)
                    await self._recover()
            except TimeoutError:
                self.stuck.append(fault)
                self._reload(self._accepted)
        self.are_over = True

    async def _cause(self, fault: str) -> None:
        (accepted,), (other,) = {self._accepted}, set(GOOD) - {self._accepted}
        match fault:
            case "SIGHUP":
                self._reload(other)
            case "two SIGHUP":
                self._reload(other)
                await asyncio.sleep(self._chance.random())
                self._reload(accepted)
            case "SIGHUP with a bad file":  # a killed worker is replaced by the accepted policy's
                self._reload(self._chance.choice(BAD))
                await self._kill_and_recover()
                self._reload(accepted)
            case "SIGKILL of a worker":
                await self._end_worker(signal.SIGKILL)
            case "SIGSTOP of a worker":
                await self._end_worker(signal.SIGSTOP)
            case "SIGKILL of a template":
                os.kill(self._chance.choice(children(self._pid, TEMPLATE)), signal.SIGKILL)
                await self._kill_and_recover()
            case "full standard error":
                await self._fill_standard_error()

    async def _recover(self) -> None:
        """Wait until all workers serve the accepted policy, and their predecessors are gone."""
        sha256 = hashlib.sha256((self._policies / self._accepted).read_bytes()).hexdigest()
        expected = (f'sha256="{sha256}"'.encode(), f"cartpole_workers {self._workers}.0".encode())
        await asyncio.sleep(2)  # the service may not have noticed yet
        same = 0
        while same < SAME_ANSWERS:
            metrics = b""
            with suppress(OSError):
                _, metrics = await asyncio.to_thread(self._server.get, "/metrics")
            is_whole = (len(children(self._pid, WORKER)) or 1) == self._workers
            same = same + 1 if is_whole and all(text in metrics for text in expected) else 0
            await asyncio.sleep(0 if same else 0.2)
        self.may_serve = frozenset({self._accepted})

    def _reload(self, name: str) -> None:
        if name in GOOD:
            self.may_serve |= {name}
            self._accepted = name
        new = self._model.with_suffix(".new")
        shutil.copy(self._policies / name, new)
        new.replace(self._model)
        os.kill(self._pid, signal.SIGHUP)

    async def _end_worker(self, number: int) -> None:
        """Signal a worker, if there are any, and wait for its end. Until then, requests break."""
        if not (workers := children(self._pid, WORKER)):
            return
        worker, self.killed_at = self._chance.choice(workers), float("inf")
        try:
            with suppress(ProcessLookupError):
                os.kill(worker, number)
            while not has_ended(worker):
                await asyncio.sleep(0.01)
        finally:
            self.killed_at = time.monotonic()

    async def _kill_and_recover(self) -> None:
        """Recover, with the fault that is already there, before a worker is killed and after it."""
        await self._recover()
        await self._end_worker(signal.SIGKILL)
        await self._recover()

    async def _fill_standard_error(self) -> None:
        """Meanwhile all is served, and a killed worker replaced."""
        asyncio.get_running_loop().remove_reader(self._log)
        pipe = os.open(f"/proc/{self._pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
        try:
            with suppress(BlockingIOError):
                while True:
                    os.write(pipe, b"\n")
            await asyncio.sleep(FULL_SECONDS)
            await self._kill_and_recover()
        finally:
            os.close(pipe)
            self.read_log()
