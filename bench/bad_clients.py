"""Bad clients for the soak: malformed, oversized and unfinished requests, resets, silence."""

import asyncio
import random
import socket
import struct

from bench.contenders import QUERY

BAD = (
    b"",
    b"nonsense\r\n\r\n",
    b"GET /inference?position=x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /inference HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\nabc",
    b"POST /inference HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc",
    b"POST /inference HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcdefg\r\n",
    b"GET /inference?position=1&velo",
    f"GET /inference?{QUERY} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 300,
)


async def misbehave(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random
) -> None:
    """Send something bad or unfinished, read little, and perhaps reset the connection."""
    if chance.random() < 0.3:  # close by a reset
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.write(chance.choice(BAD)[: chance.randrange(30_000)])
    await asyncio.sleep(chance.choice([0] * 19 + [5]))  # read nothing meanwhile
    await asyncio.wait_for(reader.read(100), chance.random())
