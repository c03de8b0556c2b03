"""Everything that cartpole relies on in uvicorn beyond its documented interface.

A failure names what has changed. The places that rely on it are in cartpole/http and
cartpole/process/server.py.
"""

import asyncio
import inspect
import re
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

# Methods that we call, override, or that call ours; with their parameters.
METHODS: list[tuple[type, str, str]] = [
    (HttpToolsProtocol, "__init__", "self config server_state app_state _loop"),
    (HttpToolsProtocol, "connection_made", "self transport"),
    (HttpToolsProtocol, "connection_lost", "self exc"),
    (HttpToolsProtocol, "data_received", "self data"),
    (HttpToolsProtocol, "eof_received", "self"),
    (HttpToolsProtocol, "pause_writing", "self"),
    (HttpToolsProtocol, "resume_writing", "self"),
    (HttpToolsProtocol, "shutdown", "self"),
    (HttpToolsProtocol, "send_400_response", "self msg"),
    (HttpToolsProtocol, "on_message_begin", "self"),
    (HttpToolsProtocol, "on_url", "self url"),
    (HttpToolsProtocol, "on_header", "self name value"),
    (HttpToolsProtocol, "on_headers_complete", "self"),
    (HttpToolsProtocol, "on_body", "self body"),
    (HttpToolsProtocol, "on_message_complete", "self"),
    (HttpToolsProtocol, "on_response_complete", "self"),
    (HttpToolsProtocol, "_start_asgi_task", "self cycle app"),
    (HttpToolsProtocol, "_unset_keepalive_if_required", "self"),
    (FlowControl, "pause_reading", "self"),
    (FlowControl, "resume_reading", "self"),
    (uvicorn.Config, "load", "self"),
    (uvicorn.Server, "__init__", "self config"),
    (uvicorn.Server, "run", "self sockets"),
    (uvicorn.Server, "capture_signals", "self"),
    (uvicorn.Server, "startup", "self sockets"),
    (uvicorn.Server, "on_tick", "self counter"),
    (uvicorn.Server, "shutdown", "self sockets"),
]

# Attributes that their code sets or reads, and that ours reads or sets too.
ATTRIBUTES: list[tuple[type, str]] = [
    (HttpToolsProtocol, "app cycle expect_100_continue flow headers loop parser pipeline"),
    (HttpToolsProtocol, "scope server_state transport url"),
    (RequestResponseCycle, "body disconnected keep_alive message_event more_body"),
    (RequestResponseCycle, "response_complete response_started transport"),
    (RequestResponseCycle, "waiting_for_100_continue"),
    (FlowControl, "read_paused write_paused"),
    (uvicorn.Server, "should_exit force_exit server_state"),
    (uvicorn.Config, "backlog http_protocol_class ssl"),
]


def changed(what: str) -> str:
    return (
        f"uvicorn {uvicorn.__version__} changed {what}, which cartpole relies on. Read its "
        "httptools_impl.py and server.py beside cartpole/http and cartpole/process/server.py, "
        "then move the pin in pyproject.toml"
    )


def check_source(source: Any, text: str, what: str) -> None:
    assert text in inspect.getsource(source), changed(what)


@pytest.mark.parametrize(("owner", "name", "parameters"), METHODS)
def test_a_method_has_the_same_parameters(owner: type, name: str, parameters: str) -> None:
    what = f"{owner.__name__}.{name}"
    method = getattr(owner, name, None)
    assert method is not None, changed(what)
    assert list(inspect.signature(method).parameters) == parameters.split(), changed(what)


@pytest.mark.parametrize(("owner", "names"), ATTRIBUTES)
def test_attributes_are_still_there(owner: type, names: str) -> None:
    for name in names.split():
        pattern = rf"\bself\.{name}\b|^    {name}\b|def {name}\b"
        assert re.search(pattern, _source(owner), re.M), changed(f"{owner.__name__}.{name}")


def _source(owner: type) -> str:
    bases = [base for base in owner.__mro__ if base.__module__.startswith("uvicorn")]
    return "\n".join(inspect.getsource(base) for base in bases)


def test_the_state_of_a_server() -> None:
    names = {"total_requests", "connections", "tasks", "default_headers"}
    assert names <= vars(ServerState()).keys(), changed("ServerState")


def test_status_lines_are_made_once() -> None:
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n", changed("STATUS_LINE")


def test_default_headers_are_replaced_and_not_modified() -> None:
    """Response heads are kept for as long as the list of default headers is the same object."""
    check_source(
        uvicorn.Server.on_tick, "self.server_state.default_headers = ", "the headers of each second"
    )


def test_errors_of_the_parser_are_answered_by_one_method() -> None:
    check_source(HttpToolsProtocol, "self.send_400_response(msg)", "how a parser error is answered")


def test_the_scheme_is_taken_from_the_transport() -> None:
    """Our TLS transport answers this question."""
    check_source(is_ssl, 'get_extra_info("sslcontext")', "how the scheme is found")
    check_source(HttpToolsProtocol, "is_ssl(transport)", "how the scheme is found")


def test_signals_are_handled_in_one_place() -> None:
    """Our server overrides it."""
    check_source(uvicorn.Server.serve, "with self.capture_signals():", "Server.capture_signals")
    source = inspect.getsource(uvicorn.Server)
    assert source.count("signal.signal(") == 2, changed("who else handles signals")


def test_a_stopping_server_waits_for_connections_and_their_tasks() -> None:
    """TLS handshakes are added to the connections, so that they are shut down as well."""
    source = inspect.getsource(uvicorn.Server.shutdown)
    assert "self.server_state.connections" in source, changed("Server.shutdown")
    assert ".shutdown()" in source, changed("how connections are shut down")


def test_listeners_are_served_as_they_are_given() -> None:
    """startup() is given several duplicates of each listening socket."""
    source = inspect.getsource(uvicorn.Server.startup)
    assert "sock=sock" in source, changed("Server.startup")
    assert "http_protocol_class" in source, changed("what makes a protocol")


def test_a_protocol_is_made_with_these_arguments() -> None:
    """TLSTransport passes them on, and partial() puts ours in front."""
    source = inspect.getsource(uvicorn.Server.startup)
    for name in ("config=config", "server_state=self.server_state", "app_state="):
        assert name in source, changed(f"the argument {name}")


def test_the_configuration_takes_a_protocol_class() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    config = uvicorn.Config(app, http=asyncio.Protocol, lifespan="off")
    config.load()
    assert config.http_protocol_class is asyncio.Protocol, changed("Config.http")
    assert config.ssl is None, changed("Config.ssl")
