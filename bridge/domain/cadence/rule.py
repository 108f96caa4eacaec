"""Cadence: when to poll a run next. The one place for that rule.

W(t) is the lateness, in seconds, that a run is expected to have gathered at age t since it was last seen
alive. A request costs a *price*: the seconds of delay that it is worth. Poll when W reaches the price; when
requests are scarce, poll the run with the largest W first. W comes from `estimate` (what was learned of such
runs) and `progress`.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import field
from typing import Final

from bridge.domain.cadence.estimate import Estimate
from bridge.domain.cadence.progress import ProgressModel, ProgressTrack
from bridge.domain.connection import CadenceSettings
from bridge.domain.frozen import frozen
from bridge.domain.run import RunStatus
from bridge.domain.timestamps import format_duration, parse_duration

JITTER: Final = 0.2  # ±20 % of the price costs 0–1.5 %; the same jitter on the gap would cost 15 %
PATIENCE_S: Final = 600.0  # from this age on lateness is judged relative to the age
UNCHANGED_FACTOR: Final = 0.2  # a 304 is free of quota where providers say so; it still costs a round trip
MANY_POLLS: Final = 40  # per run: the closed form is right to 3 %
PRICE_MIN_S, PRICE_MAX_S = 1e-4, 1e4
HUNG_FACTOR_MAX: Final = 100.0
FIRST_GAP_S, FIRST_AGE_S = 3.0, 60.0  # the first runs of a new user are noticed soon
WAITING_PATIENCE_S: Final = 30.0  # a person acts in minutes or days: lateness is soon judged relative to the wait
FAILURE_FIRST_S, FAILURE_GROWTH, FAILURE_MAX_S = 1.0, 2.0, 60.0
OVERDUE_RUNS_MIN: Final = 20  # that must have been seen before any run is overdue
OVERDUE_FACTOR: Final = 1.5  # times the learned p99


@frozen
class NextPoll:
    """Seconds from the last poll to the next one, with the reason that `runs show` prints."""

    delay_s: float
    reason: str


@frozen
class RunView:
    """One run as the rule sees it.

    `alive_s` is its age in this status, in seconds, when it was last seen alive. `belief` is the estimate for runs
    like it; `progress` says what their progress has meant, `track` is its own. `unchanged_is_free`: its provider
    answers 304 while nothing changes. `is_new`: nothing was learned yet that its belief could rest on. `usual_s` is the age
    that few runs like it exceed unless they hang.
    """

    run_id: str
    status: RunStatus
    belief: Estimate
    alive_s: float
    progress: ProgressModel | None = None
    track: ProgressTrack = field(default_factory=ProgressTrack)
    unchanged_is_free: bool = False
    is_new: bool = False
    usual_s: float = math.inf

    @property
    def goes_by_progress(self) -> bool:
        """Whether its progress predicts its end better than its age does."""
        return self.progress is not None and self.progress.is_useful(self.track)


def price_of(settings: CadenceSettings, run: RunView) -> float:
    """The seconds of delay that one request for this run is worth at its age."""
    price_s = settings.price_s
    if settings.target_delay is not None:
        price_s = price_for_target(run.belief, settings.target_delay)
    if run.alive_s > run.usual_s:
        price_s *= hung_factor(run.alive_s, run.usual_s)
    patience_s = WAITING_PATIENCE_S if run.status is RunStatus.WAITING else PATIENCE_S
    return effective_price(
        price_s,
        run_id=run.run_id,
        age_s=run.alive_s,
        unchanged_is_free=run.unchanged_is_free,
        patience_s=patience_s,
    )


def next_poll(settings: CadenceSettings, run: RunView, *, poll_after_s: float | None = None) -> NextPoll:
    """When to poll a run that the last poll saw alive, between min_interval and max_interval.

    `poll_after_s`, the pause that the provider asked for, is a lower bound and may exceed max_interval.
    """
    price_s = price_of(settings, run)
    longest_s = settings.max_interval_s
    if run.is_new and run.status is not RunStatus.WAITING:
        longest_s = max(min(longest_s, longest_first_gap_s(run.alive_s)), settings.min_interval_s)
    bounds = (settings.min_interval_s, longest_s)
    if run.progress is not None and run.goes_by_progress:
        age_s = run.progress.next_age(run.track, run.alive_s, price_s, *bounds)
    else:
        age_s = run.belief.next_age(run.alive_s, price_s, *bounds)
    delay_s = age_s - run.alive_s
    if poll_after_s is not None and poll_after_s > delay_s:
        return NextPoll(poll_after_s, "the provider asked for this pause")
    if delay_s >= settings.max_interval_s:
        return NextPoll(delay_s, "max_interval")
    if settings.min_interval_s < longest_s <= delay_s:
        return NextPoll(delay_s, "nothing is known yet of how long such runs take")
    if delay_s <= settings.min_interval_s:
        return NextPoll(delay_s, "min_interval")
    return NextPoll(delay_s, _reason(run, price_s))


def hung_factor(alive_s: float, usual_s: float) -> float:
    """The factor on the price for a run that is older than such runs usually become: it probably hangs."""
    return min(max(1.0, alive_s / usual_s) ** 2, HUNG_FACTOR_MAX)


def longest_first_gap_s(alive_s: float) -> float:
    """The longest gap, in seconds, between polls of a run of this age while nothing is known of runs like it."""
    return FIRST_GAP_S if alive_s < FIRST_AGE_S else math.inf


def _reason(run: RunView, price_s: float) -> str:
    if run.goes_by_progress:
        basis = f"its progress is {run.track.completed:g} steps"
    else:
        basis = f"half of such runs are done in {_shown(run.belief.quantile(0.5))}"
    return f"{_shown(price_s)} of expected lateness are worth a request, and {basis}"


def next_poll_after_failure(settings: CadenceSettings, streak: int, *, retry_after_s: float | None = None) -> NextPoll:
    """When to poll again after `streak` polls in a row that failed."""
    wanted_s = min(FAILURE_FIRST_S * FAILURE_GROWTH ** min(streak - 1, 16), FAILURE_MAX_S)
    delay_s = min(max(wanted_s, settings.min_interval_s), settings.max_interval_s)
    if retry_after_s is not None and retry_after_s > delay_s:
        return NextPoll(retry_after_s, "the provider asked for this pause")
    return NextPoll(delay_s, f"after {streak} failed poll{'s' if streak > 1 else ''} in a row")


def urgency(run: RunView, age_s: float) -> float:
    """The worth of a poll of this run now, in seconds: W, raised where waiting longer gains nothing."""
    if run.progress is not None and run.goes_by_progress:
        return run.progress.lateness(run.track, run.alive_s, age_s)
    return run.belief.index(run.alive_s, age_s)


def is_overdue(belief: Estimate, runs_seen: float, age_s: float) -> bool:
    """Whether a run takes longer than its workflow normally does; never before `OVERDUE_RUNS_MIN` runs were seen."""
    return runs_seen >= OVERDUE_RUNS_MIN and age_s > OVERDUE_FACTOR * belief.quantile(0.99)


def _shown(seconds: float) -> str:
    rounded = float(f"{seconds:.2g}")
    return format_duration(rounded) if rounded < 120 else format_duration(round(rounded / 60) * 60)


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
    the age, so that runs which never end are polled ever more rarely. The provider's limit does not raise the price:
    the limiter serves the largest W first, which has the same effect without feedback.
    """
    if unchanged_is_free:
        price_s *= UNCHANGED_FACTOR
    return price_s * phase(run_id) * max(1.0, age_s / patience_s)


def phase(run_id: str) -> float:
    """A factor within 1 ± 0.2 that depends on the run alone, so that a restart keeps every run's phase."""
    return 1 + JITTER * (2 * zlib.crc32(run_id.encode()) / 0xFFFFFFFF - 1)


def price_for_target(estimate: Estimate, target: str) -> float:
    """The price in seconds at which runs like these are noticed `target` late on average: "2s" or "5%".

    A percentage refers to the mean duration. Raises ValueError for any other text. Starts from λ = 2 (D/A)², which
    holds where polls are many, and corrects it by the delay that the schedule at that price has.
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
