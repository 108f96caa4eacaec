"""The trace that a run was registered in, and whether an endpoint asks for it."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    op.add_column("runs", sa.Column("trace_context", sa.Text(), nullable=True))
    asks: sa.Column[bool] = sa.Column("trace_context", sa.Boolean(), nullable=False, server_default=sa.false())
    op.add_column("endpoints", asks)
