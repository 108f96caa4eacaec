"""What one connection's runs have taught about durations, and how much of it is still to be saved.

A `Sojourn` for each workflow and status, all leaning on the connection's own per status; a
`ProgressSojourn` for each workflow that reports progress. At high rates only a share of the runs is
learned from: a fit costs a millisecond, and the thousandth run of a minute teaches nothing new.
"""

from __future__ import annotations

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
from bridge.store.learned_state import LearnedRow
from bridge.store.transaction import Tx

WAITING_PRIOR: Final = tuple(log_logistic(1800.0, 1.2))  # a person: anything from minutes to days
LESSON_EVERY_S: Final = 0.5  # per workflow and status, once it is known well
WELL_KNOWN_RUNS: Final = 30
KEYS_MAX: Final = 500  # in memory as learners; beyond, the one longest unused is kept as text

Key = tuple[str, RunStatus]


@dataclass(frozen=True, slots=True)
class _Lesson:
    """The end of one run that was learned from; `track` where it is about progress."""

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
        self._sojourns: dict[Key, DurationModel] = {}
        self._progress: dict[str, ProgressModel] = {}
        self._taught_at: dict[Key, float] = {}
        self.changed: set[Key] = set()
        """Of what more is known since the poller last planned anew; it empties this."""
        self._dirty: set[tuple[str, str, str]] = set()
        self._unsaved: list[_Lesson] = []

    def sojourn(self, workflow: str | None, status: RunStatus) -> DurationModel:
        """What is known of runs of this workflow in this status."""
        key = (workflow or "", status)
        known = self._sojourns.pop(key, None)
        if known is None:
            self._make_room()
            known = DurationModel.load(self._texts.get(("workflow", *key)), self._prior(status))
        self._sojourns[key] = known
        return known

    def look_up(self, workflow: str, status: RunStatus) -> DurationModel:
        """The same for people, who may ask for anything: what is not known is not kept for having been asked for."""
        known = self._sojourns.get((workflow, status))
        return known or DurationModel.load(self._texts.get(("workflow", workflow, status)), self._prior(status))

    def progress(self, workflow: str | None) -> ProgressModel:
        """What progress has meant at this workflow."""
        name = workflow or ""
        if name not in self._progress:
            self._progress[name] = ProgressModel.load(self._texts.get(("progress", name, "")))
        return self._progress[name]

    def learn(self, workflow: str | None, status: RunStatus, alive_s: float, finished_s: float, now: float) -> None:
        """A run left `status` at an age in (alive_s, finished_s]."""
        key = (workflow or "", status)
        sojourn = self.sojourn(workflow, status)
        if sojourn.runs > WELL_KNOWN_RUNS and now - self._taught_at.get(key, -1e9) < LESSON_EVERY_S:
            return
        self._taught_at[key] = now
        sojourn.observe(alive_s, finished_s)
        self._unsaved.append(_Lesson(key[0], status, alive_s, finished_s))
        self.changed.add(key)
        self._dirty |= {("workflow", key[0], status.value), ("connection", "", status.value)}

    def learn_progress(self, workflow: str | None, track: ProgressTrack, alive_s: float, finished_s: float) -> None:
        """A run with this track of progress ended at an age in (alive_s, finished_s]."""
        if track.marks:
            plain = self.sojourn(workflow, RunStatus.RUNNING).estimate
            self.progress(workflow).observe(track, alive_s, finished_s, plain)
            self._unsaved.append(_Lesson(workflow or "", RunStatus.RUNNING, alive_s, finished_s, track))
            self._dirty.add(("progress", workflow or "", ""))

    @property
    def has_lessons(self) -> bool:
        """Whether something is still to be saved."""
        return bool(self._dirty)

    def take_lessons(self) -> list[LearnedRow]:
        """What changed since it was last taken, to be saved."""
        dirty, self._dirty = self._dirty, set()
        self._unsaved = []
        return [
            LearnedRow(kind, workflow, status, self._text(kind, workflow, status)) for kind, workflow, status in dirty
        ]

    def adopt(self, rows: Iterable[LearnedRow]) -> None:
        """Go on from these states, saved by another node, where they are not our own; our unsaved lessons on top."""
        news = {
            key: row.state for row in rows if self._texts.get(key := (row.kind, row.workflow, row.status)) != row.state
        }
        if not news:
            return
        self._texts |= news
        statuses = {RunStatus(status) for _, _, status in news if status}
        for name in {workflow for kind, workflow, _ in news if kind == "progress"}:
            self._progress.pop(name, None)
        for status in statuses:  # all of a status at once: they lean on one prior
            self._priors.pop(status, None)
        self._sojourns = {key: kept for key, kept in self._sojourns.items() if key[1] not in statuses}
        for lesson in self._unsaved:
            self._learn_again(lesson, statuses, news)

    def _learn_again(self, lesson: _Lesson, statuses: set[RunStatus], news: Mapping[tuple[str, str, str], str]) -> None:
        if lesson.track is None and lesson.status in statuses:
            self.sojourn(lesson.workflow, lesson.status).observe(lesson.alive_s, lesson.finished_s)
        elif lesson.track is not None and ("progress", lesson.workflow, "") in news:
            plain = self.sojourn(lesson.workflow, RunStatus.RUNNING).estimate
            self.progress(lesson.workflow).observe(lesson.track, lesson.alive_s, lesson.finished_s, plain)

    def known_workflows(self) -> list[str]:
        """The workflows whose running time is being learned."""
        saved = {workflow for kind, workflow, status in self._texts if (kind, status) == ("workflow", "running")}
        return sorted(saved | {workflow for workflow, status in self._sojourns if status is RunStatus.RUNNING})

    def _prior(self, status: RunStatus) -> DurationModel:
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
                learner = self.sojourn(workflow, RunStatus(status))
            case "connection":
                learner = self._prior(RunStatus(status))
            case _:
                learner = self.progress(workflow)
        text = learner.dump()
        self._texts[(kind, workflow, status)] = text
        return text

    def _make_room(self) -> None:
        if len(self._sojourns) >= KEYS_MAX:
            workflow, status = next(iter(self._sojourns))
            self._texts[("workflow", workflow, status.value)] = self._sojourns.pop((workflow, status)).dump()


RATE: Final = "rate"  # a kind of row
RATE_STEP: Final = 0.1  # a rate is saved when it has changed by this much of itself
OVERLAP: Final = timedelta(minutes=1)  # read twice rather than missed where the nodes' clocks differ


class Lessons:
    """Of one connection."""

    def __init__(self, learner: DurationLearner, rate_limit: RateLimit, database: Database, connection: str) -> None:
        self._learner = learner
        self._rate_limit = rate_limit
        self._saved_rate = rate_limit.rate
        self._database = database
        self._connection = connection
        self._read_at = database.clock.now()

    async def save(self) -> None:
        """Take over what others learned, save what we did; whatever gets lost on the way is soon learned anew."""
        if not self._database.is_sqlite:
            await self._take_over()
        lessons, rate = self._learner.take_lessons(), self._rate_limit.rate
        if self.has_rate:
            lessons.append(LearnedRow(RATE, "", "", self._rate_limit.dump()))
        if lessons:
            await self._database.write(lambda tx: learned_state.save_learned(tx, self._connection, lessons))
            self._saved_rate = rate

    @property
    def has_rate(self) -> bool:
        """Whether the rate is another than the one that was saved."""
        return not self._rate_limit.is_known and abs(self._rate_limit.rate / self._saved_rate - 1) > RATE_STEP

    async def _take_over(self) -> None:
        def read(tx: Tx) -> tuple[list[LearnedRow], datetime]:
            return learned_state.list_changed(tx, self._connection, self._read_at - OVERLAP), tx.now

        rows, self._read_at = await self._database.read(read)
        self._learner.adopt(rows)


def recall_rate(rate_limit: RateLimit, rows: Iterable[LearnedRow]) -> None:
    """Go on with the rate that was learned before this start, if one was saved."""
    rate_limit.recall(next((row.state for row in rows if row.kind == RATE), None))
