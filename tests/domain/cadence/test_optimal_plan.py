"""The exact plan, against brute force and against what is known in closed form."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.domain.cadence.estimate import plan_polls


def cost_by_trying_everything(ages: list[float], finished: list[float], price: float) -> float:
    """The least E[delay] + price · E[polls], by dynamic programming over every pair of points."""
    last = len(ages) - 1
    cost = [0.0] * (last + 1)
    for j in range(last - 1, -1, -1):
        choices = []
        for m in range(j + 1, last + 1):
            late = sum(
                (finished[i] - finished[i - 1]) * (ages[m] - (ages[i] + ages[i - 1]) / 2) for i in range(j + 1, m + 1)
            )
            choices.append(price * (1 - finished[j]) + late + cost[m])
        cost[j] = min(choices)
    return cost[0]


def cost_of_plan(ages: list[float], finished: list[float], price: float, successor: list[int]) -> float:
    total, j = 0.0, 0
    while j < len(ages) - 1:
        m = successor[j]
        total += price * (1 - finished[j])
        total += sum(
            (finished[i] - finished[i - 1]) * (ages[m] - (ages[i] + ages[i - 1]) / 2) for i in range(j + 1, m + 1)
        )
        j = m
    return total


@given(
    gaps=st.lists(st.floats(0.01, 10), min_size=2, max_size=25),
    weights=st.lists(st.floats(0.0, 1.0), min_size=25, max_size=25),
    price=st.floats(0.001, 20),
)
@settings(deadline=None, max_examples=150)
def test_no_schedule_on_the_grid_is_cheaper(gaps: list[float], weights: list[float], price: float) -> None:
    """The sweep drops lines and walks the envelope once; trying every pair must find nothing better."""
    ages, mass = [0.0], [w + 1e-3 for w in weights[: len(gaps)]]
    for gap in gaps:
        ages.append(ages[-1] + gap)
    finished = [0.0]
    for value in mass:
        finished.append(finished[-1] + value / sum(mass))
    finished[-1] = 1.0
    planned = cost_of_plan(ages, finished, price, plan_polls(ages, finished, price, 0.0))
    assert planned <= cost_by_trying_everything(ages, finished, price) * (1 + 1e-9) + 1e-9


def test_exponential_durations_are_polled_at_a_fixed_interval() -> None:
    """Constant hazard h: the interval solves e^(hx) − 1 − hx = h · price (Barlow, Hunter, Proschan 1963)."""
    hazard, price, step = 0.1, 0.5, 0.02
    ages = [i * step for i in range(4000)]
    finished = [1 - math.exp(-hazard * age) for age in ages[:-1]] + [1.0]
    successor = plan_polls(ages, finished, price, 0.0)
    interval = ages[successor[500]] - ages[500]
    assert math.isclose(math.exp(hazard * interval) - 1 - hazard * interval, hazard * price, rel_tol=0.03)


def test_polls_keep_the_least_interval_apart() -> None:
    ages = [i * 0.1 for i in range(200)]
    finished = [i / 199 for i in range(200)]
    successor = plan_polls(ages, finished, 0.001, 0.55)
    assert all(ages[successor[j]] - ages[j] >= 0.55 - 1e-9 or successor[j] == 199 for j in range(199))
