"""The parts of uvicorn beyond its documented interface that cartpole relies on."""

import inspect
import re

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

ADVICE = (
    "uvicorn {version} changed {what}, which cartpole's protocol.py, messages.py, fastpath.py or "
    "worker.py leans on: read them beside uvicorn's httptools_impl.py and server.py, then move the "
    "pin in pyproject.toml"
)

METHODS = {
    "__init__": ["self", "config", "server_state", "app_state", "_loop"],
    "connection_made": ["self", "transport"],
    "connection_lost": ["self", "exc"],
    "data_received": ["self", "data"],
    "eof_received": ["self"],
    "pause_writing": ["self"],
    "resume_writing": ["self"],
    "shutdown": ["self"],
    "send_400_response": ["self", "msg"],
    "on_message_begin": ["self"],
    "on_url": ["self", "url"],
    "on_header": ["self", "name", "value"],
    "on_headers_complete": ["self"],
    "on_body": ["self", "body"],
    "on_message_complete": ["self"],
    "on_response_complete": ["self"],
    "_start_asgi_task": ["self", "cycle", "app"],
    "_unset_keepalive_if_required": ["self"],
}
PROTOCOL_ATTRIBUTES = (
    "app",
    "parser",
    "cycle",
    "pipeline",
    "flow",
    "transport",
    "headers",
    "access_log",
)
CYCLE_ATTRIBUTES = (
    "transport",
    "response_complete",
    "response_started",
    "keep_alive",
    "body",
    "more_body",
    "disconnected",
    "message_event",
    "waiting_for_100_continue",
)


def changed(what: str) -> str:
    return ADVICE.format(version=uvicorn.__version__, what=what)


def test_the_internals_of_uvicorn_exist() -> None:
    for name, parameters in METHODS.items():
        method = getattr(HttpToolsProtocol, name, None)
        assert method is not None, changed(name)
        assert list(inspect.signature(method).parameters) == parameters, changed(name)
    source = inspect.getsource(HttpToolsProtocol)
    for name in PROTOCOL_ATTRIBUTES:
        assert re.search(rf"\bself\.{name}\b", source), changed(f"HttpToolsProtocol.{name}")
    assert "self.send_400_response(msg)" in source, changed("how a parser error is answered")
    for name in CYCLE_ATTRIBUTES:
        assert f"self.{name} = " in inspect.getsource(RequestResponseCycle), changed(name)
    assert {"total_requests", "default_headers"} <= vars(ServerState()).keys(), changed("its state")
    for name in ("pause_reading", "resume_reading"):
        assert hasattr(FlowControl, name), changed(f"FlowControl.{name}")
    assert "write_paused" in inspect.getsource(FlowControl), changed("FlowControl.write_paused")


def test_default_headers_are_replaced_not_changed() -> None:
    """The fast path keeps its heads for as long as the list of default headers is the same one."""
    source = inspect.getsource(uvicorn.Server.on_tick)
    assert "self.server_state.default_headers = " in source, changed("Server.on_tick")


def test_signals_are_handled_in_one_place() -> None:
    """worker.py puts its own there, and tells the server by two attributes that it is to end."""
    source = inspect.getsource(uvicorn.Server.serve)
    assert "with self.capture_signals():" in source, changed("Server.capture_signals")
    source = inspect.getsource(uvicorn.Server)
    assert source.count("signal.signal(") == 2, changed("who else handles signals")
    assert {"should_exit", "force_exit"} <= vars(uvicorn.Server(uvicorn.Config(""))).keys(), (
        changed("how a server is told to end")
    )
