"""The floor for Python: a bare uvloop protocol that answers constant bytes.

`fixed.py PORT [spin]`: with spin, its event loop never sleeps. A request with Connection: close is
its connection's last.
"""

import asyncio
import sys

import uvloop

BODY = b'{"left":16.007734298706055,"right":-15.989033699035645}'
HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 21:00:00 GMT\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
)
ANSWER = HEAD % (len(BODY), b"") + BODY
LAST_ANSWER = HEAD % (len(BODY), b"connection: close\r\n") + BODY


class Fixed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        if b"Connection: close" in data:
            self._write(LAST_ANSWER)
            self._transport.close()
        else:
            self._write(ANSWER)


def spin(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon(spin, loop)


async def main(port: int, spins: bool) -> None:
    loop = asyncio.get_running_loop()
    if spins:
        spin(loop)
    server = await loop.create_server(Fixed, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), "spin" in sys.argv[2:]))
