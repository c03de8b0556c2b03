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
        "an idle connection keeps its last body",
        "cartpole/http/answers.py",
        'request.body = b""  # the reader keeps',
        "# the reader keeps",
        "http/test_whole_requests.py",
    ),
    Mutation(
        "the work of clients that have gone goes on",
        "cartpole/http/exchange.py",
        "            self.task.cancel()\n",
        "            pass\n",
        "http/test_whole_requests.py",
    ),
    Mutation(
        "bytes in the kernel spare an idle connection for ever",
        "cartpole/http/time_limits.py",
        "if _queued(transport, FIONREAD) and not self._was_spared:",
        "if _queued(transport, FIONREAD):",
        "http/test_time_limits.py",
    ),
    Mutation(
        "a gap in a header block spans lines that must stay",
        "cartpole/http/known_heads.py",
        "if not changed or not all(map(_is_neutral, lines[changed[0] : changed[-1] + 1])):",
        "if not changed:",
        "http/test_known_heads.py",
    ),
    Mutation(
        "the last answer of a batch is dropped",
        "cartpole/http/batcher.py",
        "answered = zip(requesters, answers, persistences, strict=True)",
        "answered = zip(requesters[:-1] or requesters, answers, persistences)",
        "http/test_batcher.py",
    ),
    Mutation(
        "two answers of a batch are swapped",
        "cartpole/http/batcher.py",
        "answered = zip(requesters, answers, persistences, strict=True)",
        "answered = zip(requesters, answers[::-1], persistences, strict=True)",
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
        "cartpole/metrics/rejection_log.py",
        "        self._counters.record_rejection(rejection)\n",
        "",
        "http/test_limits.py metrics/test_prometheus.py",
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
        "cartpole/http/reader.py",
        "is_too_large = len(self._head) > self._limits.head_bytes",
        "is_too_large = len(self._head) > self._limits.head_bytes + 1",
        "http/test_counting.py",
    ),
    Mutation(
        "the limit on bodies is one byte too large",
        "cartpole/http/reader.py",
        "if self._left > self._limits.body_bytes:",
        "if self._left > self._limits.body_bytes + 1:",
        "http/test_whole_requests.py",
    ),
    Mutation(
        "a connection more than the limit",
        "cartpole/http/connections.py",
        "if number <= self._limits.connections:",
        "if number - 1 <= self._limits.connections:",
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
        "        if self._current or not self._is_requested:\n            return\n",
        "        if self._current:\n            self._is_requested = False\n            return\n",
        "process/test_reloading.py",
    ),
    Mutation(
        "hung workers are left alone",
        "cartpole/process/children.py",
        "is_hung = self._timeout and now - self._heartbeat_at > self._timeout",
        "is_hung = False",
        "process/test_supervisor_hangs.py",
    ),
    Mutation(
        "lingering workers are left alone",
        "cartpole/process/worker_pool.py",
        "elif now > worker.deadline:",
        "elif False:",
        "process/test_supervisor_stops.py",
    ),
    Mutation(
        "a retired worker drains as by SIGTERM",
        "cartpole/process/supervisor.py",
        "slot.worker.order(signal.SIGUSR1,",
        "slot.worker.order(signal.SIGTERM,",
        "process/test_supervisor_reloads.py",
    ),
    Mutation(
        "a worker keeps its template's socket",
        "cartpole/process/template.py",
        "    supervisor.close()  # else a worker",
        "    pass  # else a worker",
        "process/test_supervisor_starts.py",
    ),
    Mutation(
        "the socket of a template that has ended stays open",
        "cartpole/process/templates.py",
        "                self.current.kill()\n",
        "                pass\n",
        "process/test_supervisor_reloads.py",
    ),
    Mutation(
        "copies of files stay open",
        "cartpole/process/children.py",
        "            os.close(descriptor)\n\n\nclass Child",
        "            pass\n\n\nclass Child",
        "process/test_supervisor_reloads.py",
    ),
    Mutation(
        "failed starts are never forgotten",
        "cartpole/process/supervisor.py",
        "        slot.worker, slot.next = worker, None\n        slot.backoff.reset()\n",
        "        slot.worker, slot.next = worker, None\n",
        "process/test_supervisor_starts.py",
    ),
    Mutation(
        "failed loads are never forgotten",
        "cartpole/process/templates.py",
        "            self.policy = loading.policy\n            self._backoff.reset()\n",
        "            self.policy = loading.policy\n",
        "process/test_supervisor_starts.py",
    ),
    Mutation(
        "a Unix socket has mode 0600",
        "cartpole/process/sockets.py",
        "path.chmod(settings.uds_mode)",
        "path.chmod(0o600)",
        "process/test_unix_mode.py",
    ),
    Mutation(
        "ended workers keep their gauges",
        "cartpole/process/worker_pool.py",
        "                self.counters.clear_gauges(worker.row)\n",
        "                pass\n",
        "process/test_processes.py",
    ),
    Mutation(
        "a socket that does not listen is shut down",
        "cartpole/process/supervisor.py",
        "self._sockets.count(listener) == 1 and is_listening:",
        "self._sockets.count(listener) == 1:",
        "process/test_supervisor_starts.py",
    ),
    Mutation(
        "the slot of a worker that can't start goes on listening",
        "cartpole/process/supervisor.py",
        "            listener.shutdown(socket.SHUT_RDWR)\n",
        "            pass\n",
        "process/test_supervisor_starts.py",
    ),
    Mutation(
        "a template is made again from the files",
        "cartpole/process/templates.py",
        "copies = Copies() if self._is_requested or not self.accepted else self.accepted",
        "copies = Copies()",
        "process/test_supervisor_starts.py",
    ),
    Mutation(
        "a second load starts beside one under way",
        "cartpole/process/templates.py",
        "        if self.loading:\n            self._check(self.loading, now)\n        elif (self",
        "        if self.loading and not self._is_requested:\n"
        "            self._check(self.loading, now)\n        elif (self",
        "process/test_supervisor_reloads.py",
    ),
    Mutation(
        "a reload is done while earlier workers answer",
        "cartpole/process/supervisor.py",
        "if self._is_reloading and all(workers) and are_new:",
        "if self._is_reloading and all(w and w.copies is self._policy for w in workers):",
        "process/test_supervisor_reloads.py",
    ),
    Mutation(
        "a load that was killed is taken for a refusal",
        "cartpole/process/templates.py",
        "if is_new and self.accepted and not was_killed:",
        "if is_new and self.accepted:",
        "process/test_supervisor_reloads.py",
    ),
    Mutation(
        "a load that is stuck stays",
        "cartpole/process/children.py",
        "        is_stuck = self._progress.is_stuck(now)\n",
        "        is_stuck = False\n",
        "process/test_supervisor_reloads.py",
    ),
    Mutation(
        "a template that is stuck stays",
        "cartpole/process/supervisor.py",
        "            self.templates.current.kill()  # it was",
        "            pass  # it was",
        "process/test_supervisor_starts.py",
    ),
    Mutation(
        "a certificate is not renewed",
        "cartpole/process/server.py",
        "        self.loaded = loaded\n        policy = loaded",
        "        policy = loaded",
        "process/test_certificates.py",
    ),
    Mutation(
        "a template and its workers obey signals",
        "cartpole/process/signals.py",
        "        signal.signal(number, signal.SIG_IGN)\n",
        "        signal.signal(number, signal.SIG_DFL)\n",
        "process/test_processes.py",
    ),
    Mutation(
        "workers outlive their supervisor",
        "cartpole/process/signals.py",
        "    exit_later(ORPHAN_SECONDS)\n    _deliver(signal.SIGUSR1)\n",
        "    pass\n",
        "process/test_hung_forwards.py",
    ),
    Mutation(
        "a hung worker outlives its supervisor",
        "cartpole/process/signals.py",
        "    exit_later(ORPHAN_SECONDS)\n",
        "",
        "process/test_hung_forwards.py",
    ),
    Mutation(
        "a second signal waits for the event loop",
        "cartpole/process/server.py",
        "                signals.exit_later(HURRY_SECONDS)\n",
        "                pass\n",
        "process/test_hung_forwards.py",
    ),
    Mutation(
        "a worker runs an order that was given up",
        "cartpole/process/template.py",
        "        return not orders.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)\n",
        "        return False\n",
        "process/test_template.py",
    ),
    Mutation(
        "a log line waits for its reader",
        "cartpole/logs.py",
        "    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY\n",
        "    flags = os.O_WRONLY | os.O_NOCTTY\n",
        "test_full_log.py",
    ),
    Mutation(
        "dropped log lines are not counted",
        "cartpole/logs.py",
        '            self._dropped += lines.count(b"\\n")\n',
        "            pass\n",
        "test_logs.py",
    ),
    Mutation(
        "one load more is left behind",
        "cartpole/process/reloading.py",
        "            if not self._left_behind:\n",
        "            if True:\n",
        "process/test_reloading.py",
    ),
    Mutation(
        "a FIFO is read as a model file",
        "cartpole/policy/loading.py",
        "            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):\n",
        "            if False:\n",
        "policy/test_loading.py",
    ),
    Mutation(
        "load() computes with all threads",
        "cartpole/predictor.py",
        "with one_thread():",
        "if True:",
        "test_predictor.py",
    ),
    Mutation(
        "the trial of threads outlives its template",
        "cartpole/process/worker.py",
        "    end_with_parent(template)  # it may compute for long\n",
        "    pass\n",
        "process/test_hung_forwards.py",
    ),
    Mutation(
        "what a child does is no progress",
        "cartpole/process/progress.py",
        '[_work(self.folder), *(_work(Path(f"/proc/{child}")) for child in children)]',
        "[_work(self.folder)]",
        "process/test_progress.py",
    ),
    Mutation(
        "a body that turns bad has a second answer",
        "cartpole/http/answers.py",
        "        self._drop_exchange()\n        if self.phase is OPEN:\n",
        "        if self.phase is OPEN:\n",
        "http/test_limits.py",
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
        "cartpole/http/answers.py",
        "        if self.half_closed:\n            self.transport.close()\n",
        "        if True:\n            self.transport.close()\n",
        "http/test_first_requests.py",
    ),
    Mutation(
        "closing takes as long as the client likes",
        "cartpole/http/time_limits.py",
        "is_over = self.idle >= CLOSE_SECONDS",
        "is_over = False",
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
        "cartpole/http/connection.py",
        "request.expects_continue and not reader.body_has_begun:",
        "request.expects_continue:",
        "http/test_continue.py",
    ),
    Mutation(
        "TLS handshakes take as long as the client likes",
        "cartpole/http/tls.py",
        "is_late = self._seconds > seconds",
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
    Mutation(
        "requests on the fast path are no activity",
        "cartpole/http/answers.py",
        "        self._times.idle = 0\n        if persistence is LAST:\n",
        "        if persistence is LAST:\n",
        "http/test_time_limits.py",
    ),
    Mutation(
        "answers of the application are no activity",
        "cartpole/http/answers.py",
        "        self._times.idle = 0\n        if not self.transport.is_closing():\n",
        "        if not self.transport.is_closing():\n",
        "http/test_time_limits.py",
    ),
    Mutation(
        "the fast path takes heads over the limit",
        "cartpole/http/connection.py",
        "            and size <= self._head_bytes\n",
        "",
        "http/test_counting.py",
    ),
    Mutation(
        "the fast path takes pipelined heads over the limit",
        "cartpole/http/known_heads.py",
        "if not start < end <= start + limit:",
        "if not start < end:",
        "http/test_counting.py",
    ),
    Mutation(
        "pending connections are reset at the stop",
        "cartpole/process/server.py",
        "        await self._accept_pending()\n",
        "",
        "process/test_stopping.py",
    ),
    Mutation(
        "Connection is neutral",
        "cartpole/http/known_heads.py",
        "(?![Cc][Oo][Nn][Nn][Ee][Cc][Tt][Ii][Oo][Nn]:|",
        "(?!",
        "http/test_known_heads.py",
    ),
    Mutation(
        "an offer to upgrade keeps the connection open",
        "cartpole/http/reader.py",
        "keep_alive = bool(parser.should_keep_alive())",
        "keep_alive = bool(parser.should_keep_alive() or parser.should_upgrade())",
        "http/test_known_heads.py",
    ),
    Mutation(
        "a batch has no bound",
        "cartpole/http/batcher.py",
        "if len(self._requesters) >= MAX_ROWS:",
        "if False:",
        "http/test_batcher.py",
    ),
    Mutation(
        "a batch is one row too large",
        "cartpole/http/batcher.py",
        "if len(self._requesters) >= MAX_ROWS:",
        "if len(self._requesters) > MAX_ROWS:",
        "http/test_batcher.py",
    ),
    Mutation(
        "connections that are lost stay in the gauge",
        "cartpole/http/connections.py",
        "        self._counters.record_connections(len(self._open))\n",
        "",
        "http/test_limits.py",
    ),
    Mutation(
        "polling goes on without connections",
        "cartpole/http/connections.py",
        "        if not self._open:\n            self._polling.stop()\n",
        "",
        "http/test_limits.py",
    ),
    Mutation(
        "a port has six digits",
        "cartpole/http/head_rules.py",
        "(?::[0-9]{0,5}+)?",
        "(?::[0-9]{0,6}+)?",
        "http/test_conformance.py",
    ),
    Mutation(
        "several codings are not implemented",
        "cartpole/http/head_rules.py",
        'if version == "1.0" or len(codings) > 1 else',
        'if version == "1.0" else',
        "http/test_conformance.py",
    ),
    Mutation(
        "HTTP/1.0 has expectations",
        "cartpole/http/head_rules.py",
        'if version == "1.1" and any(',
        "if any(",
        "http/test_conformance.py",
    ),
    Mutation(
        "clients are to retry after 10 s",
        "cartpole/http/responses.py",
        '(b"retry-after", b"1")',
        '(b"retry-after", b"10")',
        "http/test_limits.py",
    ),
    Mutation(
        "rejections are logged once a second",
        "cartpole/metrics/rejection_log.py",
        "if counts and self._throttle.admit():",
        "if counts:",
        "metrics/test_rejection_log.py",
    ),
    Mutation(
        "silent connections past the limit are called slow",
        "cartpole/http/answers.py",
        "self.reject(TOO_MANY_CONNECTIONS if in_reserve else TOO_SLOW, is_head)",
        "self.reject(TOO_SLOW, is_head)",
        "http/test_limits.py",
    ),
    Mutation(
        "the end of a head is missed over two reads",
        "cartpole/http/reader.py",
        "seam = self._head[-3:]",
        "seam = self._head[-2:]",
        "http/test_fast.py",
    ),
    Mutation(
        "trailers are not counted",
        "cartpole/http/reader.py",
        "            self._trailer_bytes += len(part)\n",
        "",
        "http/test_counting.py",
    ),
    Mutation(
        "trailers are counted without the head",
        "cartpole/http/reader.py",
        "if len(self._head) + self._trailer_bytes > ",
        "if self._trailer_bytes > ",
        "http/test_counting.py",
    ),
    Mutation(
        "extensions of chunks are not counted",
        "cartpole/http/reader.py",
        "            self._extension_bytes += max(0, len(part) - room)\n",
        "",
        "http/test_whole_requests.py",
    ),
    Mutation(
        "extensions count anew with each chunk",
        "cartpole/http/reader.py",
        '        self._line, self._in_trailers = b"", size == 0\n',
        '        self._line, self._in_trailers = b"", size == 0\n'
        "        self._extension_bytes = 0\n",
        "http/test_whole_requests.py http/test_counting.py",
    ),
    Mutation(
        "chunks may be one byte too large",
        "cartpole/http/reader.py",
        "if len(self._body) + self._extension_bytes > self._limits.body_bytes:",
        "if len(self._body) + self._extension_bytes > self._limits.body_bytes + 1:",
        "http/test_whole_requests.py",
    ),
    Mutation(
        "the request before the last is remembered",
        "cartpole/http/reader.py",
        "self.state, self.request, self._previous = HEAD, None, None",
        "self.state, self.request = HEAD, None",
        "http/test_direct.py",
    ),
    Mutation(
        "the body of the previous request is sent again",
        "cartpole/http/reader.py",
        "request.body, request.head_read_at = data[size:], clock()",
        "request.head_read_at = clock()",
        "http/test_direct.py",
    ),
    Mutation(
        "a chunked body is known by its head",
        "cartpole/http/reader.py",
        "if self.state is IDLE and self.head and not self._is_chunked:",
        "if self.state is IDLE and self.head:",
        "http/test_direct.py",
    ),
    Mutation(
        "a trailer ends the reading",
        "cartpole/http/reader.py",
        "self._parser_has_ended = not self._parser.should_keep_alive()",
        "self._parser_has_ended = False",
        "http/test_whole_requests.py",
    ),
    Mutation(
        "the body of an offer to upgrade is a request",
        "cartpole/http/reader.py",
        'framing = (b"content-length", b"transfer-encoding")',
        'framing = (b"transfer-encoding",)',
        "http/test_whole_requests.py",
    ),
    Mutation(
        "a request is answered to a client that has gone",
        "cartpole/http/answers.py",
        "        self.phase, self._advance = LOST, _do_nothing\n        self._drop_exchange()\n",
        "        self.phase, self._advance = LOST, _do_nothing\n",
        "http/test_limits.py",
    ),
    Mutation(
        "two requests are under way at a time",
        "cartpole/http/answers.py",
        "return self.exchange is not None and self.exchange.request.is_whole",
        "return False",
        "http/test_batcher.py",
    ),
    Mutation(
        "reading goes on while an answer is awaited",
        "cartpole/http/connection.py",
        "(self._write_paused or bool(self._unread))",
        "self._write_paused",
        "http/test_batcher.py",
    ),
    Mutation(
        "HTTP/1.0 is not told that the connection is kept",
        "cartpole/http/answers.py",
        'return KEPT if request.version == "1.1" else KEPT_HTTP_1_0',
        "return KEPT",
        "http/test_known_heads.py",
    ),
    Mutation(
        "a rejected HEAD has a body",
        "cartpole/http/reader.py",
        'self.is_head = self._head.startswith(b"HEAD ")',
        "self.is_head = False",
        "http/test_conformance.py",
    ),
    Mutation(
        "a slow HEAD has a body",
        "cartpole/http/connection.py",
        "self._reader is not None and self._reader.is_head",
        "False",
        "http/test_time_limits.py",
    ),
    Mutation(
        "the fast path goes on behind the last answer",
        "cartpole/http/connection.py",
        "self._is_ready = persistence is not LAST",
        "self._is_ready = True",
        "http/test_first_requests.py",
    ),
    Mutation(
        "connections past the limit take the fast path",
        "cartpole/http/answers.py",
        "return is_open and self.exchange is None and self._admission is Admission.ALL",
        "return is_open and self.exchange is None",
        "http/test_limits.py",
    ),
    Mutation(
        "one client's pipeline fills a turn",
        "cartpole/http/connection.py",
        "if self._position - begun > PIPELINE_BYTES:",
        "if False:",
        "http/test_batcher.py",
    ),
    Mutation(
        "the time of a head begins with its connection",
        "cartpole/http/connection.py",
        "            self._times.message = 0\n",
        "            pass\n",
        "http/test_time_limits.py",
    ),
    Mutation(
        "earlier requests are answered after a rejection",
        "cartpole/http/answers.py",
        '        """Answer with an error, and end."""\n'
        "        self._shared.batcher.flush()  # earlier requests are answered first\n",
        '        """Answer with an error, and end."""\n',
        "http/test_fast.py",
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
