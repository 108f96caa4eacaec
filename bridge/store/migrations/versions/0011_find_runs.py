"""Runs are found by their metadata and by the beginning of the provider's id without reading all of them."""

import json

import sqlalchemy as sa
from alembic import op

from bridge.store.metadata_entries import entries_of

revision = "0011"
down_revision = "0010"

_PART = 5_000


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    where, ops = sa.text("former_provider_run_id IS NOT NULL"), {"former_provider_run_id": "text_pattern_ops"}
    op.create_index(
        "ix_runs_former",
        "runs",
        ["former_provider_run_id"],
        sqlite_where=where,
        postgresql_where=where,
        postgresql_ops=ops,
    )
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        op.create_index(
            "ix_runs_provider_id", "runs", ["provider_run_id"], postgresql_ops={"provider_run_id": "text_pattern_ops"}
        )
    without_rowid = "" if connection.dialect.name == "postgresql" else " WITHOUT ROWID"
    op.execute(
        "CREATE TABLE run_metadata (entry BIGINT NOT NULL, run_id TEXT NOT NULL, PRIMARY KEY (entry, run_id))"
        f"{without_rowid}"
    )
    table = sa.table("run_metadata", sa.column("entry", sa.BigInteger), sa.column("run_id", sa.Text))
    query = sa.text("SELECT id, metadata FROM runs WHERE id > :last AND metadata <> '{}' ORDER BY id LIMIT :most")
    last = ""
    while found := connection.execute(query, {"last": last, "most": _PART}).all():
        last = found[-1].id
        rows = [{"entry": entry, "run_id": row.id} for row in found for entry in entries_of(json.loads(row.metadata))]
        connection.execute(sa.insert(table), rows)
