"""The counts of a large database are kept, so that the first summary after a start need not wait for new ones."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    op.create_table(
        "kept_counts",
        sa.Column("id", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("counted_at", sa.BigInteger(), nullable=False),
        sa.Column("counts", sa.Text(), nullable=False),
    )
