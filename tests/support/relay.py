"""A wire to a server that a test may make slow."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass
class Relay:
    """port : to connect to instead of the server's. delay : seconds that each answer takes longer."""

    server: int
    port: int = 0
    delay: float = 0.0

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            forth, back = await asyncio.open_connection("127.0.0.1", self.server)
            await asyncio.gather(self._carry(reader, back, 0), self._carry(forth, writer, 1))

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, share: int) -> None:
        with suppress(OSError):
            while content := await source.read(65536):
                await asyncio.sleep(self.delay * share)
                target.write(content)
                await target.drain()
        target.close()


@contextmanager
def relay(server: int) -> Iterator[Relay]:
    """Relays to a port of this machine until the block ends."""
    wire = Relay(server)
    loop = asyncio.new_event_loop()

    async def listen() -> None:
        listener = await asyncio.start_server(wire._connected, "127.0.0.1", 0)
        wire.port = listener.sockets[0].getsockname()[1]

    loop.run_until_complete(listen())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield wire
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
