"""Runs that were registered again after their end keep their provider's id in a column of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    op.add_column("runs", sa.Column("former_provider_run_id", sa.Text(), nullable=True))
