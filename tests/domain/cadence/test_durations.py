"""Learned durations, and the polls that are planned by them."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.domain.cadence.durations import GENERAL_PRIOR, DurationModel
from bridge.domain.cadence.estimate import CELLS, EDGES_S, END_S, Estimate, covered_shares, log_logistic

ages = st.floats(0, 3e6)
prices = st.floats(1e-4, 1e4)
intervals = st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)), max_size=12)


def taught(seen: list[tuple[float, float]]) -> DurationModel:
    model = DurationModel()
    for alive_s, wait_s in seen:
        model.observe(alive_s, alive_s + wait_s)
    return model


def polled_by_itself(model: DurationModel, durations: list[float], price_s: float) -> list[tuple[int, float]]:
    """Polls and delay of runs, one after another, that teach only what their polls saw."""
    costs = []
    for duration in durations:
        alive, polls = 0.0, 0
        while True:
            age = model.estimate.next_age(alive, price_s, 0.25, 300.0)
            polls += 1
            if age >= duration:
                break
            alive = age
        costs.append((polls, age - duration))
        model.observe(alive, age)
    return costs


@given(seen=intervals, alive=ages, waits=st.lists(st.floats(0, 1e6), min_size=2, max_size=8))
@settings(deadline=None, max_examples=60)
def test_lateness_never_falls_and_never_exceeds_the_wait(
    seen: list[tuple[float, float]], alive: float, waits: list[float]
) -> None:
    estimate = taught(seen).estimate
    waited = sorted(waits)
    lateness = [estimate.lateness(alive, alive + wait) for wait in waited]
    assert all(later >= sooner - 1e-6 * (1 + sooner) for sooner, later in pairwise(lateness))
    beyond = alive >= EDGES_S[-3]
    assert all(w >= 0 and (beyond or w <= wait * (1 + 1e-9) + 1e-6) for w, wait in zip(lateness, waited, strict=True))


@given(seen=intervals, alive=ages, price=prices, low=st.floats(0.01, 60), span=st.floats(0, 1e4))
@settings(deadline=None, max_examples=100)
def test_the_next_poll_keeps_within_the_two_intervals(
    seen: list[tuple[float, float]], alive: float, price: float, low: float, span: float
) -> None:
    wait = taught(seen).estimate.next_age(alive, price, low, low + span) - alive
    tolerance = 1e-9 * (1 + alive)
    assert low - tolerance <= wait <= low + span + tolerance


@given(seen=intervals, price=prices, alive=ages)
@settings(deadline=None, max_examples=60)
def test_a_restart_changes_no_decision(seen: list[tuple[float, float]], price: float, alive: float) -> None:
    before = taught(seen)
    after = DurationModel.load(before.dump())
    assert after.dump() == before.dump()
    assert after.estimate.next_age(alive, price, 0.25, 1e9) == before.estimate.next_age(alive, price, 0.25, 1e9)
    before.observe(3.0, 5.0)
    after.observe(3.0, 5.0)
    assert after.dump() == before.dump()


@given(seen=intervals)
@settings(deadline=None, max_examples=40)
def test_the_mass_is_a_distribution_whatever_was_seen(seen: list[tuple[float, float]]) -> None:
    mass = taught(seen).estimate.mass
    assert len(mass) == CELLS
    assert min(mass) >= 0
    assert math.isclose(sum(mass), 1)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        "null",
        "{",
        '{"v":1}',
        '{"v":99,"runs":3,"scores":[0,0,0,0],"surprises":0,"evidence":0,"weights":{},"given_up":{}}',
        '{"v":1,"runs":NaN,"scores":[0,0,0,0],"surprises":0,"evidence":0,"weights":{},"given_up":{}}',
        '{"v":1,"runs":3,"scores":[0,0,0,0],"surprises":0,"evidence":0,"weights":{"9999":1},"given_up":{}}',
        '{"v":1,"runs":3,"scores":[0,0],"surprises":0,"evidence":0,"weights":{},"given_up":{}}',
        '{"v":1,"runs":3,"scores":[0,0,0,0],"surprises":0,"evidence":0,"weights":{"3":-1},"given_up":{}}',
        '{"v":1,"runs":3,"scores":[0,0,0,"x"],"surprises":1e999,"evidence":0,"weights":[],"given_up":{}}',
        '{"v":1,"runs":3,"scores":[0,0,0,0],"surprises":0,"evidence":0,"weights":{},"given_up":{"9999":1}}',
    ],
)
def test_garbage_in_the_row_means_a_fresh_start(text: str | None) -> None:
    """Learning is soon redone; refusing to poll because of a bad row would be far worse."""
    assert DurationModel.load(text).dump() == DurationModel().dump()


def test_runs_that_were_given_up_make_the_tail_long_but_not_what_is_normal() -> None:
    model = taught([(9.0, 11.0)] * 40)
    normal_s = model.ended.quantile(0.99)
    for _ in range(8):  # in a row, as in an outage
        model.observe(600.0, math.inf)
    assert model.estimate.quantile(0.99) > 600
    assert math.isclose(model.ended.quantile(0.99), normal_s, rel_tol=0.2)
    assert math.isclose(DurationModel.load(model.dump()).ended.quantile(0.99), model.ended.quantile(0.99))


@pytest.mark.parametrize("seen", [(-1.0, 2.0), (5.0, 4.0), (math.nan, 3.0), (1.0, math.nan), (math.inf, math.inf)])
def test_nonsense_teaches_nothing(seen: tuple[float, float]) -> None:
    model = DurationModel()
    model.observe(*seen)
    assert model.runs == 0


def test_the_state_stays_a_few_kilobytes() -> None:
    chance, model = random.Random(1), DurationModel()
    for _ in range(400):
        end = math.exp(chance.gauss(4, 1.5))
        model.observe(end * chance.random(), end)
    assert len(model.dump()) < 8000
    assert json.loads(model.dump())["runs"] < 70


def test_quantiles_find_what_was_seen() -> None:
    chance, model = random.Random(1), DurationModel()
    for _ in range(200):
        end = 60 * math.exp(0.3 * chance.gauss(0, 1))
        model.observe(end, end)
    median, p90, p99 = (model.estimate.quantile(share) for share in (0.5, 0.9, 0.99))
    assert 52 < median < 68
    assert 78 < p90 < 105
    assert p90 < p99 < 300


def test_a_narrow_workflow_is_soon_polled_at_its_end() -> None:
    """30 s ± 5 %: a back-off needs six polls and comes 11 s late."""
    chance = random.Random(2)
    late = polled_by_itself(DurationModel(), [chance.uniform(28.5, 31.5) for _ in range(60)], 0.5)[30:]
    assert sum(polls for polls, _ in late) / 30 < 3
    assert sum(delay for _, delay in late) / 30 < 1.5


def test_a_workflow_that_became_much_faster_is_found_out() -> None:
    """The only poll falls long after the new end; without the share of the prior the old belief would stay for ever."""
    chance = random.Random(3)
    model = DurationModel()
    polled_by_itself(model, [chance.uniform(115, 125) for _ in range(60)], 0.5)
    late = polled_by_itself(model, [chance.uniform(5, 7) for _ in range(60)], 0.5)[30:]
    assert sum(delay for _, delay in late) / 30 < 4


def test_runs_still_in_flight_count_as_longer_ones() -> None:
    """Otherwise short runs, which finish first, would make a new workflow poll fast."""
    model = taught([(4.0, 1.0), (5.0, 1.0)])
    alone = model.refit().quantile(0.5)
    assert model.refit([60.0, 80.0, 100.0]).quantile(0.5) > 2 * alone


def test_a_run_given_up_makes_the_tail_longer() -> None:
    patient, other = taught([(50.0, 5.0)] * 5), taught([(50.0, 5.0)] * 5)
    patient.observe(3600.0, math.inf)
    assert patient.estimate.finished(100.0, 3600.0) < other.estimate.finished(100.0, 3600.0)


def test_a_new_workflow_starts_from_its_neighbours() -> None:
    """The connection's other workflows take seconds; so will this one, presumably."""
    neighbours = DurationModel()
    for _ in range(30):
        DurationModel(neighbours).observe(3.0, 4.0)
    assert neighbours.runs > 20
    assert DurationModel(neighbours).estimate.quantile(0.5) < DurationModel().estimate.quantile(0.5) / 2


def test_a_higher_price_waits_longer() -> None:
    estimate = taught([(50.0, 20.0), (30.0, 10.0), (70.0, 30.0)]).estimate
    waits = [estimate.next_age(10.0, price, 0.0, 1e9) for price in (0.01, 0.1, 1.0, 10.0)]
    assert waits == sorted(waits)
    assert waits[0] < waits[-1]


def test_the_dense_rule_polls_where_lateness_reaches_the_price() -> None:
    estimate = Estimate(log_logistic(600.0, 0.5))
    age = estimate.next_age(300.0, 0.01, 0.0, 1e9)
    assert math.isclose(estimate.lateness(300.0, age), 0.01, rel_tol=1e-6)


def test_expected_cost_foretells_what_polling_costs() -> None:
    """Delay and polls of a simulated thousand, at the law that the estimate holds."""
    estimate, chance = Estimate(log_logistic(60.0, 0.25)), random.Random(4)
    foretold = estimate.expected_cost(0.5)
    polls = delay = 0.0
    for _ in range(1000):
        duration = estimate.quantile(chance.random())
        age = 0.0
        while age < duration:
            age = estimate.next_age(age, 0.5, 0.0, 1e9)
            polls += 1
        delay += age - duration
    assert math.isclose(polls / 1000, foretold.polls, rel_tol=0.05)
    assert math.isclose(delay / 1000, foretold.delay_s, rel_tol=0.1)


def test_the_index_prefers_a_run_for_which_waiting_brings_nothing_more() -> None:
    """Two runs of equal W: the one past its hump is almost surely over, the other is only getting likelier."""
    done = Estimate([1.0 if 200 <= i < 203 else 1e-6 for i in range(CELLS)])
    rising = Estimate(GENERAL_PRIOR)
    past = EDGES_S[203] * 1.02
    w = done.lateness(0.0, past)
    equal = rising.next_age(0.0, w, 0.0, 1e9)
    assert done.index(0.0, past) > rising.index(0.0, max(equal, 0.1))


@given(seen=intervals, alive=ages, wait=st.floats(0, 1e6))
@settings(deadline=None, max_examples=60)
def test_the_index_stays_between_lateness_and_a_multiple_of_it(
    seen: list[tuple[float, float]], alive: float, wait: float
) -> None:
    estimate = taught(seen).estimate
    w = estimate.lateness(alive, alive + wait)
    assert w <= estimate.index(alive, alive + wait) <= 8 * w * (1 + 1e-9)


@given(low=st.floats(0, 3e6), width=st.floats(0, 3e6))
def test_an_interval_covers_its_own_length_of_cells(low: float, width: float) -> None:
    first, shares = covered_shares(low, low + width)
    assert 0 <= first < first + len(shares) <= CELLS
    assert all(0 <= share <= 1 + 1e-12 for share in shares)
    if len(shares) > 1 and low + width < END_S:
        covered = sum(share * (EDGES_S[first + i + 1] - EDGES_S[first + i]) for i, share in enumerate(shares))
        assert math.isclose(covered, width, rel_tol=1e-6, abs_tol=1e-6)


def test_a_model_is_new_until_three_runs_have_ended_or_are_long_or_another_workflow_is_known() -> None:
    shared = DurationModel()
    first, second = DurationModel(prior=shared), DurationModel(prior=shared)
    assert first.is_new
    first.observe(4.0, 5.0)
    assert first.is_new
    assert not second.is_new, "the connection has taught something"
    first.note_long("run_1")
    first.note_long("run_1")
    assert first.is_new
    first.observe(4.0, 5.0)
    assert not first.is_new
