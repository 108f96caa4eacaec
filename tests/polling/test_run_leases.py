"""Runs that a poller acquires and releases, and its waits for limits that it may share."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.domain.connection import CadenceSettings
from bridge.domain.leased_delivery import DeliveryOffer
from bridge.domain.limits.fair_limiter import Candidate, FairRateLimiter
from bridge.domain.run import RunStatus
from bridge.polling.poller import YIELD_S, Poller
from bridge.sandbox import Sandbox, Scenario
from bridge.store import run_leases, runs, tables
from bridge.store.database import Database
from bridge.store.transaction import Tx
from tests.support.watching import NODE, new_run, register
from tests.support.workbench import connection, event_types, finish, note_sends, open_poller, work


async def test_no_poll_begins_while_too_many_changes_wait_to_be_recorded(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the results of a storm of polls pile up in memory, and their events are ever later."""
    monkeypatch.setattr("bridge.polling.poll_results.BEHIND_MIN", 3)
    opened = threading.Event()
    first, *theirs = [sandbox.add_run("dibby", scenario=Scenario(duration_s=0.0)) for _ in range(13)]
    async with open_poller(database, connection(sandbox, "dibby", max_in_flight=2)) as poller:
        run = await register(database, first, connection="dibby-1", provider="dibby")
        await finish(poller, database, run.id)  # and with it the health of the connection is recorded
        sends = note_sends(poller)
        made = [await register(database, each, connection="dibby-1", provider="dibby") for each in theirs]
        await poller.run_pass()
        held = asyncio.create_task(database.write(lambda _: opened.wait(60)))

        async def is_behind() -> bool:
            return poller.results.is_behind and not poller.client.limiter.in_flight

        await work(poller.run_pass, poller.bell, is_behind)
        assert await poller.run_pass() > 1.0, "it waits to be told"
        assert len(sends) <= 3 + 2
        opened.set()
        await held
        for run in made:
            assert (await finish(poller, database, run.id)).status is RunStatus.SUCCEEDED


async def test_while_known_events_wait_for_their_post_one_poll_begins_at_a_time(
    database: Database, sandbox: Sandbox
) -> None:
    """A known answer is worth more delivered than another one asked for."""
    behind = DeliveryOffer(NODE, lambda _endpoint: 0, lambda: True)
    theirs = [sandbox.add_run("dibby", scenario=Scenario(duration_s=0.0)) for _ in range(4)]
    async with open_poller(database, connection(sandbox, "dibby"), offer=behind) as poller:
        sends = note_sends(poller)
        made = [await register(database, each, connection="dibby-1", provider="dibby") for each in theirs]
        for run in made:
            assert (await finish(poller, database, run.id)).status is RunStatus.SUCCEEDED
    assert min(b - a for a, b in pairwise(sends)) >= YIELD_S


async def test_a_new_run_is_leased_by_its_registration_and_polled(database: Database, sandbox: Sandbox) -> None:
    """To acquire it in a commit of its own was a third of the way to its poll."""
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=0.0))
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        await poller.run_pass()
        offer = poller.leases.offer()
        assert offer is not None
        new = new_run(theirs, connection="dibby-1", provider="dibby")
        (run,) = await database.write(lambda tx: runs.insert_runs(tx, [new], {"dibby-1": offer}))
        assert poller.leases.find(run.id) is not None
        assert await database.read(lambda tx: run_leases.next_due_at(tx, "dibby-1")) is None
        assert (await finish(poller, database, run.id)).status is RunStatus.SUCCEEDED


async def test_no_new_run_is_leased_before_one_that_waits_in_the_database_or_for_the_limiter(
    database: Database, sandbox: Sandbox
) -> None:
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        assert poller.leases.offer() is None  # what the database holds is not known yet
        await poller.run_pass()
        assert poller.leases.offer() is not None
        await register(database, "r1", connection="dibby-1", provider="dibby")
        assert poller.leases.offer() is None

        async def offers() -> bool:
            return poller.leases.offer() is not None

        await work(poller.run_pass, poller.bell, offers)
        poller.client.limiter.rate_limit.pause(time.monotonic(), 60.0)
        assert poller.leases.offer() is None
        poller.client.limiter.rate_limit.end_pause(time.monotonic())
        assert poller.leases.offer() is not None
    assert poller.leases.offer() is None  # it was drained


async def test_while_runs_wait_at_one_of_several_nodes_new_ones_are_left_to_all(
    database: Database, sandbox: Sandbox
) -> None:
    async with open_poller(database, connection(sandbox, "dibby", max_in_flight=2)) as poller:
        limiter = poller.client.limiter
        await register(database, "r1", connection="dibby-1", provider="dibby")
        for _ in range(2):
            limiter.send(time.monotonic())  # and nothing else may leave
        await poller.run_pass()
        assert poller.leases.offer() is not None
        limiter.divide(0, 2)
        assert poller.leases.offer() is None


async def test_a_run_whose_change_was_recorded_unnoticed_is_watched_further(
    database: Database, sandbox: Sandbox
) -> None:
    """The answer of a commit may be lost, and the next change then does not fit what is held."""
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=0.3))
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        run = await register(database, theirs, connection="dibby-1", provider="dibby")
        await poller.run_pass()

        def record(tx: Tx) -> None:
            tx.connection.execute(sa.update(tables.runs).where(tables.runs.c.id == run.id).values(version=7))

        await database.write(record)
        assert (await finish(poller, database, run.id)).status is RunStatus.SUCCEEDED


async def test_stopping_puts_every_run_back(database: Database, sandbox: Sandbox) -> None:
    theirs = sandbox.add_run("dify", scenario=Scenario(duration_s=None))
    async with open_poller(database, connection(sandbox, "dify")) as poller:
        run = await register(database, theirs, connection="dify-1")

        async def polled() -> bool:
            return bool(await event_types(database, run.id))

        await work(poller.run_pass, poller.bell, polled)
        await poller.drain()
    claimed = await database.write(
        lambda tx: run_leases.acquire_due(
            tx, node=NODE, connection="dify-1", until=tx.now + timedelta(hours=1), limit=9
        )
    )
    assert [r.id for r in claimed] == [run.id]
    assert claimed[0].polls >= 1


async def test_stopping_puts_back_what_is_already_on_its_way(database: Database, sandbox: Sandbox) -> None:
    theirs = sandbox.add_run("dify", scenario=Scenario(duration_s=None))
    async with open_poller(database, connection(sandbox, "dify")) as poller:
        run = await register(database, theirs, connection="dify-1")

        async def is_idle() -> bool:
            tracked = poller.leases.find(run.id)
            return tracked is not None and tracked.polls > 0 and not tracked.is_in_flight

        await work(poller.run_pass, poller.bell, is_idle)
        poller.leases.rebalance()
        assert len(poller.schedule) == 0, "its release is gathered, and not written yet"
        await poller.drain()
    assert await database.read(lambda tx: run_leases.list_leased(tx, node=NODE, connection="dify-1")) == set()


async def test_runs_that_a_poller_was_acquiring_when_it_was_ended_are_polled_by_the_next_one(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload cancels the poller of a changed connection, perhaps just when its commit has been made."""
    is_committed, write = asyncio.Event(), database.write

    async def write_without_answer(work: Callable[[Tx], Any]) -> None:
        await write(work)
        is_committed.set()
        await asyncio.Event().wait()

    theirs = sandbox.add_run("dify", scenario=Scenario(duration_s=0.0))
    run = await register(database, theirs, connection="dify-1")
    async with open_poller(database, connection(sandbox, "dify")) as poller:
        with monkeypatch.context() as patched:
            patched.setattr(database, "write", write_without_answer)
            passing = asyncio.create_task(poller.run_pass())
            await is_committed.wait()
            passing.cancel()
            await asyncio.wait([passing])
        assert len(poller.schedule) == 0
    async with open_poller(database, connection(sandbox, "dify")) as poller:
        assert (await finish(poller, database, run.id)).status is RunStatus.SUCCEEDED


async def test_a_poll_that_is_asked_for_while_the_run_is_being_released_is_made(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of the release must not postpone the run again."""
    monkeypatch.setattr("bridge.polling.run_leases.KEPT_MAX", 0)
    calm = CadenceSettings(min_interval_s=40.0, max_interval_s=300.0)
    async with open_poller(database, connection(sandbox, "dify", cadence=calm)) as poller:
        theirs = sandbox.add_run("dify", scenario=Scenario(duration_s=None))
        run = await register(database, theirs, connection="dify-1")

        async def is_released_after(polls: int) -> bool:
            tracked = poller.leases.find(run.id) if poller.schedule.get(run.id) is None else None
            return tracked is not None and tracked.polls == polls

        await work(poller.run_pass, poller.bell, lambda: is_released_after(1))
        await database.write(lambda tx: run_leases.request_poll(tx, run.id))
        poller.leases.poll_now(run.id)
        assert await work(poller.run_pass, poller.bell, lambda: is_released_after(2))


async def test_what_cannot_be_asked_for_stays_in_the_database_until_shortly_before_it_can(
    database: Database, sandbox: Sandbox
) -> None:
    """To claim each of thousands, and to let it go again, took longer than to register it."""
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=0.0))
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        limit = poller.client.limiter.rate_limit
        limit.pause(time.monotonic(), 60.0)
        run = await register(database, theirs, connection="dibby-1", provider="dibby")
        assert await poller.run_pass() > 50.0
        assert len(poller.schedule) == 0
        limit.end_pause(time.monotonic())
        assert (await finish(poller, database, run.id)).status is RunStatus.SUCCEEDED


async def test_where_plenty_is_overdue_in_hand_more_is_claimed_slowly_but_it_is(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage all of them at once took 15 MB, and stayed; and a new run must not wait for ever behind them."""
    monkeypatch.setattr("bridge.polling.run_leases.PLENTY", 1)
    monkeypatch.setattr("bridge.polling.run_leases.PLENTY_GAP_S", 0.3)
    async with open_poller(database, connection(sandbox, "dibby", max_in_flight=1)) as poller:
        poller.client.limiter.send(0.0)  # and nothing else may leave
        await register(database, "r1", connection="dibby-1", provider="dibby")
        await poller.run_pass()
        await register(database, "r2", connection="dibby-1", provider="dibby")
        rest_s = await poller.run_pass()
        assert len(poller.schedule) == 1
        assert 0.1 < rest_s <= 0.3

        async def has_both() -> bool:
            return len(poller.schedule) == 2

        await work(poller.run_pass, poller.bell, has_both)


async def test_a_full_schedule_waits_for_a_poll_to_end_instead_of_going_round(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.polling.run_leases.HELD_MAX", 0)
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        await register(database, "r1", connection="dibby-1", provider="dibby")
        assert await poller.run_pass() > 1.0


async def test_the_end_of_a_run_wakes_a_poller_whose_schedule_was_full(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a run rings the bell only if it leaves something to do; what waits in the database is."""
    monkeypatch.setattr("bridge.polling.run_leases.HELD_MAX", 1)
    theirs = [sandbox.add_run("dibby", scenario=Scenario(duration_s=0.0)) for _ in range(6)]
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        made = [await register(database, each, connection="dibby-1", provider="dibby") for each in theirs]
        ids = [run.id for run in made]
        while not all(run.settled for run in (await database.read(lambda tx: runs.get_runs(tx, ids))).values()):
            rest_s = await poller.run_pass()
            assert await poller.bell.wait(min(rest_s, 20.0)) or rest_s < 5.0, "it slept although a run was due"


async def rest(poller: Poller) -> asyncio.Task[bool]:
    """A pass that begins nothing, and the rest after it, which a bell ends."""
    assert await poller.bell.wait(20.0)  # the registration has rung
    assert await poller.run_pass() > 1
    resting = asyncio.create_task(poller.bell.wait(60.0))
    await asyncio.sleep(0)
    assert not resting.done()
    return resting


async def test_a_connection_goes_on_when_the_other_one_of_its_credential_has_its_answer(
    database: Database, sandbox: Sandbox
) -> None:
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=None))
    async with open_poller(database, connection(sandbox, "dibby", max_in_flight=1)) as poller:
        limiter = poller.client.limiter
        limiter.send(0.0)  # as the other connection's poller does
        await register(database, theirs, connection="dibby-1", provider="dibby")
        rung = await rest(poller)
        limiter.answer(0.1, sent_at=0.0)
        assert await rung
        await poller.run_pass()
        assert limiter.in_flight == 1


async def test_what_waits_in_the_database_for_the_gate_is_called_when_it_opens_early(
    database: Database, sandbox: Sandbox
) -> None:
    """As when a late answer at another connection of the credential shows that the provider is well again."""
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=None))
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        limiter = poller.client.limiter
        limiter.send(0.0)
        limiter.rate_limit.pause(time.monotonic(), 60.0)
        await register(database, theirs, connection="dibby-1", provider="dibby")
        rung = await rest(poller)
        limiter.answer(0.1, sent_at=0.0)
        limiter.rate_limit.end_pause(time.monotonic())
        assert await rung
        await poller.run_pass()
        assert limiter.in_flight == 1


async def test_a_connection_that_is_behind_lets_the_others_of_its_credential_go_first(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=None))
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        await register(database, theirs, connection="dibby-1", provider="dibby")
        monkeypatch.setattr("bridge.polling.poll_results.BEHIND_MIN", 0)
        await poller.run_pass()
        assert len(poller.schedule) == 1
        other = Candidate("other", 0.5, 0.5, "other")
        for _ in range(50):
            assert poller.client.limiter.admit([other], now=time.monotonic(), is_scarce=True)


async def test_where_the_limits_leave_nothing_for_this_node_all_is_given_back_although_it_pauses(
    database: Database, sandbox: Sandbox
) -> None:
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=None))
    async with open_poller(database, connection(sandbox, "dibby", max_in_flight=1)) as poller:
        limiter = poller.client.limiter
        limiter.rate_limit.pause(time.monotonic(), 0.2)
        await register(database, theirs, connection="dibby-1", provider="dibby")
        await poller.run_pass()
        assert len(poller.schedule) == 1
        limiter.rate_limit.pause(time.monotonic(), 3600.0)
        limiter.divide(1, 2)
        poller.leases.expect()

        async def is_given_back() -> bool:
            return not await database.read(lambda tx: run_leases.list_leased(tx, node=NODE, connection="dibby-1"))

        await work(poller.run_pass, poller.bell, is_given_back)


@pytest.mark.slow
async def test_two_connections_of_one_credential_share_its_limit_and_none_is_left_out(
    database: Database, sandbox: Sandbox
) -> None:
    busy_settings, calm_settings = (
        connection(sandbox, "dibby", name=name, requests_per_second=20.0) for name in ("busy", "calm")
    )
    limiter = FairRateLimiter(20.0)
    async with (
        open_poller(database, busy_settings, limiter=limiter) as busy,
        open_poller(database, calm_settings, limiter=limiter) as calm,
    ):
        sends = note_sends(busy)  # those of both, which share the limiter
        theirs: dict[str, set[str]] = {"busy": set(), "calm": set()}
        for name, count in (("busy", 40), ("calm", 2)):
            for _ in range(count):
                run = await register(
                    database,
                    sandbox.add_run("dibby", scenario=Scenario(duration_s=None)),
                    connection=name,
                    provider="dibby",
                )
                theirs[name].add(run.provider_run_id)

        async def is_asked_often() -> bool:
            return len(sandbox.requests) >= 100

        await asyncio.gather(*(work(each.run_pass, each.bell, is_asked_often) for each in (busy, calm)))
    asked = {name: sum(seen.run_id in ids for seen in sandbox.requests) for name, ids in theirs.items()}
    assert asked["calm"] >= 10
    assert asked["busy"] >= 40
    assert sends[-1] - sends[0] >= (len(sends) - 21) / 20 - 0.1
