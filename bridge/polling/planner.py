"""The planner of one connection: when each run is polled next, which is most urgent, and what its end teaches.

Ages are seconds since the run's present status began, by the monotonic clock. A poll proves a run alive at
the moment it was *sent* and over at the moment its answer *came*; the interval between the two is learned from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Final

from bridge.domain.cadence.durations import DurationModel
from bridge.domain.cadence.forecast import duration_cells, forecast_polls
from bridge.domain.cadence.list_rule import GrowingLateness, UnregisteredRuns, WatchedRun
from bridge.domain.cadence.rule import (
    FIRST_AGE_S,
    OVERDUE_RUNS_MIN,
    NextPoll,
    RunView,
    is_overdue,
    next_poll,
    next_poll_after_failure,
    price_for_target,
    price_of,
    urgency,
)
from bridge.domain.connection import CadenceSettings
from bridge.domain.failure import FailureKind
from bridge.domain.observation import Observation, Observed, PollFailed
from bridge.domain.run import Json, Run, RunStatus
from bridge.domain.timestamps import seconds_between
from bridge.polling.duration_learner import DurationLearner
from bridge.polling.schedule import RANK_EVERY_S, TrackedRun

CLOCK_GRAIN_S: Final = 1.0  # a Date header, and the times of several providers, are whole seconds
AGE_MAX_S: Final = 30 * 86400.0
SOON_S: Final = 0.01  # a poll due within this is not put off
IN_FLIGHT_COUNTED: Final = 200  # runs in flight that a fit counts as censored
OVER_ALREADY: Final = 0.02  # the chance that a run was over when it was registered, whatever its workflow takes
LATE_FIRST_POLL_S: Final = 2.0  # a run found over later than this has probably ended since it was registered …
NO_SURPRISE: Final = 0.2  # … if that was at least so likely: old runs registered late must not teach
YOUNG_SHARE: Final = 0.1  # of the runs that ended: so many from before anything was known may still be running …
HUNG_FACTOR: Final = 50.0  # … and those that take this many times as long as the others do not count


@dataclass(slots=True)
class Tally:
    """Counts of the runs of one workflow that ended here; display only."""

    runs: int = 0
    polls: int = 0
    delay_s: float = 0.0


class Planner:
    """Decides by what its learner knows."""

    def __init__(self, settings: CadenceSettings, learner: DurationLearner) -> None:
        self.learner = learner
        self._settings = settings
        self._tallies: dict[str, Tally] = {}
        self._replan_due = 0.0

    # -- when next

    def plan(self, tracked: TrackedRun, result: Observed, now: float) -> NextPoll:
        """The next poll of a run that this result showed going on, in seconds from *now*."""
        if result.poll_after_s is not None:
            tracked.note_pause(now + result.poll_after_s)
        if tracked.runs_known is None:
            tracked.note_runs_known(self.learner.durations(tracked.run.workflow_id, RunStatus.RUNNING).runs)
        if tracked.alive_s >= FIRST_AGE_S:
            self._note_long(tracked.run)
        settings = self._settings_of(tracked)
        plan = next_poll(settings, self._view(tracked), poll_after_s=result.poll_after_s)
        took_s = now - tracked.sent_at
        least_s = max(settings.min_interval_s - took_s, tracked.not_before - now)
        return NextPoll(max(plan.delay_s - took_s, least_s, 0.0), plan.reason)

    def _note_long(self, run: Run) -> None:
        durations = self.learner.durations(run.workflow_id, run.status)
        if durations.is_new:
            durations.note_long(run.id)

    def replan_rest_s(self, now: float) -> float:
        """Seconds until runs are to be planned again by what was learned; infinity if nothing was."""
        return self._replan_due - now if self.learner.changed else math.inf

    def replan_learned(self, runs: Iterable[TrackedRun], now: float) -> list[tuple[TrackedRun, NextPoll]]:
        """The runs to be planned again by what was learned, with their plans."""
        self._replan_due = now + RANK_EVERY_S
        runs = list(runs)
        self.refit(runs)
        plans = [(each, plan) for each in runs if each.is_planned and (plan := self.replan(each, now))]
        self.learner.changed.clear()
        return plans

    def replan(self, tracked: TrackedRun, now: float) -> NextPoll | None:
        """The next poll by what was learned since; None where the present plan stands.

        It stands where nothing was learned of runs like it, where the poll is due or was asked for, after a failure,
        and before the first poll here: the due time in the database may be a pause that the provider asked for.
        """
        run = tracked.run
        if (run.workflow_id or "", run.status) not in self.learner.changed:
            return None
        if run.observed_at is None or tracked.failure_streak or tracked.is_wanted or tracked.reason is None:
            return None
        if tracked.due <= now + SOON_S:
            return None
        settings = self._settings_of(tracked)
        plan = next_poll(settings, self._view(tracked))
        due = max(tracked.sent_at + max(plan.delay_s, settings.min_interval_s), tracked.not_before)
        return NextPoll(max(due - now, 0.0), plan.reason)

    def replan_after_outage(self, runs: Iterable[TrackedRun], now: float) -> list[tuple[TrackedRun, NextPoll]]:
        """The runs whose polls failed, due now that the provider answers again; the limiter lets the most urgent first."""
        plans = []
        for tracked in runs:
            due = max(now, tracked.sent_at + self._settings_of(tracked).min_interval_s)
            has_failed = tracked.is_planned and tracked.failure_streak and not tracked.not_found_count
            if has_failed and tracked.due > due:
                plans.append((tracked, NextPoll(due - now, "the provider answers again")))
        return plans

    def may_poll(self, tracked: TrackedRun, now: float) -> bool:
        """Whether neither min_interval nor a pause that the provider asked for is against a poll now."""
        return now >= max(tracked.sent_at + self._settings_of(tracked).min_interval_s, tracked.not_before)

    def plan_retry(self, tracked: TrackedRun, failed: PollFailed) -> NextPoll:
        """The next poll after one that failed; a 429 is about the connection, so the run itself backs off no further."""
        streak = 1 if failed.kind is FailureKind.THROTTLED else tracked.failure_streak
        return next_poll_after_failure(self._settings_of(tracked), streak, retry_after_s=failed.retry_after_s)

    def before_deadline(self, tracked: TrackedRun, delay_s: float, reason: str, now: datetime) -> NextPoll:
        """This plan, or a last poll just after the run's deadline if that comes first."""
        run = tracked.run
        if run.deadline_at is not None and (run.status is not RunStatus.WAITING or run.deadline_is_fixed):
            left_s = (run.deadline_at - now).total_seconds()
            last_s = max(left_s + 0.001, self._settings_of(tracked).min_interval_s)
            if left_s > 0 and last_s < delay_s:
                return NextPoll(last_s, "its deadline")
        return NextPoll(delay_s, reason)

    def rank(self, due: Sequence[TrackedRun], now: float, held: Iterable[TrackedRun]) -> list[tuple[float, TrackedRun]]:
        """The due runs, each with what a poll of it is worth in seconds; most urgent last. `held`: for the fit."""
        if len(due) <= 1:  # nothing to compare it with
            return [(self._settings.price_s, tracked) for tracked in due]
        self.refit(held)
        return sorted(((self.urgency(tracked, now), tracked) for tracked in due), key=itemgetter(0))

    def urgency(self, tracked: TrackedRun, now: float) -> float:
        """The worth of a poll of this run now, in seconds of delay."""
        age_s = now - tracked.origin
        worth = urgency(self._view(tracked), age_s)
        return worth + OVER_ALREADY * age_s if tracked.run.observed_at is None else worth

    def _settings_of(self, tracked: TrackedRun) -> CadenceSettings:
        return self._settings.overridden_by(tracked.run.cadence)

    def _view(self, tracked: TrackedRun) -> RunView:
        run = tracked.run
        status = RunStatus.RUNNING if run.observed_at is None else run.status  # most begin to run at once
        durations = self.learner.durations(run.workflow_id, status)
        by_progress = status is RunStatus.RUNNING and tracked.track.latest is not None
        progress = self.learner.progress(run.workflow_id) if by_progress else None
        belief, is_new, usual_s = durations.estimate, durations.is_new, durations.usual_s
        # by position: keywords make it twice as dear
        return RunView(
            run.id, status, belief, tracked.alive_s, progress, tracked.track, tracked.is_304, is_new, usual_s
        )

    # -- when a list is next

    def lateness_of(self, runs: Sequence[TrackedRun], now: float) -> list[GrowingLateness]:
        """The growth of the lateness of these runs, in prices: a list that shows them is due when they add up to 1.

        With a target delay each run waits for its own price, so there each counts for its share.
        """
        found: list[GrowingLateness] = []
        for tracked in runs:
            settings, view = self._settings_of(tracked), self._view(tracked)
            share = 1.0 if settings.target_delay is None else 1.0 / len(runs)
            weight = share / price_of(settings, view)
            found.append(WatchedRun(view.belief, tracked.alive_s, now - tracked.origin, weight))
        return found

    def unregistered_lateness(self, per_s: float, since_s: float) -> GrowingLateness:
        """The same for unregistered runs, which begin at `per_s` per second; the last list was `since_s` ago."""
        belief = self.learner.durations(None, RunStatus.RUNNING).estimate
        price_s, target = self._settings.price_s, self._settings.target_delay
        return UnregisteredRuns(belief, per_s, since_s, 1 / (price_for_target(belief, target) if target else price_s))

    def refit(self, runs: Iterable[TrackedRun]) -> None:
        """Fit what was learned since the last fit, counting these runs as not over yet."""
        ages: dict[tuple[str | None, RunStatus], list[float]] = {}
        for tracked in runs:
            found = ages.setdefault((tracked.run.workflow_id, tracked.run.status), [])
            if tracked.alive_s > 0 and len(found) < IN_FLIGHT_COUNTED:
                found.append(tracked.alive_s)
        for (workflow, status), in_flight_s in ages.items():
            durations = self.learner.durations(workflow, status)
            if durations.is_stale:
                durations.refit(in_flight_s)

    # -- what a poll shows

    def is_overdue(self, tracked: TrackedRun, now: float, others: Iterable[TrackedRun]) -> bool:
        """Whether this run takes longer than its workflow normally does, and no event has said so yet.

        Early finishers bias the estimate, so no run is overdue while many of the first cohort still run among `others`,
        the runs held.
        """
        run = tracked.run
        if run.status is not RunStatus.RUNNING or run.is_overdue:
            return False
        durations = self.learner.durations(run.workflow_id, run.status)
        if not is_overdue(durations.ended, durations.runs, now - tracked.origin):
            return False
        oldest_s = HUNG_FACTOR * durations.ended.quantile(0.99)
        young = sum(
            each.runs_known is not None
            and each.runs_known < OVERDUE_RUNS_MIN
            and each.run.status is RunStatus.RUNNING
            and each.run.workflow_id == run.workflow_id
            and now - each.origin < oldest_s
            for each in others
        )
        return young <= YOUNG_SHARE * durations.runs

    def began_at(self, tracked: TrackedRun, result: Observed, now: datetime, monotonic: float) -> datetime | None:
        """When the new status that a poll found had begun; None where the provider's times do not say.

        Only their differences count: its clock may be wrong by hours.
        """
        seen = result.observation
        if seen.status is not RunStatus.RUNNING:
            return None
        age_s = seconds_between(seen.started_at or seen.created_at, result.answered_at)
        if age_s is None or not 2 * CLOCK_GRAIN_S < age_s < AGE_MAX_S:
            return None
        if tracked.run.observed_at is not None:  # it cannot have begun before it was last seen in another status
            age_s = min(age_s, monotonic - tracked.origin - tracked.alive_s)
        return now - timedelta(seconds=age_s)

    # -- what an end teaches

    def learn_end(
        self, tracked: TrackedRun, seen: Observation, now: float, *, age_s: float | None = None
    ) -> float | None:
        """Learn from the time that a run spent in the status that it has left.

        `age_s` is the time from its beginning to the answer, where the provider's own times say it. Returns how many
        seconds late the end of a settled run was probably noticed, by what is known of runs like it; None if unknown.
        """
        run, reported_s = tracked.run, seconds_between(seen.started_at or seen.created_at, seen.finished_at)
        if run.observed_at is None:  # over, or further, before the first poll
            if seen.status.is_settled:
                self._learn_unseen(tracked, reported_s, age_s, now)
            return None
        if tracked.is_tainted:
            return None
        alive_s, over_s, late_s = tracked.alive_s, now - tracked.origin, None
        if seen.status.is_settled:
            noticed_s = over_s
            if run.status is RunStatus.RUNNING and reported_s is not None:
                alive_s, over_s = _narrowed(alive_s, over_s, reported_s)
            belief = self.learner.durations(run.workflow_id, run.status).estimate
            late_s = noticed_s - over_s + belief.late_within(alive_s, over_s)
            self._count(run, tracked, late_s)
        self._learn(run, run.status, alive_s, over_s, now)
        if run.status is RunStatus.RUNNING and seen.status.is_settled:
            self.learner.learn_progress(run.workflow_id, tracked.track, alive_s, over_s)
        return late_s

    def _learn_unseen(self, tracked: TrackedRun, reported_s: float | None, age_s: float | None, now: float) -> None:
        """Learn from a run that the first poll found over, by the provider's times or roughly by a late first poll.

        Where requests are so scarce that most first polls find this, the model would otherwise learn only long runs.
        """
        if reported_s is not None and 0 < reported_s < AGE_MAX_S:
            alive_s, over_s = max(reported_s - CLOCK_GRAIN_S, 0.0), reported_s + CLOCK_GRAIN_S
        else:
            alive_s, over_s = 0.0, now - tracked.origin
            if tracked.is_tainted or over_s < LATE_FIRST_POLL_S or not self._may_teach(tracked.run, over_s, age_s):
                return
        self._learn(tracked.run, RunStatus.RUNNING, alive_s, over_s, now)

    def _may_teach(self, run: Run, over_s: float, age_s: float | None) -> bool:
        """Whether a run found over probably began when it was registered, and took no improbable time."""
        durations = self.learner.durations(run.workflow_id, RunStatus.RUNNING)
        is_known = durations.runs >= OVERDUE_RUNS_MIN
        if age_s is None and not is_known:
            return False
        if age_s is not None and age_s > over_s + 2 * CLOCK_GRAIN_S:
            return False
        return not is_known or durations.estimate.finished(0.0, over_s) > NO_SURPRISE

    def learn_given_up(self, tracked: TrackedRun, now: float) -> None:
        """Learn from a run that was alive at its deadline: durations like its own are longer than that."""
        if tracked.alive_s > 0 and not tracked.is_tainted:
            self._learn(tracked.run, tracked.run.status, tracked.alive_s, float("inf"), now)

    def _learn(self, run: Run, status: RunStatus, alive_s: float, over_s: float, now: float) -> None:
        if status is not RunStatus.UNKNOWN:
            self.learner.learn(run.workflow_id, status, alive_s, over_s, now)

    def _count(self, run: Run, tracked: TrackedRun, delay_s: float) -> None:
        tally = self._tallies.setdefault(run.workflow_id or "", Tally())
        tally.runs += 1
        tally.polls += tracked.requests
        tally.delay_s += delay_s

    # -- for people

    def summary(self) -> list[Json]:
        """The durations learned, by workflow: durations in seconds, polls per run, mean delay in seconds."""
        return [shown for name in self.learner.known_workflows() if (shown := self._workflow(name))["runs_remembered"]]

    def busiest(self, most: int) -> list[dict[str, Json]]:
        """The same for the workflows with the most runs that ended here."""
        names = sorted(self._tallies, key=lambda name: -self._tallies[name].runs)[:most]
        return [self._workflow(name) for name in names]

    def distribution(self, workflow: str) -> Json:
        """The durations learned for one workflow and the forecast of its polls, all in seconds.

        "" stands for runs without a workflow. An unknown workflow has the durations that its first run is polled by.
        """
        durations = self.learner.look_up(workflow, RunStatus.RUNNING)
        predicted = forecast_polls(self._settings, durations.estimate, is_new=durations.is_new)
        return {
            **_learned(workflow, durations),
            "cells": [
                {"from_s": round(cell.from_s, 3), "to_s": round(cell.to_s, 3), "share": round(cell.share, 6)}
                for cell in duration_cells(durations.estimate)
            ],
            "planned_polls_s": [round(age_s, 3) for age_s in predicted.polls_s],
            "expected_polls": round(predicted.cost.polls, 2),
            "expected_delay_s": round(predicted.cost.delay_s, 3),
            "price_s": round(predicted.price_s, 4),
        }

    def _workflow(self, name: str) -> dict[str, Json]:
        tally = self._tallies.get(name, Tally())
        return {
            **_learned(name, self.learner.durations(name, RunStatus.RUNNING)),
            "runs_ended": tally.runs,
            "polls_per_run": round(tally.polls / tally.runs, 2) if tally.runs else None,
            "mean_delay_s": round(tally.delay_s / tally.runs, 3) if tally.runs else None,
        }


def _learned(workflow: str, durations: DurationModel) -> dict[str, Json]:
    belief = durations.ended  # as for `run.overdue`: runs that hang do not count
    return {
        "workflow_id": workflow or None,
        "runs_remembered": round(durations.runs, 1),
        "median_s": round(belief.quantile(0.5), 3),
        "p90_s": round(belief.quantile(0.9), 3),
        "p99_s": round(belief.quantile(0.99), 3),
    }


def _narrowed(alive_s: float, over_s: float, reported_s: float) -> tuple[float, float]:
    """The interval between the polls, narrowed by the duration that the provider reports where that fits."""
    low, high = max(alive_s, reported_s - CLOCK_GRAIN_S), min(over_s, reported_s + CLOCK_GRAIN_S)
    return (low, high) if low <= high else (alive_s, over_s)
