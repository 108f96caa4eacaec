"""A delivery that its event's transaction leases and that is then delivered is in fewer indexes on its way."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_DROPPED = {
    "ix_deliveries_leased": "deliveries",
    "ix_deliveries_run_pending": "deliveries",
    "ix_deliveries_state": "deliveries",
    "ix_events_created": "events",
}
_INDEXES = {
    "ix_deliveries_pending": (
        ["leased_by", "run_id", "endpoint_id", "sequence", "state"],
        "state = 'pending' OR leased_by IS NOT NULL",
    ),
    "ix_deliveries_state": (["state", "id", "leased_by"], "leased_by IS NULL AND state <> 'delivered'"),
}


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    for name, table in _DROPPED.items():
        op.drop_index(name, table_name=table)
    for name, (columns, condition) in _INDEXES.items():
        where = sa.text(condition)
        op.create_index(name, "deliveries", columns, sqlite_where=where, postgresql_where=where)
