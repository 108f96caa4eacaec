"""Indexes end with what their readers order by, so that no claim and no release sorts what waits."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_INDEXES = {
    "ix_deliveries_due": (
        ["endpoint_id", "lane", "next_attempt_at", "id"],
        "next_attempt_at IS NOT NULL AND leased_by IS NULL",
    ),
    "ix_deliveries_run_pending": (["run_id", "endpoint_id", "sequence"], "state = 'pending'"),
}


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    for name, (columns, condition) in _INDEXES.items():
        where = sa.text(condition)
        op.drop_index(name, table_name="deliveries")
        op.create_index(name, "deliveries", columns, sqlite_where=where, postgresql_where=where)
