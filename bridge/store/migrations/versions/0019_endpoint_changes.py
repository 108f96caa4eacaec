"""How often endpoints were changed: an event that another node records precedes each change or sees it."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    table = op.create_table(
        "endpoint_changes",
        sa.Column("id", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(table, [{"id": 1, "changes": 0}])
