"""Items of many callers share writes; only while many arrive do they wait for one another."""

from __future__ import annotations

import asyncio

from bridge.store.batching import MANY, Batcher
from tests.support.waiting import until

LONG_S = 3600.0


class Writes:
    """Writes groups of items, and holds the writing up while it is `closed`."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.opened = asyncio.Event()
        self.opened.set()

    async def write(self, items: list[int]) -> list[int]:
        self.groups.append(items)
        await self.opened.wait()
        return items


async def test_items_that_come_one_by_one_do_not_wait_for_more() -> None:
    writes = Writes()
    batcher = Batcher(writes.write, gap_s=LONG_S)
    assert [await batcher.submit(number) for number in range(4)] == [0, 1, 2, 3]
    assert writes.groups == [[0], [1], [2], [3]]


async def test_what_arrives_during_a_write_shares_the_next() -> None:
    writes = Writes()
    batcher = Batcher(writes.write, gap_s=LONG_S)
    writes.opened.clear()
    first = asyncio.create_task(batcher.submit(0))
    await until(lambda: writes.groups == [[0]])
    others = [asyncio.create_task(batcher.submit(number)) for number in range(1, MANY)]
    await asyncio.sleep(0)
    writes.opened.set()
    assert await asyncio.gather(first, *others) == [*range(MANY)]
    assert writes.groups == [[0], [*range(1, MANY)]]


async def test_while_many_arrive_the_next_write_waits_for_more() -> None:
    writes = Writes()
    batcher = Batcher(writes.write, gap_s=LONG_S)
    await asyncio.gather(*(batcher.submit(number) for number in range(MANY)))
    late = asyncio.create_task(batcher.submit(MANY))
    for _ in range(100):
        await asyncio.sleep(0)
    assert writes.groups == [[*range(MANY)]]
    late.cancel()
