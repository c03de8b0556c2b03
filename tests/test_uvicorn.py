"""What cartpole relies on in uvicorn, whose server it is. A failure names what has changed."""

import asyncio
import inspect
import socket
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.support.paths import ROOT

# Attributes that both sides use, and why we do.
SERVER_STATE = {
    "total_requests": "counts answers, for --limit-requests and the line at the stop",
    "connections": "shutdown() is called on each, and the stop waits until it is empty",
    "tasks": "the stop waits until it is empty: requests that the application answers",
    "default_headers": "the date, in a new list once a second",
}
SERVER = {
    "config": "the backlog of further listeners",
    "server_state": "handed to our connections",
    "servers": "listeners, which we add and close with the number of connections",
    "should_exit": "set to stop",
    "force_exit": "set to stop without waiting",
}
# Methods that we call or override, with their parameters, and why.
METHODS = {
    "__init__": ("self config", "ours takes more"),
    "run": ("self sockets", "runs the event loop, with a socket that is bound already"),
    "capture_signals": ("self", "ours delivers signals by another way, and raises none again"),
    "startup": ("self sockets", "ours listens on several duplicates of one socket"),
    "on_tick": ("self counter", "ours also ends the drain and checks --limit-requests"),
    "shutdown": ("self sockets", "ours first accepts what waits in the kernel"),
}
CONFIG = {
    "load": "makes the TLS context, and imports nothing of uvicorn.protocols for http and ws",
    "http_protocol_class": "makes a connection; replaced for TLS",
    "ssl": "set to None, as TLS is a transport of our own",
    "backlog": "of each listener",
}


def changed(what: str) -> str:
    return (
        f"uvicorn {uvicorn.__version__} changed {what}, which cartpole relies on. Read its "
        "server.py beside cartpole/process/server.py, then move the bound in pyproject.toml"
    )


async def app(scope: Any, receive: Any, send: Any) -> None: ...


def make_config() -> uvicorn.Config:
    config = uvicorn.Config(app, http=asyncio.Protocol, ws="none", lifespan="off", log_config=None)
    config.load()
    return config


def test_the_state_of_a_server() -> None:
    assert vars(ServerState()).keys() >= SERVER_STATE.keys(), changed("ServerState")


def test_the_attributes_of_a_server_and_its_configuration() -> None:
    config = make_config()
    assert vars(uvicorn.Server(config)).keys() >= SERVER.keys() - {"servers"}, changed("Server")
    assert "self.servers" in inspect.getsource(uvicorn.Server.startup), changed("Server.servers")
    for name in CONFIG:
        assert hasattr(config, name), changed(f"Config.{name}")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_same_parameters(name: str) -> None:
    method, (parameters, _) = getattr(uvicorn.Server, name), METHODS[name]
    assert list(inspect.signature(method).parameters) == parameters.split(), changed(name)


def test_default_headers_are_replaced_and_not_modified() -> None:
    """Response heads are kept for as long as the list of default headers is the same object."""

    async def run() -> None:
        server = uvicorn.Server(make_config())
        await server.on_tick(0)
        before = server.server_state.default_headers
        assert [name for name, _ in before] == [b"date", b"server"], changed("the date")
        await server.on_tick(10)
        assert server.server_state.default_headers is not before, changed("the date")

    asyncio.run(run())


def test_a_stop_waits_for_connections_and_tasks() -> None:
    """Connections and TLS handshakes add themselves to the set, tasks too."""

    class Client:
        def shutdown(self) -> None:
            told.append(self)

    async def run() -> None:
        server = uvicorn.Server(make_config())
        server.lifespan = server.config.lifespan_class(server.config)
        server.servers = []
        client = Client()
        server.server_state.connections.add(client)  # type: ignore[arg-type]
        stopping = asyncio.create_task(server.shutdown())
        while not told:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert not stopping.done(), changed("the stop")
        server.server_state.connections.clear()
        await asyncio.wait_for(stopping, 30)

    told: list[Client] = []
    asyncio.run(run())
    assert len(told) == 1


def test_signals_are_handled_in_one_place() -> None:
    """Our server overrides it."""
    source = inspect.getsource(uvicorn.Server)
    assert "with self.capture_signals():" in source, changed("Server.capture_signals")
    assert source.count("signal.signal(") == 2, changed("who else handles signals")


def test_a_protocol_is_made_with_keyword_arguments() -> None:
    """Ours ignores them all."""
    made: list[dict[str, Any]] = []

    class Seen(asyncio.Protocol):
        def __init__(self, **arguments: Any) -> None:
            made.append(arguments)

    async def run() -> None:
        config = make_config()
        config.http_protocol_class = Seen
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        listener = socket.create_server(("127.0.0.1", 0))
        await server.startup([listener])
        _, writer = await asyncio.open_connection(*listener.getsockname())
        while not made:
            await asyncio.sleep(0.01)
        writer.close()
        for each in server.servers:
            each.close()

    asyncio.run(run())
    assert made, changed("what makes a protocol")


def test_nothing_of_its_protocols_is_imported() -> None:
    for path in (ROOT / "cartpole").rglob("*.py"):
        assert "uvicorn.protocols" not in path.read_text(), path
