"""The supervisor: a worker that ends by itself ends everything, with its reason."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from bridge.domain.clock import SystemClock
from bridge.domain.errors import Conflict, WorkerDied
from bridge.runtime.loop import Bell
from bridge.runtime.supervisor import Supervisor
from bridge.runtime.systemd import SILENCE_MAX_S, Notifier, Watchdog
from tests.support.manual_clock import ManualClock


@pytest.fixture
def watchdog() -> Watchdog:
    return Watchdog(Notifier(None), SystemClock(), None)


async def forever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise LookupError("no such thing")


async def return_early() -> None:
    await asyncio.sleep(0)


async def cancel_itself() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("run", "reason"),
    [(fail, "LookupError: no such thing"), (return_early, "it returned"), (cancel_itself, "it was cancelled")],
)
async def test_a_worker_that_ends_by_itself_ends_the_body_and_the_others(run, reason: str, watchdog: Watchdog) -> None:
    """Cancelling itself counts: without its task the daemon would live on and look healthy."""
    was_closed, ended = False, []

    async def note_end() -> None:
        try:
            await forever()
        finally:
            ended.append("other")

    with capture_logs() as logs, pytest.raises(WorkerDied, match=reason):
        async with asyncio.timeout(60), Supervisor(watchdog) as workers:
            workers.start("other", note_end)
            await asyncio.sleep(0)
            workers.start("poller", run)
            try:
                await forever()
            finally:
                was_closed = True
    assert (was_closed, ended) == (True, ["other"])
    (died,) = [line for line in logs if line["event"] == "worker.died"]
    assert (died["worker"], died["log_level"]) == ("poller", "error")
    assert reason in died["reason"]


async def test_what_is_closed_after_a_death_may_take_its_time(watchdog: Watchdog) -> None:
    """The daemon drains as after SIGTERM."""
    steps = []
    with pytest.raises(WorkerDied):
        async with Supervisor(watchdog) as workers:
            workers.start("poller", fail)
            try:
                await forever()
            finally:
                for step in range(3):
                    await asyncio.sleep(0)
                    steps.append(step)
                await workers.end_all()
    assert steps == [0, 1, 2]


async def test_a_worker_that_is_ended_on_purpose_ends_nothing_else(watchdog: Watchdog) -> None:
    ended = False
    async with Supervisor(watchdog) as workers:
        workers.start("poller:a", forever)
        workers.start("poller:b", forever)
        await workers.end("poller:a")
        workers.start("poller:a", forever)
        await workers.end_all(but=frozenset({"poller:a"}))
        await workers.end("unknown")
        await workers.end_all()
        ended = True
    assert ended


async def test_what_the_body_raises_is_not_wrapped(watchdog: Watchdog) -> None:
    """A refusal to start is one sentence, whatever was started before it."""
    with pytest.raises(Conflict, match="in use"):
        async with Supervisor(watchdog) as workers:
            workers.start("poller", forever)
            raise Conflict("in use")


async def test_the_watchdog_expects_a_loop_while_it_runs_and_not_after() -> None:
    clock, passed = ManualClock(datetime(2026, 1, 15, tzinfo=UTC)), Bell()
    watchdog = Watchdog(Notifier(None), clock, None)

    async def run_pass() -> float:
        passed.ring()
        return 60.0

    async with Supervisor(watchdog) as workers:
        workers.start_loop("poller", run_pass)
        await passed.wait(60)
        clock.advance(SILENCE_MAX_S + 1)
        assert watchdog.silent_loops() == {"poller"}
        await workers.end("poller")
        assert watchdog.silent_loops() == set()
