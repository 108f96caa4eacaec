"""Scenarios: what a sandbox run does over time.

The state of a run is a pure function of its scenario and its age. A run that is not polled costs nothing, and
advancing a manual clock moves every run at once.
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

    A canonical status (`waiting`) is translated into the provider's word; any other word is sent as it stands. A
    leading `=` sends a word that is both as it stands (`=queued` at Retab). `lost`: the provider no longer has the
    run. `completed` sets the progress; None lets it grow with age.
    """

    after_s: float
    status: str
    completed: int | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """The whole life of a run: `steps` until `duration_s` (seconds; None means it never ends), then `outcome`.

    Steps later than `duration_s` are kept, so that a status can go backwards. A first step later than 0 leaves the
    run queued until then. `output` appears on success, `error` on every other end that has one. `parts` is the
    total that progress counts up to.
    """

    duration_s: float | None = 3.0
    outcome: str = "succeeded"
    steps: tuple[Step, ...] = (Step(0, "running"),)
    output: Json = None
    error: RunError | None = None
    parts: int = 5


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A provider's words: the one it sends for each status, and the meaning of those it sends only sometimes."""

    provider: str
    words: Mapping[RunStatus, str]
    rare_words: Mapping[str, RunStatus]

    def translate(self, word: str) -> tuple[str, RunStatus]:
        """The word on the wire and its meaning; ValueError if the provider has no word for that status."""
        raw = word.removeprefix(RAW_MARK)
        if raw == word and word in RunStatus.__members__.values():
            status = RunStatus(word)
            if status is RunStatus.LOST:
                return word, status
            if status in self.words:
                return self.words[status], status
            known = ", ".join(sorted(s.value for s in self.words))
            raise ValueError(f"{self.provider} has no word for {word}; it has one for {known}, or write a raw word")
        meanings = {said: status for status, said in self.words.items()}
        return raw, self.rare_words.get(raw, meanings.get(raw, RunStatus.UNKNOWN))


@dataclass(frozen=True, slots=True)
class ProviderStep:
    """A step in the provider's words."""

    after_s: float
    word: str
    status: RunStatus
    completed: int | None


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """The state of a run at one age. `started_after_s` and `finished_after_s` are ages, None if not reached."""

    word: str
    status: RunStatus
    completed: int
    started_after_s: float | None
    finished_after_s: float | None


def provider_steps(scenario: Scenario, vocabulary: Vocabulary) -> tuple[ProviderStep, ...]:
    """The scenario in the provider's words, in order of time; ValueError if a status has no word."""
    steps = list(scenario.steps)
    if scenario.duration_s is not None:
        steps.append(Step(scenario.duration_s, scenario.outcome))
    steps.sort(key=lambda step: step.after_s)
    if not steps or steps[0].after_s > 0:
        steps.insert(0, Step(0, RunStatus.QUEUED.value))
    return tuple(ProviderStep(step.after_s, *vocabulary.translate(step.status), step.completed) for step in steps)


def snapshot_at(steps: tuple[ProviderStep, ...], age_s: float, *, scenario: Scenario) -> RunSnapshot:
    """The state of the run at `age_s` seconds."""
    reached = [step for step in steps if step.after_s <= age_s] or [steps[0]]
    now = reached[-1]
    started = next((step.after_s for step in reached if step.status is not RunStatus.QUEUED), None)
    finished = None
    if now.status.is_settled:
        finished = next(step.after_s for step in reached if step.status.is_settled)
    return RunSnapshot(now.word, now.status, _completed(now, age_s, scenario), started, finished)


def cut_short(steps: tuple[ProviderStep, ...], age_s: float, word: str, status: RunStatus) -> tuple[ProviderStep, ...]:
    """The same steps, ended at `age_s` by a cancel."""
    kept = tuple(step for step in steps if step.after_s <= age_s)
    return (*kept, ProviderStep(age_s, word, status, None))


def _completed(step: ProviderStep, age_s: float, scenario: Scenario) -> int:
    if step.completed is not None:
        return step.completed
    if step.status is RunStatus.SUCCEEDED:
        return scenario.parts
    if not scenario.duration_s:
        return 0
    moved_s = age_s if step.status is RunStatus.RUNNING else step.after_s  # progress stands still unless running
    return int(scenario.parts * min(moved_s / scenario.duration_s, 1.0) * 0.999)  # only success completes all parts
