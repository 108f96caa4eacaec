"""Learning from runs, and how it changes the polls of the next ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bridge.domain.connection import CadenceSettings
from bridge.domain.event import EventType
from bridge.domain.failure import FailureKind
from bridge.domain.observation import Observation, Observed, PollFailed
from bridge.domain.run import Progress, Run, RunStatus
from bridge.polling.duration_learner import DurationLearner
from bridge.polling.planner import Planner
from bridge.polling.schedule import TrackedRun
from bridge.sandbox import Sandbox, Scenario
from bridge.store import events, learned_state
from bridge.store.database import Database
from tests.support.watching import open_database, register, seen
from tests.support.workbench import connection, finish, open_poller, reach, work

NOW = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


async def running(tmp_path: Path, **more: object) -> Run:
    async with open_database(f"sqlite:///{tmp_path / 'run.db'}") as database:
        run = await register(database, workflow_id="wf")
    values = {"status": RunStatus.RUNNING, "observed_at": NOW, "status_since": NOW, "has_started": True}
    return replace(run, **(values | more))


def watched(run: Run, *, age_s: float) -> TrackedRun:
    """A run polled just now at this age, and due in a minute; the monotonic clock shows the age."""
    tracked = TrackedRun(run, age_s, now=NOW, monotonic=0.0)
    tracked.start_poll(NOW + timedelta(seconds=age_s), age_s)
    tracked.end_poll()
    tracked.plan(age_s + 60, NOW + timedelta(seconds=age_s + 60), "planned")
    return tracked


def taught(*durations_s: float) -> Planner:
    """A planner that has seen runs of `wf` end after so many seconds."""
    planner = Planner(CadenceSettings(), DurationLearner())
    for duration_s in durations_s:
        planner.learner.learn("wf", RunStatus.RUNNING, duration_s - 0.2, duration_s + 0.2, now=duration_s * 1e6)
    return planner


def teach_three_seconds(planner: Planner, *, runs: int) -> None:
    for _ in range(runs):
        planner.learner.learn("wf", RunStatus.RUNNING, 2.9, 3.1, now=1e9)


async def test_a_workflow_that_always_takes_a_minute_is_polled_after_a_minute(tmp_path: Path) -> None:
    tracked = watched(await running(tmp_path), age_s=0.0)
    plan = taught(*[60.0] * 30).plan(tracked, Observed(seen("running")), 0.0)
    assert 55 < plan.delay_s < 65
    unknown = taught().plan(tracked, Observed(seen("running")), 0.0)
    assert unknown.delay_s < 10


@pytest.mark.parametrize("takes_s", [0.5, 5.0, 20.0, 55.0])
async def test_the_first_run_of_a_new_user_is_noticed_within_three_seconds(tmp_path: Path, takes_s: float) -> None:
    planner, now = taught(), 0.0
    tracked = TrackedRun(await running(tmp_path), now, now=NOW, monotonic=now)
    polls = 0
    while now < takes_s:
        tracked.start_poll(NOW + timedelta(seconds=now), now)
        tracked.note_alive(seen("running"))
        tracked.end_poll()
        now += planner.plan(tracked, Observed(seen("running")), now).delay_s
        polls += 1
    assert now - takes_s <= 3.0
    assert polls <= 24


async def test_runs_that_are_long_show_that_others_like_them_need_not_be_polled_every_three_seconds(
    tmp_path: Path,
) -> None:
    planner, run = taught(), await running(tmp_path)
    young = watched(run, age_s=20.0)
    young.note_alive(seen("running"))
    assert planner.plan(young, Observed(seen("running")), 20.0).delay_s <= 3.0
    for number in range(3):
        old = watched(replace(run, id=f"old_{number}"), age_s=70.0)
        old.note_alive(seen("running"))
        planner.plan(old, Observed(seen("running")), 70.0)
    assert planner.plan(young, Observed(seen("running")), 20.0).delay_s > 3.0


async def test_what_one_run_teaches_changes_the_plans_of_the_others(tmp_path: Path) -> None:
    planner, tracked = taught(), watched(await running(tmp_path), age_s=0.0)
    before = planner.plan(tracked, Observed(seen("running")), 0.0)
    assert planner.replan(tracked, 0.0) is None
    for _ in range(10):
        planner.learner.learn("wf", RunStatus.RUNNING, 59.8, 60.2, now=1e9)
    after = planner.replan(tracked, 1.0)
    assert after is not None
    assert after.delay_s > before.delay_s + 20
    assert planner.replan(watched(replace(tracked.run, workflow_id="other"), age_s=0.0), 1.0) is None


async def test_a_poll_that_is_due_is_not_put_off_by_a_new_plan(tmp_path: Path) -> None:
    """It may be the one that sees a run past its deadline."""
    planner, tracked = taught(), watched(await running(tmp_path), age_s=0.0)
    planner.learner.learn("wf", RunStatus.RUNNING, 59.8, 60.2, now=1e9)
    tracked.plan(5.0, NOW + timedelta(seconds=5), "its deadline")
    assert planner.replan(tracked, 1.0) is not None
    assert planner.replan(tracked, 5.0) is None


async def test_a_wish_of_the_provider_outlives_a_new_plan(tmp_path: Path) -> None:
    planner, tracked = taught(), watched(await running(tmp_path), age_s=0.0)
    planner.plan(tracked, Observed(seen("running"), poll_after_s=120.0), 0.0)
    planner.learner.learn("wf", RunStatus.RUNNING, 0.8, 1.2, now=1e9)
    plan = planner.replan(tracked, 1.0)
    assert plan is not None
    assert plan.delay_s >= 119


async def test_when_a_run_is_due_that_was_just_taken_over_is_what_the_database_says(tmp_path: Path) -> None:
    """It may be a wish of the provider."""
    planner, run = taught(), await running(tmp_path)
    planner.learner.learn("wf", RunStatus.RUNNING, 0.8, 1.2, now=1e9)
    assert planner.replan(TrackedRun(run, 60.0, now=NOW, monotonic=0.0), 1.0) is None


async def test_a_wish_of_the_provider_outlives_a_list_that_shows_the_run(tmp_path: Path) -> None:
    planner, tracked = taught(*[1.0] * 30), watched(await running(tmp_path), age_s=0.0)
    planner.plan(tracked, Observed(seen("running"), poll_after_s=30.0), 0.0)
    tracked.start_poll(NOW, 1.0)
    assert planner.plan(tracked, Observed(seen("running")), 1.0).delay_s >= 29.0


async def test_a_wish_of_the_provider_counts_from_its_answer_however_long_that_took(tmp_path: Path) -> None:
    planner, tracked = taught(), watched(await running(tmp_path), age_s=10.0)
    plan = planner.plan(tracked, Observed(seen("running"), poll_after_s=3.0), now=12.5)
    assert plan.delay_s >= 3.0


async def test_refusals_of_the_connection_make_no_run_back_off(tmp_path: Path) -> None:
    """After an outage full of 429s every run is polled when the limiter opens, not when its own back-off ends."""
    planner, tracked = taught(), watched(await running(tmp_path), age_s=0.0)
    for _ in range(8):
        tracked.note_failure(PollFailed(FailureKind.THROTTLED, "429"), NOW, 0.0)
    assert planner.plan_retry(tracked, PollFailed(FailureKind.THROTTLED, "429")).delay_s <= 1.0
    assert planner.plan_retry(tracked, PollFailed(FailureKind.THROTTLED, "429", retry_after_s=7.0)).delay_s == 7.0
    assert planner.plan_retry(tracked, PollFailed(FailureKind.TIMEOUT, "no answer")).delay_s == 60.0


@pytest.mark.parametrize("usually_s", [2.0, 5.0, 20.0])
async def test_a_run_that_hangs_costs_at_most_twice_the_polls_of_a_back_off(tmp_path: Path, usually_s: float) -> None:
    """A back-off that doubles from 1 s to 30 s polls seven times in 88 s."""
    planner, now, polls = taught(*[usually_s] * 40), 0.0, 0
    tracked = TrackedRun(await running(tmp_path), now, now=NOW, monotonic=now)
    while now < 88.0:
        tracked.start_poll(NOW + timedelta(seconds=now), now)
        tracked.note_alive(seen("running"))
        tracked.end_poll()
        now += planner.plan(tracked, Observed(seen("running")), now).delay_s
        polls += 1
    assert polls <= 14


async def test_runs_that_hang_do_not_move_what_is_normal(tmp_path: Path) -> None:
    run, planner = await running(tmp_path), taught(*[5.0] * 40)
    hanging = [watched(replace(run, id=f"run_{number}"), age_s=300.0) for number in range(6)]
    for tracked in hanging:
        tracked.note_alive(seen("running"))
    planner.learner.learn("wf", RunStatus.RUNNING, 4.9, 5.1, now=1e9)
    planner.refit(hanging)
    assert all(planner.is_overdue(tracked, 300.0, hanging) for tracked in hanging)


async def test_a_run_past_the_longest_is_overdue_once_enough_were_seen(tmp_path: Path) -> None:
    run = await running(tmp_path)
    tracked = watched(run, age_s=500.0)
    assert taught(*[10.0] * 40).is_overdue(tracked, 500.0, [tracked])
    assert not taught(*[10.0] * 5).is_overdue(tracked, 500.0, [tracked])
    assert not taught(*[10.0] * 40).is_overdue(watched(run, age_s=9.0), 9.0, [])
    assert not taught(*[10.0] * 40).is_overdue(watched(replace(run, is_overdue=True), age_s=500.0), 500.0, [])


async def test_of_runs_that_began_together_the_quick_ones_do_not_make_the_others_overdue(tmp_path: Path) -> None:
    """Half take 3 s, half two minutes: when the first half has ended, nothing is known of the second."""
    run, planner = await running(tmp_path), taught()
    batch = [watched(replace(run, id=f"run_{number}"), age_s=0.0) for number in range(100)]
    for tracked in batch:
        planner.plan(tracked, Observed(seen("running")), 0.0)
    teach_three_seconds(planner, runs=50)
    assert not any(planner.is_overdue(tracked, 30.0, batch[50:]) for tracked in batch[50:])
    late = watched(replace(run, id="run_late"), age_s=0.0)
    planner.plan(late, Observed(seen("running")), 0.0)
    assert not planner.is_overdue(late, 30.0, [late, *batch[50:]]), "longer ones were begun before it"
    assert planner.is_overdue(late, 30.0, [late])


async def test_a_few_that_hang_from_the_beginning_do_not_hide_the_others_nor_themselves(tmp_path: Path) -> None:
    run, planner = await running(tmp_path), taught()
    first = [watched(replace(run, id=f"run_{number}"), age_s=0.0) for number in range(2)]
    for tracked in first:
        planner.plan(tracked, Observed(seen("running")), 0.0)
    teach_three_seconds(planner, runs=40)
    late = watched(replace(run, id="run_late"), age_s=0.0)
    planner.plan(late, Observed(seen("running")), 0.0)
    assert all(planner.is_overdue(tracked, 20.0, [*first, late]) for tracked in [*first, late])


async def test_runs_that_wait_for_a_person_hide_no_overdue_run(tmp_path: Path) -> None:
    run, planner = await running(tmp_path), taught()
    waiting = [watched(replace(run, id=f"run_{n}", status=RunStatus.WAITING), age_s=0.0) for n in range(9)]
    for tracked in waiting:
        planner.plan(tracked, Observed(seen("waiting")), 0.0)
    teach_three_seconds(planner, runs=40)
    late = watched(replace(run, id="run_late"), age_s=0.0)
    assert planner.is_overdue(late, 20.0, [late, *waiting])


async def test_many_that_hang_from_the_beginning_do_not_hide_the_others_for_ever(tmp_path: Path) -> None:
    run, planner = await running(tmp_path), taught()
    first = [watched(replace(run, id=f"run_{number}"), age_s=0.0) for number in range(10)]
    for tracked in first:
        planner.plan(tracked, Observed(seen("running")), 0.0)
    teach_three_seconds(planner, runs=40)
    assert not any(planner.is_overdue(tracked, 50.0, first) for tracked in first)
    assert all(planner.is_overdue(tracked, 300.0, first) for tracked in first)


async def test_a_run_found_over_by_a_late_first_poll_teaches_what_is_no_surprise(tmp_path: Path) -> None:
    """Where requests are scarce most first polls are late; and old runs that are registered late must not teach."""
    run = replace(await running(tmp_path), status=RunStatus.QUEUED, observed_at=None)
    over = seen("succeeded")

    def learned(planner: Planner, over_s: float, age_s: float | None) -> float:
        before = planner.learner.durations("wf", RunStatus.RUNNING).runs
        planner.learn_end(TrackedRun(run, 0.0, now=NOW, monotonic=0.0), over, over_s, age_s=age_s)
        return planner.learner.durations("wf", RunStatus.RUNNING).runs - before

    assert learned(taught(), 5.0, 6.0) == 1.0
    assert learned(taught(), 1.0, 1.0) == 0.0, "it may have been over when it was registered"
    assert learned(taught(), 5.0, 60.0) == 0.0, "it had begun long before it was registered"
    assert learned(taught(), 5.0, None) == 0.0, "perhaps, too"
    assert learned(taught(*[60.0] * 25), 5.0, 5.0) == 0.0
    assert learned(taught(*[60.0] * 25), 62.0, 62.0) > 0.0
    assert learned(taught(*[60.0] * 25), 62.0, None) > 0.0


async def test_a_first_poll_is_as_urgent_as_runs_like_it_are_likely_to_be_over(tmp_path: Path) -> None:
    run = await running(tmp_path)
    new = TrackedRun(replace(run, status=RunStatus.QUEUED, observed_at=None), 0.0, now=NOW, monotonic=0.0)
    planner = taught(*[60.0] * 40)
    assert planner.urgency(new, 10.0) < 1.0
    assert planner.urgency(new, 70.0) > 5.0
    assert planner.urgency(new, 0.0) < planner.urgency(new, 10.0), "it may be over already"


async def test_the_most_urgent_run_is_ranked_last_to_be_taken_first(tmp_path: Path) -> None:
    run = await running(tmp_path)
    planner = taught(*[20.0] * 30)
    nearly_done = watched(run, age_s=0.0)
    later = NOW + timedelta(seconds=18)
    young = TrackedRun(replace(run, id="run_2", status_since=later), 18.0, now=later, monotonic=18.0)
    assert [ranked for _, ranked in planner.rank([nearly_done, young], 21.0, [])] == [young, nearly_done]


async def test_only_the_providers_own_clock_shows_how_old_a_run_is(tmp_path: Path) -> None:
    """Its clock is a year off; the difference of its own times is still right."""
    run = await running(tmp_path, observed_at=None, status=RunStatus.QUEUED)
    for times in ({"started_at": "2025-01-15T10:00:00Z"}, {"created_at": "2025-01-15T10:00:00Z"}):
        result = Observed(Observation(RunStatus.RUNNING, "running", **times), answered_at="2025-01-15T10:05:00Z")
        began_at = taught().began_at(watched(run, age_s=0.0), result, NOW, 0.0)
        assert began_at == NOW - timedelta(minutes=5)


async def test_a_duration_counts_from_the_creation_where_the_provider_tells_no_start(tmp_path: Path) -> None:
    planner, tracked = taught(), watched(await running(tmp_path), age_s=5.0)
    tracked.note_alive(seen("running"))
    times = {"created_at": "2026-01-15T10:30:00Z", "finished_at": "2026-01-15T10:30:20Z"}
    planner.learn_end(tracked, seen("succeeded", **times), 60.0)
    durations = planner.learner.durations("wf", RunStatus.RUNNING)
    durations.refit(())
    assert 18 < durations.ended.quantile(0.5) < 23


async def test_a_run_has_been_alive_until_the_last_poll_that_found_it_going_on(
    database: Database, sandbox: Sandbox
) -> None:
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=None))
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        run = await register(database, theirs, connection="dibby-1", provider="dibby")
        await reach(poller, database, run.id, RunStatus.RUNNING)
        tracked = poller.schedule.get(run.id)
        assert tracked is not None
        first_s, polls = tracked.alive_s, tracked.polls

        async def is_polled_again() -> bool:
            return tracked.polls > polls and not tracked.is_in_flight

        await work(poller.run_pass, poller.bell, is_polled_again)
        assert tracked.alive_s > first_s


async def test_a_run_that_spans_a_jump_of_the_clock_teaches_nothing(tmp_path: Path) -> None:
    planner, tracked = taught(), watched(await running(tmp_path), age_s=5.0)
    tracked.rebase(3600.0)
    planner.learn_end(tracked, seen("succeeded"), 6.0)
    assert not planner.learner.has_unsaved


async def test_a_change_after_the_clock_was_set_back_leaves_the_run_due_when_it_was(tmp_path: Path) -> None:
    """Its row is written whole: otherwise a daemon that is killed then polls it again an hour later."""
    tracked = watched(await running(tmp_path, deadline_at=NOW + timedelta(hours=3)), age_s=5.0)
    before = tracked.with_counters()
    tracked.rebase(-3600.0)
    after = tracked.with_counters()
    hour = timedelta(hours=1)
    assert before.next_poll_at is not None
    assert before.deadline_at is not None
    assert (after.next_poll_at, after.status_since) == (before.next_poll_at - hour, before.status_since - hour)
    assert after.deadline_at == before.deadline_at - hour


@pytest.mark.parametrize(("left_s", "delay_s"), [(0.5, 2.0), (30.0, 30.001), (120.0, 100.0)])
async def test_the_last_poll_before_a_deadline_keeps_min_interval_too(
    left_s: float, delay_s: float, tmp_path: Path
) -> None:
    tracked = watched(await running(tmp_path, deadline_at=NOW + timedelta(seconds=left_s)), age_s=0.0)
    planner = Planner(CadenceSettings(min_interval_s=2.0), DurationLearner())
    assert planner.before_deadline(tracked, 100.0, "planned", NOW).delay_s == pytest.approx(delay_s)


async def test_progress_is_tracked_and_taught(tmp_path: Path) -> None:
    planner, tracked = taught(), watched(await running(tmp_path), age_s=5.0)
    tracked.note_alive(seen("running", progress=Progress(2, 4)))
    assert tracked.track.latest is not None
    planner.learn_end(tracked, seen("succeeded"), 10.0)
    assert {row.kind for row in planner.learner.take_unsaved()} == {"workflow", "connection", "progress"}


@pytest.mark.slow
async def test_learned_durations_outlive_a_restart(tmp_path: Path) -> None:
    """Learned state is saved when the poller stops, and the next one starts from it."""
    async with Sandbox() as sandbox, open_database(f"sqlite:///{tmp_path / 'a.db'}") as database:
        theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=None))
        async with open_poller(database, connection(sandbox, "dibby")) as poller:
            run = await register(database, theirs, connection="dibby-1", provider="dibby", workflow_id="wf")
            await reach(poller, database, run.id, RunStatus.RUNNING)
            sandbox.add_run("dibby", run_id=theirs, scenario=Scenario(duration_s=0.0))
            await finish(poller, database, run.id)
        rows = await database.read(lambda tx: learned_state.list_learned(tx, "dibby-1"))
    again = DurationLearner(rows)
    assert again.durations("wf", RunStatus.RUNNING).runs == 1
    assert again.known_workflows() == ["wf"]


@pytest.mark.slow
async def test_an_overdue_run_is_reported_once(tmp_path: Path) -> None:
    async with Sandbox() as sandbox, open_database(f"sqlite:///{tmp_path / 'a.db'}") as database:
        theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=None))

        async def is_told() -> bool:
            made = await database.read(lambda tx: events.list_run_events(tx, run.id))
            return EventType.RUN_OVERDUE in [event.type for event in made]

        async with open_poller(database, connection(sandbox, "dibby")) as poller:
            for number in range(40):
                poller.planner.learner.learn("wf", RunStatus.RUNNING, 0.1, 0.11, now=number * 1e6)
            run = await register(database, theirs, connection="dibby-1", provider="dibby", workflow_id="wf")
            await work(poller.run_pass, poller.bell, is_told)
            sandbox.add_run("dibby", run_id=theirs, scenario=Scenario(duration_s=0.0))
            await finish(poller, database, run.id)
        told = [event.type for event in await database.read(lambda tx: events.list_run_events(tx, run.id))]
    assert told == [EventType.RUN_STARTED, EventType.RUN_OVERDUE, EventType.RUN_FINISHED]


def test_what_is_shown_of_a_workflow_is_what_its_runs_taught_and_how_the_next_is_polled() -> None:
    shown = taught(*[60.0] * 30).distribution("wf")
    assert shown["runs_remembered"] > 20
    assert 59 < shown["median_s"] < 61
    assert sum(cell["share"] for cell in shown["cells"] if 55 < cell["from_s"] < 65) > 0.8
    assert 55 < shown["planned_polls_s"][1] < 65
    assert shown["price_s"] == 0.5


def test_runs_that_were_given_up_do_not_count_in_how_long_runs_are_said_to_take() -> None:
    planner = taught(*[10.0] * 40)
    for number in range(4):
        planner.learner.learn("wf", RunStatus.RUNNING, 90.0, float("inf"), now=1e12 + number * 1e6)
    [shown] = planner.summary()
    assert isinstance(shown, dict)
    assert float(str(shown["p90_s"])) < 12
    assert float(str(shown["p99_s"])) < 90


def test_asking_for_a_workflow_that_nobody_knows_shows_the_assumption_and_leaves_no_trace() -> None:
    planner = taught(*[60.0] * 30)
    shown = planner.distribution("typo")
    assert (shown["workflow_id"], shown["runs_remembered"]) == ("typo", 0)
    assert len(shown["cells"]) > len(planner.distribution("wf")["cells"])
    assert planner.learner.known_workflows() == ["wf"]
    assert planner.distribution("")["workflow_id"] is None


async def test_how_late_an_end_was_noticed_is_known_of_runs_that_were_seen_alive(tmp_path: Path) -> None:
    planner, tracked = taught(), watched(await running(tmp_path), age_s=5.0)
    tracked.note_alive(seen("running"))
    late_s = planner.learn_end(tracked, seen("succeeded"), 8.0)
    assert late_s is not None
    assert 1.2 < late_s < 1.8
    well_known = taught(*[7.0] * 60)
    tracked = watched(tracked.run, age_s=5.0)
    tracked.note_alive(seen("running"))
    late_s = well_known.learn_end(tracked, seen("succeeded"), 8.0)
    assert late_s is not None
    assert 0.8 < late_s < 1.2, "such runs end after 7 s"
    unseen = watched(replace(tracked.run, observed_at=None), age_s=8.0)
    assert planner.learn_end(unseen, seen("succeeded"), 8.0) is None
    assert planner.learn_end(watched(tracked.run, age_s=5.0), seen("waiting"), 8.0) is None
