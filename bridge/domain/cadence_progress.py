"""Progress, learned and not believed: what "60 % done" has meant at this workflow for the time still to come.

A run that reports fraction p at age a predicts a total of a / p. How the true total compares with that, in
hundredths of the prediction, is learned per decile of p with the same `Sojourn` that learns plain durations.
A last step that always takes five times as long is simply what 90 % means here. Whether progress predicts
better than age alone is itself decided by how well both foresaw past runs.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Final

from bridge.domain.cadence_estimate import Estimate
from bridge.domain.cadence_grid import log_logistic
from bridge.domain.cadence_sojourn import Sojourn

DECILES: Final = 10
UNITS: Final = 100.0  # the predicted total is this many units: well inside the grid
RATIO_PRIOR: Final = tuple(log_logistic(UNITS, 0.3))  # within a factor 2 of the prediction, nine times in ten
TRUST_MEMORY: Final = 0.9
STATE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ProgressTrack:
    """What one run has reported: its fraction, since what age (s), and for each decile the seconds in one unit."""

    fraction: float = 0.0
    since_s: float = 0.0
    units_s: tuple[tuple[int, float, float], ...] = ()  # decile, seconds per unit, age when first seen there

    def seen(self, fraction: float, age_s: float) -> ProgressTrack:
        """This track after a poll at `age_s` reported `fraction`; what does not move forward changes nothing."""
        if not (0 < fraction <= 1) or fraction <= self.fraction or age_s <= 0:
            return self
        decile = min(int(fraction * DECILES), DECILES - 1)
        unit_s = age_s / fraction / UNITS
        known = any(entry[0] == decile for entry in self.units_s)
        units = self.units_s if known else (*self.units_s, (decile, unit_s, age_s))
        return replace(self, fraction=fraction, since_s=age_s, units_s=units)

    @property
    def decile(self) -> int:
        """Which tenth of the way it is in."""
        return min(int(self.fraction * DECILES), DECILES - 1)

    @property
    def unit_s(self) -> float:
        """Seconds in a hundredth of the total that this progress predicts."""
        return self.since_s / self.fraction / UNITS


class ProgressSojourn:
    """Learned total durations of one workflow's runs, relative to what their progress predicts."""

    def __init__(self) -> None:
        self._shared = Sojourn(general=RATIO_PRIOR)
        self._deciles: dict[int, Sojourn] = {}
        self.trust = 0.0  # mean log likelihood gained over age alone, per run

    def is_useful(self, track: ProgressTrack) -> bool:
        """Whether this run's progress should decide instead of its age alone."""
        return track.fraction > 0 and self.trust >= 0

    def next_age(
        self, track: ProgressTrack, alive_s: float, price_s: float, min_interval_s: float, max_interval_s: float
    ) -> float:
        """The age in seconds of the next poll for a run with progress; arguments as for `Estimate.next_age`."""
        unit = track.unit_s
        age = self._at(track.decile).estimate.next_age(
            alive_s / unit, price_s / unit, min_interval_s / unit, max_interval_s / unit
        )
        return alive_s + min(max(age * unit - alive_s, min_interval_s), max_interval_s)

    def lateness(self, track: ProgressTrack, alive_s: float, age_s: float) -> float:
        """W in seconds of a run with progress."""
        unit = track.unit_s
        return unit * self._at(track.decile).estimate.lateness(alive_s / unit, age_s / unit)

    def observe(self, track: ProgressTrack, alive_s: float, finished_s: float, plain: Estimate) -> None:
        """A run with this track ended at an age in (alive_s, finished_s]; `plain` is the belief by age alone."""
        gains = []
        for decile, unit_s, first_seen_s in track.units_s:
            sojourn = self._at(decile)
            own = sojourn.estimate.chance(first_seen_s / unit_s, alive_s / unit_s, finished_s / unit_s)
            other = plain.chance(first_seen_s, alive_s, finished_s)
            gains.append(math.log(max(own, 1e-6)) - math.log(max(other, 1e-6)))
            sojourn.observe(alive_s / unit_s, finished_s / unit_s)
        if gains:
            self.trust = round(TRUST_MEMORY * self.trust + (1 - TRUST_MEMORY) * sum(gains) / len(gains), 4)

    def dump(self) -> str:
        """The state as JSON."""
        deciles = {str(decile): json.loads(sojourn.dump()) for decile, sojourn in self._deciles.items()}
        shared = json.loads(self._shared.dump())
        return json.dumps({"v": STATE_VERSION, "trust": self.trust, "shared": shared, "deciles": deciles})

    @classmethod
    def load(cls, text: str | None) -> ProgressSojourn:
        """A learner from its JSON; a fresh one where the text is missing or not ours."""
        learner = cls()
        try:
            state = json.loads(text or "")
            deciles = {int(key): json.dumps(value) for key, value in state["deciles"].items()}
            trust, shared = float(state["trust"]), json.dumps(state["shared"])
            is_ours = state["v"] == STATE_VERSION and math.isfinite(trust) and set(deciles) <= set(range(DECILES))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return learner
        if is_ours:
            learner.trust = trust
            learner._shared = Sojourn.load(shared, general=RATIO_PRIOR)
            learner._deciles = {key: Sojourn.load(value, prior=learner._shared) for key, value in deciles.items()}
        return learner

    def _at(self, decile: int) -> Sojourn:
        if decile not in self._deciles:
            self._deciles[decile] = Sojourn(prior=self._shared)
        return self._deciles[decile]
