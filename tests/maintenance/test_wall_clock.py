"""The wall clock is set: every duration stays what it was, and nothing becomes due or expires by it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.cluster.process_identity import own_identity
from bridge.domain.clock import SteadyClock
from bridge.domain.errors import StoreUnavailable
from bridge.domain.ids import new_id
from bridge.domain.limits.adaptive import RateLimit
from bridge.maintenance.wall_clock import WallClockWatch, resume
from bridge.polling.duration_learner import LearnedState
from bridge.sandbox import Receiver, Reply, Sandbox, Scenario
from bridge.store import deliveries, nodes, run_lists, runs, sessions
from bridge.store.database import Database
from bridge.store.run_lists import RunFilter
from bridge.store.transaction import Tx
from tests.support.daemon_process import DaemonProcess
from tests.support.delivering import all_deliveries
from tests.support.faked_time import FakedTime
from tests.support.manual_clock import ManualClock
from tests.support.watching import add_endpoint, open_database, record, register

START = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
HOUR_S, FORTY_DAYS_S = 3600.0, 40 * 86400.0


@pytest.fixture
def machine() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def clock(machine: ManualClock) -> SteadyClock:
    return SteadyClock(machine)


async def run_now(database: Database, run_id: str) -> runs.Run:
    run = await database.read(lambda tx: runs.get_run(tx, run_id))
    assert run is not None
    return run


@pytest.mark.parametrize("jump_s", [-HOUR_S, FORTY_DAYS_S])
async def test_on_sqlite_the_database_the_workers_and_the_clock_move_together(
    sqlite_url: str, machine: ManualClock, clock: SteadyClock, jump_s: float
) -> None:
    moved: list[float] = []
    async with open_database(sqlite_url, clock) as database:
        watch = WallClockWatch(database, clock, moved.append)
        in_an_hour = START + timedelta(hours=1)
        movable = await register(database, "movable", deadline_at=in_an_hour)
        fixed = await register(database, "fixed", deadline_at=in_an_hour, deadline_is_fixed=True)
        assert await watch.follow() == 0
        machine.set_wall(jump_s)
        assert clock.now() == START, "until it is followed no worker sees it"
        with capture_logs() as logs:
            assert await watch.follow() == pytest.approx(jump_s)
            assert await watch.follow() == 0
        assert [(line["event"], line["seconds"]) for line in logs] == [("clock.jumped", jump_s)]
        jump = timedelta(seconds=jump_s)
        assert (clock.now(), moved) == (START + jump, [pytest.approx(jump_s)])
        for before in (movable, fixed):
            after = await run_now(database, before.id)
            assert after.next_poll_at == before.next_poll_at + jump
            assert after.status_since == before.status_since + jump
            assert after.deadline_at == in_an_hour + (jump if before is movable else timedelta(0))


@pytest.mark.parametrize("jump_s", [-HOUR_S, HOUR_S])
async def test_a_pause_that_a_provider_asked_for_stays_as_long_whatever_the_clock_says(
    sqlite_url: str, machine: ManualClock, clock: SteadyClock, jump_s: float
) -> None:
    """Set back, a daemon that was started again asked nothing of that provider for an hour."""
    async with open_database(sqlite_url, clock) as database:
        limit = RateLimit()
        learned = await LearnedState.load(database, "dify", limit)
        limit.pause(clock.monotonic(), 60.0)
        limit.keep_asked(clock.monotonic(), 60.0)
        await learned.save_if_due(clock.monotonic())
        machine.set_wall(jump_s)
        await WallClockWatch(database, clock, lambda _: None).follow()
        after_a_start = RateLimit()
        await LearnedState.load(database, "dify", after_a_start)
        assert after_a_start.asked_until - clock.monotonic() == pytest.approx(60.0, abs=1)


@pytest.mark.parametrize("jump_s", [-HOUR_S, FORTY_DAYS_S])
async def test_a_session_ends_an_hour_after_its_last_use_whatever_the_clock_says(
    sqlite_url: str, machine: ManualClock, clock: SteadyClock, jump_s: float
) -> None:
    """Set back, it would last longer than it may; set forward, people would be signed out."""
    async with open_database(sqlite_url, clock) as database:
        watch = WallClockWatch(database, clock, lambda _seconds: None)
        await database.write(
            lambda tx: sessions.create(tx, session_id="ses_1", secret_hash="h", token_name="api_token")
        )
        machine.set_wall(jump_s)
        await watch.follow()
        machine.advance(HOUR_S - 1)
        assert len(await database.read(sessions.list_sessions)) == 1
        machine.advance(2)
        assert await database.read(sessions.list_sessions) == []


async def test_lists_until_an_instant_hold_what_was_recorded_after_the_clock_was_set_back(sqlite_url: str) -> None:
    """Ids never go back: of rows from after such a jump they are hours ahead, and lists ended before them."""
    machine = ManualClock(datetime.now(UTC))
    clock = SteadyClock(machine)
    async with open_database(sqlite_url, clock) as database:
        await add_endpoint(database)
        machine.set_wall(-3 * HOUR_S)
        await WallClockWatch(database, clock, lambda _: None).follow()
        run = await register(database)
        await record(database, run, "succeeded")
        machine.advance(1)
        until = clock.now()
        listed = await database.read(lambda tx: run_lists.list_runs(tx, RunFilter(until=until), limit=10, before=None))
        assert [each.id for each in listed] == [run.id]
        wanted = deliveries.DeliveryFilter(until=until)
        assert len(await database.read(lambda tx: deliveries.list_deliveries(tx, wanted, limit=10, before=None))) == 1


async def test_a_small_correction_is_followed_and_moves_nothing(
    sqlite_url: str, machine: ManualClock, clock: SteadyClock
) -> None:
    moved: list[float] = []
    async with open_database(sqlite_url, clock) as database:
        watch = WallClockWatch(database, clock, moved.append)
        for _ in range(5):
            machine.set_wall(1.5)
            assert await watch.follow() == 0
        assert (clock.now(), moved) == (START + timedelta(seconds=7.5), [])


async def test_while_the_database_cannot_be_written_the_clock_is_not_followed(
    sqlite_url: str, machine: ManualClock, clock: SteadyClock
) -> None:
    """It is tried again; the old time goes on evenly until then."""
    moved: list[float] = []
    database = Database(sqlite_url, clock)
    await database.open()
    watch = WallClockWatch(database, clock, moved.append)
    machine.set_wall(FORTY_DAYS_S)
    await database.close()
    with pytest.raises(StoreUnavailable):
        await watch.follow()
    assert (clock.now(), moved) == (START, [])


async def test_on_postgresql_the_servers_clock_decides(postgresql_url: str) -> None:
    """Several nodes share its times: one whose clock is wrong keeps its own, and one that was wrong is put right."""
    machine = ManualClock(datetime.now(UTC))
    clock, moved = SteadyClock(machine), list[float]()
    async with open_database(postgresql_url, clock) as database:
        watch = WallClockWatch(database, clock, moved.append)
        machine.set_wall(FORTY_DAYS_S)
        assert await watch.follow() == pytest.approx(FORTY_DAYS_S)
        assert abs(clock.now() - datetime.now(UTC)) < timedelta(minutes=1)
        assert all(abs(seconds) < 60 for seconds in moved)  # this machine stood still while its database was made
        moved.clear()
        assert await watch.follow() == 0
        machine.set_wall(-FORTY_DAYS_S)
        assert await watch.follow() == pytest.approx(-FORTY_DAYS_S)
        assert (await watch.follow(), moved) == (0, [])


async def join(database: Database, clock: SteadyClock) -> None:
    """Note the clock of this daemon, as it does at its start."""
    here = {"host": "here", "pid": 1, "version": "0", "process": own_identity()}
    await database.write(lambda tx: nodes.join(tx, node=new_id("node"), clock_zero_at=clock.zero_at, **here))


@pytest.mark.parametrize("jump_s", [-HOUR_S, FORTY_DAYS_S])
async def test_a_move_that_was_committed_although_its_error_says_otherwise_is_not_made_twice(
    sqlite_url: str, machine: ManualClock, clock: SteadyClock, jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved twice, runs expired minutes before their deadlines."""
    moved: list[float] = []
    async with open_database(sqlite_url, clock) as database:
        await join(database, clock)
        watch = WallClockWatch(database, clock, moved.append)
        run = await register(database)
        write_alone = database.write_alone

        async def lose_the_answer(work: Callable[[Tx], None]) -> None:
            await write_alone(work)
            raise StoreUnavailable("disk I/O error")

        monkeypatch.setattr(database, "write_alone", lose_the_answer)
        machine.set_wall(jump_s)
        assert await watch.follow() == pytest.approx(jump_s)
        assert await watch.follow() == 0
        jump = timedelta(seconds=jump_s)
        assert (clock.now(), moved) == (START + jump, [pytest.approx(jump_s)])
        assert (await run_now(database, run.id)).next_poll_at == run.next_poll_at + jump


@pytest.mark.parametrize("jump_s", [-HOUR_S, FORTY_DAYS_S])
async def test_a_daemon_that_was_killed_before_it_noticed_is_followed_by_one_that_does(
    sqlite_url: str, machine: ManualClock, clock: SteadyClock, jump_s: float
) -> None:
    async with open_database(sqlite_url, clock) as database:
        await join(database, clock)
        machine.set_wall(jump_s)
        machine.advance(1)
        run = await register(database)
        assert run.next_poll_at == START + timedelta(seconds=1)
        database.clock = following = SteadyClock(machine)
        database.written_at = machine.now()
        await resume(database, following)
        await join(database, following)
        assert await WallClockWatch(database, following, [].append).follow() == pytest.approx(jump_s)
        assert (await run_now(database, run.id)).next_poll_at == machine.now()
        await resume(database, SteadyClock(machine))
        assert following.lag_s() == pytest.approx(0)
        assert SteadyClock(machine).zero_at == following.zero_at


async def test_after_a_start_with_a_clock_set_back_no_retry_is_years_away(
    sqlite_url: str, machine: ManualClock, clock: SteadyClock
) -> None:
    """A machine without a battery begins in another year, and the network sets its clock some seconds later."""
    async with open_database(sqlite_url, clock) as database:
        await add_endpoint(database)
        await record(database, await register(database), "succeeded")
        years_s = 6 * 365 * 86400.0
        machine.set_wall(-years_s)
        database.clock, database.written_at = SteadyClock(machine), clock.now()
        watch = WallClockWatch(database, database.clock, [].append)
        await resume(database, database.clock)
        (delivery,) = await all_deliveries(database)
        assert delivery.next_attempt_at == machine.now()
        machine.set_wall(years_s)
        assert await watch.follow() == pytest.approx(years_s)
        (delivery,) = await all_deliveries(database)
        assert delivery.next_attempt_at == machine.now() == START


@pytest.mark.slow
async def test_a_daemon_that_starts_after_the_clock_was_set_back_polls_and_delivers_at_once(tmp_path: Path) -> None:
    """It was down, or killed within the two seconds in which it would have noticed: nothing waited for an hour."""
    async with Sandbox() as sandbox, Receiver(tolerance_s=10**8) as receiver:
        daemon = DaemonProcess(tmp_path)
        time_of = FakedTime(daemon)
        daemon.add_connection("dify", "dify", sandbox.url("dify"))
        receiver.add_secret(daemon.add_endpoint("app", receiver.url()))
        async with daemon:
            killed = await daemon.register("dify", sandbox.add_run("dify", scenario=Scenario(duration_s=2)))
            time_of.set("-1h")
            await daemon.kill()
            await daemon.restart()
            await receiver.wait_for(lambda got: killed["id"] in finished(got), 60)
            down = await daemon.register("dify", sandbox.add_run("dify", scenario=Scenario(duration_s=2)))
            await daemon.stop()
            time_of.set("-2h")
            await daemon.restart()
            await receiver.wait_for(lambda got: down["id"] in finished(got), 60)
            assert finished(receiver.received) == {killed["id"], down["id"]}


@pytest.mark.slow
@pytest.mark.parametrize(("offset", "jump_s"), [("-1h", -HOUR_S), ("+40d", FORTY_DAYS_S)])
async def test_a_set_clock_delays_no_retry_and_expires_no_run(offset: str, jump_s: float, tmp_path: Path) -> None:
    """Set back an hour, retries came an hour late; set forward 40 days, runs expired for good."""
    async with Sandbox() as sandbox, Receiver(tolerance_s=10**8) as receiver:
        daemon = DaemonProcess(tmp_path, delivery={"retry_schedule": ["10s", "10s", "10s"]})
        time_of = FakedTime(daemon)
        daemon.add_connection("dify", "dify", sandbox.url("dify"))
        receiver.add_secret(daemon.add_endpoint("app", receiver.url()))
        receiver.script(Reply(status=500))
        async with daemon:
            early = await daemon.register("dify", sandbox.add_run("dify", scenario=Scenario(duration_s=0)))
            await receiver.wait_for(lambda got: len(got) == 1)
            late = [
                await daemon.register("dify", sandbox.add_run("dify", scenario=Scenario(duration_s=3 + 0.3 * number)))
                for number in range(12)
            ]
            since = daemon.log_size
            time_of.set(offset)
            jumped = await daemon.wait_for_log("clock.jumped", since=since)
            assert jumped["seconds"] == pytest.approx(jump_s, abs=2)
            taken = await receiver.wait_for(
                lambda got: {early["id"], *(run["id"] for run in late)} <= finished(got), 60
            )
            failed, again = (each.at for each in taken if each.event["data"]["run"]["id"] == early["id"])
            assert (again - failed).total_seconds() > 7.9, "the retry after 10 s, ± 20 %"
            assert {run["status"] for run in [await daemon.finish_of(one["id"]) for one in (early, *late)]} == {
                "succeeded"
            }
            deliveries = (await daemon.ask("GET", "/v1/deliveries?limit=100"))["data"]
            assert [each["state"] for each in deliveries if each["state"] != "delivered"] == []
            assert daemon.log_lines("worker.failed") == []


def finished(received) -> set[str]:
    return {one.event["data"]["run"]["id"] for one in received if one.type == "run.finished" and one.status == 204}
