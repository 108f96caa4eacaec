"""How long runs of one workflow stay in one status, learned from what polls saw of them.

A poll never sees the end of a run, only an interval: last seen alive, first seen finished. Each interval adds the
weight of one run to the cells of the grid. Most of it goes where the present estimate expects the end
(self-consistency, as in Turnbull's estimator), a little is spread evenly. The more the last runs speak for a change,
the more the weight follows the prior instead: otherwise a workflow that became faster than the polls are frequent
would keep its old durations for ever.

    weights ── four kernels, narrow to wide ──► four experts ── weighted by how well each predicted ─► mass
    prior ─────────────────────────────────────────┘                           past runs                │
    runs in flight, older than some that finished: push mass to higher ages (Kaplan–Meier) ─────────────┘

A new workflow starts from the connection's other workflows, and those start from a general prior: anything from a
second to an hour.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from bridge.domain.cadence.estimate import (
    CELLS,
    WIDTHS_S,
    Estimate,
    cell_at,
    covered_shares,
    kernel_decay,
    log_logistic,
    smooth,
)

KERNEL_WIDTHS: Final = (0.015, 0.05, 0.15, 0.5)  # in log time: 30 s ± 5 % wants the first, a wide log-normal the last
MEMORY: Final = 0.985  # weight of a run after one more has been seen: about the last 65 runs count
SCORE_MEMORY: Final = 0.97
PRIOR_RUNS: Final = 0.3  # the prior counts as much as this many runs (Hill: a new value falls outside in ~1 of n)
EVEN_SHARE: Final = 0.03  # of an interval's weight that is spread evenly over it
CHANGE_RATE: Final = 0.01  # chance beforehand that a workflow changes its ways with the next run
SURPRISES: Final = 4  # in a row, all early or all late, until the past is mostly forgotten …
SURPRISE_TAIL: Final = 0.1  # … each in the outer tenth of what was expected
CHANGE_EVIDENCE: Final = 4.0  # or this much log likelihood in favour of a fresh start
MEMORY_AT_CHANGE: Final = 0.05  # with more, new runs would be explained by the old durations
LEAST_WEIGHT: Final = 1e-4  # of a run; less is forgotten
GENERAL_PRIOR: Final = tuple(log_logistic(30.0, 1.2))
NEIGHBOURS_RUNS: Final = 2.0  # runs after which the connection's other workflows count as much as the general prior
USUAL_FACTOR, USUAL_SHARE = 1.5, 0.98  # of the ended runs: older runs probably hang …
USUAL_RUNS_MIN: Final = 19.0  # … once this many are remembered, after about 23
KNOWN_MIN: Final = 2.9  # three ends, the older ones faded a little
OTHERS_MIN: Final = 0.5  # one end, likewise
STATE_VERSION: Final = 1
Weights = dict[int, float]  # by cell of the grid, in runs
_DECAYS: Final = tuple(kernel_decay(width) for width in KERNEL_WIDTHS)


class DurationModel:
    """The learned time in one status of one (connection, workflow). Ages are seconds since the status began.

    `prior` is the model of the whole connection, taught along with this one. A model without a prior starts from
    `general`, masses on the grid. `runs` counts the runs remembered, at most about 67.
    """

    def __init__(self, prior: DurationModel | None = None, *, general: Sequence[float] = GENERAL_PRIOR) -> None:
        self.runs = 0.0
        self._weights: Weights = {}
        self._given_up: Weights = {}  # the same for runs that were given up alive
        self._scores = [0.0] * len(_DECAYS)
        self._long: set[str] = set()
        self._surprises = 0  # negative: earlier than expected
        self._evidence = 0.0
        self._prior = prior
        self.general: Sequence[float] = general if prior is None else prior.general
        self._prior_mass: Sequence[float] = self.general
        self._experts: list[Sequence[float]] = []
        self._estimate: Estimate | None = None
        self._mass: list[float] = []
        self._ended: Estimate | None = None
        self._usual_s: float | None = None

    @property
    def is_new(self) -> bool:
        """Whether fewer than three runs are known here to have ended or to be long, and none of other workflows."""
        others = self._prior.runs - self.runs if self._prior is not None else 0.0
        return self.runs + len(self._long) < KNOWN_MIN and others < OTHERS_MIN

    def note_long(self, run_id: str) -> None:
        """Note that a run which goes on is so old that others like it need not be polled as if they might end at any moment."""
        self._long.add(run_id)

    @property
    def ended(self) -> Estimate:
        """The estimate without the runs in flight and those given up: some of them hang, which is not what is normal."""
        if self._ended is None or self._estimate is None:
            _ = self.estimate
            self._ended = Estimate(self._mass)
        return self._ended

    @property
    def usual_s(self) -> float:
        """The age in seconds that few runs exceed unless they hang; infinity until some ends are known."""
        if self.runs < USUAL_RUNS_MIN:
            return math.inf
        if self._usual_s is None or self._estimate is None:
            self._usual_s = USUAL_FACTOR * self.ended.quantile(USUAL_SHARE)
        return self._usual_s

    @property
    def is_stale(self) -> bool:
        """Whether something was learned since the last fit; pass the runs in flight to `refit` then."""
        return self._estimate is None

    @property
    def estimate(self) -> Estimate:
        """The present estimate; fitted now if need be, in about 1.5 ms."""
        return self._estimate or self.refit()

    def refit(self, in_flight_s: Iterable[float] = ()) -> Estimate:
        """Fit what was learned; `in_flight_s` are the ages at which the runs in flight were last seen alive."""
        self._prior_mass = self._mass_of_prior()
        self._experts = self._fit(self._weights, self._given_up)
        mass = self._vote(self._experts)
        self._mass = self._vote(self._fit(self._weights)) if self._given_up else mass
        self._ended = self._usual_s = None
        self._estimate = Estimate(self._outlived(mass, in_flight_s))
        return self._estimate

    def _fit(self, *weights: Weights) -> list[Sequence[float]]:
        """The sum of these weights, smoothed by each kernel width and mixed with the prior."""
        seen = [0.0] * CELLS
        for each in weights:
            for cell, weight in each.items():
                seen[cell] += weight
        if not any(weights):
            return [self._prior_mass] * len(_DECAYS)
        share = PRIOR_RUNS / (self.runs + PRIOR_RUNS)
        return [
            [(1 - share) * own + share * prior for own, prior in zip(blurred, self._prior_mass, strict=True)]
            for blurred in (smooth(seen, decay) for decay in _DECAYS)
        ]

    def _vote(self, experts: Sequence[Sequence[float]]) -> list[float]:
        votes = [math.exp(score - max(self._scores)) for score in self._scores]
        total = sum(votes)
        narrow, small, middle, wide = (vote / total for vote in votes)
        return [narrow * a + small * b + middle * c + wide * d for a, b, c, d in zip(*experts, strict=True)]

    def observe(self, alive_s: float, finished_s: float) -> None:
        """Learn from a run that left the status at an age in (alive_s, finished_s].

        The ages are equal where the provider reports the time. `finished_s` is infinite for a run that was given up
        alive. Impossible ages (an end before the beginning, not a number) are ignored.
        """
        if not 0 <= alive_s <= finished_s or alive_s == math.inf:
            return
        belief = self.estimate
        first, shares = covered_shares(alive_s, finished_s)
        expected = [belief.mass[first + i] * share for i, share in enumerate(shares)]
        fresh = [self._prior_mass[first + i] * share for i, share in enumerate(shares)]
        is_given_up = finished_s == math.inf  # which says nothing about how the other runs end
        if not is_given_up:
            self._score_experts(first, shares)
            self._evidence = max(0.0, self._evidence + _log(sum(fresh)) - _log(sum(expected)))
        odds = CHANGE_RATE * math.exp(self._evidence)
        rank = 1 - belief.alive_at_edge(first) + sum(expected) / 2
        memory = MEMORY if is_given_up else self._memory_after(rank)
        self._weights, self._given_up = _faded(self._weights, memory), _faded(self._given_up, memory)
        self.runs = round(self.runs * memory + 1, 4)
        weights = self._given_up if is_given_up else self._weights
        _lay_over(weights, first, shares, expected, fresh, change=odds / (1 + odds))
        self._estimate = None
        if self._prior is not None:
            self._prior.observe(alive_s, finished_s)

    def dump(self) -> str:
        """The state as JSON, up to about 3 kB; `load` of it decides exactly as this one does."""
        return json.dumps(
            {
                "v": STATE_VERSION,
                "runs": self.runs,
                "scores": self._scores,
                "surprises": self._surprises,
                "evidence": self._evidence,
                "weights": self._weights,
                "given_up": self._given_up,
            },
            separators=(",", ":"),
        )

    @classmethod
    def load(
        cls, text: str | None, prior: DurationModel | None = None, *, general: Sequence[float] = GENERAL_PRIOR
    ) -> DurationModel:
        """A model from its JSON; a new one where the text is missing or not ours, for learning is soon repeated."""
        model = cls(prior, general=general)
        try:
            state = json.loads(text or "")
            weights, given_up = (
                {int(cell): float(weight) for cell, weight in state[name].items()} for name in ("weights", "given_up")
            )
            scores = [float(score) for score in state["scores"]]
            runs, evidence, surprises = float(state["runs"]), float(state["evidence"]), int(state["surprises"])
            is_ours = state["v"] == STATE_VERSION and len(scores) == len(_DECAYS)
            is_ours &= set(weights) | set(given_up) <= set(range(CELLS))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return model
        numbers = (runs, evidence, *weights.values(), *given_up.values())
        if is_ours and all(0 <= n < 1e9 for n in numbers) and all(-1e9 < score < 1e9 for score in scores):
            model._weights, model._given_up, model._scores = weights, given_up, scores
            model.runs, model._evidence, model._surprises = runs, evidence, surprises
        return model

    def _mass_of_prior(self) -> Sequence[float]:
        """The connection's other workflows, blurred, mixed with the general prior while they are few."""
        prior = self._prior
        if prior is None or prior.runs <= 0:
            return self.general
        share = prior.runs / (prior.runs + NEIGHBOURS_RUNS)
        blurred = smooth(prior.estimate.mass, _DECAYS[-1])
        return [share * own + (1 - share) * other for own, other in zip(blurred, self.general, strict=True)]

    def _outlived(self, mass: list[float], in_flight_s: Iterable[float]) -> list[float]:
        """`mass` with the runs in flight counted as censored: each adds one run's weight to what it may still be."""
        alive = list(accumulate(reversed(mass), initial=0.0))[::-1]
        joining: dict[int, float] = {}
        for age_s in in_flight_s:
            cell = min(cell_at(max(age_s, 0.0)) + 1, CELLS - 1)
            joining[cell] = joining.get(cell, 0.0) + 1 / max(alive[cell], 1e-9)
        if not joining:
            return mass
        weights = accumulate((joining.get(cell, 0.0) for cell in range(1, CELLS)), initial=self.runs + 1)
        return [value * weight for value, weight in zip(mass, weights, strict=True)]

    def _score_experts(self, first: int, shares: Sequence[float]) -> None:
        """Score every kernel width by the chance that it gave this run; older runs fade."""
        for i, expert in enumerate(self._experts):
            chance = sum(expert[first + k] * share for k, share in enumerate(shares))
            self._scores[i] = round(SCORE_MEMORY * self._scores[i] + _log(chance), 3)

    def _memory_after(self, rank: float) -> float:
        """The share of the past that stays; `rank` is where this run fell among those expected, from 0 (earliest) to 1."""
        if rank > 1 - SURPRISE_TAIL:
            self._surprises = max(self._surprises, 0) + 1
        elif rank < SURPRISE_TAIL:
            self._surprises = min(self._surprises, 0) - 1
        else:
            self._surprises = 0
        changed = abs(self._surprises) >= SURPRISES or self._evidence > CHANGE_EVIDENCE
        if changed:
            self._surprises, self._evidence = 0, 0.0
        self._evidence = round(self._evidence, 3)
        return MEMORY_AT_CHANGE if changed else MEMORY


def _faded(weights: Weights, memory: float) -> Weights:
    return {cell: round(weight * memory, 6) for cell, weight in weights.items() if weight * memory > LEAST_WEIGHT}


def _lay_over(
    weights: Weights,
    first: int,
    shares: Sequence[float],
    expected: Sequence[float],
    fresh: Sequence[float],
    change: float,
) -> None:
    """Add one run's weight to the cells of its interval."""
    seconds = [share * WIDTHS_S[first + i] for i, share in enumerate(shares)]
    likely = [(1 - change) * own + change * new for own, new in zip(expected, fresh, strict=True)]
    whole_s, whole = sum(seconds), max(sum(likely), 1e-12)
    for i, (stretch, chance) in enumerate(zip(seconds, likely, strict=True)):
        weight = EVEN_SHARE * stretch / whole_s + (1 - EVEN_SHARE) * chance / whole
        if weight > LEAST_WEIGHT / 100:
            cell = first + i
            weights[cell] = round(weights.get(cell, 0.0) + weight, 6)


def _log(chance: float) -> float:
    return math.log(max(chance, 1e-12))
