"""Events of a rare type are found without reading all others."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    where = sa.text("type <> 'run.started' AND type <> 'run.finished'")
    op.create_index("ix_events_rare", "events", ["type", "position"], sqlite_where=where, postgresql_where=where)
