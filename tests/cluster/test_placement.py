"""Replicas on a cluster of two nodes: what they answer, and what happens when something fails."""

import os
import signal
from pathlib import Path

import pytest

from bench.ray_nodes import HEAD, OTHER, Node
from tests.cluster.clients import under_load
from tests.cluster.command import Command, ask, until

GONE_SECONDS = 5  # from a fault until the endpoint is no longer listed
CHILD_SECONDS = 10  # from the end of an actor to the end of its child
BACK_SECONDS = 30  # from a fault until there are as many replicas as before


def parent(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def test_both_nodes_answer_as_the_single_process_does(two_nodes: Command, answer: bytes) -> None:
    assert {ask(endpoint) for endpoint in two_nodes.endpoints()} == {answer}


def test_upstream_of_nginx_names_the_same_endpoints(two_nodes: Command) -> None:
    upstream = two_nodes.nginx.read_text()
    assert upstream.count("    server ") == 2
    for endpoint in two_nodes.endpoints():
        assert f"    server {endpoint} " in upstream
    until(lambda: two_nodes.reloads.read_text().split()[-1] == "2")


def test_one_three_one(two_nodes: Command, answer: bytes) -> None:
    two_nodes.scale(1)
    (first,) = two_nodes.endpoints()
    with under_load(two_nodes.endpoints) as load:
        two_nodes.scale(3)
        assert len(two_nodes.endpoints()) == 3
        assert set(two_nodes.hosts()) == {HEAD, OTHER}
        two_nodes.scale(1)
        assert len(two_nodes.endpoints()) == 1
    assert load.bodies == {answer}
    assert first.partition(":")[0] in two_nodes.hosts()


def test_another_policy_is_taken_in_place(
    two_nodes: Command, answer: bytes, another_model: bytes
) -> None:
    nodes = two_nodes.cluster.head, two_nodes.cluster.other
    before, shipped = [node.services() for node in nodes], two_nodes.model.read_bytes()
    try:
        with under_load(two_nodes.endpoints) as load:
            two_nodes.replace_model(another_model)
            until(lambda: answer not in map(ask, two_nodes.endpoints()))
            end = len(load.bodies)
        assert end == 2
        (other,) = load.bodies - {answer}
        assert {ask(endpoint) for endpoint in two_nodes.endpoints()} == {other}
        assert [node.services() for node in nodes] == before
        two_nodes.scale(3)  # one that starts later serves it too
        assert {ask(endpoint) for endpoint in two_nodes.endpoints()} == {other}
    finally:
        two_nodes.replace_model(shipped)
        until(lambda: set(map(ask, two_nodes.endpoints())) == {answer})


def test_bad_policy_is_refused(two_nodes: Command, answer: bytes) -> None:
    shipped, rejected = two_nodes.model.read_bytes(), "still serving the previous policy: model "
    two_nodes.replace_model(shipped[:3000])
    until(lambda: two_nodes.logged(f"{rejected}.*: not a TorchScript file"))
    two_nodes.model.unlink()
    os.mkfifo(two_nodes.model)
    two_nodes.process.send_signal(signal.SIGHUP)
    until(lambda: two_nodes.logged(f"{rejected}.*: not a regular file"))
    assert {ask(endpoint) for endpoint in two_nodes.endpoints()} == {answer}
    two_nodes.replace_model(shipped)
    until(lambda: two_nodes.logged("reload: rolling out sha256 "))


def test_child_is_replaced(two_nodes: Command) -> None:
    (child,) = two_nodes.cluster.other.services()
    os.kill(child, signal.SIGKILL)
    gone = until(lambda: len(two_nodes.endpoints()) == 1, GONE_SECONDS)
    until(lambda: len(two_nodes.endpoints()) == 2, BACK_SECONDS - gone)
    assert two_nodes.hosts() == [HEAD, OTHER]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_child_ends_with_its_actor(two_nodes: Command, number: int) -> None:
    (child,) = two_nodes.cluster.other.services()
    os.kill(parent(child), number)
    until(lambda: child not in two_nodes.cluster.other.services(), CHILD_SECONDS)
    gone = until(lambda: len(two_nodes.endpoints()) == 1, GONE_SECONDS)
    until(lambda: len(two_nodes.endpoints()) == 2, BACK_SECONDS - gone)


def test_killed_node(two_nodes: Command, doomed: Node, answer: bytes) -> None:
    with under_load(two_nodes.endpoints) as load:
        doomed.kill_ray()
        gone = until(lambda: OTHER not in two_nodes.hosts(), GONE_SECONDS)
        back = gone + until(lambda: two_nodes.hosts() == [HEAD, HEAD], BACK_SECONDS - gone)
    assert load.bodies == {answer}
    assert doomed.services() == []
    print(f"killed node: {load.sent} requests, {load.retried} again; {gone:.1f} s, {back:.1f} s")


def test_silent_node(two_nodes: Command, doomed: Node, answer: bytes) -> None:
    with under_load(two_nodes.endpoints) as load:
        doomed.halt()
        gone = until(lambda: OTHER not in two_nodes.hosts(), GONE_SECONDS)
        back = gone + until(lambda: two_nodes.hosts() == [HEAD, HEAD], BACK_SECONDS - gone)
    assert load.bodies == {answer}
    doomed.resume()  # it finds itself expelled
    until(lambda: doomed.services() == [], BACK_SECONDS)
    print(f"silent node: {load.sent} requests, {load.retried} again; {gone:.1f} s, {back:.1f} s")
