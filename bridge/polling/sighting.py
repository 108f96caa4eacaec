"""A run as a list showed it, and how far that is believed."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.domain.observation import ListedRun, Observed
from bridge.domain.run import Run, RunStatus
from bridge.domain.transition import unchanged


@dataclass(frozen=True, slots=True)
class Sighting:
    """One run on one page; `sent_at` (monotonic) is when the page was asked for."""

    listed: ListedRun
    answered_at: str | None
    sent_at: float

    def of(self, run: Run) -> Observed | None:
        """What it shows of `run`; None where only a look at the run itself tells.

        A run as it was is seen as it was: nothing that a list leaves out may look like a change.
        """
        seen = self.listed.observation
        if seen is None:
            return None
        if run.observed_at is not None and (run.status, run.provider_status) == (seen.status, seen.provider_status):
            return Observed(unchanged(run), answered_at=self.answered_at)
        return Observed(seen, answered_at=self.answered_at) if _tells_enough(run, self.listed) else None


def _tells_enough(run: Run, listed: ListedRun) -> bool:
    """Whether a change may be recorded as the list tells it.

    Lists may lag behind: to and fro between running and waiting only a look at the run itself is believed.
    """
    seen = listed.observation
    if seen is None or listed.needs_detail or seen.status is RunStatus.UNKNOWN:
        return False
    return run.observed_at is None or seen.status.is_settled or run.status is RunStatus.QUEUED
