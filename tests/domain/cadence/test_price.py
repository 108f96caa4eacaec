"""What one request is worth: jitter, patience, targets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.cadence.estimate import Estimate
from bridge.domain.cadence.grid import log_logistic
from bridge.domain.cadence.price import effective_price, phase, price_for_target, target_delay_s


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
