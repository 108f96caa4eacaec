"""The writer when its thread ends, what shares a commit, and what it caches from one commit to the next."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.domain.errors import Conflict, StoreUnavailable
from bridge.store import endpoints
from bridge.store.transaction import Tx
from tests.support.watching import add_endpoint, open_database


class _Fault(BaseException):
    """Stands for an error that no code expects."""


async def test_no_caller_waits_for_ever_for_a_writer_whose_thread_has_ended(tmp_path: Path) -> None:
    """As a fault does that ends the thread. Otherwise the daemon would neither work nor end."""
    begun, ends = threading.Event(), threading.Event()

    def work(_: Tx) -> None:
        begun.set()
        ends.wait(60)
        raise _Fault

    async with open_database(f"sqlite:///{tmp_path / 'runbridge.db'}") as database:
        under_way = asyncio.create_task(database.write(work))
        await asyncio.to_thread(begun.wait, 60)
        queued = asyncio.create_task(database.write(lambda _: None))
        await asyncio.sleep(0)
        ends.set()
        for waiting in (under_way, queued):
            with pytest.raises(StoreUnavailable, match="stopping"):
                await asyncio.wait_for(waiting, 60)
        with pytest.raises(StoreUnavailable, match="stopping"):
            await database.write(lambda _: None)
        with pytest.raises(_Fault):
            await database.wait_writer_ended()


async def test_what_was_committed_is_answered_although_announcing_it_fails(tmp_path: Path) -> None:
    """The daemon ends with the fault; a caller must not take for undone what is durable."""

    def announce(_: object) -> None:
        raise ValueError("a test")

    async with open_database(f"sqlite:///{tmp_path / 'runbridge.db'}") as database:
        database.listeners.append(announce)
        assert await database.write(lambda _: 1) == 1
        with pytest.raises(ValueError, match="a test"):
            await database.wait_writer_ended()
        with pytest.raises(StoreUnavailable, match="stopping"):
            await database.write(lambda _: None)


async def test_items_that_wait_are_written_together_and_fail_alone(tmp_path: Path) -> None:
    begun, ends = threading.Event(), threading.Event()
    calls: list[list[int]] = []

    def hold(_: Tx) -> None:
        begun.set()
        ends.wait(60)

    def work(tx: Tx, items: list[int]) -> list[int]:
        calls.append(items)
        if 2 in items:
            raise Conflict("a test")
        return [10 * item for item in items]

    async with open_database(f"sqlite:///{tmp_path / 'runbridge.db'}") as database:
        writes = database.grouped(work)
        held = asyncio.create_task(database.write(hold))
        await asyncio.to_thread(begun.wait, 60)
        waiting = [asyncio.create_task(writes.submit(item)) for item in (1, 2, 3, 4)]
        await asyncio.sleep(0)
        assert writes.pending == 4
        waiting.pop().cancel()  # its caller is gone
        ends.set()
        await held
        assert await asyncio.gather(*waiting, return_exceptions=True) == [10, waiting[1].exception(), 30]
        assert isinstance(waiting[1].exception(), Conflict)
        assert writes.pending == 0
    assert calls == [[1, 2, 3], [1], [2], [3]]


async def test_a_commit_that_fails_drops_what_was_cached_in_it(tmp_path: Path) -> None:
    async with open_database(f"sqlite:///{tmp_path / 'runbridge.db'}") as database:
        kept = await add_endpoint(database)

        def listeners(tx: Tx) -> list[str]:
            return [each.id for each in endpoints.shared_listeners(tx)]

        def switch_off_in_vain(tx: Tx) -> None:
            endpoints.disable_endpoint(tx, kept.id, "a test")
            assert listeners(tx) == []
            assert tx.driver is not None
            tx.driver.execute("ROLLBACK")  # as a full disk does

        assert await database.write(listeners) == [kept.id]
        with pytest.raises(StoreUnavailable):
            await database.write(switch_off_in_vain)
        assert await database.write(listeners) == [kept.id]
        await database.write(lambda tx: endpoints.disable_endpoint(tx, kept.id, "a test"))
        assert await database.write(listeners) == []
        await database.write(lambda tx: endpoints.enable_endpoint(tx, kept.id))
        assert await database.write(listeners) == [kept.id]


async def test_what_is_written_alone_shares_its_commit_with_nothing_and_keeps_its_turn(tmp_path: Path) -> None:
    """The times of everything before it are moved with the clock, those of what follows are new."""
    begun, ends = threading.Event(), threading.Event()
    commits: list[tuple[str, object]] = []

    def hold(_: Tx) -> None:
        begun.set()
        ends.wait(60)

    def note(name: str) -> Callable[[Tx], None]:
        return lambda tx: commits.append((name, tx.now))

    async with open_database(f"sqlite:///{tmp_path / 'runbridge.db'}") as database:
        held = asyncio.create_task(database.write(hold))
        await asyncio.to_thread(begun.wait, 60)
        writes = [database.write(note("before")), database.write(note("before"))]
        writes += [database.write_alone(note("alone")), database.write(note("after")), database.write(note("after"))]
        queued = [asyncio.create_task(write) for write in writes]
        await asyncio.sleep(0)
        ends.set()
        await asyncio.gather(held, *queued)
    assert [name for name, _ in commits] == ["before", "before", "alone", "after", "after"]
    instants = [at for _, at in commits]
    assert instants[0] == instants[1] < instants[2] < instants[3] == instants[4]
