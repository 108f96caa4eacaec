"""Sign-ins of the dashboard: sessions, and one-time links that become one. Only hashes of their secrets are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from bridge.store.tables import sessions
from bridge.store.transaction import Tx

IDLE: Final = timedelta(hours=1)
ABSOLUTE: Final = timedelta(hours=12)
LINK_LASTS: Final = timedelta(seconds=60)
TOUCH_EVERY: Final = timedelta(minutes=1)
"""How exactly the last use is recorded: a commit for every request would cost more than it tells."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session that has not ended."""

    id: str
    token: str
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    """When it ends if it is not used again."""


def _session(row: sa.Row[Any]) -> Session:
    ends_at = min(row.expires_at, row.last_used_at + IDLE)
    return Session(row.id, row.token_name, row.created_at, row.last_used_at, ends_at)


def create(tx: Tx, *, session_id: str, secret_hash: str, token_name: str, is_link: bool = False) -> datetime:
    """Store a session, or a link, and remove those that have ended. Returns the instant at which it ends at last."""
    expires_at = tx.now + (LINK_LASTS if is_link else ABSOLUTE)
    tx.connection.execute(sa.delete(sessions).where(~_is_live(tx)))
    row = {
        "id": session_id,
        "secret_hash": secret_hash,
        "token_name": token_name,
        "is_link": is_link,
        "created_at": tx.now,
        "last_used_at": tx.now,
        "expires_at": expires_at,
    }
    tx.connection.execute(sa.insert(sessions).values(row))
    return expires_at


def find(tx: Tx, hashes: Sequence[str]) -> Session | None:
    """The session with one of these hashes, if it has not ended."""
    query = sa.select(sessions).where(sessions.c.secret_hash.in_(hashes), ~sessions.c.is_link, _is_live(tx))
    row = tx.connection.execute(query).first()
    return None if row is None else _session(row)


def use_link(tx: Tx, hashes: Sequence[str]) -> str | None:
    """The token's name of the link with one of these hashes, which is used up thereby; None if it was used or has ended."""
    is_it = sa.and_(sessions.c.secret_hash.in_(hashes), sessions.c.is_link, sessions.c.expires_at > tx.now)
    return tx.connection.execute(sa.delete(sessions).where(is_it).returning(sessions.c.token_name)).scalar()


def touch(tx: Tx, session_id: str) -> None:
    """Record that a session is in use."""
    tx.connection.execute(sa.update(sessions).where(sessions.c.id == session_id).values(last_used_at=tx.now))


def list_sessions(tx: Tx) -> list[Session]:
    """Every session that has not ended, the newest first."""
    query = sa.select(sessions).where(~sessions.c.is_link, _is_live(tx)).order_by(sessions.c.id.desc())
    return [_session(row) for row in tx.connection.execute(query)]


def remove(tx: Tx, session_id: str) -> bool:
    """End a session; False if there is none with this id."""
    is_it = sa.and_(sessions.c.id == session_id, ~sessions.c.is_link)
    return bool(tx.connection.execute(sa.delete(sessions).where(is_it)).rowcount)


def remove_of(tx: Tx, token_names: Sequence[str]) -> None:
    """End the sessions and links of these tokens, which were replaced: they stay ended if one is set back."""
    tx.connection.execute(sa.delete(sessions).where(sessions.c.token_name.in_(token_names)))


def _is_live(tx: Tx) -> sa.ColumnElement[bool]:
    return sa.and_(sessions.c.expires_at > tx.now, sessions.c.last_used_at > tx.now - IDLE)
