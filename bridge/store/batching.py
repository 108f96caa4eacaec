"""Batches calls: many callers' items are served by one write. SQLite's `Writer` has a queue of its own for that.

A statement for five hundred rows costs little more than one for a single row. An item that arrives while a write is
under way joins the next one. While many arrive, they wait up to `gap_s`, counted from when the last write began, so
that more of them share a write: this costs latency and saves CPU, which a burst is short of.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from bridge.domain.errors import StoreUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")
GROUP_MAX: Final = 100  # with 200, deliveries wait twice as long while an overdue backlog is polled
MANY: Final = 3  # items in the last write; with `GAP_S` from 375 a second on
GAP_S: Final = 0.008


class Batcher(Generic[Item, Result]):
    """Passes groups of items to `work`, which answers in the same order."""

    def __init__(self, work: Callable[[list[Item]], Awaitable[list[Result]]], *, gap_s: float = 0.0) -> None:
        self._work = work
        self._gap_s = gap_s
        self._began_at = -math.inf
        self._served = 0
        """Items in the last write."""
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """The answer for `item`. StoreUnavailable fails the whole group; any other error only its own item."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve(), name="batcher")
        return await answer

    async def _serve(self) -> None:
        clock = asyncio.get_running_loop().time
        while self._waiting:
            rest_s = self._began_at + self._gap_s - clock() if self._served >= MANY else 0.0
            if rest_s > 0 and len(self._waiting) < GROUP_MAX:
                await asyncio.sleep(rest_s)
            self._began_at = clock()
            group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
            self._served = len(group)
            await self._serve_group(group)

    async def _serve_group(self, group: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            answers = await self._work([item for item, _ in group])
            answered = list(zip(group, answers, strict=True))
        except StoreUnavailable as error:
            for _, future in group:
                _fail(future, error)
        except Exception as error:  # noqa: BLE001 - passed to the caller; which item caused it shows when each is served alone
            if len(group) == 1:
                _fail(group[0][1], error)
            else:
                for one in group:
                    await self._serve_group([one])
        else:
            for (_, future), answer in answered:
                if not future.done():
                    future.set_result(answer)


def _fail(future: asyncio.Future[Result], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


class GroupedWrites(Generic[Item, Result]):
    """Items that one piece of work writes; those that wait at the same time share its statements and a commit."""

    def __init__(self, write: Callable[[Item], Awaitable[Result]]) -> None:
        self._write = write
        self.pending = 0
        """How many callers wait for their answer."""

    async def submit(self, item: Item) -> Result:
        """The answer for `item`, once it is durable. StoreUnavailable fails all, any other error only its own item."""
        self.pending += 1
        try:
            return await self._write(item)
        finally:
            self.pending -= 1
