"""Watched runs whose last poll failed are found without reading the others."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    where = sa.text("next_poll_at IS NOT NULL AND last_error IS NOT NULL")
    op.create_index("ix_runs_failing", "runs", ["connection", "id"], sqlite_where=where, postgresql_where=where)
