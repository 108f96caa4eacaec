"""Costly filters: judged outside the write transaction, with the same outcome as inside it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest

from bridge.domain.clock import SystemClock
from bridge.domain.run import Run
from bridge.domain.transition import observe
from bridge.store import deliveries, runs
from bridge.store.database import Database
from bridge.store.filtering import Filters
from bridge.store.transaction import Tx
from tests.support.watching import add_endpoint, open_database, record, register, seen

BIG: Any = {"numbers": list(range(6_000)), "text": "x" * 110_000}  # 145 KB of an event
COSTLY = "sum(data.run.output.numbers[?@ >= `0`]) > `1` && data.run.status == '{}'"
ENDLESS = "data.run.output.numbers|" + "|".join(["[@,@][]"] * 8)
CHEAP = "contains(data.run.error.message, 'quota')"  # fails where there is no error


async def receivers(database: Database) -> set[str]:
    listed = await database.read(
        lambda tx: deliveries.list_deliveries(tx, deliveries.DeliveryFilter(), limit=99, before=None)
    )
    assert len({each.endpoint_id for each in listed}) == len(listed)
    return {each.endpoint_id for each in listed}


async def test_costly_filters_select_the_same_endpoints(either: Database) -> None:
    wanted = [await add_endpoint(either, filter=COSTLY.format("succeeded")) for _ in range(12)]
    for expression in (COSTLY.format("failed"), ENDLESS, CHEAP):
        await add_endpoint(either, filter=expression)
    plain = await add_endpoint(either)
    run = await register(either)
    assert await record(either, run, "succeeded", output=BIG) is not None
    assert await receivers(either) == {each.id for each in [*wanted, plain]}


async def test_failures_are_counted_wherever_they_are_judged(either: Database) -> None:
    heard: Counter[tuple[str, str]] = Counter()
    either.listeners.append(lambda signals: heard.update(signals.filter_failures))
    failing = [await add_endpoint(either, filter=expression) for expression in (ENDLESS, CHEAP)]
    for expression in (COSTLY.format("failed"), COSTLY.format("succeeded")):
        await add_endpoint(either, filter=expression)
    assert await record(either, await register(either), "succeeded", output=BIG) is not None
    assert heard == {(each.id, each.filter): 1 for each in failing}


async def test_the_writer_is_free_while_costly_filters_are_judged(
    lone: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """118 such endpoints and ten events held every write for 5.9 s. Here each judgement waits for another write."""
    decide, judging, has_written, waited = Filters.decide_next, asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def decide_after_a_write(filters: Filters) -> None:
        loop.call_soon_threadsafe(judging.set)
        waited.append(has_written.wait(60))
        decide(filters)

    monkeypatch.setattr(Filters, "decide_next", decide_after_a_write)
    await add_endpoint(lone, filter=ENDLESS)
    recording = asyncio.create_task(record(lone, await register(lone), "succeeded", output=BIG))
    await judging.wait()
    await lone.write(lambda _tx: None)  # a writer that is held by the judgement never ends this
    assert not recording.done()
    has_written.set()
    assert await recording is not None
    assert waited == [True]


@pytest.mark.slow
@pytest.mark.parametrize(("expression", "times"), [(CHEAP, 1), ("data.run.status == 'succeeded'", 1), (ENDLESS, 2)])
async def test_only_what_is_costly_repeats_a_transaction(database_url: str, expression: str, times: int) -> None:
    """It repeats as of the same instant: the verdicts are about the event that the first try made."""
    async with open_database(database_url, SystemClock()) as database:
        await add_endpoint(database, filter=expression)
        run = await register(database)
        began = []

        def work(tx: Tx) -> Run | None:
            began.append(tx.now)
            decision = observe(run, seen("succeeded", output=BIG), now=tx.now, wants_progress=False)
            assert decision is not None
            return runs.record_decision(tx, run, decision, node=None, keep_lease=False)

        assert await database.write(work) is not None
        assert began == began[:1] * times
