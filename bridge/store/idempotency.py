"""Answers kept by `Idempotency-Key`, so that a request sent twice is done once."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from bridge.domain.errors import Conflict
from bridge.domain.vault import Unreadable
from bridge.store.sealing import open_answer, seal_answer
from bridge.store.tables import idempotency_keys
from bridge.store.transaction import Tx


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The answer that the first request got; `fingerprint` tells whether a later one is the same request."""

    fingerprint: str
    status: int
    body: bytes


def find_answer(tx: Tx, key: str) -> KeptAnswer | None:
    """The kept answer, or None; Conflict when it can no longer be read."""
    row = tx.connection.execute(sa.select(idempotency_keys).where(idempotency_keys.c.key == key)).first()
    if row is None:
        return None
    try:
        return KeptAnswer(row.fingerprint, row.status, open_answer(tx, key, row.body))
    except Unreadable as error:
        raise Conflict(f"the answer kept for this Idempotency-Key cannot be read: {error}; use a new key") from None


def keep_answer(tx: Tx, key: str, answer: KeptAnswer) -> None:
    """Keep an answer; Conflict when another request with this key was faster, which undoes what this one did."""
    sealed = seal_answer(tx, key, answer.body)
    try:
        tx.connection.execute(
            sa.insert(idempotency_keys).values(
                key=key, fingerprint=answer.fingerprint, status=answer.status, body=sealed, created_at=tx.now
            )
        )
    except IntegrityError:
        raise Conflict("another request with this Idempotency-Key was faster; ask again for its answer") from None
