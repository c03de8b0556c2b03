"""Tests of cartpole/process/template.py."""

import socket

from cartpole.process.template import _is_abandoned


def test_a_worker_is_abandoned_once_the_supervisor_has_closed_its_socket() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert not _is_abandoned(theirs)
        ours.send(b"an order")
        assert not _is_abandoned(theirs)
        assert theirs.recv(100) == b"an order"
        ours.close()
        assert _is_abandoned(theirs)
