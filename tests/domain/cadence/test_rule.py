"""When to poll next: the two intervals, the provider's wish, failures, urgency, overdue."""

from __future__ import annotations

import functools
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.domain.cadence.durations import DurationModel
from bridge.domain.cadence.estimate import Estimate, log_logistic
from bridge.domain.cadence.progress import ProgressModel, ProgressTrack
from bridge.domain.cadence.rule import (
    RunView,
    effective_price,
    is_overdue,
    next_poll,
    next_poll_after_failure,
    phase,
    price_for_target,
    price_of,
    target_delay_s,
    urgency,
)
from bridge.domain.connection import CadenceSettings
from bridge.domain.run import CadenceOverrides, RunStatus

DEFAULT = CadenceSettings()
UNSETTLED = [status for status in RunStatus if not status.is_settled]
NEW = DurationModel().estimate
statuses = st.sampled_from(UNSETTLED)
run_ids = st.text(min_size=1, max_size=5)
ages_s = st.floats(0, 1e7)
intervals = st.tuples(st.floats(0.05, 3600), st.floats(1, 100)).map(lambda pair: (pair[0], pair[0] * pair[1]))


def belief(*durations_s: float) -> Estimate:
    """The estimate after runs of these durations, give or take a fifth of a second."""
    model = DurationModel()
    for duration_s in durations_s:
        model.observe(max(duration_s - 0.2, 0.0), duration_s + 0.2)
    return model.refit()


A_MINUTE = belief(*[60.0] * 40)
CHANCE = random.Random(3)
WIDE = belief(*(CHANCE.lognormvariate(3, 1.5) for _ in range(60)))
beliefs = st.sampled_from([NEW, A_MINUTE, WIDE])


def standing(alive_s: float = 0.0, *, of: Estimate = NEW, status: RunStatus = RunStatus.RUNNING) -> RunView:
    return RunView("run_1", status, of, alive_s)


@functools.cache
def moving() -> tuple[ProgressModel, ProgressTrack]:
    """Runs of ten even steps, and one of them that has done three."""
    learner, plain = ProgressModel(), DurationModel()
    for end_s in range(50, 90):
        track = ProgressTrack()
        for step in range(1, 10):
            track = track.seen(step, 10, step * end_s / 10)
        learner.observe(track, end_s - 0.5, end_s + 0.5, plain.estimate)
        plain.observe(end_s - 0.5, end_s + 0.5)
    return learner, ProgressTrack().seen(1, 10, 10.0).seen(2, 10, 20.0).seen(3, 10, 30.0)


@given(intervals, beliefs, statuses, run_ids, ages_s, st.floats(1e-3, 1e4))
@settings(deadline=None)
def test_two_polls_are_never_nearer_than_min_interval_nor_farther_than_max_interval(
    bounds: tuple[float, float], of: Estimate, status: RunStatus, run_id: str, alive_s: float, price_s: float
) -> None:
    """`max_interval` binds every estimate, price and status, `waiting` included."""
    least_s, most_s = bounds
    cadence = replace(DEFAULT, price_s=price_s, min_interval_s=least_s, max_interval_s=most_s)
    plan = next_poll(cadence, RunView(run_id, status, of, alive_s))
    rounding_s = 1e-9 * (1 + alive_s)
    assert least_s - rounding_s <= plan.delay_s <= most_s + rounding_s
    assert plan.reason


@given(beliefs, statuses, ages_s, st.floats(0, 1e6))
@settings(deadline=None)
def test_a_wish_of_the_provider_is_a_lower_bound_and_nothing_else(
    of: Estimate, status: RunStatus, alive_s: float, wish_s: float
) -> None:
    run = standing(alive_s, of=of, status=status)
    plan, wished = next_poll(DEFAULT, run), next_poll(DEFAULT, run, poll_after_s=wish_s)
    assert wished.delay_s == max(plan.delay_s, wish_s)
    assert (wished == plan) is (wish_s <= plan.delay_s)


def test_a_workflow_that_always_takes_a_minute_is_polled_when_it_is_about_to_end() -> None:
    assert 55 < next_poll(DEFAULT, standing(of=A_MINUTE)).delay_s < 65
    assert next_poll(DEFAULT, standing(59.9, of=A_MINUTE)).delay_s < 2


@given(beliefs, st.floats(0, 1e4), st.floats(0.01, 10))
@settings(deadline=None)
def test_a_dearer_request_makes_no_wait_much_shorter(of: Estimate, alive_s: float, price_s: float) -> None:
    """As a rule it is longer. Just after the usual end a plan of fewer polls may begin a little sooner."""
    run = standing(alive_s, of=of)
    cheap, dear = (next_poll(replace(DEFAULT, price_s=price), run).delay_s for price in (price_s, 4 * price_s))
    assert dear >= cheap / 2


def test_a_dearer_request_is_sent_later() -> None:
    waits = [next_poll(replace(DEFAULT, price_s=price), standing(5.0, of=A_MINUTE)).delay_s for price in (0.01, 1, 100)]
    assert waits == sorted(set(waits))


def test_a_run_that_waits_for_a_person_is_polled_more_seldom() -> None:
    waiting, at_work = (
        next_poll(DEFAULT, standing(3600.0, status=status)).delay_s for status in (RunStatus.WAITING, RunStatus.RUNNING)
    )
    assert waiting > at_work


def test_runs_that_never_end_are_asked_about_ever_more_seldom_up_to_max_interval() -> None:
    delays_s = [next_poll(DEFAULT, standing(age_s)).delay_s for age_s in (1e3, 1e4, 1e5, 1e6, 1e7)]
    assert delays_s == sorted(delays_s)
    assert delays_s[-1] == pytest.approx(DEFAULT.max_interval_s)


def test_the_same_run_has_the_same_plan_after_a_restart_and_others_are_spread() -> None:
    runs = [RunView(f"run_{number}", RunStatus.RUNNING, NEW, 10.0) for number in range(200)]
    assert [next_poll(DEFAULT, run) for run in runs] == [next_poll(DEFAULT, run) for run in runs]
    prices_s = [price_of(DEFAULT, run) for run in runs]
    assert all(0.4 <= price_s <= 0.6 for price_s in prices_s)
    assert len(set(prices_s)) > 150


def test_where_304_is_free_it_is_asked_more_often() -> None:
    run = standing(100.0, of=WIDE)
    assert price_of(DEFAULT, replace(run, unchanged_is_free=True)) < price_of(DEFAULT, run)


@pytest.mark.parametrize(("target", "delay_s"), [("2s", 2.0), ("10s", 10.0)])
def test_a_target_delay_is_the_mean_lateness_that_comes_of_it(target: str, delay_s: float) -> None:
    cadence = replace(DEFAULT, target_delay=target)
    price_s = price_of(cadence, standing(of=WIDE))
    assert WIDE.expected_cost(price_s).delay_s == pytest.approx(delay_s, rel=0.35)


def test_what_a_run_sets_itself_outranks_its_connection() -> None:
    own = DEFAULT.overridden_by(CadenceOverrides(min_interval_s=7.0, max_interval_s=9.0))
    assert 7.0 <= next_poll(own, standing(of=WIDE)).delay_s <= 9.0


def test_progress_that_foretells_the_end_decides_and_keeps_the_intervals_too() -> None:
    learner, track = moving()
    run = replace(standing(30.0, of=WIDE), progress=learner, track=track)
    assert run.goes_by_progress
    plan = next_poll(replace(DEFAULT, min_interval_s=2.0, max_interval_s=40.0), run)
    assert 2.0 <= plan.delay_s <= 40.0
    assert "3 steps" in plan.reason or plan.reason in {"min_interval", "max_interval"}


# --- polls that bring nothing ---


def test_failed_polls_double_their_pause_from_a_second_to_a_minute() -> None:
    delays_s = [next_poll_after_failure(DEFAULT, streak).delay_s for streak in range(1, 10)]
    assert delays_s == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@given(intervals, st.integers(1, 10**9), st.none() | st.floats(0, 1e6))
def test_min_interval_holds_for_retries_after_errors_and_a_wish_is_a_lower_bound(
    bounds: tuple[float, float], streak: int, wish_s: float | None
) -> None:
    least_s, most_s = bounds
    cadence = replace(DEFAULT, min_interval_s=least_s, max_interval_s=most_s)
    plan = next_poll_after_failure(cadence, streak, retry_after_s=wish_s)
    assert least_s <= plan.delay_s <= max(most_s, wish_s or 0)
    assert plan.delay_s >= (wish_s or 0)


def test_the_reason_counts_the_failures() -> None:
    assert next_poll_after_failure(DEFAULT, 1).reason == "after 1 failed poll in a row"
    assert next_poll_after_failure(DEFAULT, 2).reason == "after 2 failed polls in a row"
    assert "asked" in next_poll_after_failure(DEFAULT, 1, retry_after_s=90).reason


# --- who goes first ---


@given(beliefs, ages_s, st.floats(0, 1e6))
@settings(deadline=None)
def test_urgency_is_at_least_the_lateness_to_be_expected_and_bounded_by_it(
    of: Estimate, alive_s: float, waited_s: float
) -> None:
    lateness_s = of.lateness(alive_s, alive_s + waited_s)
    found = urgency(standing(alive_s, of=of), alive_s + waited_s)
    assert lateness_s <= found <= 8 * lateness_s


@given(beliefs, ages_s)
@settings(deadline=None)
def test_a_run_that_was_polled_just_now_is_not_urgent(of: Estimate, alive_s: float) -> None:
    assert urgency(standing(alive_s, of=of), alive_s) == 0


def test_the_run_that_ought_to_be_over_goes_before_the_one_that_has_just_begun() -> None:
    assert urgency(standing(50.0, of=A_MINUTE), 70.0) > urgency(standing(0.0, of=A_MINUTE), 20.0)


def test_urgency_goes_by_progress_where_that_foretells_more() -> None:
    learner, track = moving()
    run = replace(standing(30.0, of=WIDE), progress=learner, track=track)
    assert urgency(run, 80.0) == learner.lateness(track, 30.0, 80.0)


# --- overdue ---


@pytest.mark.parametrize(
    ("runs", "age_s", "overdue"), [(19, 1e6, False), (20, 1e6, True), (40, 70, False), (40, 0, False)]
)
def test_overdue_needs_twenty_runs_to_know_what_is_normal(runs: float, age_s: float, overdue: bool) -> None:
    assert is_overdue(A_MINUTE, runs, age_s) is overdue


@given(beliefs, st.floats(0, 10))
def test_overdue_begins_at_half_as_much_again_as_the_slowest_of_a_hundred(of: Estimate, share: float) -> None:
    slowest_s = of.quantile(0.99)
    assert is_overdue(of, 20, share * slowest_s) is (share * slowest_s > 1.5 * slowest_s)


@pytest.mark.slow
@given(st.text())
def test_a_run_keeps_its_phase_within_a_fifth(run_id: str) -> None:
    assert 0.8 <= phase(run_id) <= 1.2
    assert phase(run_id) == phase(run_id)


def test_runs_registered_together_spread_over_the_whole_range() -> None:
    factors = [phase(f"run_{i}") for i in range(300)]
    assert min(factors) < 0.82
    assert max(factors) > 1.18


def test_past_patience_the_price_grows_with_the_age() -> None:
    young, old = (effective_price(0.5, run_id="r", age_s=age) for age in (600.0, 6000.0))
    assert math.isclose(old, 10 * young)
    assert effective_price(0.5, run_id="r", age_s=0.0) == young


def test_an_answer_that_costs_nothing_is_asked_for_more_often() -> None:
    assert effective_price(0.5, run_id="r", age_s=1.0, unchanged_is_free=True) < 0.5 / 4


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("target_s", [0.5, 2.0, 5.0])
def test_a_target_delay_is_met_within_a_tenth(spread: float, target_s: float) -> None:
    """The closed form alone is off by half for narrow distributions, where polls are few."""
    estimate = Estimate(log_logistic(60.0, spread))
    reached = estimate.expected_cost(price_for_target(estimate, f"{target_s}s")).delay_s
    assert reached <= target_s * 1.1
    if spread > 0.1:
        assert reached >= target_s * 0.85


def test_a_percentage_refers_to_the_mean_duration() -> None:
    estimate = Estimate(log_logistic(100.0, 0.1))
    assert math.isclose(target_delay_s(estimate, "5%"), 5.0, rel_tol=0.1)


@pytest.mark.parametrize("text", ["", "fast", "0s", "0%", "-1s", "5 %%", "nan%"])
def test_other_targets_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        price_for_target(Estimate(log_logistic(30.0, 1.0)), text)


def first_run(alive_s: float, **more: object) -> RunView:
    values: dict[str, object] = {"run_id": "run_1", "status": RunStatus.RUNNING, "belief": NEW, "alive_s": alive_s}
    return RunView(**(values | {"is_new": True} | more))


@given(statuses.filter(lambda status: status is not RunStatus.WAITING), st.floats(0.0, 59.99), run_ids)
def test_the_first_runs_of_a_workflow_are_polled_every_three_seconds_at_least_while_they_are_young(
    status: RunStatus, alive_s: float, run_id: str
) -> None:
    """Nothing is known about the runs of a new user; the end of a 5 s run was noticed 4.9 s late."""
    assert next_poll(DEFAULT, first_run(alive_s, status=status, run_id=run_id)).delay_s <= 3.0 + 1e-9


def test_the_first_runs_are_polled_like_any_other_when_they_are_old_or_wait_or_the_user_wants_fewer_polls() -> None:
    for run in (first_run(300.0), first_run(30.0, status=RunStatus.WAITING)):
        assert next_poll(DEFAULT, run) == next_poll(DEFAULT, replace(run, is_new=False))
    rarely = replace(DEFAULT, min_interval_s=10.0)
    assert next_poll(rarely, first_run(0.0)).delay_s >= 10.0
    assert next_poll(DEFAULT, first_run(20.0), poll_after_s=7.0).delay_s == 7.0
    assert "nothing is known yet" in next_poll(DEFAULT, first_run(30.0)).reason


def test_a_run_that_is_older_than_such_runs_become_is_polled_ever_more_rarely_and_no_other() -> None:
    run = RunView("run_1", RunStatus.RUNNING, belief(*[5.0] * 30), 4.0, usual_s=8.0)
    assert price_of(DEFAULT, run) == price_of(DEFAULT, replace(run, usual_s=math.inf))
    prices = [price_of(DEFAULT, replace(run, alive_s=age_s)) for age_s in (8.0, 16.0, 32.0)]
    assert prices == pytest.approx([prices[0], 4 * prices[0], 16 * prices[0]])
