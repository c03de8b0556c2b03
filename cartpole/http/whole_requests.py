"""When a request enters the application: once it has arrived whole, so that it has one answer.

The exception are clients that wait for 100 Continue. Leans on uvicorn's HttpToolsProtocol.
"""

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class WholeRequests(HttpToolsProtocol):
    """A connection whose application starts when the body is complete, and can't turn bad.

    Attributes:
        ended: the last answer is written; what still comes is discarded.
    """

    ended = False
    _unstarted: Any = None  # what is to answer the current request, self.cycle
    _running: RequestResponseCycle | None = None  # the request that the application answers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.more_body:
            self._unstarted = app
        else:
            self._enter(cycle, app)

    def _enter(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def start_waiting(self) -> None:
        """RFC 9110, 10.1.1: who waits with the body gets 100 Continue, or the answer without it."""
        app, cycle = self._unstarted, self.cycle
        if app and cycle.waiting_for_100_continue and not cycle.body:
            self._unstarted = None
            self._enter(cycle, _Waiting(app, cycle))

    def on_body(self, body: bytes) -> None:
        if self._unstarted:
            self.cycle.body += body  # uvicorn would read no more past 64 KiB: nobody takes it yet
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.cycle.waiting_for_100_continue = False
        app, self._unstarted = self._unstarted, None
        if app:
            self._enter(self.cycle, app)

    def answering(self) -> bool:
        """Whether the application owes an answer, or the rest of one, to a request it has."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self.ended:
            return False
        return bool(self.pipeline) or not cycle.more_body or cycle.response_started

    def discard(self) -> None:
        """The current request, if its body is still to come, will not be answered."""
        self._unstarted = None
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


class _Waiting:
    """The application for a client that sends its body only once it is asked to."""

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        self._app, self._cycle = app, cycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if self._cycle.more_body and not self._cycle.response_started:
                # Whether the body comes now is not known: what follows can't be understood.
                self._cycle.keep_alive = False
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception:
            if not self._cycle.disconnected:
                raise
