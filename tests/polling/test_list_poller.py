"""One request observes many runs: what a list shows, and what happens where it does not."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from bridge.domain.cadence.durations import DurationModel
from bridge.domain.cadence.rule import UNCHANGED_FACTOR, RunView, next_poll, price_of
from bridge.domain.connection import ConnectionHealth
from bridge.domain.errors import StoreUnavailable
from bridge.domain.run import Run, RunStatus
from bridge.polling import list_poller, poll_results
from bridge.polling.poller import Poller
from bridge.sandbox import DEFAULT_OUTPUT, Sandbox, Scenario, Step
from bridge.sandbox.state import SandboxRun, SandboxState
from bridge.store import connections, run_leases, runs
from bridge.store.database import Database
from tests.support.listing import CALM, EAGER, FOR_EVER, LISTS, all_observed, finish, lists, polls, register_all
from tests.support.manual_clock import ManualClock
from tests.support.watching import register
from tests.support.workbench import (
    QUICK,
    connection,
    event_types,
    next_poll_shown,
    note_sends,
    open_poller,
    reach,
    work,
)


@pytest.fixture
def waits_for_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs wait for a list however long a busy machine takes over it."""
    for name in ("list_poller.LIST_WAIT_S", "poller.LIST_WAIT_S", "list_poller.FIRST_POLL_WAIT_S"):
        monkeypatch.setattr(f"bridge.polling.{name}", 60.0)


@pytest.mark.usefixtures("waits_for_lists")
@pytest.mark.parametrize("provider", LISTS)
async def test_one_list_is_the_first_poll_of_all_runs_of_a_batch(
    provider: str, database: Database, sandbox: Sandbox
) -> None:
    theirs = [sandbox.add_run(provider, scenario=FOR_EVER) for _ in range(40)]
    async with open_poller(database, connection(sandbox, provider, cadence=CALM)) as poller:
        watched = await register_all(database, provider, theirs)
        await work(poller.run_pass, poller.bell, lambda: all_observed(database, watched))
    assert polls(sandbox) == []
    assert 1 <= len(lists(sandbox)) <= 2
    assert poller.client.last_list_at is not None
    assert await event_types(database, watched[0].id) == ["run.started"]


@pytest.mark.slow
async def register_late(database: Database, sandbox: Sandbox, poller: Poller) -> Run:
    """Register a run that the poller acquires at once."""
    theirs = sandbox.add_run("retab", scenario=FOR_EVER)
    run = await register(database, theirs, connection="retab-1", provider="retab")
    poller.leases.expect()
    return run


@pytest.mark.usefixtures("waits_for_lists")
async def test_first_polls_of_runs_that_come_one_by_one_share_a_list(database: Database, sandbox: Sandbox) -> None:
    cadence = replace(CALM, price_s=10.0)
    async with open_poller(database, connection(sandbox, "retab", cadence=cadence)) as poller:
        there = await register_all(database, "retab", [sandbox.add_run("retab", scenario=FOR_EVER) for _ in range(5)])
        await work(poller.run_pass, poller.bell, lambda: all_observed(database, there))
        sandbox.requests.clear()
        late: list[Run] = []

        async def all_came_and_were_observed() -> bool:
            if len(late) < 12:
                late.append(await register_late(database, sandbox, poller))
                return False
            return await all_observed(database, late)

        await work(poller.run_pass, poller.bell, all_came_and_were_observed)
    assert polls(sandbox) == []
    assert 1 <= len(lists(sandbox)) < len(late) / 2


@pytest.mark.slow
async def test_first_polls_right_after_others_had_theirs_wait_for_company(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a run comes every second each would otherwise have its own list, which costs as much as polling each by itself."""
    monkeypatch.setattr("bridge.polling.list_poller.FIRST_POLL_GAP_S", 2.0)
    for module in ("list_poller", "poller"):  # however long a busy machine takes over a list
        monkeypatch.setattr(f"bridge.polling.{module}.LIST_WAIT_S", 60.0)
    async with open_poller(database, connection(sandbox, "retab", cadence=replace(CALM, price_s=10.0))) as poller:
        sends = note_sends(poller)
        there = await register_all(database, "retab", [sandbox.add_run("retab", scenario=FOR_EVER) for _ in range(5)])
        await work(poller.run_pass, poller.bell, lambda: all_observed(database, there))
        late: list[Run] = []
        comes_at = time.monotonic()

        async def all_came_and_were_observed() -> bool:
            nonlocal comes_at
            if len(late) < 3 and time.monotonic() < comes_at:
                return False
            if len(late) < 3:
                comes_at = time.monotonic() + 0.55  # longer than a first poll waits alone
                late.append(await register_late(database, sandbox, poller))
                return False
            return await all_observed(database, late)

        await work(poller.run_pass, poller.bell, all_came_and_were_observed)
    assert polls(sandbox) == []
    first, *others = sends
    assert min(others) - first >= 2.0
    assert len(others) <= 2


@pytest.mark.slow
@pytest.mark.usefixtures("waits_for_lists")
async def test_a_run_that_a_list_shows_sooner_says_so(database: Database, sandbox: Sandbox) -> None:
    async with open_poller(database, connection(sandbox, "retab", cadence=CALM)) as poller:
        there = await register_all(database, "retab", [sandbox.add_run("retab", scenario=FOR_EVER) for _ in range(40)])
        await work(poller.run_pass, poller.bell, lambda: all_observed(database, there))

        async def says_so() -> bool:
            tracked = poller.schedule.get(there[0].id)
            assert tracked is not None
            at, reason = next_poll_shown(database, poller, there[0])
            is_sooner = tracked.next_poll_at is not None and at < tracked.next_poll_at
            return is_sooner and reason == "a list is worth a request then, and shows this run too"

        await work(poller.run_pass, poller.bell, says_so)


@pytest.mark.slow
@pytest.mark.parametrize("provider", LISTS)
async def test_lists_see_every_run_to_its_end(provider: str, database: Database) -> None:
    """The list tells everything that a poll tells; only an output that lies elsewhere costs a request."""
    theirs_clock = ManualClock(datetime.now(UTC))
    scenarios = [Scenario(duration_s=1.5 + 0.02 * n, output=DEFAULT_OUTPUT) for n in range(30)]
    async with (
        Sandbox(clock=theirs_clock) as sandbox,
        open_poller(database, connection(sandbox, provider, cadence=EAGER)) as poller,
    ):
        theirs = [sandbox.add_run(provider, scenario=scenario) for scenario in scenarios]
        watched = await register_all(database, provider, theirs)
        for run in watched:
            await reach(poller, database, run.id, RunStatus.RUNNING)
        theirs_clock.advance(3.0)
        await finish(poller, database, watched)
    found = await database.read(lambda tx: runs.get_runs(tx, [run.id for run in watched]))
    assert {run.status for run in found.values()} == {RunStatus.SUCCEEDED}
    assert all(run.output is not None and run.finished_at is not None for run in found.values())
    for run in watched:
        assert await event_types(database, run.id) == ["run.started", "run.finished"]
    about_one_run = [seen for seen in polls(sandbox) if not seen.path.endswith(("/results", "/steps"))]
    assert len(about_one_run) < len(watched)
    assert sum(float(str(each["polls_per_run"])) for each in poller.planner.busiest(1)) < 1, "a sighting is no request"


async def test_fewer_than_three_runs_are_polled_by_themselves(database: Database, sandbox: Sandbox) -> None:
    theirs = [sandbox.add_run("retab", scenario=Scenario(duration_s=0.3)) for _ in range(list_poller.RUNS_MIN - 1)]
    async with open_poller(database, connection(sandbox, "retab", cadence=EAGER)) as poller:
        await finish(poller, database, await register_all(database, "retab", theirs))
    assert lists(sandbox) == []


@pytest.mark.parametrize("provider", ["dibby", "dify"])
async def test_a_provider_without_a_list_is_asked_run_by_run(
    provider: str, database: Database, sandbox: Sandbox
) -> None:
    theirs = [sandbox.add_run(provider, scenario=Scenario(duration_s=0.2)) for _ in range(5)]
    async with open_poller(database, connection(sandbox, provider)) as poller:
        await finish(poller, database, await register_all(database, provider, theirs))
    assert {seen.run_id for seen in sandbox.requests} == set(theirs)


@pytest.mark.parametrize("provider", LISTS)
async def test_a_list_that_shows_too_little_is_followed_by_a_poll(provider: str, database: Database) -> None:
    scenario = Scenario(duration_s=0.4, output=DEFAULT_OUTPUT)
    async with Sandbox(list_is_summary=True) as sandbox:
        theirs = [sandbox.add_run(provider, scenario=scenario) for _ in range(6)]
        async with open_poller(database, connection(sandbox, provider, cadence=EAGER)) as poller:
            watched = await register_all(database, provider, theirs)
            await finish(poller, database, watched)
        assert lists(sandbox)
        assert {seen.run_id for seen in polls(sandbox)} >= set(theirs)
        shown = await database.read(lambda tx: runs.get_runs(tx, [run.id for run in watched]))
        assert all(run.finished_at is not None and run.output is not None for run in shown.values())
        for run in watched:  # it may be over before it is first seen; then it never started for us
            assert await event_types(database, run.id) in (["run.started", "run.finished"], ["run.finished"])


@pytest.mark.slow
@pytest.mark.usefixtures("waits_for_lists")
async def test_a_list_without_change_costs_no_poll(database: Database) -> None:
    """A summary is enough to see that nothing has happened."""
    async with Sandbox(list_is_summary=True) as sandbox:
        theirs = [sandbox.add_run("retab", scenario=FOR_EVER) for _ in range(10)]
        async with open_poller(database, connection(sandbox, "retab", cadence=EAGER)) as poller:
            watched = await register_all(database, "retab", theirs)

            async def listed_often() -> bool:
                return len(lists(sandbox)) >= 8

            await work(poller.run_pass, poller.bell, listed_often)
            made = len(polls(sandbox))
        assert made <= len(theirs) + 2
        assert await event_types(database, watched[0].id) == ["run.started"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["500", "502", "404", "403", "garbage", "html", "hang", "reset"])
async def test_a_failing_list_leaves_every_run_to_polls_of_its_own(
    kind: str, database: Database, sandbox: Sandbox
) -> None:
    theirs = [sandbox.add_run("retab", scenario=Scenario(duration_s=0.3)) for _ in range(8)]
    fail_lists(sandbox, kind)
    settings = connection(sandbox, "retab", cadence=EAGER, fetch_output=False)
    async with open_poller(database, settings) as poller:
        watched = await register_all(database, "retab", theirs)
        await finish(poller, database, watched)
        assert poller.client.health is ConnectionHealth.OK
        sandbox.clear_faults()
    assert lists(sandbox)
    assert {seen.run_id for seen in polls(sandbox)} == set(theirs)
    health = await database.read(connections.list_health)
    assert {name: row.health for name, row in health.items()} == {"retab-1": ConnectionHealth.OK}


def fail_lists(sandbox: Sandbox, kind: str) -> None:
    """Every list goes wrong, and nothing else."""
    sandbox.fail("retab", kind, count=None, path_ends="/runs")


@pytest.mark.slow
async def test_a_run_that_the_list_does_not_show_is_polled_by_itself(database: Database, sandbox: Sandbox) -> None:
    """Older than the pages that are read; here because newer ones stand before it."""
    old = sandbox.add_run("instabase", scenario=Scenario(duration_s=100.3), age_s=100)
    for _ in range(320):
        sandbox.add_run("instabase", scenario=FOR_EVER, age_s=50)
    new = [sandbox.add_run("instabase", scenario=Scenario(duration_s=0.5)) for _ in range(5)]
    async with open_poller(database, connection(sandbox, "instabase", cadence=EAGER, fetch_output=False)) as poller:
        watched = await register_all(database, "instabase", [old, *new])
        await finish(poller, database, watched)
    assert {seen.run_id for seen in polls(sandbox)} >= {old}
    assert lists(sandbox)


@pytest.mark.slow
@pytest.mark.usefixtures("waits_for_lists")
@pytest.mark.parametrize("provider", LISTS)
async def test_further_pages_are_read_when_many_runs_stand_on_them(
    provider: str, database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("list_poller", "poller"):  # on a slow machine the pages take longer than that
        monkeypatch.setattr(f"bridge.polling.{module}.LIST_WAIT_S", 60.0)
    theirs = [sandbox.add_run(provider, scenario=FOR_EVER, age_s=n / 100) for n in range(250)]
    async with open_poller(database, connection(sandbox, provider, cadence=CALM)) as poller:
        watched = await register_all(database, provider, theirs)
        await work(poller.run_pass, poller.bell, lambda: all_observed(database, watched))
    assert len(polls(sandbox)) < len(theirs) / 2  # where the machine is slow, some fall due before they are read
    is_further = ["after=" in seen.query or "offset=" in seen.query for seen in lists(sandbox)]
    assert is_further[:3] == [False, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("provider", LISTS)
async def test_pages_that_shift_while_they_are_read_lose_and_double_nothing(
    provider: str, database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = [sandbox.add_run(provider, scenario=Scenario(duration_s=1.0), age_s=0.001 * n) for n in range(180)]
    original = SandboxState.list_runs

    def listed(state: SandboxState, name: str) -> list[SandboxRun]:
        for _ in range(3):  # newer runs push the others on
            sandbox.add_run(provider, scenario=FOR_EVER)
        return original(state, name)

    monkeypatch.setattr(SandboxState, "list_runs", listed)
    async with open_poller(database, connection(sandbox, provider, cadence=EAGER, fetch_output=False)) as poller:
        watched = await register_all(database, provider, theirs)
        await finish(poller, database, watched)
    for run in watched:
        assert (await event_types(database, run.id))[-1:] == ["run.finished"]
        assert (await event_types(database, run.id)).count("run.finished") == 1


@pytest.mark.slow
async def test_waiting_and_resuming_are_believed_of_a_poll_only(database: Database) -> None:
    """A list may lag behind: to and fro would tell events that never happened."""
    steps = (Step(0, "running"), Step(1.0, "waiting"), Step(2.0, "running"))
    theirs_clock = ManualClock(datetime.now(UTC))
    async with (
        Sandbox(clock=theirs_clock) as sandbox,
        open_poller(database, connection(sandbox, "retab", cadence=QUICK, fetch_output=False)) as poller,
    ):
        theirs = [sandbox.add_run("retab", scenario=Scenario(duration_s=3.0, steps=steps)) for _ in range(4)]
        watched = await register_all(database, "retab", theirs)
        for step in steps:
            for run in watched:
                await reach(poller, database, run.id, RunStatus(step.status))
            theirs_clock.advance(1.01)
        await finish(poller, database, watched)
    for run in watched:
        assert await event_types(database, run.id) == ["run.started", "run.waiting", "run.resumed", "run.finished"]
    assert {seen.run_id for seen in polls(sandbox)} == set(theirs)


@pytest.mark.slow
async def test_lists_keep_min_interval_between_them(database: Database, sandbox: Sandbox) -> None:
    theirs = [sandbox.add_run("retab", scenario=Scenario(duration_s=1.5)) for _ in range(10)]
    cadence = replace(EAGER, price_s=0.001, min_interval_s=0.2)
    async with open_poller(database, connection(sandbox, "retab", cadence=cadence, fetch_output=False)) as poller:
        sends = note_sends(poller)
        await finish(poller, database, await register_all(database, "retab", theirs))
    assert len(sends) == len(lists(sandbox)) > 1
    assert min(b - a for a, b in pairwise(sends)) >= 0.2 - 1e-6


@pytest.mark.slow
async def test_a_first_poll_does_not_wait_for_a_list_that_hangs(database: Database, sandbox: Sandbox) -> None:
    theirs = [sandbox.add_run("retab", scenario=FOR_EVER) for _ in range(5)]
    fail_lists(sandbox, "hang")
    async with open_poller(database, connection(sandbox, "retab", cadence=CALM)) as poller:
        watched = await register_all(database, "retab", theirs)
        await work(poller.run_pass, poller.bell, lambda: all_observed(database, watched))
        late = await register(
            database, sandbox.add_run("retab", scenario=FOR_EVER), connection="retab-1", provider="retab"
        )
        await work(poller.run_pass, poller.bell, lambda: all_observed(database, [late]))
        assert sandbox.state.in_flight["retab"] == 1, "the list still hangs"
        sandbox.clear_faults()
    assert len(lists(sandbox)) == 1


async def test_a_poll_that_a_person_asks_for_is_made_at_once(database: Database, sandbox: Sandbox) -> None:
    theirs = [sandbox.add_run("retab", scenario=FOR_EVER) for _ in range(5)]
    async with open_poller(database, connection(sandbox, "retab", cadence=CALM)) as poller:
        watched = await register_all(database, "retab", theirs)
        await work(poller.run_pass, poller.bell, lambda: all_observed(database, watched))

        async def is_polled_by_itself() -> bool:
            return watched[2].provider_run_id in {seen.run_id for seen in polls(sandbox)}

        async def is_idle() -> bool:  # what the list showed is recorded first; a poll under way is not repeated
            tracked = poller.leases.find(watched[2].id)
            return tracked is not None and not tracked.is_in_flight

        await work(poller.run_pass, poller.bell, is_idle)
        poller.leases.poll_now(watched[2].id)
        assert await work(poller.run_pass, poller.bell, is_polled_by_itself)


async def test_stopping_in_the_middle_of_a_list_puts_every_run_back(database: Database, sandbox: Sandbox) -> None:
    theirs = [sandbox.add_run("retab", scenario=FOR_EVER) for _ in range(5)]
    fail_lists(sandbox, "hang")
    async with open_poller(database, connection(sandbox, "retab", cadence=CALM)) as poller:
        await register_all(database, "retab", theirs)

        async def asked() -> bool:
            return bool(lists(sandbox))

        await work(poller.run_pass, poller.bell, asked)
        await poller.drain()
        assert poller.client.limiter.in_flight == 0
        sandbox.clear_faults()
    assert await database.read(lambda tx: run_leases.next_due_at(tx, "retab-1")) is not None


@pytest.mark.slow
async def test_a_tagged_answer_is_asked_for_with_its_tag_and_304_means_alive(database: Database) -> None:
    theirs_clock = ManualClock(datetime.now(UTC))
    async with Sandbox(sends_etags=True, clock=theirs_clock) as sandbox:
        theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=1.0, steps=(Step(0, "running", 1),)))

        async def is_304_often() -> bool:
            return sum(seen.status == 304 for seen in sandbox.requests) >= 3

        async with open_poller(database, connection(sandbox, "dibby")) as poller:
            run = await register(database, theirs, connection="dibby-1", provider="dibby")
            await work(poller.run_pass, poller.bell, is_304_often)
            theirs_clock.advance(2.0)
            await finish(poller, database, [run])
        answers = [seen.status for seen in sandbox.requests]
        assert answers[0] == 200
        assert answers[-1] == 200
        assert answers.count(304) >= 3
        assert answers.count(200) == 2
        assert await event_types(database, run.id) == ["run.started", "run.finished"]


def test_a_304_makes_the_next_poll_cheaper() -> None:
    """It spares the provider's quota, so runs may be polled more often for the same price."""
    durations = DurationModel()
    plain = RunView("run_1", RunStatus.RUNNING, durations.estimate, 10.0)
    free = replace(plain, unchanged_is_free=True)
    assert price_of(CALM, free) == pytest.approx(UNCHANGED_FACTOR * price_of(CALM, plain))
    assert next_poll(CALM, free).delay_s < 0.7 * next_poll(CALM, plain).delay_s


async def test_a_change_that_could_not_be_written_is_not_hidden_by_a_304(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tag is taken over with the record, not before."""
    monkeypatch.setattr(poll_results, "STORE_RETRY_S", 0.05)
    async with Sandbox(sends_etags=True) as sandbox:
        theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=None))
        async with open_poller(database, connection(sandbox, "dibby")) as poller:
            run = await register(database, theirs, connection="dibby-1", provider="dibby")
            record_all, failures = runs.record_decisions, [StoreUnavailable("full"), StoreUnavailable("full")]

            def fail_twice(*args, **more):
                if failures:
                    raise failures.pop()
                return record_all(*args, **more)

            monkeypatch.setattr(runs, "record_decisions", fail_twice)
            await work(poller.run_pass, poller.bell, lambda: all_observed(database, [run]))
        assert [seen.status for seen in sandbox.requests][:3] == [200, 200, 200]


# -- lists that bring little
