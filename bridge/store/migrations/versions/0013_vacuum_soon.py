"""PostgreSQL removes dead entries of what is due and leased before many have gathered, however large a table is.

Every event leaves a dead entry in the indexes of what is due and of what is leased, which claims must pass: 585 pages
after 50,000 events. By default they stay until a fifth of the table is dead, and longer in the indexes of a large table.
"""

from alembic import op

revision = "0013"
down_revision = "0012"

_SETTINGS = (
    "autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_scale_factor = 0.01, "
    "vacuum_index_cleanup = on"  # also where few pages of the table have dead rows
)


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    if op.get_bind().dialect.name == "postgresql":
        for table in ("runs", "deliveries"):
            op.execute(f"ALTER TABLE {table} SET ({_SETTINGS})")
