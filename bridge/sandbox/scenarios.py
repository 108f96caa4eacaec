"""Scripted lives: what a sandbox run does, written down beforehand.

The state of a run is a pure function of its script and its age, so nothing ticks: a run that nobody asks
about costs nothing, and a clock that is advanced by hand moves every run at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bridge.domain.run import Json, RunError, RunStatus

RAW_MARK: Final = "="
DEFAULT_OUTPUT: Final[Json] = {"invoice_number": "INV-2026-001", "total_amount": 1234.56}


@dataclass(frozen=True, slots=True)
class Step:
    """From `after_s` seconds of age on, the run has this `status`.

    A canonical word (`waiting`) is put into the provider's own; any other word is sent as it stands, and a
    leading `=` does that for words that are both (`=queued` at Retab). `lost`: the provider forgets the run.
    `completed` sets the progress; None lets it grow with age.
    """

    after_s: float
    status: str
    completed: int | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """A whole life: `steps` until `duration_s` (seconds; None means for ever), then `outcome`.

    Steps later than `duration_s` are kept: a status may go backwards. A first step later than 0 leaves the
    run queued until then. `output` is told on success, `error` on every other end that has one.
    `parts` is what progress counts up to.
    """

    duration_s: float | None = 3.0
    outcome: str = "succeeded"
    steps: tuple[Step, ...] = (Step(0, "running"),)
    output: Json = None
    error: RunError | None = None
    parts: int = 5


@dataclass(frozen=True, slots=True)
class Words:
    """A provider's vocabulary: the word it uses for a status, and how to read words it only sometimes uses."""

    provider: str
    spoken: Mapping[RunStatus, str]
    understood: Mapping[str, RunStatus]

    def translate(self, word: str) -> tuple[str, RunStatus]:
        """The word on the wire and what it means; ValueError where the provider has none for that status."""
        raw = word.removeprefix(RAW_MARK)
        if raw == word and word in RunStatus.__members__.values():
            status = RunStatus(word)
            if status is RunStatus.LOST:
                return word, status
            if status in self.spoken:
                return self.spoken[status], status
            known = ", ".join(sorted(s.value for s in self.spoken))
            raise ValueError(f"{self.provider} has no word for {word}; it has one for {known}, or write a raw word")
        spoken = {said: status for status, said in self.spoken.items()}
        return raw, self.understood.get(raw, spoken.get(raw, RunStatus.UNKNOWN))


@dataclass(frozen=True, slots=True)
class Beat:
    """One step in the provider's words."""

    after_s: float
    word: str
    status: RunStatus
    completed: int | None


@dataclass(frozen=True, slots=True)
class Moment:
    """A run as it is at one age. `started_after_s` and `finished_after_s` are ages, None if not yet."""

    word: str
    status: RunStatus
    completed: int
    started_after_s: float | None
    finished_after_s: float | None


def beats_of(life: Life, words: Words) -> tuple[Beat, ...]:
    """The life in the provider's words, in order of time; ValueError where one cannot be said."""
    steps = list(life.steps)
    if life.duration_s is not None:
        steps.append(Step(life.duration_s, life.outcome))
    steps.sort(key=lambda step: step.after_s)
    if not steps or steps[0].after_s > 0:
        steps.insert(0, Step(0, RunStatus.QUEUED.value))
    return tuple(Beat(step.after_s, *words.translate(step.status), step.completed) for step in steps)


def moment_at(beats: tuple[Beat, ...], age_s: float, *, life: Life) -> Moment:
    """What the run shows at `age_s` seconds."""
    lived = [beat for beat in beats if beat.after_s <= age_s] or [beats[0]]
    now = lived[-1]
    started = next((b.after_s for b in lived if b.status is not RunStatus.QUEUED), None)
    finished = None
    if now.status.is_settled:
        finished = next(b.after_s for b in lived if b.status.is_settled)
    return Moment(now.word, now.status, _completed(now, age_s, life), started, finished)


def cut_short(beats: tuple[Beat, ...], age_s: float, word: str, status: RunStatus) -> tuple[Beat, ...]:
    """The same life, ended at `age_s` by a cancel."""
    kept = tuple(beat for beat in beats if beat.after_s <= age_s)
    return (*kept, Beat(age_s, word, status, None))


def _completed(beat: Beat, age_s: float, life: Life) -> int:
    if beat.completed is not None:
        return beat.completed
    if beat.status is RunStatus.SUCCEEDED:
        return life.parts
    if not life.duration_s:
        return 0
    moved_s = age_s if beat.status is RunStatus.RUNNING else beat.after_s  # stands still while waiting and once over
    return int(life.parts * min(moved_s / life.duration_s, 1.0) * 0.999)  # the last part falls only with success
