"""Transitions: what an observation changes about a run, and which events it causes.

1. A settled run never changes again.
2. One observation may cause several events, in this order: resumed, started, waiting, progressed, finished.
3. `run.started` is recorded when running is first seen, even after waiting; `run.resumed` when the run runs again after
   waiting. From waiting to settled there is `run.finished` alone.
4. `run.finished` is the last event of a run and there is exactly one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from bridge.domain.event import EventType
from bridge.domain.frozen import frozen, replaced
from bridge.domain.observation import ListedRun, Observation
from bridge.domain.run import Run, RunError, RunStatus

NOT_FOUND_COUNT_MIN: Final = 5
NOT_FOUND_SPAN_MIN_S: Final = 60.0


@frozen
class Decision:
    """A decision to record: the changed run, and its events in order."""

    run: Run
    events: tuple[EventType, ...]
    status_changed: bool


def has_changed(run: Run, seen: Observation) -> bool:
    """Whether `seen` differs from what the run shows; after most polls it does not."""
    if run.settled:
        return False
    return (  # the fields of `shown_fields`, without building them for every poll
        seen.status is not run.status
        or seen.provider_status != run.provider_status
        or (seen.progress is not None and seen.progress != run.progress)
        or seen.output != run.output
        or seen.output_truncated is not run.output_truncated
        or seen.error != run.error
        or seen.finished_at != run.finished_at
        or (run.workflow_id or seen.workflow_id) != run.workflow_id
        or (run.link or seen.link) != run.link
        or (seen.created_at or run.created_at) != run.created_at
        or (seen.started_at or run.started_at) != run.started_at
    )


def has_started_again(run: Run, seen: Observation) -> bool:
    """Whether the provider has started the run again under its id: what it shows now is a new run."""
    return None not in (run.generation, seen.generation) and run.generation != seen.generation


def unchanged(run: Run) -> Observation:
    """The observation of a poll that finds the run exactly as it is stored."""
    return Observation(
        status=run.status,
        provider_status=run.provider_status or run.status.value,
        workflow_id=run.workflow_id,
        progress=run.progress,
        output=run.output,
        output_truncated=run.output_truncated,
        error=run.error,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )


def shown_by_list(run: Run, listed: ListedRun) -> Observation | None:
    """The observation of a run in a list; None where only a poll of the run itself tells.

    A run in the status that it had is taken as unchanged: what a list leaves out must not look like a change. Lists may
    lag, so a change between running and waiting needs a poll.
    """
    seen = listed.observation
    if seen is None or has_started_again(run, seen):
        return None
    if run.observed_at is not None and (run.status, run.provider_status) == (seen.status, seen.provider_status):
        return unchanged(run)
    if listed.needs_detail or seen.status is RunStatus.UNKNOWN:
        return None
    may_be_recorded = run.observed_at is None or seen.status.is_settled or run.status is RunStatus.QUEUED
    return seen if may_be_recorded else None


def observe(
    run: Run, seen: Observation, *, now: datetime, wants_progress: bool, since: datetime | None = None
) -> Decision | None:
    """The decision that `seen` leads to; None if nothing changes or the run is settled.

    `since`: when the status of the first observation began, if the provider's times say so.
    """
    if not has_changed(run, seen):
        return None
    changed = seen.status is not run.status
    after = replaced(
        run,
        **shown_fields(run, seen),
        observed_at=now,
        status_since=_status_since(run, now, since, changed=changed),
        has_started=run.has_started or seen.status is RunStatus.RUNNING,
        is_paused=seen.status is RunStatus.WAITING or (run.is_paused and seen.status is not RunStatus.RUNNING),
        deadline_at=_deadline_after_waiting(run, seen.status, now),
    )
    return Decision(after, _events(run, after, wants_progress=wants_progress), changed)


def _status_since(run: Run, now: datetime, since: datetime | None, *, changed: bool) -> datetime:
    """When the observed status began; that of the first observation may be as old as the run."""
    if run.observed_at is None:
        return min(since or run.registered_at, now)
    return now if changed else run.status_since


def shown_fields(run: Run, seen: Observation) -> dict[str, Any]:
    """The fields of the run that this observation sets."""
    return {
        "status": seen.status,
        "provider_status": seen.provider_status,
        "workflow_id": run.workflow_id or seen.workflow_id,
        "progress": seen.progress or run.progress,
        "output": seen.output,
        "output_truncated": seen.output_truncated,
        "error": seen.error,
        "created_at": seen.created_at or run.created_at,
        "started_at": seen.started_at or run.started_at,
        "finished_at": seen.finished_at,
        "generation": seen.generation or run.generation,
        "link": run.link or seen.link,
    }


def _events(before: Run, after: Run, *, wants_progress: bool) -> tuple[EventType, ...]:
    changed = after.status is not before.status
    runs_now = after.status is RunStatus.RUNNING
    candidates = (
        (EventType.RUN_RESUMED, runs_now and before.is_paused),
        (EventType.RUN_STARTED, runs_now and not before.has_started),
        (EventType.RUN_WAITING, changed and after.status is RunStatus.WAITING),
        (EventType.RUN_PROGRESSED, wants_progress and _has_progressed(before, after)),
        (EventType.RUN_FINISHED, after.settled),
    )
    return tuple(event_type for event_type, happened in candidates if happened)


def _has_progressed(before: Run, after: Run) -> bool:
    """Whether the numbers changed; the first numbers count only if something is completed."""
    if after.settled and (before.progress is None or before.status is RunStatus.WAITING):
        return False  # `run.finished` carries the numbers
    if before.progress is None:
        return after.progress is not None and after.progress.completed > 0
    return after.progress != before.progress


def settle(run: Run, status: RunStatus, error: RunError, *, now: datetime) -> Decision | None:
    """Settle the run by our own verdict (`expired`, `lost`); None if it is settled."""
    if run.settled:
        return None
    after = replaced(run, status=status, error=error, observed_at=now, status_since=now)
    return Decision(after, (EventType.RUN_FINISHED,), status_changed=True)


def overdue(run: Run, *, now: datetime) -> Decision:
    """Mark that the run takes longer than its workflow normally does; recorded once."""
    return Decision(replaced(run, is_overdue=True), (EventType.RUN_OVERDUE,), status_changed=False)


def is_lost(run: Run, now: datetime) -> bool:
    """404 at least five times over at least 60 s; never from a single one."""
    return (
        run.not_found_count >= NOT_FOUND_COUNT_MIN
        and run.not_found_since is not None
        and (now - run.not_found_since).total_seconds() >= NOT_FOUND_SPAN_MIN_S
    )


def is_expired(run: Run, now: datetime, *, seen: RunStatus | None = None) -> bool:
    """Whether the run's deadline has passed. While the run waits for a person, a movable deadline does not pass.

    `seen`: the status that a poll has just observed.
    """
    status = seen or run.status
    deadline_at = _deadline_after_waiting(run, status, now)
    if deadline_at is None or status.is_settled:
        return False
    if status is RunStatus.WAITING and not run.deadline_is_fixed:
        return False
    return now >= deadline_at


def _deadline_after_waiting(run: Run, status: RunStatus, now: datetime) -> datetime | None:
    left_waiting = run.status is RunStatus.WAITING and status is not RunStatus.WAITING
    if run.deadline_at is None or run.deadline_is_fixed or not left_waiting:
        return run.deadline_at
    was_registered = (
        run.registered_at <= now
    )  # otherwise the wall clock was set back since, and `status_since` moved along
    since = max(run.status_since, run.registered_at) if was_registered else run.status_since
    return run.deadline_at + (now - since)
