"""The write desk when everything is torn down around it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from bridge.domain.errors import StoreUnavailable
from bridge.store.transaction import Tx
from tests.support.watching import open_database


async def test_nobody_waits_for_ever_for_a_desk_that_was_cancelled(tmp_path: Path) -> None:
    """As a fault does that ends the loop: the daemon would neither work nor end, and nobody would start it again."""
    begun, ends = threading.Event(), threading.Event()

    def work(_: Tx) -> None:
        begun.set()
        ends.wait(10)

    async with open_database(f"sqlite:///{tmp_path / 'runbridge.db'}") as database:
        under_way = asyncio.create_task(database.write(work))
        await asyncio.to_thread(begun.wait, 10)
        queued = asyncio.create_task(database.write(lambda _: None))
        await asyncio.sleep(0)
        assert database._desk is not None
        assert database._desk._task is not None
        database._desk._task.cancel()
        for waiting in (under_way, queued):
            with pytest.raises(StoreUnavailable, match="stopping"):
                await asyncio.wait_for(waiting, 10)
        ends.set()
        with pytest.raises(StoreUnavailable, match="stopping"):
            await database.write(lambda _: None)
