"""A load that does not wait for answers: requests fall due at a constant rate, in small groups.

A group is dropped, but counted, when its connection is full because the service does not read it.
"""

import select
import socket
import time

from bench.end_to_end import REQUEST, requests
from bench.server import Server

TICK = 0.02  # seconds in which every connection gets a group
SEND_BYTES = 4096  # the client's send buffer of each connection
GROUP = 4  # least requests per write, so that the load generator can keep up


class Flood:
    """Connections that requests are sent on at a constant rate, regardless of the answers.

    Attributes:
        offered: requests that fell due.
        sent: requests that were written to a connection.
        in_time: requests that were answered by the end of `run`.
        lost: connections that the service closed.
        drained: seconds from the end of `run` to the last answer.
    """

    def __init__(self, server: Server, connections: int, rate: float) -> None:
        self._number = connections
        self._rate = rate
        self._poll = select.epoll()
        self._clients = {}
        for _ in range(self._number):
            client = socket.create_connection(("127.0.0.1", server.port))
            requests(client, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            client.setblocking(False)
            self._clients[client.fileno()] = client
            self._poll.register(client, select.EPOLLIN)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(REQUEST)
            self._size = len(client.recv(4096))
        self._cut: dict[int, bytes] = {}  # the unwritten rest of a group, by connection
        self._bytes = 0
        self.offered = self.sent = self.in_time = self.lost = 0
        self.drained = 0.0

    def run(self, seconds: float) -> None:
        """Offer requests for this many seconds."""
        group = max(GROUP, round(self._rate * TICK / self._number))
        order = list(self._clients)
        started = time.monotonic()
        turn = 0
        while (elapsed := time.monotonic() - started) < seconds:
            while self.offered < elapsed * self._rate:
                self._offer(order[turn % self._number], group)
                turn += 1
            self._read(0.001)
        self.in_time = self._bytes // self._size

    def _offer(self, connection: int, group: int) -> None:
        self.offered += group
        if connection not in self._clients:
            return
        rest = self._cut.pop(connection, b"")
        try:
            data = rest or REQUEST * group
            written = self._clients[connection].send(data)
        except BlockingIOError:
            written = 0
        except OSError:
            return
        if written < len(data) and (rest or written):
            self._cut[connection] = data[written:]
        if not rest and written:
            self.sent += group

    def _read(self, wait: float) -> None:
        for connection, _ in self._poll.poll(wait):
            try:
                data = self._clients[connection].recv(262144)
            except OSError:
                data = b""
            self._bytes += len(data)
            if not data:
                self.lost += 1
                self._poll.unregister(connection)
                self._clients.pop(connection).close()

    def drain(self, seconds: float) -> None:
        """Read until no answer has come for 0.3 s, or for this many seconds."""
        started = time.monotonic()
        last = started
        while time.monotonic() - started < seconds and time.monotonic() - last < 0.3:
            before = self._bytes
            self._read(0.01)
            last = time.monotonic() if self._bytes > before else last
        self.drained = last - started

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
