"""An event loop on real sockets that never waits for a timer: its clock jumps to it.

It measures figures of one worker beside real servers in the process of the test: what is sent on the loopback can be
read at once. Time stands still while a thread of the database works. `virtual_loop` has no sockets and no threads, and
is for whole lives that can be repeated.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from bridge.store.batching import GroupedWrites
from bridge.store.database import Database
from tests.support.manual_clock import START, ManualClock

T = TypeVar("T")
GRACE_S = 0.001  # for what is on its way through the kernel
REAL_MAX_S = 10.0


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose `clock` jumps to the next timer when nothing else is to be done."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.working = 0
        """How many calls wait for a thread."""
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.clock.monotonic()


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if self._loop.working or timeout is None:
            return super().select(REAL_MAX_S)
        if not (events := super().select(GRACE_S)):
            self._loop.clock.advance(timeout)
        return events


def run_jumping(work: Callable[[JumpingLoop], Coroutine[Any, Any, T]]) -> T:
    """The result of `work(loop)`."""
    loop = JumpingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work(loop))


async def in_real_time(work: Awaitable[T]) -> T:
    """The result of something that waits for a thread; virtual time stands still until then."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    loop.working += 1
    try:
        return await work
    finally:
        loop.working -= 1


def stop_time_while_it_works(database: Database) -> Database:
    """The database, whose work takes no virtual time."""
    read, write, grouped = database.read, database.write, database.grouped

    def grouped_in_real_time(work: Any) -> GroupedWrites[Any, Any]:
        writes = grouped(work)
        return GroupedWrites(lambda item: in_real_time(writes.submit(item)))

    database.read = lambda work: in_real_time(read(work))  # type: ignore[method-assign,assignment]
    database.write = lambda work: in_real_time(write(work))  # type: ignore[method-assign,assignment]
    database.grouped = grouped_in_real_time  # type: ignore[method-assign,assignment]
    return database
