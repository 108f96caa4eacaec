"""`GET /v1/summary`: counts that are kept for a moment, and what needs attention first."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from bridge.api.context import Request, RequestContext, Response
from bridge.api.dashboard_response_models import AttentionAnswer, SummaryAnswer
from bridge.api.ports import Bridge
from bridge.api.request_models import NoQuery
from bridge.domain.connection import ConnectionHealth
from bridge.domain.delivery import DeliveryState, Outcome, remedy_for
from bridge.domain.finding import Finding
from bridge.domain.timestamps import format_duration, format_instant
from bridge.store.connections import HealthRow, list_health
from bridge.store.deliveries import DueEndpoint, due_endpoints
from bridge.store.endpoint_stats import LastAnswer, read_last_failures
from bridge.store.inspection import measure_size
from bridge.store.summary import MINUTES, Counts, EndpointTrouble, Minute, list_endpoint_troubles
from bridge.store.transaction import Tx

LATE_AFTER_S: Final = 60.0
CROWDED_AT: Final = 1.5  # times the requests that a connection's limit allows


@dataclass(frozen=True, slots=True)
class CurrentTrouble:
    """The few rows that every summary reads: health of connections, endpoints in trouble and why, since when each is due."""

    health: Mapping[str, HealthRow]
    endpoints: list[EndpointTrouble]
    failures: Mapping[str, LastAnswer]
    due: Mapping[str, DueEndpoint]
    size_bytes: int


async def show_summary(context: RequestContext, _request: Request[NoQuery]) -> Response:
    """Show what is watched and sent, and what needs attention first.

    `counted_at` is when the counts were made: a second ago, in a large database some seconds, never by estimate.
    """
    counts, minutes = await context.counts.newest()
    now = await context.database.read(read_trouble)
    at = context.clock.now()
    by_status, by_state = Counter[str](), Counter[str]()
    by_connection: dict[str, dict[str, int]] = {name: {} for name in sorted(context.bridge.connections)}
    by_endpoint: dict[str, dict[str, int]] = defaultdict(dict)
    for (connection, status), count in sorted(counts.runs.items()):
        by_status[status] += count
        by_connection.setdefault(connection, {})[status] = count
    for (endpoint, state), count in sorted(counts.deliveries.items()):
        by_state[state] += count
        by_endpoint[endpoint][state] = count
    one_run = by_endpoint.pop("", {})
    attention = [each for kind in list_attention(context.bridge, now, counts, at) for each in kind]
    attention += _of_daemon(await asyncio.to_thread(context.bridge.findings))
    attention.sort(key=lambda each: each.severity != "error")
    oldest_at = min((each.at for each in now.due.values()), default=None)
    trouble = context.database.trouble
    sentence = attention[0].sentence if attention else _all_is_well(by_status, len(by_connection))
    answer = SummaryAnswer.model_validate(
        {
            "version": context.version,
            "counted_at": counts.at,
            "status": "attention" if trouble or any(each.severity == "error" for each in attention) else "ok",
            "sentence": f"Nothing can be recorded: {trouble}." if trouble else sentence,
            "runs": {"by_status": by_status, "by_connection": by_connection},
            "deliveries": {
                "by_state": by_state,
                "by_endpoint": by_endpoint,
                "one_run_webhooks": one_run,
                "oldest_due_at": oldest_at if oldest_at is not None and oldest_at <= at else None,
            },
            "minutes": [_shown(minute, seen) for minute, seen in _last_hour(minutes, at)],
            "hours": [_shown(hour, seen) for hour, seen in context.counts.hours(at, minutes).items()],
            "attention": attention,
            "database_bytes": now.size_bytes,
        }
    )
    return Response.of(200, answer)


def read_trouble(tx: Tx) -> CurrentTrouble:
    """Read the current troubles from the database."""
    return CurrentTrouble(
        list_health(tx), list_endpoint_troubles(tx), read_last_failures(tx), due_endpoints(tx), measure_size(tx).total
    )


def _last_hour(minutes: Mapping[datetime, Minute], now: datetime) -> Iterator[tuple[datetime, Minute]]:
    """Sixty minutes, the oldest first; the last is the one that is not over."""
    last = now.replace(second=0, microsecond=0)
    for back in range(MINUTES - 1, -1, -1):
        at = last - timedelta(minutes=back)
        yield at, minutes.get(at, Minute())


def _shown(at: datetime, seen: Minute | None) -> dict[str, object]:
    """The counts of the minute or hour that begins at `at`; null while they are not known."""
    return {"at": at, **{name: seen and getattr(seen, name) for name in ("settled", "delivered", "failed")}}


def _all_is_well(by_status: Mapping[str, int], connections: int) -> str:
    if not connections:
        return "No connection is configured; add a [connections.NAME] table to the configuration."
    if not by_status:
        return "Nothing is watched yet; register a run with `runbridge runs add CONNECTION ID`."
    return "Every connection answers, and every endpoint accepts what it is sent."


def list_attention(
    bridge: Bridge, now: CurrentTrouble, counts: Counts, at: datetime
) -> Iterator[list[AttentionAnswer]]:
    """List what needs attention, the worst kind first, each with a sentence that names the remedy."""
    names = sorted(bridge.connections)
    failing = [row for name in names if (row := now.health.get(name)) and row.health is ConnectionHealth.FAILING]
    yield [
        _item(
            "connection",
            row.name,
            "error",
            row.since,
            f"The connection {row.name} brings nothing readable: {row.reason or 'it does not answer'}. "
            f"Its runs are not lost; see `runbridge connections check {row.name}`.",
        )
        for row in failing
    ]
    yield [_endpoint_trouble(trouble, now.failures.get(trouble.id)) for trouble in now.endpoints]
    troubled = {trouble.id for trouble in now.endpoints}
    yield [_failure(each, failure) for each, failure in now.failures.items() if each not in troubled]
    yield _late(now, counts, at)
    answering = set(names) - {row.name for row in failing}  # the limit of the others is their probes'
    crowded = {name: bridge.limiter_reading(name).over_capacity for name in sorted(answering)}
    yield [
        _item(
            "connection",
            name,
            "warning",
            None,
            f"The connection {name} is wanted for {over:.1f} times the requests that its limit allows, so ends are "
            "noticed later; raise the limit at the provider, or the price or target_delay here.",
        )
        for name, over in crowded.items()
        if over > CROWDED_AT
    ]
    yield [
        _item(
            "endpoint",
            endpoint_id,
            "warning",
            None,
            f"{count} deliveries to {endpoint_id} used up their retries; send them again with "
            f"`runbridge endpoints replay {endpoint_id}`.",
        )
        for (endpoint_id, state), count in sorted(counts.deliveries.items())
        if state == DeliveryState.EXHAUSTED and endpoint_id
    ]


def _late(now: CurrentTrouble, counts: Counts, at: datetime) -> list[AttentionAnswer]:
    """The endpoints without other trouble whose deliveries have been due for long."""
    troubled = {trouble.id for trouble in now.endpoints}
    return [
        _item("endpoint", endpoint_id, "warning", due.at, _late_sentence(due, counts, at))
        for endpoint_id, due in sorted(now.due.items())
        if endpoint_id not in troubled and (at - due.at).total_seconds() > LATE_AFTER_S
    ]


def _late_sentence(due: DueEndpoint, counts: Counts, at: datetime) -> str:
    waiting = counts.deliveries.get((due.endpoint_id, DeliveryState.PENDING), 0)
    why = "its receiver is slower than its events: let it answer before it does the work"
    if due.rate_limit is not None:
        why = f"its `rate_limit` lets {due.rate_limit:g} a second through: raise it, or choose fewer `events`"
    age = format_duration(round((at - due.at).total_seconds()))
    return f"Deliveries to {due.endpoint_id} have been due for {age} ({waiting} wait); {why}."


def _failure(endpoint_id: str, failure: LastAnswer) -> AttentionAnswer:
    """An endpoint that accepts something: what it refuses as a client's mistake, it will refuse again."""
    cause = (failure.detail or failure.outcome.value).removesuffix(".")
    if failure.outcome is Outcome.UNSIGNED:
        return _item("endpoint", endpoint_id, "error", failure.at, f"Nothing can be sent to {endpoint_id}: {cause}.")
    more = f"`runbridge deliveries list --endpoint {endpoint_id} --state pending` shows them"
    remedy = remedy_for(failure.outcome, failure.status)
    sentence = f"Some deliveries to {endpoint_id} fail and are tried again: {cause}; {remedy or more}"
    severity = "error" if failure.outcome is Outcome.CLIENT_ERROR else "warning"
    return _item("endpoint", endpoint_id, severity, failure.at, _ended(sentence))


def _of_daemon(findings: list[Finding]) -> list[AttentionAnswer]:
    """The faults of the daemon itself and its machine."""
    return [
        _item("daemon", each.what, "error", None, _ended(f"{each.what}: {each.detail}"))
        for each in findings
        if each.is_good is False
    ]


def _endpoint_trouble(trouble: EndpointTrouble, failure: LastAnswer | None) -> AttentionAnswer:
    if trouble.is_off:
        remedy = f"`runbridge endpoints enable {trouble.id}` switches it on, a replay sends what it missed"
        sentence = f"The endpoint {trouble.id} is off: {trouble.reason or 'switched off'}; {remedy}."
        return _item("endpoint", trouble.id, "error", trouble.since, sentence)
    since = format_instant(trouble.since) if trouble.since else "some time"
    why, more = "", f"`runbridge deliveries list --endpoint {trouble.id}` shows why"
    if failure is not None and failure.outcome is not Outcome.UNSIGNED:
        cause = (failure.detail or failure.outcome.value).removesuffix(".")
        why, more = f": {cause}", remedy_for(failure.outcome, failure.status) or more
    sentence = _ended(f"The endpoint {trouble.id} has accepted nothing since {since}{why}; {more}")
    return _item("endpoint", trouble.id, "error", trouble.since, sentence)


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."


def _item(kind: str, item_id: str, severity: str, since: datetime | None, sentence: str) -> AttentionAnswer:
    return AttentionAnswer.model_validate(
        {"kind": kind, "id": item_id, "severity": severity, "since": since, "sentence": sentence}
    )
