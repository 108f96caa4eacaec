"""The changes and events that observations make of a run: each rule, and properties of any sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.event import EventType
from bridge.domain.observation import Observation
from bridge.domain.run import Progress, Run, RunError, RunStatus
from bridge.domain.transition import has_changed, is_expired, is_lost, observe, overdue, settle, shown_fields, unchanged
from tests.support.sample_run import REGISTERED_AT, sample_run

ORDER = ["run.resumed", "run.started", "run.waiting", "run.progressed", "run.finished"]
SETTLED = ["succeeded", "partial", "failed", "cancelled", "expired", "lost"]
UNSETTLED = ["queued", "running", "waiting", "unknown"]
HOUR_S = 3600.0


@dataclass(frozen=True)
class Told:
    """One event as the store numbers it."""

    type: str
    sequence: int
    previous: str
    status: str


def later(seconds: float) -> datetime:
    return REGISTERED_AT + timedelta(seconds=seconds)


def seen(status: str, completed: int | None = None, **more: object) -> Observation:
    progress = None if completed is None else Progress(completed, 9)
    return Observation(RunStatus(status), status, progress=progress, **more)  # type: ignore[arg-type]


def live(story: Sequence[Observation], run: Run | None = None, *, every_s: float = 1.0) -> tuple[Run, list[Told]]:
    """The run after one observation per `every_s`, and its events, numbered as the store does."""
    run, told = run or sample_run(), []
    for number, observation in enumerate(story, start=1):
        decision = observe(run, observation, now=later(number * every_s), wants_progress=True)
        if decision is None:
            continue
        told += [
            Told(event_type.value, run.sequence + place, run.status.value, decision.run.status.value)
            for place, event_type in enumerate(decision.events, start=1)
        ]
        run = replace(decision.run, sequence=run.sequence + len(decision.events), version=run.version + 1)
    return run, told


def changes(story: Sequence[Observation]) -> list[tuple[RunStatus, RunStatus, list[str]]]:
    """For every observation: the status before, the status after, and the events that it made."""
    made, run = [], sample_run()
    for number, observation in enumerate(story, start=1):
        decision = observe(run, observation, now=later(number), wants_progress=True)
        after = run if decision is None else decision.run
        types = () if decision is None else decision.events
        made.append((run.status, after.status, [event_type.value for event_type in types]))
        run = after
    return made


def types_of(*statuses: str) -> list[str]:
    return [told.type.removeprefix("run.") for told in live([seen(status) for status in statuses])[1]]


stories = st.lists(
    st.builds(seen, st.sampled_from(UNSETTLED * 3 + SETTLED), st.none() | st.integers(0, 9)), min_size=1, max_size=25
)


@given(stories)
def test_there_is_exactly_one_finish_and_nothing_behind_it(story: list[Observation]) -> None:
    run, told = live(story)
    ends = [one for one in told if one.type == "run.finished"]
    assert len(ends) == any(observation.status.is_settled for observation in story)
    assert run.settled == bool(ends)
    assert not ends or told[-1] is ends[0]


@given(stories)
def test_the_sequence_counts_from_one_without_gaps(story: list[Observation]) -> None:
    run, told = live(story)
    assert [one.sequence for one in told] == list(range(1, len(told) + 1))
    assert run.sequence == len(told)


@given(stories)
def test_the_events_of_one_observation_stand_in_the_order_of_the_contract(story: list[Observation]) -> None:
    for _, _, types in changes(story):
        places = [ORDER.index(name) for name in types]
        assert places == sorted(set(places))


@given(stories)
def test_started_is_reported_once_and_the_first_time_running_is_seen(story: list[Observation]) -> None:
    made = changes(story)
    shown_running = [number for number, (_, after, _) in enumerate(made) if after is RunStatus.RUNNING]
    told_started = [number for number, (_, _, types) in enumerate(made) if "run.started" in types]
    assert told_started == shown_running[:1]


@given(stories)
def test_waiting_is_reported_whenever_it_begins_and_never_while_it_lasts(story: list[Observation]) -> None:
    for before, after, types in changes(story):
        assert ("run.waiting" in types) is (after is RunStatus.WAITING and before is not RunStatus.WAITING)


@given(stories)
def test_resumed_is_reported_once_for_each_wait_and_only_when_it_runs_again(story: list[Observation]) -> None:
    is_owed = False
    for _, after, types in changes(story):
        if "run.resumed" in types:
            assert is_owed
            assert after is RunStatus.RUNNING
        is_owed = "run.waiting" in types or (is_owed and "run.resumed" not in types)


@given(stories)
def test_the_previous_status_is_the_one_before_the_observation(story: list[Observation]) -> None:
    """Which is why all events of one observation name the same, and progress within a status names that status."""
    expected = [(name, before.value) for before, _, types in changes(story) for name in types]
    assert [(one.type, one.previous) for one in live(story)[1]] == expected


def test_before_the_first_poll_the_status_was_queued() -> None:
    assert [one.previous for one in live([seen("running")])[1]] == ["queued"]


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        (["succeeded"], ["finished"]),
        (["running", "succeeded"], ["started", "finished"]),
        (["running", "running", "running"], ["started"]),
        (["queued", "queued"], []),
        (["waiting", "running"], ["waiting", "resumed", "started"]),
        (["running", "waiting", "running"], ["started", "waiting", "resumed"]),
        (["running", "queued", "running"], ["started"]),
        (["running", "unknown", "running"], ["started"]),
        (["running", "waiting", "running", "waiting", "running"], ["started"] + ["waiting", "resumed"] * 2),
        *((["running", "waiting", settled], ["started", "waiting", "finished"]) for settled in SETTLED),
        *((["waiting", settled], ["waiting", "finished"]) for settled in SETTLED),
    ],
)
def test_each_story_has_its_events(statuses: list[str], told: list[str]) -> None:
    assert types_of(*statuses) == told


@pytest.mark.parametrize("between", ["queued", "unknown"])
def test_a_run_that_queues_on_its_way_back_from_waiting_is_resumed_once_too(between: str) -> None:
    """After `run.waiting`, an event says that the run goes on, whatever happened between two polls."""
    assert types_of("running", "waiting", between, "running") == ["started", "waiting", "resumed"]


@pytest.mark.parametrize("settled", SETTLED)
@pytest.mark.parametrize("after", [*UNSETTLED, *SETTLED])
def test_nothing_changes_a_settled_run(settled: str, after: str) -> None:
    run, told = live([seen("running"), seen(settled)])
    assert live([seen(after, 9, output={"late": True})], run) == (run, [])
    assert not has_changed(run, seen(after, 9))
    assert settle(run, RunStatus.LOST, RunError("gone"), now=later(99)) is None
    assert told[-1].type == "run.finished"


@pytest.mark.parametrize("before", UNSETTLED)
@pytest.mark.parametrize("verdict", [RunStatus.EXPIRED, RunStatus.LOST])
def test_our_own_verdict_finishes_the_run_with_its_reason(before: str, verdict: RunStatus) -> None:
    run = sample_run(status=RunStatus(before), observed_at=REGISTERED_AT)
    decision = settle(run, verdict, RunError("because"), now=later(5))
    assert decision is not None
    assert [event_type.value for event_type in decision.events] == ["run.finished"]
    assert (decision.run.status, decision.run.error, decision.run.observed_at) == (
        verdict,
        RunError("because"),
        later(5),
    )


def test_overdue_is_reported_alone_and_changes_no_status() -> None:
    decision = overdue(sample_run(status=RunStatus.RUNNING), now=later(5))
    assert decision.events == (EventType.RUN_OVERDUE,)
    assert decision.run.is_overdue
    assert (decision.run.status, decision.status_changed) == (RunStatus.RUNNING, False)


# --- progress ---


def test_progress_is_reported_only_when_the_numbers_move() -> None:
    _, told = live([seen("running", 1), seen("running", 1), seen("running", 2), seen("running")])
    assert [one.type for one in told] == ["run.started", "run.progressed", "run.progressed"]
    assert told[-1].previous == "running"


@pytest.mark.parametrize(("first", "told"), [(0, []), (1, ["run.progressed"])])
def test_at_first_sight_only_what_was_done_already_has_moved(first: int, told: list[str]) -> None:
    """Otherwise a queued run would report 0 of 5 before it started."""
    assert [one.type for one in live([seen("queued", first)])[1]] == told
    assert [one.type for one in live([seen("queued", first), seen("queued", 2)])[1]] == [*told, "run.progressed"]


def test_progress_that_is_not_asked_for_is_kept_and_not_reported() -> None:
    decision = observe(
        sample_run(status=RunStatus.RUNNING, has_started=True), seen("running", 3), now=later(1), wants_progress=False
    )
    assert decision is not None
    assert (decision.events, decision.run.progress) == ((), Progress(3, 9))


def test_progress_that_moved_with_the_last_poll_is_reported_before_the_finish() -> None:
    """Progress numbers moved, and the contract orders progressed before finished within one observation."""
    _, told = live([seen("running", 3), seen("succeeded", 9)])
    assert [one.type for one in told] == ["run.started", "run.progressed", "run.progressed", "run.finished"]


def test_out_of_waiting_the_finish_stands_alone_even_if_progress_moved() -> None:
    _, told = live([seen("waiting", 3), seen("succeeded", 9)])
    assert [one.type for one in told if one.previous == "waiting"] == ["run.finished"]


# --- what the run shows ---


@given(stories)
def test_seeing_it_as_it_is_known_is_no_news(story: list[Observation]) -> None:
    run, _ = live(story)
    if run.observed_at is not None:
        assert not has_changed(run, unchanged(run))
        assert observe(run, unchanged(run), now=later(99), wants_progress=True) is None


@given(stories, stories)
def test_news_is_what_the_run_would_show_differently(story: list[Observation], further: list[Observation]) -> None:
    run, _ = live(story)
    for observation in further:
        shown = shown_fields(run, observation)
        differs = any(getattr(run, name) != value for name, value in shown.items())
        assert has_changed(run, observation) is (differs and not run.settled)


def test_a_time_or_progress_once_reported_is_kept() -> None:
    told = {"created_at": "2026-01-15T10:00:00Z", "started_at": "2026-01-15T10:01:00Z"}
    run, _ = live([seen("running", 3, **told), seen("queued")])
    assert (run.created_at, run.started_at, run.progress) == (*told.values(), Progress(3, 9))


def test_the_registered_workflow_outranks_the_providers() -> None:
    assert live([seen("running", workflow_id="theirs")])[0].workflow_id == "theirs"
    registered = sample_run(workflow_id="ours")
    assert live([seen("running", workflow_id="theirs")], registered)[0].workflow_id == "ours"


def test_observed_at_is_the_poll_that_saw_this_state() -> None:
    run, _ = live([seen("running"), seen("running"), seen("running")])
    assert run.observed_at == later(1)


def test_times_that_the_provider_does_not_show_stay_empty() -> None:
    run, _ = live([seen("running"), seen("succeeded")])
    assert (run.created_at, run.started_at, run.finished_at) == (None, None, None)


# --- lost ---


@pytest.mark.parametrize(
    ("count", "span_s", "lost"),
    [
        (1, 0, False),
        (1, 1e6, False),
        (4, 1e6, False),
        (5, 59.9, False),
        (5, 60, True),
        (50, 59.9, False),
        (6, 61, True),
    ],
)
def test_a_run_is_lost_after_five_404s_over_sixty_seconds(count: int, span_s: float, lost: bool) -> None:
    run = sample_run(not_found_count=count, not_found_since=REGISTERED_AT)
    assert is_lost(run, later(span_s)) is lost


def test_a_run_that_was_never_missing_is_not_lost() -> None:
    assert not is_lost(sample_run(), later(1e6))


# --- deadline ---


@pytest.mark.parametrize("status", ["queued", "running", "unknown"])
def test_a_deadline_that_passes_expires_the_run(status: str) -> None:
    run = sample_run(status=RunStatus(status), deadline_at=later(HOUR_S))
    assert not is_expired(run, later(HOUR_S - 0.001))
    assert is_expired(run, later(HOUR_S))


@pytest.mark.parametrize("settled", SETTLED)
def test_a_settled_run_does_not_expire(settled: str) -> None:
    assert not is_expired(sample_run(status=RunStatus(settled), deadline_at=later(1)), later(9))


def test_without_a_deadline_nothing_expires() -> None:
    assert not is_expired(sample_run(status=RunStatus.RUNNING), later(1e9))


def test_while_it_waits_a_duration_stands_still_and_an_instant_does_not() -> None:
    waiting = sample_run(status=RunStatus.WAITING, deadline_at=later(1))
    assert not is_expired(waiting, later(1e6))
    assert is_expired(replace(waiting, deadline_is_fixed=True), later(1))


@given(
    st.lists(st.tuples(st.sampled_from(UNSETTLED), st.integers(1, 10_000)), min_size=1, max_size=12),
    st.integers(1, 50_000),
)
def test_a_duration_counts_the_time_in_which_nobody_was_waited_for(
    spans: list[tuple[str, int]], duration_s: int
) -> None:
    """Each span: what is seen, and for how long; the run is looked at whenever one begins."""
    run, now_s, counted_s = sample_run(deadline_at=later(duration_s)), 0, 0
    for status, span_s in spans:
        decision = observe(run, seen(status), now=later(now_s), wants_progress=False)
        run = run if decision is None else decision.run
        now_s += span_s
        counted_s += span_s if status != "waiting" else 0
        assert is_expired(run, later(now_s)) is (status != "waiting" and counted_s >= duration_s)


def test_the_look_that_ends_a_wait_does_not_expire_a_run_whose_deadline_stood_still() -> None:
    waiting, _ = live([seen("running"), seen("waiting")], sample_run(deadline_at=later(10)))
    assert not is_expired(waiting, later(100), seen=RunStatus.RUNNING)
    assert is_expired(replace(waiting, deadline_is_fixed=True), later(100), seen=RunStatus.RUNNING)
    resumed, _ = live([seen("running")], waiting, every_s=100)
    assert not is_expired(resumed, later(107))
    assert is_expired(resumed, later(108))


def test_a_clock_set_back_while_a_run_waits_takes_nothing_from_its_deadline() -> None:
    """`status_since` and the deadline moved along; `registered_at`, a fact, lies in the future now."""
    waiting = sample_run(status=RunStatus.WAITING, deadline_at=later(60))
    set_back = replace(waiting, registered_at=later(HOUR_S))
    assert not is_expired(set_back, later(100), seen=RunStatus.RUNNING)


def test_an_instant_given_as_deadline_never_moves() -> None:
    fixed = sample_run(deadline_at=later(50), deadline_is_fixed=True)
    assert live([seen("waiting"), seen("running")], fixed, every_s=20)[0].deadline_at == later(50)


def test_the_first_link_stays_and_comes_without_an_event() -> None:
    """An answer may sign its link again each time; recording that would be a write for every poll."""
    run, _ = live([seen("running")])
    shown, told = live([seen("running", link="https://a.example/1"), seen("running", link="https://a.example/2")], run)
    assert (shown.link, shown.version, told) == ("https://a.example/1", run.version + 1, [])
