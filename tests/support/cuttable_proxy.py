"""A TCP proxy before a database that fails like a network: nothing says so to anybody."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

_PIECE = 64 * 1024


class CuttableProxy:
    """Passes bytes on to 127.0.0.1:`target_port`, both ways; an async context manager."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.asked = 0
        """Pieces that came from clients; a small request is one."""
        self.delay_s = 0.0
        """How late each piece is passed on."""
        self._target_port = target_port
        self._is_whole = asyncio.Event()
        self._is_whole.set()
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._silent: set[asyncio.Task[None]] = set()
        """Connections of which nothing arrives any more at either end."""
        self._server: asyncio.Server | None = None

    def cut(self) -> None:
        """From now on bytes are taken in and go nowhere; new connections are accepted and stay silent."""
        self._is_whole.clear()

    def mend(self) -> None:
        """Let bytes flow again, also those that arrived since the cut."""
        self._is_whole.set()

    def half_open(self) -> None:
        """Silence the present connections for ever without closing them; new ones work."""
        self._silent |= self._tasks.keys()

    def reset(self) -> None:
        """Break off every connection."""
        for writer in self._tasks.values():
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._welcome, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._tasks[task] = writer
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._silent.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_writer = None
        me = asyncio.current_task()
        assert me is not None
        try:
            await self._is_whole.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            await asyncio.gather(
                self._pump(me, reader, far_writer, is_from_client=True), self._pump(me, far_reader, writer)
            )
        except OSError:
            pass  # one of the two hung up, and so do we
        finally:
            writer.transport.abort()
            if far_writer is not None:
                far_writer.transport.abort()

    async def _pump(
        self,
        me: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_from_client: bool = False,
    ) -> None:
        try:
            while piece := await reader.read(_PIECE):
                self.asked += is_from_client
                await self._is_whole.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if me not in self._silent:
                    writer.write(piece)
                    await writer.drain()
        finally:
            if me not in self._silent:
                writer.close()
