"""Endpoints and their signing secrets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.encryption import Unreadable
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.endpoint_backoff import EndpointBackoff
from bridge.domain.event import EventType
from bridge.domain.fields import SIGNATURES
from bridge.domain.ids import new_id
from bridge.domain.leased_delivery import LiveSecret
from bridge.domain.secret import Secret
from bridge.domain.signing.ed25519_v1a import new_signing_key, public_key
from bridge.store.encryption import decrypt_secret, encrypt_secret
from bridge.store.endpoint_rows import endpoint_of, health_values, values_of
from bridge.store.nodes import file_endpoints_elsewhere, save_file_endpoints
from bridge.store.ordering import (
    count_change,
    discard_pending,
    hold_followers,
    hold_pending,
    lock_endpoint,
    release_pending,
    share_endpoint,
)
from bridge.store.postgres.one_statement import Check, NeedsTransaction
from bridge.store.prepared_statements import execute_many, fetch
from bridge.store.tables import endpoint_changes, endpoint_secrets, endpoints
from bridge.store.transaction import Tx

_INSERT, _INSERT_SECRETS = sa.insert(endpoints), sa.insert(endpoint_secrets)


def insert_endpoint(tx: Tx, endpoint: Endpoint, secret: Secret | None) -> Endpoint:
    """A new endpoint; `secret` None only for one from the file, whose secret stays in the file."""
    tx.cache.pop(_HAS_OF_RUNS, None)
    tx.connection.execute(
        sa.insert(endpoints).values(
            id=endpoint.id,
            source=endpoint.source.value,
            run_id=endpoint.run_id,
            enabled=True,
            created_at=tx.now,
            **values_of(tx, endpoint),
        )
    )
    if secret is not None:
        add_secret(tx, endpoint.id, secret)
    if "v1a" in endpoint.signature:
        _update_signing_key(tx, endpoint)
    change_listeners(tx)
    found = get_endpoint(tx, endpoint.id)
    assert found is not None
    return found


def add_secret(tx: Tx, endpoint_id: str, secret: Secret, *, kind: str = "v1") -> None:
    """Add a secret that signs from now on."""
    tx.connection.execute(sa.insert(endpoint_secrets).values(_secret_row(tx, endpoint_id, secret, kind)))


def _secret_row(tx: Tx, endpoint_id: str, secret: Secret, kind: str = "v1") -> dict[str, Any]:
    secret_id = new_id("sec")
    encrypted = encrypt_secret(tx, endpoint_id, secret_id, secret)
    return {"id": secret_id, "endpoint_id": endpoint_id, "kind": kind, "secret": encrypted, "created_at": tx.now}


def _update_signing_key(tx: Tx, endpoint: Endpoint) -> None:
    """Create a signing key if `v1a` is wanted and there is none; delete the keys if it is not."""
    own = sa.and_(endpoint_secrets.c.endpoint_id == endpoint.id, endpoint_secrets.c.kind == "v1a")
    if "v1a" not in endpoint.signature:
        tx.connection.execute(sa.delete(endpoint_secrets).where(own))
    elif tx.connection.execute(sa.select(endpoint_secrets.c.id).where(own, _signs(tx)).limit(1)).first() is None:
        add_secret(tx, endpoint.id, Secret(new_signing_key()), kind="v1a")


def public_keys(tx: Tx, endpoint_ids: Sequence[str]) -> dict[str, list[str]]:
    """The `whpk_` keys that verify `v1a` signatures now, newest first, by endpoint; unreadable keys are left out."""
    found: dict[str, list[str]] = {}
    for endpoint_id, live in live_secrets(tx, endpoint_ids, kind="v1a", strict=False).items():
        found[endpoint_id] = [public_key(each.secret.reveal()) for each in live]
    return found


def old_secrets_until(tx: Tx, endpoint_ids: Sequence[str]) -> dict[str, datetime]:
    """Until when a secret that was rotated out still signs, by endpoint; only those that have one."""
    last = sa.func.max(endpoint_secrets.c.expires_at, type_=endpoint_secrets.c.expires_at.type)
    query = (
        sa.select(endpoint_secrets.c.endpoint_id, last)
        .where(endpoint_secrets.c.endpoint_id.in_(endpoint_ids), endpoint_secrets.c.expires_at > tx.now)
        .group_by(endpoint_secrets.c.endpoint_id)
    )
    return {row[0]: row[1] for row in tx.connection.execute(query)}


def rotate_secret(tx: Tx, endpoint_id: str, secret: Secret, *, old_until: datetime, kind: str = "v1") -> None:
    """Sign with `secret` from now on; the present one of its kind signs beside it until `old_until`.

    Secrets that were rotated out before keep their end, unless `old_until` is now: that ends all of them.
    """
    expires_at = endpoint_secrets.c.expires_at
    is_ended = expires_at.is_(None) if old_until > tx.now else sa.or_(expires_at.is_(None), expires_at > tx.now)
    of_kind = sa.and_(endpoint_secrets.c.endpoint_id == endpoint_id, endpoint_secrets.c.kind == kind)
    tx.connection.execute(sa.update(endpoint_secrets).where(of_kind, is_ended).values(expires_at=old_until))
    tx.signals.endpoints_changed = True
    add_secret(tx, endpoint_id, secret, kind=kind)


def _signs(tx: Tx) -> sa.ColumnElement[bool]:
    return sa.or_(endpoint_secrets.c.expires_at.is_(None), endpoint_secrets.c.expires_at > tx.now)


LIVE_SECRETS = sa.select(endpoint_secrets).where(
    endpoint_secrets.c.endpoint_id.in_(sa.bindparam("endpoints", expanding=True)),
    endpoint_secrets.c.kind.in_(sa.bindparam("kinds", expanding=True)),
    sa.or_(endpoint_secrets.c.expires_at.is_(None), endpoint_secrets.c.expires_at > sa.bindparam("now")),
)


def live_secrets(
    tx: Tx, endpoint_ids: Sequence[str], *, kind: str | None = None, strict: bool = True
) -> dict[str, list[LiveSecret]]:
    """The secrets that sign now, newest first, by endpoint; of one kind if `kind` is given.

    A secret that cannot be decrypted is left out. With `strict`, Unreadable if an endpoint has no other.
    """
    found: dict[str, list[LiveSecret]] = {}
    faults: dict[str, Unreadable] = {}
    wanted = {"endpoints": [*endpoint_ids], "now": tx.now, "kinds": [*SIGNATURES] if kind is None else [kind]}
    for row in sorted(fetch(tx, LIVE_SECRETS, wanted), key=attrgetter("id"), reverse=True):
        try:
            secret = decrypt_secret(tx, row.endpoint_id, row.id, row.secret)
        except Unreadable as error:
            faults.setdefault(row.endpoint_id, error)
        else:
            found.setdefault(row.endpoint_id, []).append(
                LiveSecret(row.id, row.kind, secret, row.created_at, row.expires_at)
            )
    for endpoint_id in faults.keys() - found.keys() if strict else ():
        raise faults[endpoint_id]
    return found


Signing = tuple[tuple[LiveSecret, ...], str | None]
_SECRET_STAMPS = sa.select(
    endpoint_secrets.c.endpoint_id,
    sa.literal_column("endpoint_secrets.id || ' ' || endpoint_secrets.xmin").label("stamp"),
).where(endpoint_secrets.c.endpoint_id.in_(sa.bindparam("endpoints", expanding=True)))
_SECRETS_UNCHANGED = Check(
    "SELECT array_agg(id || ' ' || xmin ORDER BY id COLLATE \"C\") IS NOT DISTINCT FROM {stamps} FROM endpoint_secrets "
    "WHERE endpoint_id = ANY ({endpoints}) AND {before}",
    (("endpoints", "text[]"), ("stamps", "text[]")),
)


def signing_secrets(tx: Tx, wanted: Sequence[Endpoint]) -> dict[str, Signing]:
    """The stored secrets that sign each endpoint's deliveries, by id, and why it cannot be sent to as it is stored."""
    stored = [each.id for each in wanted if each.source is not EndpointSource.CONFIG or "v1a" in each.signature]
    if tx.statement is None or not stored:
        is_recording = tx.is_postgresql and _SHARED_KNOWN in tx.cache
        stamps = _stamps_of(tx, stored) if is_recording else {}  # before the secrets, so that a change is noticed
        found = _read_signing_secrets(tx, wanted)
        tx.cache |= {f"signing {endpoint_id}": (found[endpoint_id], stamps[endpoint_id]) for endpoint_id in stamps}
        return found
    known = {each.id: tx.cache.get(f"signing {each.id}") for each in wanted}
    versions: list[str] = []
    for endpoint_id in stored:
        if (entry := known[endpoint_id]) is None:
            raise NeedsTransaction(endpoint_id)
        versions += entry[1]
    tx.statement.check(_SECRETS_UNCHANGED, sorted(stored), sorted(versions) or None)
    return {each.id: _signing_now(tx, known[each.id], each) for each in wanted}


def _signing_now(tx: Tx, entry: tuple[Signing, list[str]] | None, endpoint: Endpoint) -> Signing:
    if entry is None:
        return (), endpoint.fault
    (secrets, fault), _ = entry
    return tuple(each for each in secrets if each.expires_at is None or each.expires_at > tx.now), fault


def _stamps_of(tx: Tx, endpoint_ids: Sequence[str]) -> dict[str, list[str]]:
    """The versions of the rows of these endpoints' secrets."""
    stamps: dict[str, list[str]] = {endpoint_id: [] for endpoint_id in endpoint_ids}
    for row in fetch(tx, _SECRET_STAMPS, {"endpoints": list(endpoint_ids)}) if endpoint_ids else ():
        stamps[row.endpoint_id].append(row.stamp)
    return stamps


def _read_signing_secrets(tx: Tx, wanted: Sequence[Endpoint]) -> dict[str, Signing]:
    stored = [each.id for each in wanted if each.source is not EndpointSource.CONFIG]  # the file's are not stored
    with_key = [each.id for each in wanted if "v1a" in each.signature]
    try:
        shared = live_secrets(tx, stored, kind="v1") if stored else {}
        own = live_secrets(tx, with_key, kind="v1a") if with_key else {}
    except Unreadable as error:
        if len(wanted) == 1:
            return {wanted[0].id: ((), f"its signing secret cannot be read: {error}; rotate it, or put the key back")}
        return {
            endpoint_id: found for each in wanted for endpoint_id, found in _read_signing_secrets(tx, [each]).items()
        }
    return {each.id: ((*shared.get(each.id, ()), *own.get(each.id, ())), each.fault) for each in wanted}


def get_endpoint(tx: Tx, endpoint_id: str, *, to_change: bool = False) -> Endpoint | None:
    """One endpoint that was not removed, or None. `to_change`: locked until this transaction ends."""
    query = sa.select(endpoints).where(endpoints.c.id == endpoint_id, endpoints.c.deleted_at.is_(None))
    if to_change:
        lock_endpoint(tx, endpoint_id)
    row = tx.connection.execute(query.with_for_update() if to_change and tx.is_postgresql else query).first()
    return None if row is None else endpoint_of(tx, row)


def enabled_ids(tx: Tx, endpoint_ids: Collection[str]) -> set[str]:
    """Those of these endpoints that are on, until this transaction ends."""
    share_endpoint(tx, *endpoint_ids)
    query = sa.select(endpoints.c.id).where(
        endpoints.c.id.in_(endpoint_ids), endpoints.c.enabled, endpoints.c.deleted_at.is_(None)
    )
    return set(tx.connection.execute(query).scalars())


def list_endpoints(tx: Tx, *, limit: int, after: str | None = None, with_one_run: bool = False) -> list[Endpoint]:
    """Endpoints by id; one-run webhooks only if `with_one_run`."""
    query = sa.select(endpoints).where(endpoints.c.deleted_at.is_(None)).order_by(endpoints.c.id).limit(limit)
    if not with_one_run:
        query = query.where(endpoints.c.run_id.is_(None))
    if after is not None:
        query = query.where(endpoints.c.id > after)
    return [endpoint_of(tx, row) for row in tx.connection.execute(query)]


_IS_ACTIVE = sa.and_(endpoints.c.deleted_at.is_(None), endpoints.c.enabled)
SHARED = sa.select(endpoints).where(endpoints.c.run_id.is_(None), _IS_ACTIVE)
OF_RUNS = sa.select(endpoints).where(endpoints.c.run_id.in_(sa.bindparam("run_ids", expanding=True)), _IS_ACTIVE)
ANY_OF_RUNS = sa.select(endpoints.c.id).where(endpoints.c.run_id.is_not(None)).limit(1)
_SHARED_KNOWN, _STAMPS, _HAS_OF_RUNS = "shared endpoints", "their row versions", "whether there are one-run webhooks"
_CHANGES_SEEN = "how often endpoints had been changed"
QUIET = "quiet endpoints"
_STAMPED = SHARED.add_columns(sa.literal_column("endpoints.id || ' ' || endpoints.xmin").label("stamp")).subquery()
_WITH_STAMPS = sa.select(_STAMPED, endpoint_changes.c.changes).select_from(
    endpoint_changes.outerjoin(_STAMPED, sa.true())  # a row with the changes even if there is no endpoint
)
_SHARED_UNCHANGED = Check(
    "SELECT array_agg(id || ' ' || xmin ORDER BY id COLLATE \"C\") IS NOT DISTINCT FROM {stamps} FROM endpoints "
    "WHERE run_id IS NULL AND deleted_at IS NULL AND enabled AND {before}",
    (("stamps", "text[]"),),
)
_WITHOUT_WEBHOOKS = Check(
    "SELECT {before} AND NOT EXISTS (SELECT FROM endpoints WHERE run_id = ANY ({runs}) AND deleted_at IS NULL AND enabled)",
    (("runs", "text[]"),),
)


def forget_listeners(tx: Tx) -> None:
    """Read again, because an endpoint changes, `shared_listeners`, and what `endpoint_health` remembers."""
    tx.cache.pop(_SHARED_KNOWN, None)
    tx.cache.pop(QUIET, None)


def change_listeners(tx: Tx) -> None:
    """Call it when an endpoint has been added, changed or removed, and before its deliveries are held or discarded.

    An event that another node records sees the change, or its deliveries are committed already; see `ordering.lock_feed`.
    """
    forget_listeners(tx)
    count_change(tx)


def changes_seen(tx: Tx) -> int | None:
    """How often endpoints had been changed when `shared_listeners` were read; None where only this process writes."""
    seen: int | None = tx.cache.get(_CHANGES_SEEN)
    return seen


def shared_listeners(tx: Tx) -> list[Endpoint]:
    """The enabled endpoints that receive events of every run."""
    if _SHARED_KNOWN not in tx.cache:
        rows = fetch(tx, _WITH_STAMPS if tx.is_postgresql else SHARED)
        if tx.is_postgresql:
            tx.cache[_CHANGES_SEEN] = rows[0].changes if rows else None
            rows = [row for row in rows if row.id is not None]
            tx.cache[_STAMPS] = sorted(row.stamp for row in rows) or None
        tx.cache[_SHARED_KNOWN] = [endpoint_of(tx, row) for row in rows]
    if tx.statement is not None:
        tx.statement.check(_SHARED_UNCHANGED, tx.cache[_STAMPS])
    found: list[Endpoint] = tx.cache[_SHARED_KNOWN]
    return found


def run_listeners(tx: Tx, run_ids: Sequence[str]) -> dict[str, list[Endpoint]]:
    """The enabled one-run webhooks of these runs."""
    found: dict[str, list[Endpoint]] = {}
    if tx.statement is not None and run_ids:
        tx.statement.check(_WITHOUT_WEBHOOKS, list(run_ids))
    elif run_ids and _may_have_one_run_webhooks(tx):
        for row in fetch(tx, OF_RUNS, {"run_ids": list(run_ids)}):
            found.setdefault(row.run_id, []).append(endpoint_of(tx, row))
    return found


def _may_have_one_run_webhooks(tx: Tx) -> bool:
    """False if no run ever had a webhook of its own. True where another process may add one."""
    if tx.driver is not None and _HAS_OF_RUNS not in tx.cache:
        tx.cache[_HAS_OF_RUNS] = bool(fetch(tx, ANY_OF_RUNS))
    return bool(tx.cache.get(_HAS_OF_RUNS, True))


def listening_endpoints(tx: Tx, run_id: str | None) -> list[Endpoint]:
    """The enabled endpoints that may receive events of this run, its own webhooks included; None: of no run."""
    own = run_listeners(tx, [run_id]) if run_id is not None else {}
    return [*shared_listeners(tx), *own.get(run_id or "", ())]


def list_run_endpoints(tx: Tx, run_ids: Sequence[str]) -> list[Endpoint]:
    """The one-run webhooks of runs."""
    query = sa.select(endpoints).where(endpoints.c.run_id.in_(run_ids), endpoints.c.deleted_at.is_(None))
    return [endpoint_of(tx, row) for row in tx.connection.execute(query)]


def insert_run_endpoints(tx: Tx, new: Sequence[tuple[Endpoint, Secret]]) -> None:
    """Insert one-run webhooks with their secrets, in two statements for all of them."""
    if not new:
        return
    tx.cache[_HAS_OF_RUNS] = True
    made = {"source": EndpointSource.RUN.value, "enabled": True, "created_at": tx.now}
    rows = [{**made, "id": each.id, "run_id": each.run_id, **values_of(tx, each)} for each, _ in new]
    execute_many(tx, _INSERT, rows)
    execute_many(tx, _INSERT_SECRETS, [_secret_row(tx, endpoint.id, secret) for endpoint, secret in new])


def runs_wanting_progress(tx: Tx, run_ids: Sequence[str]) -> set[str]:
    """The runs whose `run.progressed` an enabled endpoint asks for; it is recorded for no others."""
    if any(endpoint.wants(EventType.RUN_PROGRESSED) for endpoint in shared_listeners(tx)):
        return set(run_ids)
    own = run_listeners(tx, run_ids)
    return {run_id for run_id, found in own.items() if any(each.wants(EventType.RUN_PROGRESSED) for each in found)}


def update_endpoint(tx: Tx, endpoint: Endpoint) -> None:
    """Save what a person changed. A new URL resets the health; a change of `ordered` takes effect at once."""
    before = get_endpoint(tx, endpoint.id, to_change=True)
    if before is None:
        return
    reset = {} if before.url == endpoint.url else _HEALTHY
    tx.connection.execute(
        sa.update(endpoints).where(endpoints.c.id == endpoint.id).values({**values_of(tx, endpoint), **reset})
    )
    if before.signature != endpoint.signature:
        _update_signing_key(tx, endpoint)
    if endpoint.ordered and not before.ordered:
        hold_followers(tx, endpoint.id)
    if before.ordered and not endpoint.ordered and before.enabled:
        release_pending(tx, endpoint.id)
    change_listeners(tx)
    tx.signals.deliveries_due = tx.signals.endpoints_changed = True


_HEALTHY: Final = health_values(EndpointBackoff(), None)


def disable_endpoint(tx: Tx, endpoint_id: str, reason: str) -> bool:
    """Disable an endpoint and hold its pending deliveries. False if it was disabled."""
    tx.signals.endpoints_changed = True
    switched = tx.connection.execute(
        sa.update(endpoints)
        .where(endpoints.c.id == endpoint_id, endpoints.c.enabled)
        .values(enabled=False, disabled_reason=reason, disabled_at=tx.now)
    ).rowcount
    if tx.is_postgresql:
        hold_pending(tx, endpoint_id)  # most of them, while others may still record
    change_listeners(tx)
    hold_pending(tx, endpoint_id)
    return bool(switched)


def enable_endpoint(tx: Tx, endpoint_id: str) -> None:
    """Enable an endpoint, reset its health and make its held deliveries due."""
    lock_endpoint(tx, endpoint_id)
    tx.connection.execute(
        sa.update(endpoints)
        .where(endpoints.c.id == endpoint_id)
        .values(enabled=True, disabled_reason=None, disabled_at=None, **_HEALTHY)
    )
    release_pending(tx, endpoint_id)
    tx.signals.replays_due = True  # its replays continue
    change_listeners(tx)


def remove_endpoint(tx: Tx, endpoint_id: str) -> int:
    """Remove an endpoint with its secrets and discard its pending deliveries. Returns how many these were."""
    lock_endpoint(tx, endpoint_id)
    tx.signals.endpoints_changed = True
    tx.connection.execute(sa.update(endpoints).where(endpoints.c.id == endpoint_id).values(deleted_at=tx.now))
    tx.connection.execute(sa.delete(endpoint_secrets).where(endpoint_secrets.c.endpoint_id == endpoint_id))
    discarded = discard_pending(tx, endpoint_id)  # most of them, while others may still record
    change_listeners(tx)
    return discarded + (discard_pending(tx, endpoint_id) if tx.is_postgresql else 0)


def sync_file_endpoints(tx: Tx, wanted: Sequence[Endpoint], *, node: str = "") -> dict[str, int]:
    """Make the database hold the endpoints of the configuration file: add, change, remove.

    Returns the removed ones with the number of their pending deliveries, which are discarded.

    Every node should have the same file. While they differ the last one read decides, but an endpoint that the file of
    another live node names is not removed.
    """
    named_elsewhere = file_endpoints_elsewhere(tx, node)
    save_file_endpoints(tx, node, [endpoint.id for endpoint in wanted])
    rows = tx.connection.execute(
        sa.select(endpoints).where(
            endpoints.c.source == EndpointSource.CONFIG.value,
            endpoints.c.run_id.is_(None),  # as the index spells it
            endpoints.c.deleted_at.is_(None),
        )
    )
    present = {row.id: endpoint_of(tx, row) for row in rows}
    lock_endpoint(tx, *present)
    for endpoint in wanted:
        if endpoint.id in present:
            update_endpoint(tx, endpoint)
        else:
            tx.connection.execute(sa.delete(endpoints).where(endpoints.c.id == endpoint.id))
            insert_endpoint(tx, endpoint, None)
    gone = present.keys() - {endpoint.id for endpoint in wanted} - named_elsewhere
    return {endpoint_id: remove_endpoint(tx, endpoint_id) for endpoint_id in sorted(gone)}
