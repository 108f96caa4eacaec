"""Trouble of a connection, as distinct from trouble of one of its runs."""

from __future__ import annotations

import pytest

from bridge.domain.connection import CadenceSettings, ConnectionHealth
from bridge.domain.run import RunStatus
from bridge.polling import connection_client, schedule, trouble
from bridge.polling.trouble import MissingRuns
from bridge.sandbox import Sandbox, Scenario
from bridge.store.database import Database
from tests.support.listing import EAGER, FOR_EVER, all_observed, lists, polls, register_all
from tests.support.watching import register
from tests.support.workbench import connection, open_poller, work


async def test_another_run_is_polled_where_one_alone_cannot_be_read_for_long(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that are polled every five minutes each: within two minutes only the first was struck."""
    monkeypatch.setattr(trouble, "WITNESS_S", 0.1)
    monkeypatch.setattr(trouble, "UNREADABLE_S", 0.3)
    seldom = CadenceSettings(min_interval_s=0.02, max_interval_s=300.0)
    async with open_poller(database, connection(sandbox, "dibby", cadence=seldom)) as poller:
        made = [sandbox.add_run("dibby", scenario=Scenario(duration_s=None), age_s=86_400.0) for _ in range(2)]
        first = await register(database, made[0], connection="dibby-1", provider="dibby")

        async def is_polled_seldom() -> bool:
            tracked = poller.leases.find(first.id)
            return tracked is not None and tracked.is_planned and tracked.reason == "max_interval"

        await work(poller.run_pass, poller.bell, is_polled_seldom)
        sandbox.fail("dibby", "400", count=None)
        await register(database, made[1], connection="dibby-1", provider="dibby")

        async def is_failing() -> bool:
            return poller.client.health is ConnectionHealth.FAILING

        await work(poller.run_pass, poller.bell, is_failing)
        assert poller.client.reason is not None
        assert "HTTP 400" in poller.client.reason


async def test_every_run_has_its_turn_while_the_connection_is_probed(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs were deleted at the provider and took every probe; a third, which was hardly due, could have ended it."""
    monkeypatch.setattr(schedule, "RANK_EVERY_S", 0.0)  # as probes are further apart in life
    monkeypatch.setattr(schedule, "RANK_SHARE", 1_000.0)
    monkeypatch.setattr(connection_client, "FAILING_SPAN_S", 0.0)
    monkeypatch.setattr(connection_client, "PROBE_FIRST_S", 0.03)
    monkeypatch.setattr(connection_client, "PROBE_MAX_S", 0.03)
    often = CadenceSettings(min_interval_s=0.01, max_interval_s=0.01)
    ages_s = (0.0, 0.0, 864_000.0)
    async with open_poller(database, connection(sandbox, "dify", cadence=often)) as poller:
        for age_s in ages_s:
            run_id = sandbox.add_run("dify", scenario=Scenario(duration_s=None), age_s=age_s)
            await register(database, run_id, connection="dify-1")

        async def are_found() -> bool:
            return sum(each.run.observed_at is not None for each in poller.schedule.all()) == len(ages_s)

        async def is_probing() -> bool:
            return poller.client.is_probing

        await work(poller.run_pass, poller.bell, are_found)
        sandbox.fail("dify", "404", count=None)
        await work(poller.run_pass, poller.bell, is_probing)
        first = len(sandbox.requests) + len(ages_s)  # those that were under way are over

        async def are_enough() -> bool:
            return len(sandbox.requests) >= first + 3 * len(ages_s)

        await work(poller.run_pass, poller.bell, are_enough)
        probes = [seen.path for seen in sandbox.requests][first : first + 3 * len(ages_s)]
        assert sorted(map(probes.count, set(probes))) == [3, 3, 3]


@pytest.mark.slow
async def test_a_run_that_its_list_shows_and_its_own_address_does_not_is_watched_and_the_trouble_shown(
    database: Database, sandbox: Sandbox
) -> None:
    """The list was believed, and nothing said that the run's own address answers 404."""
    theirs = [sandbox.add_run("retab", scenario=FOR_EVER) for _ in range(5)]
    sandbox.fail("retab", "404", count=None, path_ends=theirs[0])
    async with open_poller(database, connection(sandbox, "retab", cadence=EAGER)) as poller:
        run = await register(database, theirs[0], connection="retab-1", provider="retab")

        async def is_not_found() -> bool:
            tracked = poller.leases.find(run.id)
            return tracked is not None and tracked.not_found_count > 0 and not tracked.is_in_flight

        await work(poller.run_pass, poller.bell, is_not_found)
        watched = [run, *await register_all(database, "retab", theirs[1:])]
        await work(poller.run_pass, poller.bell, lambda: all_observed(database, watched))
        sandbox.requests.clear()

        async def is_asked_again() -> bool:
            return sum(seen.run_id == theirs[0] for seen in polls(sandbox)) >= 3 and len(lists(sandbox)) >= 3

        await work(poller.run_pass, poller.bell, is_asked_again)
        tracked = poller.leases.find(run.id)
        assert tracked is not None
        assert tracked.is_not_found
        assert tracked.run.status is RunStatus.RUNNING


def test_runs_that_are_gone_are_distinguished_from_a_connection_that_finds_none() -> None:
    """A gateway or another key answered every poll with the provider's own 404, and every run was lost after a minute."""
    missing = MissingRuns()
    missing.note_found("a", 1.0)
    missing.note_found("b", 2.0)
    assert [missing.note_missing(run, at, was_found=True) for run, at in (("a", 3.0), ("b", 4.0), ("a", 5.0))] == [
        False,
        True,
        True,
    ]
    missing.note_found("c", 6.0)  # the connection finds runs: a and b are gone, however seldom c is polled
    assert not missing.note_missing("a", 7.0, was_found=True)
    assert not missing.note_missing("b", 8.0, was_found=True)
    assert missing.note_missing("c", 9.0, was_found=True)  # now it finds none again
    assert missing.note_missing("a", 10.0, was_found=True)


def test_runs_that_were_never_found_are_gone_each_by_itself() -> None:
    missing = MissingRuns()
    assert not any(missing.note_missing(run, 1.0, was_found=False) for run in "abab")


def test_a_run_that_is_not_polled_any_more_does_not_count_as_missing() -> None:
    missing = MissingRuns()
    missing.note_missing("a", 1.0, was_found=True)
    missing.forget("a")
    assert not missing.note_missing("b", 2.0, was_found=True)
