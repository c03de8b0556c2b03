"""The floor: a bare uvloop protocol that sends the same answer to any input."""

import asyncio
import sys

import uvloop

BODY = b'{"left":16.007734298706055,"right":-15.989033699035645}'
HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 21:00:00 GMT\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
)
ANSWER = HEAD % len(BODY) + BODY


class Fixed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        self._write(ANSWER)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Fixed, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
