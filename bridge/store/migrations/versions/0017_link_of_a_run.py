"""The address of the provider's own page about a run."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    op.add_column("runs", sa.Column("link", sa.Text(), nullable=True))
