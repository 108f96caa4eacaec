"""What one request is worth to one run right now, in seconds of delay: the number that W is compared with."""

from __future__ import annotations

import math
import zlib
from typing import Final

from bridge.domain.cadence.estimate import Estimate
from bridge.domain.timestamps import parse_duration

JITTER: Final = 0.2  # ±20 % of the price costs 0–1.5 %; the same jitter on the gap would cost 15 %
PATIENCE_S: Final = 600.0  # from this age on lateness is judged relative to the age
UNCHANGED_FACTOR: Final = 0.2  # a 304 is free of quota where providers say so; it still costs a round trip
MANY_POLLS: Final = 40  # per run: the closed form is right to 3 %
PRICE_MIN_S, PRICE_MAX_S = 1e-4, 1e4


def effective_price(
    price_s: float,
    *,
    run_id: str,
    age_s: float,
    unchanged_is_free: bool = False,
    patience_s: float = PATIENCE_S,
) -> float:
    """The price in seconds for one run at this age.

    `unchanged_is_free`: the provider answers 304 without counting it. Past `patience_s` the price grows with
    the age, so that runs which never end are polled ever more seldom. What a request is worth at the provider's
    limit is not in here: the gate serves the largest W first, which amounts to the same without feedback.
    """
    if unchanged_is_free:
        price_s *= UNCHANGED_FACTOR
    return price_s * phase(run_id) * max(1.0, age_s / patience_s)


def phase(run_id: str) -> float:
    """A factor within 1 ± 0.2, always the same for the same run: a restart keeps every run's phase."""
    return 1 + JITTER * (2 * zlib.crc32(run_id.encode()) / 0xFFFFFFFF - 1)


def price_for_target(estimate: Estimate, target: str) -> float:
    """The price in seconds at which runs like these are noticed `target` late on average: "2s" or "5%".

    A percentage refers to the mean duration. ValueError for any other text. Starts from λ = 2 (D/A)², right
    where polls are many, and corrects it by the delay that the schedule at that price really has.
    """
    delay_s = target_delay_s(estimate, target)
    if delay_s <= 0:
        raise ValueError("a target delay must be more than nothing, for example 2s or 5%")
    cached = estimate.prices.get(delay_s)
    if cached is None:
        cached = estimate.prices[delay_s] = _solve(estimate, delay_s)
    return cached


def target_delay_s(estimate: Estimate, target: str) -> float:
    """The delay in seconds that "2s" or "5%" means for runs like these; the slowest 1 % of runs count as the p99."""
    text = target.strip()
    if not text.endswith("%"):
        return parse_duration(text)
    return float(text[:-1]) / 100 * estimate.mean_up_to(estimate.quantile(0.99))


def _solve(estimate: Estimate, delay_s: float) -> float:
    price = 2 * (delay_s / max(estimate.spread, 1e-6)) ** 2
    if estimate.spread / math.sqrt(2 * max(price, PRICE_MIN_S)) > MANY_POLLS:
        return max(price, PRICE_MIN_S)
    for _ in range(5):
        price = min(max(price, PRICE_MIN_S), PRICE_MAX_S)
        expected = estimate.expected_cost(price).delay_s
        if abs(expected / delay_s - 1) < 0.05:
            break
        price *= min(max(delay_s / max(expected, 1e-9), 0.25), 4.0) ** 1.5
    return min(max(price, PRICE_MIN_S), PRICE_MAX_S)
