"""Which endpoints have something due, and when: the one read that each pass of the deliverer begins with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from bridge.domain.delivery import Lane
from bridge.domain.endpoint import EndpointSource
from bridge.domain.endpoint_backoff import EndpointBackoff
from bridge.store.endpoint_health import backoff_of
from bridge.store.prepared import fetch
from bridge.store.tables import deliveries, endpoints
from bridge.store.transaction import Tx


@dataclass(frozen=True, slots=True)
class Due:
    """An endpoint with something unclaimed: the earliest of each lane, its pace and its limit (deliveries per second)."""

    endpoint_id: str
    lanes: dict[Lane, datetime]
    backoff: EndpointBackoff
    rate_limit: float | None = None
    source: EndpointSource = EndpointSource.API

    @property
    def at(self) -> datetime:
        """When the earliest of it is due."""
        return min(self.lanes.values())


# The index on (endpoint_id, lane, next_attempt_at) is walked endpoint by endpoint: four look-ups each, however
# long the backlog behind it. What is owed to an endpoint that is switched off is not seen.
_DUE_ENDPOINTS = sa.text("""
WITH RECURSIVE e(id) AS (
  SELECT min(endpoint_id) FROM deliveries WHERE next_attempt_at IS NOT NULL AND leased_by IS NULL
  UNION ALL
  SELECT (SELECT min(endpoint_id) FROM deliveries
          WHERE next_attempt_at IS NOT NULL AND leased_by IS NULL AND endpoint_id > e.id)
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


def due_endpoints(tx: Tx) -> dict[str, Due]:
    """The endpoints with something unclaimed, by id."""
    found = {}
    for row in fetch(tx, _DUE_ENDPOINTS):
        firsts = zip(Lane, (row.lane_0, row.lane_1, row.lane_2), strict=True)
        lanes = {lane: at for lane, at in firsts if at is not None}
        if lanes:
            found[row.id] = Due(row.id, lanes, backoff_of(row), row.rate_limit, EndpointSource(row.source))
    return found


def may_probe(tx: Tx, endpoint_id: str) -> bool:
    """Whether nobody is sending anything to an endpoint that is probed; until this transaction ends only it is told so.

    Judged anew: another node's probe may have ended since `due_endpoints` was read.
    """
    if not tx.is_postgresql:
        return True  # the one daemon that there is knows what it sends
    unwatched = sa.select(endpoints).where(endpoints.c.id == endpoint_id).with_for_update(skip_locked=True)
    row = tx.connection.execute(unwatched).first()
    opens_at = None if row is None else backoff_of(row).opens_at
    if row is None or (opens_at is not None and opens_at > tx.now):
        return False
    sent = sa.select(deliveries.c.id).where(
        deliveries.c.endpoint_id == endpoint_id, deliveries.c.leased_by.is_not(None)
    )
    return tx.connection.execute(sent.limit(1)).first() is None
