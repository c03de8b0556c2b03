"""One cluster for all tests of this folder, and one command on it for those of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.ray_nodes import HEAD, OTHER, Cluster, Node
from bench.server import serving
from cartpole.settings import BUNDLED_MODEL
from tests.cluster.command import Command
from tests.support.models import mlp, save
from tests.support.paths import GOLDEN


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("nodes"))
    try:
        yield found
    finally:
        found.end()


@pytest.fixture(scope="module")
def command(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    found = Command(cluster, tmp_path_factory.mktemp("command"), BUNDLED_MODEL.read_bytes(), 2)
    try:
        found.wait_for(2)
        yield found
    finally:
        found.end()


@pytest.fixture
def two_nodes(command: Command) -> Command:
    """The command, with a replica on each node."""
    if command.hosts() != [HEAD, OTHER]:
        command.scale(0)
        command.scale(2)
    assert command.hosts() == [HEAD, OTHER]
    return command


@pytest.fixture
def doomed(two_nodes: Command) -> Iterator[Node]:
    """The node of one of the two replicas, to be killed or halted."""
    yield two_nodes.cluster.other
    two_nodes.cluster.restart_other()


@pytest.fixture(scope="session")
def answer() -> bytes:
    """The body that a single process of the service answers."""
    with serving() as server:
        return server.get(f"/inference?{GOLDEN}")[1]


@pytest.fixture(scope="session")
def another_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path: Path = save(tmp_path_factory.mktemp("model") / "another.pt", mlp(4, 16, 2))
    return path.read_bytes()
