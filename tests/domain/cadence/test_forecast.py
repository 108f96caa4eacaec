"""The forecast is what the rule then does."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

import pytest

from bridge.domain.cadence.durations import GENERAL_PRIOR
from bridge.domain.cadence.estimate import Estimate, log_logistic
from bridge.domain.cadence.forecast import ANY_RUN, CELLS_MAX, Forecast, duration_cells, forecast_polls
from bridge.domain.cadence.rule import RunView, next_poll, phase
from bridge.domain.connection import CadenceSettings
from bridge.domain.run import RunStatus

MINUTE = Estimate(log_logistic(60.0, 0.1))
PRIOR = Estimate(GENERAL_PRIOR)


def lived(predicted: Forecast, duration_s: float) -> tuple[int, float]:
    """The polls of a run that ends at this age, and how late its end is noticed."""
    noticed = next(number for number, age_s in enumerate(predicted.polls_s) if age_s >= duration_s)
    return noticed + 1, predicted.polls_s[noticed] - duration_s


def test_the_run_that_stands_for_all_is_neither_early_nor_late() -> None:
    assert phase(ANY_RUN) == pytest.approx(1.0, abs=1e-6)
    assert forecast_polls(CadenceSettings(price_s=0.7), MINUTE).price_s == pytest.approx(0.7)


def test_every_planned_poll_is_the_one_that_the_rule_gives_after_the_one_before() -> None:
    settings = CadenceSettings(target_delay="2s")
    for before_s, after_s in pairwise(forecast_polls(settings, MINUTE).polls_s):
        told = next_poll(settings, RunView(ANY_RUN, RunStatus.RUNNING, MINUTE, before_s))
        assert after_s == pytest.approx(before_s + told.delay_s)


@pytest.mark.parametrize("price_s", [0.1, 0.5, 5.0])
def test_what_is_expected_is_what_runs_of_all_durations_come_to(price_s: float) -> None:
    predicted = forecast_polls(CadenceSettings(price_s=price_s), MINUTE)
    lives = [lived(predicted, MINUTE.quantile((number + 0.5) / 1000)) for number in range(995)]
    assert predicted.cost.polls == pytest.approx(fmean(polls for polls, _ in lives), rel=0.05)
    assert predicted.cost.delay_s == pytest.approx(fmean(late_s for _, late_s in lives), rel=0.05)


def test_polls_are_planned_until_nearly_all_runs_are_over_and_no_further() -> None:
    predicted = forecast_polls(CadenceSettings(), PRIOR)
    last_s = PRIOR.quantile(0.995)
    assert predicted.polls_s[0] == 0
    assert predicted.polls_s[-2] < last_s <= predicted.polls_s[-1]


def test_nothing_is_planned_beyond_the_deadline() -> None:
    """Runs that hang are given up there: what they would cost later is not expected of anybody."""
    settings = CadenceSettings(deadline_s=90.0)
    predicted = forecast_polls(settings, PRIOR)
    assert predicted.polls_s[-1] == pytest.approx(90.0)
    assert predicted.cost.polls <= len(predicted.polls_s)
    assert predicted.cost.polls < 0.8 * forecast_polls(CadenceSettings(), PRIOR).cost.polls


def test_of_runs_of_many_days_the_polls_beyond_the_four_hundredth_are_counted_too() -> None:
    belief = Estimate(log_logistic(10 * 86400.0, 0.02))
    predicted = forecast_polls(CadenceSettings(max_interval_s=300.0), belief)
    assert len(predicted.polls_s) == 401
    assert predicted.cost.polls == pytest.approx(10 * 86400 / 300, rel=0.02)
    assert predicted.cost.delay_s == pytest.approx(150, rel=0.02)


@pytest.mark.parametrize(
    "belief", [PRIOR, MINUTE, Estimate(log_logistic(0.2, 0.5)), Estimate(log_logistic(3e5, 0.001))]
)
def test_cells_adjoin_and_hold_all_runs_but_the_tails(belief: Estimate) -> None:
    cells = duration_cells(belief)
    assert len(cells) <= CELLS_MAX
    assert all(left.to_s == right.from_s for left, right in pairwise(cells))
    assert 0.96 <= sum(cell.share for cell in cells) <= 1
    assert cells[0].from_s < belief.quantile(0.5) <= cells[-1].to_s
