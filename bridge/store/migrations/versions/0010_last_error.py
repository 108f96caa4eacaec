"""Why the latest polls of a run failed, so that a restart and other nodes know it."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    op.add_column("runs", sa.Column("last_error", sa.Text(), nullable=True))
