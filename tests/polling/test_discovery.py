"""Unregistered runs that a list shows are watched, each once, over restarts; runs that were over before are not."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from bridge.config.connection_sections import LISTING_PROVIDERS
from bridge.domain.connection import CadenceSettings, Connection, ConnectionHealth
from bridge.domain.observation import RunPage
from bridge.domain.run import Run
from bridge.polling.discovery import Discovery
from bridge.polling.poller import Poller
from bridge.providers import REGISTRY
from bridge.sandbox import Sandbox, Scenario
from bridge.sandbox.state import SandboxRun, SandboxState
from bridge.store import learned_state, run_lists, runs
from bridge.store.database import Database
from bridge.store.run_lists import RunFilter
from tests.support.watching import register
from tests.support.workbench import connection, event_types, open_poller, work

PROVIDERS = ("retab", "instabase")
FOR_EVER = Scenario(duration_s=None)
OVER = Scenario(duration_s=1.0)
OFTEN = CadenceSettings(price_s=1e-7, min_interval_s=0.05, max_interval_s=0.5)


def discovering(sandbox: Sandbox, provider: str, **more: Any) -> Connection:
    return connection(sandbox, provider, cadence=OFTEN, discover=True, fetch_output=False, **more)


async def watched(database: Database) -> dict[str, Run]:
    """Every run in the database by the provider's id."""
    found = await database.read(lambda tx: run_lists.list_runs(tx, RunFilter(), limit=1000, before=None))
    assert len({run.provider_run_id for run in found}) == len(found)
    return {run.provider_run_id: run for run in found}


async def until_watched(poller: Poller, database: Database, theirs: set[str]) -> dict[str, Run]:
    async def are_there() -> bool:
        return theirs <= (await watched(database)).keys()

    await work(poller.run_pass, poller.bell, are_there)
    return await watched(database)


async def lists_more(poller: Poller, sandbox: Sandbox, count: int = 3) -> None:
    """Let the list be asked for some more times."""

    def made() -> int:
        return sum(1 for seen in sandbox.requests if seen.path.endswith("/runs"))

    wanted = made() + count

    async def are_made() -> bool:
        return made() >= wanted

    await work(poller.run_pass, poller.bell, are_made)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_runs_is_found_and_what_was_over_before_is_not(
    provider: str, database: Database, sandbox: Sandbox
) -> None:
    over = sandbox.add_run(provider, scenario=OVER, age_s=60)
    running = sandbox.add_run(provider, scenario=FOR_EVER, age_s=3600, workflow_id="wf_1")
    async with open_poller(database, discovering(sandbox, provider)) as poller:
        found = await until_watched(poller, database, {running})
        await lists_more(poller, sandbox)
        assert over not in await watched(database)
    assert found[running].workflow_id == "wf_1"
    assert found[running].tags == ("discovered",)
    assert found[running].deadline_at is not None
    assert await event_types(database, found[running].id) == ["run.started"]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_begins_later_is_found_however_short_it_is(
    provider: str, database: Database, sandbox: Sandbox
) -> None:
    """It may be over before any list shows it; its end is reported all the same."""
    async with open_poller(database, discovering(sandbox, provider)) as poller:
        await lists_more(poller, sandbox, 1)
        short = sandbox.add_run(provider, scenario=Scenario(duration_s=0.0))
        long = sandbox.add_run(provider, scenario=FOR_EVER)
        found = await until_watched(poller, database, {short, long})

        async def is_over() -> bool:
            return await event_types(database, found[short].id) == ["run.finished"]

        assert await work(poller.run_pass, poller.bell, is_over)


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_discovered_run_needs_no_poll_of_its_own(provider: str, database: Database, sandbox: Sandbox) -> None:
    """The list that found it has shown it, and lists see it to its end."""
    theirs = [sandbox.add_run(provider, scenario=Scenario(duration_s=2.0)) for _ in range(10)]
    async with open_poller(database, discovering(sandbox, provider)) as poller:

        async def are_over() -> bool:
            found = await watched(database)
            return found.keys() == set(theirs) and all(run.settled for run in found.values())

        await work(poller.run_pass, poller.bell, are_over)
    assert [seen.path for seen in sandbox.requests if seen.run_id is not None] == []


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_discovery_goes_on_after_a_restart_where_it_was(
    provider: str, database: Database, sandbox: Sandbox
) -> None:
    over = sandbox.add_run(provider, scenario=OVER, age_s=5)
    known = sandbox.add_run(provider, scenario=FOR_EVER)
    settings = discovering(sandbox, provider)
    async with open_poller(database, settings) as poller:
        await until_watched(poller, database, {known})

        async def is_kept() -> bool:
            return await database.read(lambda tx: learned_state.get_watermark(tx, settings.name)) is not None

        await work(poller.run_pass, poller.bell, is_kept)
    meanwhile = sandbox.add_run(provider, scenario=Scenario(duration_s=0.0))
    async with open_poller(database, settings) as poller:
        found = await until_watched(poller, database, {meanwhile})
        await lists_more(poller, sandbox)
        assert (await watched(database)).keys() == {known, meanwhile}
    assert over not in found


@pytest.mark.slow
async def test_a_run_that_a_list_shows_late_is_found(database: Database, sandbox: Sandbox) -> None:
    """It began before the newest that was seen; the overlap is for that."""
    late = sandbox.add_run("retab", scenario=FOR_EVER, age_s=2, late_404_s=4)
    seen = sandbox.add_run("retab", scenario=FOR_EVER)
    async with open_poller(database, discovering(sandbox, "retab")) as poller:
        assert late not in await until_watched(poller, database, {seen})
        await until_watched(poller, database, {late})


@pytest.mark.slow
async def test_a_removed_run_is_not_found_again(database: Database, sandbox: Sandbox) -> None:
    theirs = sandbox.add_run("retab", scenario=FOR_EVER)
    async with open_poller(database, discovering(sandbox, "retab")) as poller:
        found = await until_watched(poller, database, {theirs})
        poller.leases.forget(found[theirs].id)
        await database.write(lambda tx: runs.delete_run(tx, found[theirs].id))
        await lists_more(poller, sandbox)
    assert await watched(database) == {}


@pytest.mark.slow
async def test_a_run_that_was_forgotten_long_ago_is_not_found_again_after_a_restart(
    database: Database, sandbox: Sandbox
) -> None:
    """In a quiet account the newest run stays the newest, long after retention has deleted it."""
    settings = discovering(sandbox, "instabase")
    first, theirs = (sandbox.add_run("instabase", scenario=FOR_EVER, age_s=age_s) for age_s in (3000, 1000))
    mark = learned_state.Watermark(sandbox_birth(sandbox, first), sandbox_birth(sandbox, theirs))
    await database.write(lambda tx: learned_state.save_watermark(tx, settings.name, mark))
    async with open_poller(database, settings) as poller:
        await lists_more(poller, sandbox)
    assert await watched(database) == {}


def sandbox_birth(sandbox: Sandbox, theirs: str) -> datetime:
    known = sandbox.state.get("instabase", theirs)
    assert known is not None
    return known.created_at + timedelta(microseconds=1)  # it tells nanoseconds


async def test_a_registered_run_stays_as_it_was_registered(database: Database, sandbox: Sandbox) -> None:
    theirs = sandbox.add_run("retab", scenario=FOR_EVER)
    async with open_poller(database, discovering(sandbox, "retab")) as poller:
        run = await register(database, theirs, connection="retab-1", provider="retab", tags=("mine",))
        await lists_more(poller, sandbox)
        found = await watched(database)
    assert found.keys() == {theirs}
    assert (found[theirs].id, found[theirs].tags) == (run.id, ("mine",))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_only_the_named_workflows_are_discovered(provider: str, database: Database, sandbox: Sandbox) -> None:
    wanted = sandbox.add_run(provider, scenario=FOR_EVER, workflow_id="wf_1")
    sandbox.add_run(provider, scenario=FOR_EVER, workflow_id="wf_2")
    async with open_poller(database, discovering(sandbox, provider, discover_workflows=("wf_1",))) as poller:
        await until_watched(poller, database, {wanted})
        await lists_more(poller, sandbox)
        assert (await watched(database)).keys() == {wanted}


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_everything_on_three_pages_is_found_while_they_shift(
    provider: str, database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {sandbox.add_run(provider, scenario=FOR_EVER, age_s=1 + n / 1000) for n in range(280)}
    original = SandboxState.list_runs

    def listed(state: SandboxState, name: str) -> list[SandboxRun]:
        if len(theirs) < 290:
            theirs.add(sandbox.add_run(provider, scenario=FOR_EVER))
        return original(state, name)

    monkeypatch.setattr(SandboxState, "list_runs", listed)
    async with open_poller(database, discovering(sandbox, provider)) as poller:

        async def are_all_there() -> bool:
            return len(theirs) == 290 and theirs == (await watched(database)).keys()

        assert await work(poller.run_pass, poller.bell, are_all_there)


async def test_an_account_without_runs_is_known_to_fail_and_to_recover(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the list is asked there, so it has to tell."""
    monkeypatch.setattr("bridge.polling.list_poller.REFUSED_FIRST_S", 0.05)
    sandbox.fail("retab", "401", count=2)
    async with open_poller(database, discovering(sandbox, "retab")) as poller:

        async def is_failing() -> bool:
            return poller.client.health is ConnectionHealth.FAILING

        async def is_well() -> bool:
            return poller.client.health is ConnectionHealth.OK

        await work(poller.run_pass, poller.bell, is_failing)
        sandbox.clear_faults()
        poller.client.limiter.rate_limit.end_pause(0.0)  # the pauses before the probe, spared
        await work(poller.run_pass, poller.bell, is_well)


async def test_a_quiet_account_is_asked_ever_more_rarely(database: Database, sandbox: Sandbox) -> None:
    """Where nothing begins there is nothing to be late for."""
    discovery = Discovery(discovering(sandbox, "retab"), database)
    rates = [discovery.per_s]
    for _ in range(2):
        await discovery.begin()
        await discovery.take_in(RunPage(()))
        await discovery.end(60.0)
        rates.append(discovery.per_s)
    assert rates[0] > rates[1] > rates[2]


def test_the_configuration_knows_which_providers_have_a_list() -> None:
    assert {name for name, provider in REGISTRY.items() if provider.lists} == set(LISTING_PROVIDERS)
