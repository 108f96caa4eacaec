"""The durations learned from the runs of one connection, and how they are saved.

There is a `DurationModel` for each workflow and status, all with the connection's own per status as their prior, and a
`ProgressModel` for each workflow that reports progress. At high rates only a share of the runs is learned from: a fit
costs a millisecond, and the thousandth run of a minute teaches nothing new.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from bridge.domain.cadence.durations import GENERAL_PRIOR, DurationModel
from bridge.domain.cadence.estimate import log_logistic
from bridge.domain.cadence.progress import ProgressModel, ProgressTrack
from bridge.domain.limits.adaptive import RateLimit
from bridge.domain.run import RunStatus
from bridge.store import learned_state
from bridge.store.database import Database
from bridge.store.learned_state import PAUSE, LearnedRow
from bridge.store.transaction import Tx

WAITING_PRIOR: Final = tuple(log_logistic(1800.0, 1.2))  # a person: anything from minutes to days
LEARN_EVERY_S: Final = 0.5  # per workflow and status, once it is known well
WELL_KNOWN_RUNS: Final = 30
RATE: Final = "rate"  # the kind of row that holds the rate limit
PAUSE_MAX_S: Final = 3600.0  # recalled, whatever the wall clock says
PAUSE_STEP_S: Final = 1.0  # a pause is saved when it has changed by this
RATE_STEP: Final = 0.1  # a rate is saved when it has changed by this share
SAVE_EVERY_S: Final = 10.0
OVERLAP: Final = timedelta(minutes=1)  # read twice rather than missed where the nodes' clocks differ
KEYS_MAX: Final = 500  # in memory as learners; beyond, the one longest unused is kept as text

Key = tuple[str, RunStatus]


@dataclass(frozen=True, slots=True)
class _End:
    """The end of one run to learn from; `track` is its progress, if it reported any."""

    workflow: str
    status: RunStatus
    alive_s: float
    finished_s: float
    track: ProgressTrack | None = None


class DurationLearner:
    """The learners of one connection. Times are monotonic seconds."""

    def __init__(self, rows: Iterable[LearnedRow] = ()) -> None:
        self._texts = {(row.kind, row.workflow, row.status): row.state for row in rows}
        self._priors: dict[RunStatus, DurationModel] = {}
        self._durations: dict[Key, DurationModel] = {}
        self._progress: dict[str, ProgressModel] = {}
        self._taught_at: dict[Key, float] = {}
        self.changed: set[Key] = set()
        """The models that have learned since the poller last replanned; the poller clears this."""
        self._dirty: set[tuple[str, str, str]] = set()
        self._unsaved: list[_End] = []

    def durations(self, workflow: str | None, status: RunStatus) -> DurationModel:
        """The durations of runs of this workflow in this status."""
        key = (workflow or "", status)
        known = self._durations.pop(key, None)
        if known is None:
            self._make_room()
            known = DurationModel.load(self._texts.get(("workflow", *key)), self.prior(status))
        self._durations[key] = known
        return known

    def look_up(self, workflow: str, status: RunStatus) -> DurationModel:
        """The same for display: an unknown workflow that a person asks for is not kept."""
        known = self._durations.get((workflow, status))
        return known or DurationModel.load(self._texts.get(("workflow", workflow, status)), self.prior(status))

    def progress(self, workflow: str | None) -> ProgressModel:
        """The meaning of progress at this workflow."""
        name = workflow or ""
        if name not in self._progress:
            self._progress[name] = ProgressModel.load(self._texts.get(("progress", name, "")))
        return self._progress[name]

    def learn(self, workflow: str | None, status: RunStatus, alive_s: float, finished_s: float, now: float) -> None:
        """Learn from a run that left `status` at an age in (alive_s, finished_s]."""
        key = (workflow or "", status)
        model = self.durations(workflow, status)
        if model.runs > WELL_KNOWN_RUNS and now - self._taught_at.get(key, -1e9) < LEARN_EVERY_S:
            return
        self._taught_at[key] = now
        model.observe(alive_s, finished_s)
        self._unsaved.append(_End(key[0], status, alive_s, finished_s))
        self.changed.add(key)
        self._dirty |= {("workflow", key[0], status.value), ("connection", "", status.value)}

    def learn_progress(self, workflow: str | None, track: ProgressTrack, alive_s: float, finished_s: float) -> None:
        """Learn from a run with this track of progress that ended at an age in (alive_s, finished_s]."""
        if track.marks:
            plain = self.durations(workflow, RunStatus.RUNNING).estimate
            self.progress(workflow).observe(track, alive_s, finished_s, plain)
            self._unsaved.append(_End(workflow or "", RunStatus.RUNNING, alive_s, finished_s, track))
            self._dirty.add(("progress", workflow or "", ""))

    @property
    def has_unsaved(self) -> bool:
        """Whether something is still to be saved."""
        return bool(self._dirty)

    def take_unsaved(self) -> list[LearnedRow]:
        """The changes since they were last taken, to be saved."""
        dirty, self._dirty = self._dirty, set()
        self._unsaved = []
        return [
            LearnedRow(kind, workflow, status, self._text(kind, workflow, status)) for kind, workflow, status in dirty
        ]

    def adopt(self, rows: Iterable[LearnedRow]) -> None:
        """Replace our models by these, which another node saved, where they differ; then learn our unsaved ends again."""
        changed = {
            key: row.state for row in rows if self._texts.get(key := (row.kind, row.workflow, row.status)) != row.state
        }
        if not changed:
            return
        self._texts |= changed
        statuses = {RunStatus(status) for _, _, status in changed if status}
        for name in {workflow for kind, workflow, _ in changed if kind == "progress"}:
            self._progress.pop(name, None)
        for status in statuses:  # all of a status at once: they lean on one prior
            self._priors.pop(status, None)
        self._durations = {key: kept for key, kept in self._durations.items() if key[1] not in statuses}
        for end in self._unsaved:
            self._learn_again(end, statuses, changed)

    def _learn_again(self, end: _End, statuses: set[RunStatus], changed: Mapping[tuple[str, str, str], str]) -> None:
        if end.track is None and end.status in statuses:
            self.durations(end.workflow, end.status).observe(end.alive_s, end.finished_s)
        elif end.track is not None and ("progress", end.workflow, "") in changed:
            plain = self.durations(end.workflow, RunStatus.RUNNING).estimate
            self.progress(end.workflow).observe(end.track, end.alive_s, end.finished_s, plain)

    def known_workflows(self) -> list[str]:
        """The workflows whose running time is being learned."""
        saved = {workflow for kind, workflow, status in self._texts if (kind, status) == ("workflow", "running")}
        return sorted(saved | {workflow for workflow, status in self._durations if status is RunStatus.RUNNING})

    def prior(self, status: RunStatus) -> DurationModel:
        """The durations of all workflows of the connection together, in this status."""
        if status not in self._priors:
            general = WAITING_PRIOR if status is RunStatus.WAITING else GENERAL_PRIOR
            self._priors[status] = DurationModel.load(
                self._texts.get(("connection", "", status.value)), general=general
            )
        return self._priors[status]

    def _text(self, kind: str, workflow: str, status: str) -> str:
        learner: DurationModel | ProgressModel
        match kind:
            case "workflow":
                learner = self.durations(workflow, RunStatus(status))
            case "connection":
                learner = self.prior(RunStatus(status))
            case _:
                learner = self.progress(workflow)
        text = learner.dump()
        self._texts[(kind, workflow, status)] = text
        return text

    def _make_room(self) -> None:
        if len(self._durations) >= KEYS_MAX:
            workflow, status = next(iter(self._durations))
            self._texts[("workflow", workflow, status.value)] = self._durations.pop((workflow, status)).dump()


def _left_s(until: str, now: datetime) -> float:
    """Seconds until this instant; 0 if the text is none."""
    try:
        return min((datetime.fromisoformat(until) - now).total_seconds(), PAUSE_MAX_S)
    except (ValueError, TypeError):
        return 0.0


class LearnedState:
    """The learned state of one connection, durations and rate limit, with its saving; and the pause that it keeps.

    Two nodes that watch runs of one workflow both save its state. So before saving, a node reads what the other saved
    and learns its own unsaved ends once more on top of it. Anything lost with a write is soon learned again.
    """

    def __init__(self, learner: DurationLearner, rate_limit: RateLimit, database: Database, connection: str) -> None:
        self.learner = learner
        self._rate_limit = rate_limit
        self._saved_rate = rate_limit.rate
        self._saved_pause = rate_limit.asked_until
        self._database = database
        self._connection = connection
        self._read_at = database.clock.now()
        self._save_due = 0.0

    @classmethod
    async def load(
        cls, database: Database, connection: str, rate_limit: RateLimit, *, recalls_rate: bool = True
    ) -> LearnedState:
        """The state that was saved before this start; with `recalls_rate` the rate limit goes on from there too."""
        rows = await database.read(lambda tx: learned_state.list_learned(tx, connection))
        if recalls_rate:
            rate_limit.recall(next((row.state for row in rows if row.kind == RATE), None))
        for row in rows:
            if row.kind == PAUSE and (left_s := _left_s(row.state, database.clock.now())) > 0:
                rate_limit.keep_asked(database.clock.monotonic(), left_s)
        return cls(DurationLearner(rows), rate_limit, database, connection)

    def rest_s(self, now: float) -> float:
        """Seconds until what was learned is saved; infinity while nothing is to be saved."""
        if self._has_new_pause(now):
            return 0.0
        return self._save_due - now if self.learner.has_unsaved else math.inf

    def _has_new_pause(self, now: float) -> bool:
        """Whether the pause has changed, and the one that was saved or the present one has not ended yet."""
        asked_until = self._rate_limit.asked_until
        is_open = max(asked_until, self._saved_pause) > now + PAUSE_STEP_S
        return is_open and abs(asked_until - self._saved_pause) > PAUSE_STEP_S

    async def save_if_due(self, now: float) -> None:
        """Save what was learned, every ten seconds at most, and at once a pause that the provider asks for."""
        if self._has_new_pause(now):
            asked_until, clock = self._rate_limit.asked_until, self._database.clock
            until = clock.now() + timedelta(seconds=min(asked_until - clock.monotonic(), PAUSE_MAX_S))
            pause = [LearnedRow(PAUSE, "", "", until.isoformat())]
            await self._database.write(lambda tx: learned_state.save_learned(tx, self._connection, pause))
            self._saved_pause = asked_until
        is_useful = self.learner.has_unsaved or self._has_new_rate or not self._database.is_sqlite
        if is_useful and now >= self._save_due:
            self._save_due = now + SAVE_EVERY_S
            await self.save()

    async def save(self) -> None:
        """Take over what other nodes learned, and save what this one did."""
        if not self._database.is_sqlite:
            await self._take_over()
        rows, rate = self.learner.take_unsaved(), self._rate_limit.rate
        if self._has_new_rate:
            rows.append(LearnedRow(RATE, "", "", self._rate_limit.dump()))
        if rows:
            await self._database.write(lambda tx: learned_state.save_learned(tx, self._connection, rows))
            self._saved_rate = rate

    @property
    def _has_new_rate(self) -> bool:
        return not self._rate_limit.is_known and abs(self._rate_limit.rate / self._saved_rate - 1) > RATE_STEP

    async def _take_over(self) -> None:
        def read(tx: Tx) -> tuple[list[LearnedRow], datetime]:
            return learned_state.list_changed(tx, self._connection, self._read_at - OVERLAP), tx.now

        rows, self._read_at = await self._database.read(read)
        self.learner.adopt(rows)
