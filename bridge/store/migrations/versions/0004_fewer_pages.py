"""A run that is leased by its registration and then succeeds is in fewer indexes on its way."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_INDEXES = {
    "ix_runs_leased": (["leased_by", "deadline_at"], "leased_by IS NOT NULL"),
    "ix_runs_deadline": (["deadline_at"], "next_poll_at IS NOT NULL AND leased_by IS NULL"),
    "ix_runs_status": (["status", "id"], "leased_by IS NULL AND status <> 'succeeded'"),
    "ix_runs_workflow": (["workflow_id", "id"], "workflow_id IS NOT NULL"),
}


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    for name, (columns, condition) in _INDEXES.items():
        where = sa.text(condition)
        op.drop_index(name, table_name="runs")
        op.create_index(name, "runs", columns, sqlite_where=where, postgresql_where=where)
