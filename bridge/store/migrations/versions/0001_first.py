"""The first schema."""

from alembic import op

from bridge.store.tables import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    metadata.create_all(op.get_bind())
