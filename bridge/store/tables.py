"""The tables, the same on SQLite and PostgreSQL.

`sqlite_with_rowid=False` keeps the rows in the index of their key: a page less for every event, where rows are small.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from bridge.store.column_types import Instant, JsonText

metadata = sa.MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "uq": "uq_%(table_name)s_%(column_0_N_name)s"}
)


def _only(condition: str) -> dict[str, Any]:
    """Argument of an index that holds only the rows that meet the condition; so the migrations make it on both engines.

    `postgresql_where` would load SQLAlchemy's PostgreSQL dialect, a fortieth of the memory of a daemon on SQLite.
    """
    return {"sqlite_where": sa.text(condition)}


runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("connection", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("provider_run_id", sa.Text, nullable=False),
    sa.Column("provider_ref", sa.Text),
    sa.Column("workflow_id", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("provider_status", sa.Text),
    sa.Column("progress", JsonText),
    sa.Column("output", JsonText),
    sa.Column("output_truncated", sa.Boolean, nullable=False),
    sa.Column("error", JsonText),
    sa.Column("created_at", sa.Text),
    sa.Column("started_at", sa.Text),
    sa.Column("finished_at", sa.Text),
    sa.Column("registered_at", Instant, nullable=False),
    sa.Column("observed_at", Instant),
    sa.Column("status_since", Instant, nullable=False),
    sa.Column("metadata", JsonText, nullable=False),
    sa.Column("tags", JsonText, nullable=False),
    sa.Column("cadence", JsonText),
    sa.Column("deadline_at", Instant),
    sa.Column("deadline_is_fixed", sa.Boolean, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("has_started", sa.Boolean, nullable=False),
    sa.Column("is_paused", sa.Boolean, nullable=False),
    sa.Column("is_overdue", sa.Boolean, nullable=False),
    sa.Column("polls", sa.Integer, nullable=False),
    sa.Column("last_polled_at", Instant),
    sa.Column("next_poll_at", Instant),
    sa.Column("failure_streak", sa.Integer, nullable=False),
    sa.Column("not_found_count", sa.Integer, nullable=False),
    sa.Column("not_found_since", Instant),
    sa.Column("leased_by", sa.Text),
    # Set if a run was registered again after its end: its `provider_run_id` is then its own id, because the column is
    # unique. SQLite cannot make that a condition without copying the table.
    sa.Column("former_provider_run_id", sa.Text),
    sa.Column("generation", sa.Text),
    sa.Column("last_error", JsonText),
    sa.Column("trace_context", sa.Text),
    sa.Column("link", sa.Text),
    sa.UniqueConstraint("connection", "provider_run_id"),
)
# Due runs of one connection that no node leases; the index holds only watched runs.
sa.Index(
    "ix_runs_due",
    runs.c.connection,
    runs.c.next_poll_at,
    **_only("next_poll_at IS NOT NULL AND leased_by IS NULL"),
)
# Leased runs by deadline. A run that is leased by its registration is in no other index of what is watched: each
# index is a page more for every event.
sa.Index(
    "ix_runs_leased",
    runs.c.leased_by,
    runs.c.deadline_at,
    **_only("leased_by IS NOT NULL"),
)
sa.Index(
    "ix_runs_deadline",
    runs.c.deadline_at,
    **_only("next_poll_at IS NOT NULL AND leased_by IS NULL"),
)
sa.Index("ix_runs_connection", runs.c.connection, runs.c.id)
# Watched runs whose last poll failed, for `doctor`.
sa.Index(
    "ix_runs_failing",
    runs.c.connection,
    runs.c.id,
    **_only("next_poll_at IS NOT NULL AND last_error IS NOT NULL"),
)
# Most runs have succeeded: the newest of these are found by walking back from the newest run.
sa.Index(
    "ix_runs_status",
    runs.c.status,
    runs.c.id,
    **_only("leased_by IS NULL AND status <> 'succeeded'"),
)
sa.Index(
    "ix_runs_settled",
    runs.c.status_since,
    **_only("next_poll_at IS NULL"),
)
sa.Index(
    "ix_runs_workflow",
    runs.c.workflow_id,
    runs.c.id,
    **_only("workflow_id IS NOT NULL"),
)

# The beginning of a provider's id, and that of a run that was registered again. The migration makes them with
# `text_pattern_ops`: by code points, whatever the language of a PostgreSQL database; on SQLite the unique index serves
# for the first. To say so here would load SQLAlchemy's PostgreSQL dialect.
sa.Index("ix_runs_provider_id", runs.c.provider_run_id).ddl_if(dialect="postgresql")
sa.Index(
    "ix_runs_former",
    runs.c.former_provider_run_id,
    **_only("former_provider_run_id IS NOT NULL"),
)

# The runs that have a key with this value in their metadata; `entry` is a hash of both, as short for every value.
run_metadata = sa.Table(
    "run_metadata",
    metadata,
    sa.Column("entry", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("run_id", sa.Text, primary_key=True),
    sqlite_with_rowid=False,
)

run_tags = sa.Table(
    "run_tags",
    metadata,
    sa.Column("tag", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, primary_key=True),
)
sa.Index("ix_run_tags_run", run_tags.c.run_id)

TRANSITIONS_FROM: Final = 2**30

transitions = sa.Table(
    "transitions",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    # TRANSITIONS_FROM and the run's version at the change; in older rows that version alone, or a number counted
    # through all runs. Beyond both, no number is taken twice, and a run that an upgrade found open can still end.
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("from_status", sa.Text, nullable=False),
    sa.Column("to_status", sa.Text, nullable=False),
    sa.Column("provider_status", sa.Text),
    sqlite_with_rowid=False,
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("sequence", sa.Integer),
    sa.Column("run_status", sa.Text),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("run_id", "sequence"),
    sqlite_autoincrement=True,
)
# Each run has one of the two common types, which are found by walking; the others may be far apart.
sa.Index(
    "ix_events_rare",
    events.c.type,
    events.c.position,
    **_only("type <> 'run.started' AND type <> 'run.finished'"),
)

endpoints = sa.Table(
    "endpoints",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("events", JsonText),
    sa.Column("filter", sa.Text),
    sa.Column("description", sa.Text),
    sa.Column("headers", JsonText, nullable=False),
    sa.Column("ordered", sa.Boolean, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("format", sa.Text, nullable=False),
    sa.Column("rate_limit", sa.Float),
    sa.Column("signature", JsonText, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("disabled_reason", sa.Text),
    sa.Column("disabled_at", Instant),
    # Health: the back-off (failures or requests to slow down in a row) and the failure streak.
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("slowdowns", sa.Integer, nullable=False, server_default="0"),
    sa.Column("paused_until", Instant),
    sa.Column("probe_at", Instant),
    sa.Column("failing_since", Instant),
    sa.Column("failing_attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("warned_at", Instant),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("deleted_at", Instant),
    sa.Column("trace_context", sa.Boolean, nullable=False, server_default=sa.false()),
)
sa.Index(
    "ix_endpoints_shared",
    endpoints.c.source,
    **_only("run_id IS NULL AND deleted_at IS NULL"),
)
sa.Index("ix_endpoints_run", endpoints.c.run_id)
sa.Index(
    "ix_endpoints_removed",
    endpoints.c.deleted_at,
    **_only("deleted_at IS NOT NULL"),
)

endpoint_secrets = sa.Table(
    "endpoint_secrets",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("endpoint_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant),
)
sa.Index("ix_endpoint_secrets_endpoint", endpoint_secrets.c.endpoint_id)
sa.Index(
    "ix_endpoint_secrets_expiring",
    endpoint_secrets.c.expires_at,
    **_only("expires_at IS NOT NULL"),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("endpoint_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("sequence", sa.Integer),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("lane", sa.SmallInteger, nullable=False),
    sa.Column("body", sa.LargeBinary),  # NULL: the event's own bytes, sent as application/json
    sa.Column("content_type", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("is_manual", sa.Boolean, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("next_attempt_at", Instant),
    sa.Column("settled_at", Instant),
    sa.Column("last_outcome", sa.Text),
    sa.Column("last_status", sa.Integer),
    sa.Column("leased_by", sa.Text),
    sa.UniqueConstraint("event_id", "endpoint_id"),
    sqlite_with_rowid=False,
)
# Due deliveries per endpoint and lane, so that none waits behind another endpoint or another lane. It ends with the id:
# a claim reads it in order even where many are due at the same instant.
sa.Index(
    "ix_deliveries_due",
    deliveries.c.endpoint_id,
    deliveries.c.lane,
    deliveries.c.next_attempt_at,
    deliveries.c.id,
    **_only("next_attempt_at IS NOT NULL AND leased_by IS NULL"),
)
# Pending deliveries, and by which node each is leased: what a node leases, and what an ordered endpoint still has to get of a
# run, in order. A delivery leased by the transaction that records its event is in no other index of what waits.
sa.Index(
    "ix_deliveries_pending",
    deliveries.c.leased_by,
    deliveries.c.run_id,
    deliveries.c.endpoint_id,
    deliveries.c.sequence,
    deliveries.c.state,
    **_only("state = 'pending' OR leased_by IS NOT NULL"),
)
sa.Index("ix_deliveries_endpoint", deliveries.c.endpoint_id, deliveries.c.id)
# Most deliveries are delivered: the newest of these are found by walking back from the newest delivery. It ends with
# its own condition, or SQLite reads each row to check that again.
sa.Index(
    "ix_deliveries_state",
    deliveries.c.state,
    deliveries.c.id,
    deliveries.c.leased_by,
    **_only("leased_by IS NULL AND state <> 'delivered'"),
)
# Pending replayed deliveries, so that a replay never gets far ahead of its endpoint.
sa.Index(
    "ix_deliveries_replayed",
    deliveries.c.endpoint_id,
    **_only("state = 'pending' AND is_manual"),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("delivery_id", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("duration_ms", sa.Integer, nullable=False),
    sa.Column("detail", sa.Text),
    sa.Column("head", sa.LargeBinary),
    sa.Column("head_is_truncated", sa.Boolean, nullable=False),
    sa.Column("peer", sa.Text),
    sa.Column("phases", JsonText),
    sa.Column("is_manual", sa.Boolean, nullable=False),
    sa.Column("next_attempt_at", Instant),
    sqlite_with_rowid=False,
)
sa.Index("ix_attempts_delivery", attempts.c.delivery_id, attempts.c.number)

replays = sa.Table(
    "replays",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("endpoint_id", sa.Text, nullable=False),
    sa.Column("since", Instant, nullable=False),
    sa.Column("until", Instant),
    sa.Column("types", JsonText, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("last_position", sa.BigInteger),
    sa.Column("rate", sa.Float, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("replayed", sa.Integer, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("next_batch_at", Instant, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("finished_at", Instant),
)
sa.Index(
    "ix_replays_running",
    replays.c.id,
    **_only("state = 'running'"),
)

connections = sa.Table(
    "connections",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("health", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("since", Instant, nullable=False),
    sa.Column("last_answer_at", Instant),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
)
sa.Index("ix_idempotency_keys_created", idempotency_keys.c.created_at)

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column(
        "process", sa.Text, nullable=False
    ),  # identity: others on the same machine see from it whether it has ended
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("lease_expires_at", Instant, nullable=False),
    sa.Column("file_endpoints", JsonText, nullable=False),  # ids of the endpoints that its configuration file names
    sa.Column("clock_zero_at", Instant),  # its wall clock at the beginning of the monotonic one; only on SQLite
)

# Learned durations, one small JSON each: per connection, workflow and status (`kind` workflow), the connection's
# average per status (kind connection), and how progress relates to time (kind progress).
sojourns = sa.Table(
    "sojourns",
    metadata,
    sa.Column("connection", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("workflow", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
)

# How far discovery has read at a connection, in the provider's own times: the newest run of the first list, and the
# newest seen since.
watermarks = sa.Table(
    "watermarks",
    metadata,
    sa.Column("connection", sa.Text, primary_key=True),
    sa.Column("first_at", Instant),
    sa.Column("newest_at", Instant),
    sa.Column("updated_at", Instant, nullable=False),
)

# Sign-ins of the dashboard. `secret_hash` is keyed with the API token, so a session ends when its token is changed.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("secret_hash", sa.Text, nullable=False),
    sa.Column("token_name", sa.Text, nullable=False),
    sa.Column("is_link", sa.Boolean, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("last_used_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.UniqueConstraint("secret_hash"),
)
_cursor_columns = sa.Column("position", sa.BigInteger, nullable=False), sa.Column("settled_at", Instant, nullable=False)
alert_channels = sa.Table("alert_channels", metadata, sa.Column("name", sa.Text, primary_key=True), *_cursor_columns)

# How often endpoints were changed, one row: what is recorded at the same moment compares it; see `ordering.lock_feed`.
endpoint_changes = sa.Table(
    "endpoint_changes",
    metadata,
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("changes", sa.BigInteger, nullable=False),
)

# The newest counts of a large database, one row.
kept_counts = sa.Table(
    "kept_counts",
    metadata,
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("counted_at", Instant, nullable=False),
    sa.Column("counts", JsonText, nullable=False),
)
