"""When a request enters the application: once it has arrived whole, so that it has one answer.

Clients that wait for 100 Continue are the exception. Leans on uvicorn's HttpToolsProtocol.
"""

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class WholeRequests(HttpToolsProtocol):
    """A connection that starts the application when a request's body is complete and valid.

    Attributes:
        finished: the last answer is written. Anything that still arrives is discarded.
    """

    finished = False
    _pending_app: Any = None  # what will answer self.cycle, once its body is complete
    # The request that the application answers; self.cycle is the newest one that was parsed.
    _running: RequestResponseCycle | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.more_body:
            self._pending_app = app
        else:
            self._run(cycle, app)

    def _run(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def run_expecting_continue(self) -> None:
        """Start the application for a client that waits for 100 Continue before its body.

        It gets 100 Continue or the final answer: RFC 9110, section 10.1.1.
        """
        app, cycle = self._pending_app, self.cycle
        if app and cycle.waiting_for_100_continue and not cycle.body:
            self._pending_app = None
            self._run(cycle, _ExpectsContinue(app, cycle))

    def on_body(self, body: bytes) -> None:
        if self._pending_app:
            # uvicorn pauses reading at 64 KiB, but nothing takes the body before it is complete.
            self.cycle.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.cycle.waiting_for_100_continue = False
        app, self._pending_app = self._pending_app, None
        if app:
            self.run_whole(self.cycle, app)

    def run_whole(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start the application for a request whose body has just become complete."""
        self._run(cycle, app)

    def is_answering(self) -> bool:
        """Whether the application owes an answer, or the rest of one, to a request that it has."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self.finished:
            return False
        return bool(self.pipeline) or not cycle.more_body or cycle.response_started

    def drop_request(self) -> None:
        """Give up the current request, if its answer is not complete."""
        self._pending_app = None
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


class _ExpectsContinue:
    """The application for a client that sends its body only once it is asked to."""

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        self._app, self._cycle = app, cycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_final(message: Message) -> None:
            if self._cycle.more_body and not self._cycle.response_started:
                # The client may or may not send the body after this answer, so the bytes that
                # follow can't be parsed.
                self._cycle.keep_alive = False
            await send(message)

        try:
            await self._app(scope, receive, send_final)
        except Exception:
            if not self._cycle.disconnected:
                raise
