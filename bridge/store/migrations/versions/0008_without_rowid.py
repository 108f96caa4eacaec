"""Tables of small rows are kept in the order of their keys: on SQLite an event writes a page less for each of them."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_TRANSITIONS = (
    "CREATE TABLE transitions_new (run_id TEXT NOT NULL, id BIGINT NOT NULL, at BIGINT NOT NULL, from_status TEXT NOT NULL, "
    "to_status TEXT NOT NULL, provider_status TEXT, PRIMARY KEY (run_id, id)) WITHOUT ROWID"
)


def upgrade() -> None:
    """Forward only: a backup is the way back."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("transitions_pkey", "transitions", type_="primary")
        op.create_primary_key("transitions_pkey", "transitions", ["run_id", "id"])
        op.drop_index("ix_transitions_run", table_name="transitions")
        return
    columns = "run_id, id, at, from_status, to_status, provider_status"
    op.execute(_TRANSITIONS)
    op.execute(f"INSERT INTO transitions_new ({columns}) SELECT {columns} FROM transitions ORDER BY run_id, id")  # noqa: S608 - our names
    _replace("transitions")
    for name in ("deliveries", "attempts"):
        rows = op.get_bind().execute(
            sa.text("SELECT sql FROM sqlite_master WHERE tbl_name = :name AND sql <> ''"), {"name": name}
        )
        table, *indexes = rows.scalars()
        op.execute(f"{table.replace(f'CREATE TABLE {name}', f'CREATE TABLE {name}_new', 1)} WITHOUT ROWID")
        op.execute(f"INSERT INTO {name}_new SELECT * FROM {name} ORDER BY id")  # noqa: S608 - our names
        _replace(name)
        for index in indexes:
            op.execute(sa.text(index))


def _replace(name: str) -> None:
    op.execute(f"DROP TABLE {name}")
    op.execute(f"ALTER TABLE {name}_new RENAME TO {name}")
