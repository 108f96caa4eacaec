"""Figures that are promised, measured in virtual time with the real poller, database and servers."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from bridge.domain.connection import CadenceSettings
from bridge.domain.observation import Observed
from bridge.polling.poller import Poller
from bridge.providers.retab import Retab
from bridge.sandbox import Sandbox, Scenario
from bridge.store import runs
from bridge.store.database import Database
from bridge.store.nodes import join
from tests.simulation.jumping_loop import JumpingLoop, in_real_time, run_jumping, stop_time_while_it_works
from tests.support.watching import NODE, new_run
from tests.support.workbench import connection, open_poller

pytestmark = pytest.mark.slow
CALM = CadenceSettings(price_s=0.5, min_interval_s=0.25, max_interval_s=300.0)


class Account:
    """One connection to a sandbox, polled in virtual time."""

    def __init__(self, loop: JumpingLoop, database: Database, sandbox: Sandbox, poller: Poller) -> None:
        self.loop, self.clock, self.database, self.sandbox, self.poller = loop, loop.clock, database, sandbox, poller
        self.ends: dict[str, float] = {}
        self.told: dict[str, float] = {}
        self.provider = poller.client.connection.provider

    async def watch(self, count: int, scenario: Any) -> list[str]:
        """Start so many runs at the provider and register them."""
        now, name = self.clock.monotonic(), self.poller.client.connection.name
        made = [
            (self.sandbox.add_run(self.provider, scenario=each), each) for each in (scenario() for _ in range(count))
        ]
        new = [new_run(theirs, connection=name, provider=self.provider) for theirs, _ in made]
        watched = await self.database.write(lambda tx: runs.insert_runs(tx, new))
        self.ends |= {
            run.id: now + each.duration_s for run, (_, each) in zip(watched, made, strict=True) if each.duration_s
        }
        return [run.id for run in watched]

    def note(self) -> int:
        """Note which runs were seen to end; how many just were."""
        over = [i for i in self.ends if i not in self.told and self.poller.leases.find(i) is None]
        self.told |= dict.fromkeys(over, self.clock.monotonic())
        return len(over)

    @property
    def delays(self) -> list[float]:
        return [at - self.ends[i] for i, at in self.told.items()]


async def open_account(stack: AsyncExitStack, loop: JumpingLoop, folder: Path, provider: str, **more: Any) -> Account:
    sandbox = await stack.enter_async_context(Sandbox(clock=loop.clock))
    database = stop_time_while_it_works(Database(f"sqlite:///{folder / 'figures.db'}", loop.clock))
    await in_real_time(database.open())
    stack.push_async_callback(lambda: in_real_time(database.close()))
    await database.write(lambda tx: join(tx, node=NODE, host="here", pid=1, version="0"))
    settings = connection(sandbox, provider, **({"cadence": CALM} | more))
    poller = await stack.enter_async_context(open_poller(database, settings, clock=loop.clock))

    async def poll() -> None:
        while True:
            await poller.bell.wait(await poller.run_pass())

    polling = asyncio.create_task(poll())
    stack.callback(polling.cancel)
    return Account(loop, database, sandbox, poller)


def mean_delay(folder: Path, others: int | None) -> float:
    """The mean delay of runs that no list shows, at 6 requests a second.

    `others`: the number of other runs on the lists; None without lists."""
    folder.mkdir()
    chance = random.Random(7)

    def scenario() -> Scenario:
        return Scenario(duration_s=chance.lognormvariate(3.4, 0.5))

    async def measure(loop: JumpingLoop) -> float:
        async with AsyncExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(Retab, "lists", others is not None)
            account = await open_account(
                stack, loop, folder, "retab", requests_per_second=6.0, discover=others is not None, fetch_output=False
            )
            client = account.poller.client
            for _ in range(others or 0):
                account.sandbox.add_run("retab", scenario=Scenario(duration_s=None))
            ours, list_runs = set[str](), client.list_runs

            async def list_others(**query: Any) -> Any:
                page = await list_runs(**query)
                return replace(page, runs=tuple(each for each in page.runs if each.provider_run_id not in ours))

            client.list_runs = list_others  # type: ignore[method-assign]
            theirs = account.sandbox.state.runs
            before = set(theirs)
            await account.watch(39, scenario)
            ours |= {theirs_id for _, theirs_id in set(theirs) - before}
            while loop.clock.monotonic() < 1000.0 + 150.0:
                await asyncio.sleep(0.1)
                if over := account.note():
                    before = set(theirs)
                    await account.watch(over, scenario)
                    ours |= {theirs_id for _, theirs_id in set(theirs) - before}
            return fmean(account.delays)

    return run_jumping(measure)


def test_lists_that_show_none_of_the_runs_cost_them_at_most_half_as_much_delay_again(tmp_path: Path) -> None:
    """It was five times as much with one page of long runs of others, and fifteen times with two."""
    alone_s = mean_delay(tmp_path / "alone", None)
    found = {others: mean_delay(tmp_path / str(others), others) for others in (100, 200)}
    assert {others: round(delay_s / alone_s, 2) for others, delay_s in found.items() if delay_s > 1.5 * alone_s} == {}


def noticed(folder: Path, *, has_outputs: bool) -> tuple[float, float]:
    """The mean delay until a poll sees an end, and the longest wait after it, at 6 requests and 2.8 ends a second."""
    folder.mkdir()
    chance = random.Random(7)

    def scenario() -> Scenario:
        return Scenario(duration_s=chance.lognormvariate(3.0, 0.3))

    async def measure(loop: JumpingLoop) -> tuple[float, float]:
        async with AsyncExitStack() as stack:
            stack.enter_context(pytest.MonkeyPatch.context()).setattr(Retab, "lists", False)
            account = await open_account(
                stack, loop, folder, "retab", requests_per_second=6.0, discover=False, fetch_output=has_outputs
            )
            client, clock = account.poller.client, loop.clock
            seen, poll = dict[str, float](), client.poll

            async def poll_and_note(run: Any, *arguments: Any, **more: Any) -> Any:
                result = await poll(run, *arguments, **more)
                if isinstance(result, Observed) and result.observation.status.is_settled:
                    seen[run.id] = clock.monotonic()
                return result

            client.poll = poll_and_note  # type: ignore[method-assign]
            began_at, started = clock.monotonic(), 0
            while (age_s := clock.monotonic() - began_at) < 180.0:
                new = int(2.8 * age_s) - started
                started += new
                await account.watch(new, scenario)
                await asyncio.sleep(0.1)
                account.note()
            late = {i: at for i, at in seen.items() if account.ends[i] - began_at > 60.0}
            waits = [account.told.get(i, clock.monotonic()) - at for i, at in late.items()]
            return fmean(at - account.ends[i] for i, at in late.items()), max(waits)

    return run_jumping(measure)


def test_outputs_at_a_limit_wait_for_polls_and_hold_no_event_longer_than_output_wait(tmp_path: Path) -> None:
    """Where each end costs a second request, ends were noticed 2.7 times later than without outputs.

    Outputs alone take 2.8 of the 6 requests here, so half of the polls are left.
    """
    alone_s, _ = noticed(tmp_path / "alone", has_outputs=False)
    beside_s, wait_s = noticed(tmp_path / "beside", has_outputs=True)
    assert beside_s <= 1.7 * alone_s
    assert wait_s <= 61.0


@pytest.mark.parametrize("retry_after", [None, "5"])
@pytest.mark.parametrize("outage_s", [10.0, 30.0, 90.0])
def test_after_an_outage_of_nothing_but_429_fifty_ends_are_reported_within_half_a_minute(
    tmp_path: Path, outage_s: float, retry_after: str | None
) -> None:
    """Half of them were noticed three minutes later, and after longer outages fewer."""

    async def measure(loop: JumpingLoop) -> float:
        async with AsyncExitStack() as stack:
            account = await open_account(stack, loop, tmp_path, "dibby", requests_per_second=None)
            sandbox, clock = account.sandbox, loop.clock
            sandbox.limit("dibby", 10.0, is_announced=False)
            await account.watch(50, lambda: Scenario(duration_s=60.0))
            await asyncio.sleep(59.0)
            sandbox.fail("dibby", "429", count=None, retry_after=retry_after)
            await asyncio.sleep(1.0 + outage_s)
            sandbox.clear_faults()
            before = len(sandbox.requests)
            while not any(each.status == 200 for each in sandbox.requests[before:]):
                await asyncio.sleep(0.1)
            first_at = clock.monotonic()
            while len(account.told) < 50:
                await asyncio.sleep(0.1)
                account.note()
            return clock.monotonic() - first_at

    assert run_jumping(measure) <= 30.0


def test_a_hung_run_costs_twice_a_back_off_once_three_like_it_are_known(tmp_path: Path) -> None:
    """A back-off polls seven times in 88 s. The first ones cost a poll every three seconds of their first minute."""

    async def measure(loop: JumpingLoop) -> list[int]:
        async with AsyncExitStack() as stack:
            account = await open_account(stack, loop, tmp_path, "dibby")
            costs = []
            for _ in range(4):
                [run_id] = await account.watch(1, lambda: Scenario(duration_s=None))
                await asyncio.sleep(88.0)
                held = account.poller.leases.find(run_id)
                assert held is not None
                costs.append(held.requests)
            return costs

    costs = run_jumping(measure)
    assert max(costs) <= 24
    assert costs[3] <= 14
