"""Deliveries: which are due, acquire and release their leases, find them, make them due again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.delivery import Delivery, DeliveryState, Lane, Outcome
from bridge.domain.endpoint import JSON, EndpointSource
from bridge.domain.endpoint_backoff import EndpointBackoff
from bridge.domain.errors import BeingSent
from bridge.domain.leased_delivery import LeasedDelivery
from bridge.store.clock_shift import id_lead_s
from bridge.store.column_types import reader_of, recorded_between
from bridge.store.endpoint_rows import backoff_of, endpoint_of
from bridge.store.endpoints import signing_secrets
from bridge.store.nodes import check_may_lease
from bridge.store.ordering import hold_back, lock_deliveries
from bridge.store.prepared_statements import fetch
from bridge.store.tables import deliveries, endpoints, events, runs
from bridge.store.transaction import Tx

_IS_INDEXED: Final = sa.and_(
    deliveries.c.leased_by.is_(None), deliveries.c.state != sa.literal_column("'delivered'")
)  # by ix_deliveries_state, in its own words
SELDOM_MAX: Final = 50_000  # lookups that a list may need: a twentieth of a second
_SHOWN = [column for column in deliveries.c if column.name != "body"]  # up to 256 KiB, needed only to send it


delivery_of = reader_of(
    Delivery, state=DeliveryState, lane=Lane, last_outcome=lambda stored: None if stored is None else Outcome(stored)
)
"""The delivery in a row of `deliveries`."""

DUE = (
    sa.select(deliveries.c.id)
    .where(
        deliveries.c.endpoint_id == sa.bindparam("endpoint"),
        deliveries.c.lane == sa.bindparam("of_lane"),
        deliveries.c.next_attempt_at.is_not(None),
        deliveries.c.leased_by.is_(None),
        deliveries.c.next_attempt_at <= sa.bindparam("now"),
    )
    .order_by(deliveries.c.next_attempt_at, deliveries.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
)
ACQUIRE_DUE = (
    sa.update(deliveries)
    .where(deliveries.c.id.in_(DUE.scalar_subquery()))
    .values(leased_by=sa.bindparam("node"))
    .returning(deliveries)
)
_ENDPOINT = sa.select(endpoints).where(endpoints.c.id == sa.bindparam("endpoint"))
_BODIES = sa.select(events.c.id, events.c.body).where(events.c.id.in_(sa.bindparam("events", expanding=True)))

_TRACE_CONTEXTS = sa.select(runs.c.id, runs.c.trace_context).where(
    runs.c.id.in_(sa.bindparam("ids", expanding=True)), runs.c.trace_context.is_not(None)
)


def acquire_due(
    tx: Tx,
    *,
    node: str,
    endpoint_id: str,
    limit: int,
    lanes: Sequence[tuple[Lane, int]] | None = None,
    with_traces: bool = False,
) -> list[LeasedDelivery]:
    """Lease up to `limit` due deliveries of one endpoint: so many of each lane in this order, longest due first.

    `with_traces`: read the trace contexts of their runs even if the endpoint does not ask for them.
    StoreUnavailable when this node was evicted.
    """
    check_may_lease(tx, node)
    rows: list[Any] = []
    for lane, most in [(lane, limit) for lane in Lane] if lanes is None else lanes:
        if (left := min(most, limit - len(rows))) > 0:
            rows += _claim_lane(tx, node, endpoint_id, lane, left)
    if not rows:
        return []
    endpoint = endpoint_of(tx, fetch(tx, _ENDPOINT, {"endpoint": endpoint_id})[0])
    secrets, fault = signing_secrets(tx, [endpoint])[endpoint_id]
    wanted = {"events": [row.event_id for row in rows if row.body is None]}
    bodies = {event.id: event.body for event in fetch(tx, _BODIES, wanted)}
    traces = _trace_contexts(tx, rows) if with_traces or endpoint.trace_context else {}
    return [
        LeasedDelivery(
            delivery_of(row), endpoint, body, secrets, fault, row.content_type or JSON, traces.get(row.run_id)
        )
        for row in rows
        if (body := row.body or bodies.get(row.event_id)) is not None
    ]


def _trace_contexts(tx: Tx, rows: Sequence[Any]) -> dict[str, str]:
    """The trace contexts of these deliveries' runs, by run id."""
    wanted = {"ids": sorted({row.run_id for row in rows if row.run_id is not None})}
    return {row.id: row.trace_context for row in fetch(tx, _TRACE_CONTEXTS, wanted)}


def _claim_lane(tx: Tx, node: str, endpoint_id: str, lane: Lane, limit: int) -> list[Any]:
    wanted = {"endpoint": endpoint_id, "of_lane": lane.value, "now": tx.now, "most": limit, "node": node}
    return sorted(fetch(tx, ACQUIRE_DUE, wanted), key=lambda row: str(row.id))


def release(tx: Tx, *, node: str, delivery_ids: Sequence[str]) -> None:
    """Release leases without an attempt: an interrupted POST is not a failed one."""
    tx.connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.id.in_(delivery_ids), deliveries.c.leased_by == node)
        .values(leased_by=None)
    )
    tx.signals.deliveries_due = True


def check_not_being_sent(tx: Tx, delivery_ids: Sequence[str]) -> None:
    """BeingSent if one of them is leased: recording its attempt would overwrite what is asked for now."""
    held = sa.select(deliveries.c.id).where(deliveries.c.id.in_(delivery_ids), deliveries.c.leased_by.is_not(None))
    if tx.connection.execute(held.limit(1)).first() is not None:
        raise BeingSent("it is being sent at this moment; try again in a few seconds")


def list_leased(tx: Tx, *, node: str) -> set[str]:
    """The ids of the deliveries that `node` leases."""
    return set(tx.connection.execute(sa.select(deliveries.c.id).where(deliveries.c.leased_by == node)).scalars())


def get_delivery(tx: Tx, delivery_id: str) -> Delivery | None:
    """One delivery, or None."""
    row = tx.connection.execute(sa.select(*_SHOWN).where(deliveries.c.id == delivery_id)).first()
    return None if row is None else delivery_of(row)


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """The deliveries that a list holds; None means any. `since` and `until` bound when they were recorded."""

    endpoint_id: str | None = None
    event_id: str | None = None
    run_id: str | None = None
    state: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    ids: Sequence[str] | None = None


def list_deliveries(tx: Tx, wanted: DeliveryFilter, *, limit: int, before: str | None) -> list[Delivery]:
    """Newest first, older than the delivery `before`."""
    walked, *few = _selected(tx, wanted, _SHOWN)
    parts = [walked.order_by(deliveries.c.id.desc()).limit(limit), *few]
    if before is not None:
        parts = [part.where(deliveries.c.id < before) for part in parts]
    found = [row for part in parts for row in tx.connection.execute(part)]
    return [delivery_of(row) for row in sorted(found, key=lambda row: str(row.id), reverse=True)[:limit]]


def count_selected(tx: Tx, wanted: DeliveryFilter, *, most: int) -> int:
    """How many a list holds, counted up to `most`."""
    total = 0
    for part in _selected(tx, wanted, [deliveries.c.id]):
        found = part.limit(most - total).subquery()
        total += tx.connection.execute(sa.select(sa.func.count()).select_from(found)).scalar_one()
    return total


def _selected(tx: Tx, wanted: DeliveryFilter, columns: Sequence[sa.Column[Any]]) -> list[sa.Select[Any]]:
    """Queries that exclude each other: one whose index is walked in order, and perhaps one of few rows."""
    query = sa.select(*columns)
    is_seldom = _is_seldom(tx, wanted)
    for column, value in (
        (deliveries.c.endpoint_id + "" if is_seldom else deliveries.c.endpoint_id, wanted.endpoint_id),
        (deliveries.c.event_id, wanted.event_id),
        (deliveries.c.state, wanted.state),
    ):
        if value is not None:
            query = query.where(column == value)
    if wanted.run_id is not None:  # through the run's events: deliveries have no index of runs
        of_run = sa.select(events.c.id).where(events.c.run_id == wanted.run_id)
        query = query.where(deliveries.c.event_id.in_(of_run))
    lead_s = 0.0 if wanted.until is None else id_lead_s(tx)
    created = deliveries.c.created_at, deliveries.c.id
    query = query.where(*recorded_between(*created, "dlv", wanted.since, wanted.until, lead_s))
    if wanted.ids is not None:
        return [query.where(deliveries.c.id.in_(wanted.ids))]
    if wanted.state in (None, DeliveryState.DELIVERED) or wanted.event_id or wanted.run_id:
        return [query]
    if wanted.endpoint_id and not is_seldom:
        return [query]
    return [query.where(_IS_INDEXED), query.where(deliveries.c.leased_by > "")]  # the leased ones are in another index


def _is_seldom(tx: Tx, wanted: DeliveryFilter) -> bool:
    """True if so few deliveries have the wanted state that those of all endpoints may be read."""
    if not wanted.endpoint_id or wanted.event_id or wanted.run_id or wanted.state in (None, DeliveryState.DELIVERED):
        return False
    found = sa.select(deliveries.c.id).where(deliveries.c.state == wanted.state, _IS_INDEXED).limit(SELDOM_MAX + 1)
    return tx.connection.execute(sa.select(sa.func.count()).select_from(found.subquery())).scalar_one() <= SELDOM_MAX


def retry_now(tx: Tx, delivery_ids: Sequence[str], *, lane: Lane = Lane.AGAIN) -> int:
    """Make deliveries due at once in any state, because a person asked for it. The answer is how many.

    They get the whole retry schedule again. At an ordered endpoint the later ones of a run wait for the earlier.
    """
    lock_deliveries(tx, delivery_ids)
    count = tx.connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.id.in_(delivery_ids), deliveries.c.leased_by.is_(None))
        .values(
            state=DeliveryState.PENDING.value,
            lane=lane.value,
            failures=0,
            next_attempt_at=tx.now,
            settled_at=None,
            is_manual=True,
        )
    ).rowcount
    hold_back(tx, delivery_ids)
    tx.signals.deliveries_due = True
    return count


def count_by_state(tx: Tx) -> dict[str, int]:
    """Deliveries by state; most are delivered, so these are what the others leave of the total."""
    query, found = sa.select(deliveries.c.state, sa.func.count()).group_by(deliveries.c.state), Counter[str]()
    for condition in (_IS_INDEXED, deliveries.c.leased_by > ""):
        found.update({row[0]: row[1] for row in tx.connection.execute(query.where(condition))})
    total = tx.connection.execute(sa.select(sa.func.count()).select_from(deliveries)).scalar_one()
    found[DeliveryState.DELIVERED.value] += total - found.total()
    return dict(+found)


def count_states(tx: Tx, *, run_ids: Sequence[str] = (), event_ids: Sequence[str] = ()) -> dict[str, dict[str, int]]:
    """How many deliveries of each state these runs, or these events, have; those without any are absent."""
    is_by_run = bool(run_ids)  # through their events: deliveries have no index of runs
    key = events.c.run_id if is_by_run else deliveries.c.event_id
    query = sa.select(key, deliveries.c.state, sa.func.count()).group_by(key, deliveries.c.state)
    if is_by_run:
        query = query.join_from(events, deliveries, deliveries.c.event_id == events.c.id).where(key.in_(run_ids))
    else:
        query = query.where(key.in_(event_ids))
    found: dict[str, dict[str, int]] = {}
    for name, state, count in tx.connection.execute(query):
        found.setdefault(name, {})[state] = count
    return found


# -- what is due


@dataclass(frozen=True, slots=True)
class DueEndpoint:
    """An endpoint with deliveries that no node leases: when the first of each lane is due, back-off and rate limit (per second)."""

    endpoint_id: str
    lanes: dict[Lane, datetime]
    backoff: EndpointBackoff
    rate_limit: float | None = None
    source: EndpointSource = EndpointSource.API

    @property
    def at(self) -> datetime:
        """When the first of them is due."""
        return min(self.lanes.values())


# Walks ix_deliveries_due endpoint by endpoint: four look-ups each, however many deliveries are pending. Disabled
# endpoints are left out. No other index has this order; with min(endpoint_id), PostgreSQL may walk settled deliveries.
DUE_ENDPOINTS = sa.text("""
WITH RECURSIVE e(id) AS (
  SELECT ''
  UNION ALL
  SELECT (SELECT endpoint_id FROM deliveries
          WHERE next_attempt_at IS NOT NULL AND leased_by IS NULL AND endpoint_id > e.id
          ORDER BY endpoint_id, lane, next_attempt_at, id LIMIT 1)
  FROM e WHERE e.id IS NOT NULL)
SELECT e.id AS id,
  (SELECT min(next_attempt_at) FROM deliveries d
   WHERE d.next_attempt_at IS NOT NULL AND d.leased_by IS NULL AND d.endpoint_id = e.id AND d.lane = 0) AS lane_0,
  (SELECT min(next_attempt_at) FROM deliveries d
   WHERE d.next_attempt_at IS NOT NULL AND d.leased_by IS NULL AND d.endpoint_id = e.id AND d.lane = 1) AS lane_1,
  (SELECT min(next_attempt_at) FROM deliveries d
   WHERE d.next_attempt_at IS NOT NULL AND d.leased_by IS NULL AND d.endpoint_id = e.id AND d.lane = 2) AS lane_2,
  p.failures AS failures, p.slowdowns AS slowdowns, p.paused_until AS paused_until, p.probe_at AS probe_at,
  p.rate_limit AS rate_limit, p.source AS source
FROM e JOIN endpoints p ON p.id = e.id WHERE e.id IS NOT NULL AND p.enabled
""").columns(
    id=sa.Text,
    failures=sa.Integer,
    slowdowns=sa.Integer,
    rate_limit=sa.Float,
    source=sa.Text,
    **dict.fromkeys(("lane_0", "lane_1", "lane_2", "paused_until", "probe_at"), deliveries.c.next_attempt_at.type),
)


def due_endpoints(tx: Tx) -> dict[str, DueEndpoint]:
    """The endpoints with deliveries that no node leases, by id. Each pass of the deliverer begins with this read."""
    found = {}
    for row in fetch(tx, DUE_ENDPOINTS):
        firsts = zip(Lane, (row.lane_0, row.lane_1, row.lane_2), strict=True)
        lanes = {lane: at for lane, at in firsts if at is not None}
        if lanes:
            found[row.id] = DueEndpoint(row.id, lanes, backoff_of(row), row.rate_limit, EndpointSource(row.source))
    return found


def may_probe(tx: Tx, endpoint_id: str) -> bool:
    """Whether no node is sending to an endpoint that is to be probed. Until this transaction ends no other node gets True.

    The back-off is read again: another node's probe may have ended since `due_endpoints`.
    """
    if not tx.is_postgresql:
        return True  # there is one daemon, and it knows what it sends
    free = sa.select(endpoints).where(endpoints.c.id == endpoint_id).with_for_update(skip_locked=True)
    row = tx.connection.execute(free).first()
    opens_at = None if row is None else backoff_of(row).opens_at
    if row is None or (opens_at is not None and opens_at > tx.now):
        return False
    sent = sa.select(deliveries.c.id).where(deliveries.c.endpoint_id == endpoint_id, deliveries.c.leased_by > "")
    return tx.connection.execute(sent.limit(1)).first() is None
