"""A life of several daemons on one PostgreSQL, whose cables are cut, slow, half open or broken, round after round."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from bridge.store.tables import metadata
from tests.simulation.nursery import Nursery
from tests.simulation.real_life import Node, RealLife
from tests.simulation.world import Window
from tests.support.cuttable_proxy import CuttableProxy
from tests.support.pooler import pgbouncer

LEASE_S: Final = 5.0
AFTERWARDS_S: Final = 3 * LEASE_S  # what a node that was cut off held may be sent again so long


class Cluster(RealLife):
    """`cables` are those of the nodes, by number."""

    cables: list[CuttableProxy]
    server_url = ""
    has_nodes = True

    async def play(self, rounds: int) -> None:
        """So many troubles, one after the other."""
        for node in self.nodes:
            await self.start(node)
        for node in self.nodes:
            await self.until_up(node)
        for number in range(rounds):
            trouble, node = KINDS[number % len(KINDS)], self.chance.choice(self.nodes)
            window = Window("down", "", self.now_s)
            self.windows.append(window)
            self.say(trouble.__name__, node=node.number)
            await trouble(self, node)
            window.until_s = self.now_s + AFTERWARDS_S
            self.reached[trouble.__name__] = self.reached.get(trouble.__name__, 0) + 1

    async def cut(self, node: Node) -> None:
        """Nothing passes for some time, and everything then."""
        self.cables[node.number].cut()
        await asyncio.sleep(self.chance.choice([0.5, 2.0, LEASE_S + 2]))
        self.cables[node.number].mend()

    async def slow(self, node: Node) -> None:
        """Every byte is late."""
        self.cables[node.number].delay_s = 0.05
        await asyncio.sleep(2.0)
        self.cables[node.number].delay_s = 0.0

    async def half_open(self, node: Node) -> None:
        """Nothing arrives any more, and neither end is informed."""
        self.cables[node.number].half_open()
        await asyncio.sleep(1.0)

    async def reset(self, node: Node) -> None:
        """Every connection is reset, three times."""
        for _ in range(3):
            self.cables[node.number].reset()
            await asyncio.sleep(self.chance.random())

    async def kill(self, node: Node) -> None:
        """kill -9, and a new start."""
        await self.end(node, signal.SIGKILL)
        await self.start(node)
        await self.until_up(node)

    async def freeze(self, node: Node) -> None:
        """The process stands still, perhaps for longer than its lease."""
        assert node.pid is not None
        os.kill(node.pid, signal.SIGSTOP)
        await asyncio.sleep(self.chance.choice([1.0, LEASE_S + 2]))
        os.kill(node.pid, signal.SIGCONT)

    async def copy_database(self) -> None:
        engine, copy = create_async_engine(self.server_url), sa.create_engine(f"sqlite:///{self.database_file}")
        self.database_file.parent.mkdir(parents=True)
        metadata.create_all(copy)
        async with engine.connect() as source:
            for table in metadata.sorted_tables:
                rows = [dict(row) for row in (await source.execute(sa.select(table))).mappings()]
                with copy.begin() as target:
                    if rows:
                        target.execute(sa.insert(table), rows)
        copy.dispose()
        await engine.dispose()


KINDS: Final[tuple[Callable[[Cluster, Node], Awaitable[None]], ...]] = (
    Cluster.cut,
    Cluster.slow,
    Cluster.half_open,
    Cluster.reset,
    Cluster.kill,
    Cluster.freeze,
)  # of a round, in turn


@asynccontextmanager
async def wire(url: str, nodes: int, *, is_pooled: bool) -> AsyncIterator[list[tuple[CuttableProxy, str]]]:
    """A cable and the URL at its near end for each node; `is_pooled`: with pgbouncer at its far end."""
    async with AsyncExitStack() as stack:
        if is_pooled:
            url = await stack.enter_async_context(pgbouncer(url, mode="session"))
        before, _, database = url.rpartition("/")
        host, _, port = before.rpartition(":")
        cables = [await stack.enter_async_context(CuttableProxy(int(port))) for _ in range(nodes)]
        yield [(cable, f"{host}:{cable.port}/{database}") for cable in cables]


async def live_in_cluster(seed: int, folder: Path, nursery: Nursery, url: str, rounds: int) -> Cluster:
    """One life of two or three nodes on the empty database at `url`; in every second one behind pgbouncer."""
    chance = random.Random(f"cluster {seed}")
    async with wire(url, chance.choice([2, 3]), is_pooled=seed % 2 == 0) as wired:
        life = Cluster(seed, folder, nursery, [near for _, near in wired])
        life.cables, life.server_url = [cable for cable, _ in wired], url.replace("postgresql", "postgresql+asyncpg", 1)
        await life.begin()
        try:
            await life.play(rounds)
            await life.calm_down()
        finally:
            await life.end_all()
    return life
