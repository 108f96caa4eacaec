"""A run that the provider starts again under its id is known by its generation."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    op.add_column("runs", sa.Column("generation", sa.Text(), nullable=True))
