"""`make mutations`: one fault at a time in a copy of the service. Fails if no test sees one."""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

PATIENCE_SECONDS = 150
COPIED = ("cartpole", "tests", "bench", "tools", "models", "pyproject.toml")


@dataclass(frozen=True)
class Mutation:
    """A fault: `old` in `file`, found there exactly once, becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(
        "the last answer of a batch is dropped",
        "cartpole/http/batcher.py",
        "answered = zip(requesters, answers, strict=True)",
        "answered = zip(requesters[:-1] or requesters, answers)",
        "http/test_batcher.py process/test_lifecycle.py",
    ),
    Mutation(
        "two answers of a batch are swapped",
        "cartpole/http/batcher.py",
        "answered = zip(requesters, answers, strict=True)",
        "answered = zip(requesters, answers[::-1], strict=True)",
        "http/test_batcher.py http/test_fast.py",
    ),
    Mutation(
        "a header is lost",
        "cartpole/api/responses.py",
        "content_type), NO_SNIFF, (",
        "content_type), (",
        "api/test_responses.py http/test_conformance.py test_app.py",
    ),
    Mutation(
        "a rejection is not counted",
        "cartpole/http/rejections.py",
        "        self._counters.record_rejection(status)\n",
        "",
        "metrics/test_counters.py metrics/test_prometheus.py",
    ),
    Mutation(
        "requests answered together count as one",
        "cartpole/metrics/counters.py",
        "cells[_INFERENCE_OK] += good",
        "cells[_INFERENCE_OK] += min(good, 1)",
        "metrics/test_counters.py http/test_fast.py",
    ),
    Mutation(
        "the limit on heads is one byte too large",
        "cartpole/http/message_sizes.py",
        "if self._head > self._limits.head_bytes else None",
        "if self._head > self._limits.head_bytes + 1 else None",
        "http/test_counting.py http/test_fast.py http/test_conformance.py",
    ),
    Mutation(
        "the limit on bodies is one byte too large",
        "cartpole/http/message_sizes.py",
        "if self._body > self._limits.body_bytes else None",
        "if self._body > self._limits.body_bytes + 1 else None",
        "http/test_whole_requests.py http/test_fast.py http/test_conformance.py",
    ),
    Mutation(
        "a connection more than the limit",
        "cartpole/http/connections.py",
        "return len(self._open) - self._limits.connections",
        "return len(self._open) - self._limits.connections - 1",
        "http/test_limits.py",
    ),
    Mutation(
        "the native tanh is 1 too early",
        "cartpole/policy/native.py",
        "_ONE_AT = 9.02",
        "_ONE_AT = 8.5",
        "policy/test_native.py",
    ),
    Mutation(
        "SIGHUP is ignored by one worker",
        "cartpole/process/server.py",
        "            self.reloader.request()\n",
        "            pass\n",
        "process/test_signals.py",
    ),
    Mutation(
        "a second signal to stop is ignored",
        "cartpole/process/server.py",
        "elif number == signal.SIGINT or self._ready.is_draining:",
        "elif number == signal.SIGINT:",
        "process/test_stopping.py",
    ),
    Mutation(
        "a SIGHUP during a reload is forgotten",
        "cartpole/process/reloading.py",
        "            self._is_requested_again = True\n",
        "            pass\n",
        "process/test_reloading.py",
    ),
    Mutation(
        "hung workers are left alone",
        "cartpole/process/worker_pool.py",
        "if timeout and now - self._heartbeat_at > timeout:",
        "if False:",
        "process/test_supervisor_hangs.py",
    ),
    Mutation(
        "lingering workers are left alone",
        "cartpole/process/worker_pool.py",
        "elif now > worker.deadline or worker.failure(now, self._settings.worker_timeout):",
        "elif False:",
        "process/test_supervisor_hangs.py",
    ),
    Mutation(
        "a body that turns bad has a second answer",
        "cartpole/http/whole_requests.py",
        "        if cycle.more_body:\n",
        "        if False:\n",
        "http/test_whole_requests.py",
    ),
    Mutation(
        "a turn that raises is the last",
        "cartpole/http/turns.py",
        "        finally:  # without a next turn, no request would ever be answered\n",
        "        except ZeroDivisionError:\n            raise\n        else:\n",
        "http/test_turns.py",
    ),
    Mutation(
        "polling starts a second chain",
        "cartpole/http/polling.py",
        "if not self._is_spinning:",
        "if True:",
        "http/test_polling.py",
    ),
    Mutation(
        "closing does not linger",
        "cartpole/http/connection.py",
        "self._finish(linger=bool(asked_more or has_unread_bytes(self.transport)))",
        "self._finish(linger=False)",
        "process/test_lifecycle.py http/test_limits.py",
    ),
    Mutation(
        "closing takes as long as the client likes",
        "cartpole/http/time_limits.py",
        "elif now - self.last_activity >= CLOSE_SECONDS:",
        "elif False:",
        "http/test_limits.py",
    ),
    Mutation(
        "an engine is not compared with the module",
        "cartpole/policy/verify.py",
        "within_float32(network, observations) & ~right",
        "right & ~right",
        "policy/test_engines.py policy/test_bad_models.py",
    ),
    Mutation(
        "100 Continue is sent to whoever asks",
        "cartpole/http/whole_requests.py",
        "if app and cycle.waiting_for_100_continue and not cycle.body:",
        "if app and cycle.waiting_for_100_continue:",
        "http/test_whole_requests.py",
    ),
    Mutation(
        "TLS handshakes take as long as the client likes",
        "cartpole/http/tls.py",
        "is_late = self._clock.now - self._opened_at > self._handshake_seconds",
        "is_late = False",
        "http/test_tls.py",
    ),
    Mutation(
        "If-None-Match compares strongly",
        "cartpole/page/routes.py",
        "chosen.tag, weak=True",
        "chosen.tag, weak=False",
        "page/test_files.py",
    ),
    Mutation(
        "gzip is sent to clients that exclude it",
        "cartpole/api/content_codings.py",
        "if weight and weight >= ",
        "if weight >= ",
        "api/test_content_codings.py",
    ),
    Mutation(
        "openapi.json is turned off with the pages",
        "cartpole/app.py",
        "files = [description_route(), *page_files]",
        "files = [description_route(), *page_files] if page_files else []",
        "openapi/test_document.py",
    ),
    Mutation(
        "heavy requests work all at once",
        "cartpole/api/batches.py",
        "async with self._batches.heavy:",
        "async with asyncio.Lock():",
        "api/test_batches.py",
    ),
]


def seen(mutation: Mutation, folder: Path) -> bool:
    """Whether a test fails because of this mutation."""
    path = folder / mutation.file
    text = path.read_text()
    assert text.count(mutation.old) == 1, f"{mutation.name}: {text.count(mutation.old)} places"
    path.write_text(text.replace(mutation.old, mutation.new))
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, *(f"tests/{name}" for name in mutation.tests.split())],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    except subprocess.TimeoutExpired:
        failed = [f"no end after {PATIENCE_SECONDS} s: a test waits for what does not come"]
    finally:
        path.write_text(text)
    print(f"{mutation.name}: {failed[0] if failed else 'NOT SEEN'}", flush=True)
    return bool(failed)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in COPIED:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, folder / part)
        return int(not all([seen(mutation, folder) for mutation in MUTATIONS]))


if __name__ == "__main__":
    sys.exit(main())
