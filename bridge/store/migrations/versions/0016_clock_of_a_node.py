"""How the wall clock of a node stands to its monotonic one, so that the next daemon sees that it was set."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    op.add_column("nodes", sa.Column("clock_zero_at", sa.BigInteger(), nullable=True))
