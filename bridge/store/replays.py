"""Replays: count a selection, and make it due batch by batch; the position is committed with each batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from bridge.domain.delivery import DeliveryState, Lane
from bridge.domain.endpoint import Endpoint
from bridge.domain.event import Event, EventType, encode
from bridge.domain.ids import new_id
from bridge.domain.replay import Replay, ReplayState, ReplayStatus, Selection, rest_s
from bridge.store.deliveries import retry_now
from bridge.store.endpoints import get_endpoint
from bridge.store.events import event_of, insert_deliveries, wants_event
from bridge.store.ordering import PENDING, hold_back, lock_runs_to_add, release_pending, share_endpoint
from bridge.store.tables import deliveries, endpoints, events, replays
from bridge.store.transaction import Tx

PAGE = 500  # events read at a time where a filter must see their bodies
AHEAD_MAX = 500  # replayed deliveries that wait at an endpoint before more are made due
_PART = 500  # deliveries in one statement


# -- count a selection


def count_selected(tx: Tx, endpoint: Endpoint, wanted: Selection, *, after: int) -> tuple[int, int | None]:
    """The number of events of the selection that follow position `after`, and where to continue counting; None at the end."""
    selected = _selected(tx, endpoint, wanted, after)
    if endpoint.filter is None:
        return tx.connection.execute(sa.select(sa.func.count()).select_from(selected.subquery())).scalar_one(), None
    rows = tx.connection.execute(selected.limit(PAGE)).all()
    return len(_passing(tx, endpoint, rows)), rows[-1].position if len(rows) == PAGE else None


def _selected(tx: Tx, endpoint: Endpoint, wanted: Selection, after: int) -> sa.Select[Any]:
    """The events in feed order, with the endpoint's delivery of each. Its filter is not applied."""
    had = sa.and_(deliveries.c.event_id == events.c.id, deliveries.c.endpoint_id == endpoint.id)
    query = (
        sa.select(events, deliveries.c.id.label("delivery_id"))
        .select_from(events.outerjoin(deliveries, had))
        .where(events.c.position > after, events.c.created_at >= wanted.since)
        .where(sa.or_(deliveries.c.id.is_not(None), _is_for(tx, endpoint)), _has_status(wanted.status))
        .order_by(events.c.position)
    )
    if wanted.until is not None:
        query = query.where(events.c.created_at < wanted.until)
    if wanted.last_position is not None:
        query = query.where(events.c.position <= wanted.last_position)
    if wanted.types:
        query = query.where(events.c.type.in_([t.value for t in wanted.types]))
    return query


def _is_for(tx: Tx, endpoint: Endpoint) -> sa.ColumnElement[bool]:
    """The events that the endpoint would get if they happened now. A ping is only for the endpoint it was made for."""
    heard = [t.value for t in EventType if t is not EventType.BRIDGE_PING and endpoint.wants(t)]
    is_heard = sa.and_(events.c.type.in_(heard), ~_is_about(tx, endpoint))
    return is_heard if endpoint.run_id is None else sa.and_(is_heard, events.c.run_id == endpoint.run_id)


def _is_about(tx: Tx, endpoint: Endpoint) -> sa.ColumnElement[bool]:
    """The events that tell other endpoints about this one."""
    types = [EventType.ENDPOINT_FAILING.value, EventType.ENDPOINT_DISABLED.value]
    named = encode({"endpoint": {"id": endpoint.id}}).removeprefix(b"{").removesuffix(b"}}")
    position = sa.func.pg_catalog.position if tx.is_postgresql else sa.func.instr
    return sa.and_(events.c.type.in_(types), position(events.c.body, named) > 0)


def _has_status(status: ReplayStatus) -> sa.ColumnElement[bool]:
    state = deliveries.c.state
    match status:
        case ReplayStatus.ALL:
            return sa.true()
        case ReplayStatus.MISSED:
            undelivered = (DeliveryState.EXHAUSTED.value, DeliveryState.DISCARDED.value)
            return sa.or_(deliveries.c.id.is_(None), state.in_(undelivered))
        case ReplayStatus.FAILED:
            is_failing = sa.and_(state == DeliveryState.PENDING.value, deliveries.c.failures > 0)
            return sa.or_(state == DeliveryState.EXHAUSTED.value, is_failing)
        case ReplayStatus.DELIVERED | ReplayStatus.EXHAUSTED | ReplayStatus.PENDING:
            return state == status.value


def _passing(tx: Tx, endpoint: Endpoint, rows: Sequence[sa.Row[Any]]) -> list[sa.Row[Any]]:
    return [row for row in rows if row.delivery_id is not None or wants_event(tx, endpoint, event_of(row))]


# -- sending again


def resend(
    tx: Tx, endpoint: Endpoint, chosen: Sequence[Event], known: Mapping[str, str], *, lane: Lane = Lane.AGAIN
) -> list[str]:
    """Make events due at this endpoint, through its `known` deliveries (by event) or new ones. The deliveries' ids.

    Each gets the whole retry schedule again. An ordered endpoint gets them in order, pending ones included.
    """
    if endpoint.ordered:
        lock_runs_to_add(tx, [(endpoint.id, event.run_id) for event in chosen])
    present = [known[event.id] for event in chosen if event.id in known]
    if present:
        retry_now(tx, present, lane=lane)
    new = [(event, endpoint) for event in chosen if event.id not in known]
    made = present + insert_deliveries(tx, new, is_manual=True, lane=lane)
    if endpoint.ordered:
        owed = sa.select(deliveries.c.id).where(
            deliveries.c.endpoint_id == endpoint.id,
            deliveries.c.run_id.in_({event.run_id for event in chosen if event.run_id}),
            deliveries.c.state == PENDING,
            deliveries.c.leased_by.is_(None),  # `hold_back` leaves the others alone
        )
        hold_back(tx, tx.connection.execute(owed).scalars().all())
    return made


def resend_event(
    tx: Tx, event: Event, receivers: Sequence[Endpoint], had: Mapping[str, str], *, lane: Lane
) -> list[str]:
    """`resend` of one event to several endpoints, in as many statements as to one; each ordered one takes some more.

    `had`: its deliveries by endpoint.
    """
    plain = [endpoint for endpoint in receivers if not endpoint.ordered]
    present = [had[endpoint.id] for endpoint in plain if endpoint.id in had]
    for start in range(0, len(present), _PART):
        retry_now(tx, present[start : start + _PART], lane=lane)
    new = [(event, endpoint) for endpoint in plain if endpoint.id not in had]
    made = present + insert_deliveries(tx, new, is_manual=True, lane=lane)
    for endpoint in receivers:
        if endpoint.ordered:
            known = {event.id: had[endpoint.id]} if endpoint.id in had else {}
            made += resend(tx, endpoint, [event], known, lane=lane)
    return made


def deliveries_by_endpoint(tx: Tx, event_id: str) -> dict[str, str]:
    """The deliveries of an event by endpoint."""
    query = sa.select(deliveries.c.endpoint_id, deliveries.c.id).where(deliveries.c.event_id == event_id)
    return {row.endpoint_id: row.id for row in tx.connection.execute(query)}


# -- replays


def start_replay(tx: Tx, endpoint: Endpoint, wanted: Selection, *, rate: float, count: int) -> Replay:
    """Start a replay, due at once; `count` is the number of events in its selection."""
    replay = Replay(
        id=new_id("rpl"),
        endpoint_id=endpoint.id,
        selection=wanted,
        rate=rate,
        state=ReplayState.RUNNING,
        count=count,
        replayed=0,
        position=0,
        next_batch_at=tx.now,
        created_at=tx.now,
    )
    tx.connection.execute(sa.insert(replays).values(_values_of(replay)))
    tx.signals.replays_due = True
    return replay


def _values_of(replay: Replay) -> dict[str, Any]:
    types = [event_type.value for event_type in replay.selection.types]
    wanted = {**asdict(replay.selection), "types": types, "status": replay.selection.status.value}
    values = {**asdict(replay), **wanted, "state": replay.state.value}
    del values["selection"]
    return values


def _replay_of(row: sa.Row[Any]) -> Replay:
    stored = row._asdict()
    wanted = {field.name: stored.pop(field.name) for field in fields(Selection)}
    wanted |= {"types": tuple(map(EventType, wanted["types"])), "status": ReplayStatus(wanted["status"])}
    return Replay(**{**stored, "state": ReplayState(stored["state"]), "selection": Selection(**wanted)})


def get_replay(tx: Tx, replay_id: str) -> Replay | None:
    """One replay, or None."""
    row = tx.connection.execute(sa.select(replays).where(replays.c.id == replay_id)).first()
    return None if row is None else _replay_of(row)


def list_replays(
    tx: Tx, *, limit: int, before: str | None, endpoint_id: str | None = None, state: str | None = None
) -> list[Replay]:
    """Newest first, older than the replay `before`; only those to one endpoint or in one state, if named."""
    query = sa.select(replays).order_by(replays.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(replays.c.id < before)
    if endpoint_id is not None:
        query = query.where(replays.c.endpoint_id == endpoint_id)
    if state is not None:
        query = query.where(replays.c.state == state)
    return [_replay_of(row) for row in tx.connection.execute(query)]


def cancel_replay(tx: Tx, replay_id: str) -> bool:
    """Cancel a replay: no more events become due, and those that are due are still sent. False if it had ended."""
    running = sa.update(replays).where(replays.c.id == replay_id, replays.c.state == ReplayState.RUNNING.value)
    cancelled = running.values(state=ReplayState.CANCELLED.value, finished_at=tx.now).returning(replays.c.endpoint_id)
    endpoint_id = tx.connection.execute(cancelled).scalar()
    if endpoint_id is not None:
        _release_held(tx, endpoint_id)
    return endpoint_id is not None


def _release_held(tx: Tx, endpoint_id: str) -> None:
    """Release what waited for an event that the ended replay did not send."""
    endpoint = get_endpoint(tx, endpoint_id, to_change=True)
    if endpoint is not None and endpoint.enabled and endpoint.ordered:
        release_pending(tx, endpoint_id)


@dataclass(frozen=True, slots=True)
class RunningReplay:
    """A running replay: when its next batch may be made due, and whether its endpoint can take one."""

    id: str
    next_batch_at: datetime
    is_disabled: bool
    is_far_ahead: bool


def list_running(tx: Tx) -> list[RunningReplay]:
    """Running replays, oldest first."""
    is_off = sa.and_(~endpoints.c.enabled, endpoints.c.deleted_at.is_(None))
    query = (
        sa.select(replays.c.id, replays.c.endpoint_id, replays.c.next_batch_at, is_off.label("is_off"))
        .select_from(replays.outerjoin(endpoints, endpoints.c.id == replays.c.endpoint_id))
        .where(replays.c.state == sa.literal_column(f"'{ReplayState.RUNNING.value}'"))
        .order_by(replays.c.id)
    )
    return [
        RunningReplay(row.id, row.next_batch_at, bool(row.is_off), count_waiting(tx, row.endpoint_id) >= AHEAD_MAX)
        for row in tx.connection.execute(query).all()
    ]


def count_waiting(tx: Tx, endpoint_id: str) -> int:
    """Pending replayed deliveries of an endpoint, counted up to AHEAD_MAX."""
    waiting = (
        sa.select(sa.literal(1))
        .where(deliveries.c.endpoint_id == endpoint_id, sa.text("state = 'pending' AND is_manual"))  # as in the index
        .limit(AHEAD_MAX)
    )
    return tx.connection.execute(sa.select(sa.func.count()).select_from(waiting.subquery())).scalar_one()


def advance(tx: Tx, replay_id: str) -> Replay | None:
    """Make the next batch due and move the position; returns the replay as it is then.

    None if another node is advancing it, or if it has ended.
    """
    mine = sa.select(replays).where(replays.c.id == replay_id).with_for_update(skip_locked=True)
    row = tx.connection.execute(mine).first()
    if row is None:
        return None
    replay = _replay_of(row)
    if replay.state is not ReplayState.RUNNING:
        return None
    if rest_s(replay.next_batch_at, tx.now) > 0:
        return replay
    share_endpoint(tx, replay.endpoint_id)
    endpoint = get_endpoint(tx, replay.endpoint_id)
    if endpoint is None:
        cancel_replay(tx, replay_id)
        return get_replay(tx, replay_id)
    if endpoint.enabled:
        _make_batch_due(tx, replay, endpoint)
    return get_replay(tx, replay_id)


def _make_batch_due(tx: Tx, replay: Replay, endpoint: Endpoint) -> None:
    query = _selected(tx, endpoint, replay.selection, replay.position).limit(replay.batch_max)
    rows = tx.connection.execute(query).all()
    chosen = _passing(tx, endpoint, rows)
    if chosen:
        known = {row.id: row.delivery_id for row in chosen if row.delivery_id is not None}
        resend(tx, endpoint, [event_of(row) for row in chosen], known)
    values: dict[str, Any] = {
        "replayed": replay.replayed + len(chosen),
        "next_batch_at": tx.now + timedelta(seconds=len(chosen) / replay.rate),
    }
    if len(rows) < replay.batch_max:
        values |= {"state": ReplayState.DONE.value, "finished_at": tx.now}
    if rows:
        values["position"] = rows[-1].position
    tx.connection.execute(sa.update(replays).where(replays.c.id == replay.id).values(values))
    if len(rows) < replay.batch_max:
        _release_held(tx, replay.endpoint_id)
