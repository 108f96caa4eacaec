"""Progress: what "3 of 5 steps" has meant at this workflow for the time that remains.

When a run is seen to have moved forward, its progress predicts how long the rest will take. How long it really
took, in hundredths of that prediction, is learned for each tenth of the way with the same `DurationModel` that learns
plain durations; its clock starts at the move. So a last step that always takes five times as long is predicted as such.
Whether progress predicts better than age alone is learned as well.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Final

from bridge.domain.cadence.durations import DurationModel
from bridge.domain.cadence.estimate import Estimate, log_logistic
from bridge.domain.frozen import frozen

DECILES: Final = 10
LAST_STEP: Final = DECILES  # one step to go says more than the tenth it falls into
CLASSES: Final = DECILES + 1
UNITS: Final = 100.0  # the predicted rest is this many units: well inside the grid
REST_PRIOR: Final = tuple(log_logistic(UNITS, 0.4))  # within a factor 2.4 of the prediction, four times in five
REST_SHARE_MIN: Final = 0.02  # of the time so far: "100 %" is not yet the end
TRUST_MEMORY: Final = 0.9
STATE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """A move that was seen: at what age (s), in which class of progress, and the seconds in one unit of the rest."""

    at_s: float
    kind: int
    unit_s: float


@frozen
class ProgressTrack:
    """The reports of one run: steps done, the age in seconds at the last poll, and the first mark of each class."""

    completed: float = 0.0
    polled_s: float = 0.0
    latest: Mark | None = None
    marks: tuple[Mark, ...] = ()

    def seen(self, completed: float, total: float, age_s: float) -> ProgressTrack:
        """This track after a poll at `age_s` saw `completed` of `total`; only a move forward makes a mark."""
        if not (0 < completed <= total) or completed <= self.completed or age_s <= 0:
            return ProgressTrack(self.completed, max(age_s, self.polled_s), self.latest, self.marks)
        mark = _mark(completed, total, age_s, since_s=age_s - self.polled_s)
        is_new = all(earlier.kind != mark.kind for earlier in self.marks)
        return ProgressTrack(completed, age_s, mark, (*self.marks, mark) if is_new else self.marks)


def _mark(completed: float, total: float, age_s: float, since_s: float) -> Mark:
    """A move within the last `since_s` seconds; it is taken to be half-way through what may have been done since."""
    step_s = age_s / (completed + 0.5)
    done = min(completed + min(since_s / step_s, 1.0) / 2, total)
    rest_s = max((total - done) / done, REST_SHARE_MIN) * age_s
    is_last = completed < total <= completed + 1
    kind = LAST_STEP if is_last else min(int(done / total * DECILES), DECILES - 1)
    return Mark(age_s, kind, rest_s / UNITS)


class ProgressModel:
    """The learned time from a move to the end, for running runs of one workflow."""

    def __init__(self) -> None:
        self._shared = DurationModel(general=REST_PRIOR)
        self._kinds: dict[int, DurationModel] = {}
        self.trust = 0.0  # mean log likelihood gained over age alone, per run

    def is_useful(self, track: ProgressTrack) -> bool:
        """Whether this run's progress should decide instead of its age alone."""
        return track.latest is not None and self.trust >= 0

    def next_age(
        self, track: ProgressTrack, alive_s: float, price_s: float, min_interval_s: float, max_interval_s: float
    ) -> float:
        """The age in seconds of the next poll for a run with a mark; arguments as for `Estimate.next_age`."""
        mark = track.latest
        if mark is None:
            raise ValueError("a run without progress is polled by its age alone")
        unit, since = mark.unit_s, max(alive_s - mark.at_s, 0.0)
        rest = self._of(mark.kind).estimate.next_age(
            since / unit, price_s / unit, min_interval_s / unit, max_interval_s / unit
        )
        return alive_s + min(max(rest * unit - since, min_interval_s), max_interval_s)

    def lateness(self, track: ProgressTrack, alive_s: float, age_s: float) -> float:
        """W in seconds of a run with a mark; 0 without one."""
        mark = track.latest
        if mark is None:
            return 0.0
        estimate = self._of(mark.kind).estimate
        return mark.unit_s * estimate.lateness((alive_s - mark.at_s) / mark.unit_s, (age_s - mark.at_s) / mark.unit_s)

    def observe(self, track: ProgressTrack, alive_s: float, finished_s: float, plain: Estimate) -> None:
        """Learn from a run with this track that ended at an age in (alive_s, finished_s]; `plain` is the estimate by age alone."""
        gains = []
        for mark in track.marks:
            model, start, end = self._of(mark.kind), max(alive_s - mark.at_s, 0.0), finished_s - mark.at_s
            own = model.estimate.chance(0.0, start / mark.unit_s, end / mark.unit_s)
            other = plain.chance(mark.at_s, alive_s, finished_s)
            gains.append(math.log(max(own, 1e-6)) - math.log(max(other, 1e-6)))
            model.observe(start / mark.unit_s, end / mark.unit_s)
        if gains:
            self.trust = round(TRUST_MEMORY * self.trust + (1 - TRUST_MEMORY) * sum(gains) / len(gains), 4)

    def dump(self) -> str:
        """The state as JSON."""
        kinds = {str(kind): json.loads(model.dump()) for kind, model in self._kinds.items()}
        shared = json.loads(self._shared.dump())
        return json.dumps({"v": STATE_VERSION, "trust": self.trust, "shared": shared, "kinds": kinds})

    @classmethod
    def load(cls, text: str | None) -> ProgressModel:
        """A model from its JSON; a new one where the text is missing or not ours."""
        made = cls()
        try:
            state = json.loads(text or "")
            kinds = {int(key): json.dumps(value) for key, value in state["kinds"].items()}
            trust, shared = float(state["trust"]), json.dumps(state["shared"])
            is_ours = state["v"] == STATE_VERSION and math.isfinite(trust) and set(kinds) <= set(range(CLASSES))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return made
        if is_ours:
            made.trust = trust
            made._shared = DurationModel.load(shared, general=REST_PRIOR)
            made._kinds = {key: DurationModel.load(value, prior=made._shared) for key, value in kinds.items()}
        return made

    def _of(self, kind: int) -> DurationModel:
        if kind not in self._kinds:
            self._kinds[kind] = DurationModel(prior=self._shared)
        return self._kinds[kind]
