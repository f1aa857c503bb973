"""The program behind :class:`langchain_ralmspec.bench.servers.relay.Relay`.

It runs by itself, as ``python relay_process.py PORT SECONDS``, and imports
nothing of this package, so that it starts at once and shares no interpreter lock
with what is being measured. It prints the port it listens on, and ends when its
standard input does: a parent that dies, however suddenly, leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque

HOST = "127.0.0.1"

MAX_CONNECTIONS = 128
"""A client beyond this many is hung up on."""

MAX_DELAYED_BYTES = 8 << 20
"""Held back in one direction of one connection; then the sender has to wait."""

_CHUNK_BYTES = 1 << 16
_OVERHEAD_BYTES = 256  # of a chunk in memory, so that many tiny ones are bounded too


class DelayLine:
    """One direction of one connection: what comes in leaves ``latency`` later.

    Chunks are under way together, as on a long cable: only the first one's delay is
    felt, not the sum of all.
    """

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._chunks: deque[tuple[float, bytes]] = deque()  # due when, what
        self._size = 0
        self._changed = asyncio.Condition()

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry everything from one side to the other, the end of it included."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take(reader))
            group.create_task(self._give(writer))

    async def _take(self, reader: asyncio.StreamReader) -> None:
        clock = asyncio.get_running_loop()
        while True:
            data = await reader.read(_CHUNK_BYTES)  # empty at the end
            async with self._changed:
                await self._changed.wait_for(lambda: self._size < MAX_DELAYED_BYTES)
                self._chunks.append((clock.time() + self._latency, data))
                self._size += len(data) + _OVERHEAD_BYTES
                self._changed.notify_all()
            if not data:
                return

    async def _give(self, writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop()
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._chunks))
                due, data = self._chunks.popleft()
            await asyncio.sleep(due - clock.time())
            if data:
                writer.write(data)
                await writer.drain()
            elif writer.can_write_eof():
                writer.write_eof()
            async with self._changed:
                self._size -= len(data) + _OVERHEAD_BYTES
                self._changed.notify_all()
            if not data:
                return


class Switchboard:
    """Connects every client to the target, over two delay lines."""

    def __init__(self, port: int, latency: float) -> None:
        self._port = port
        self._latency = latency
        self._n_connections = 0

    async def connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one client until both directions have ended, or one has failed."""
        if self._n_connections == MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._n_connections += 1
        try:
            # A group of errors if one direction failed: the client sees it in that
            # its connection is reset.
            with contextlib.suppress(OSError, ExceptionGroup):
                await self._bridge(reader, writer)
        finally:
            self._n_connections -= 1
            writer.transport.abort()

    async def _bridge(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection(HOST, self._port)
        try:
            async with asyncio.TaskGroup() as group:
                there, back = DelayLine(self._latency), DelayLine(self._latency)
                group.create_task(there.carry(reader, far_writer))
                group.create_task(back.carry(far_reader, writer))
            for each in (writer, far_writer):
                each.close()  # once what is left in it has gone
                await each.wait_closed()
        finally:
            far_writer.transport.abort()


async def serve(port: int, latency: float) -> None:
    """Relay to a port until standard input ends."""
    switchboard = Switchboard(port, latency)
    server = await asyncio.start_server(switchboard.connect, HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201  for the parent
    loop, orphaned = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), orphaned.set)
    await orphaned.wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
