"""Responses stored by `Idempotency-Key`, so that a request sent twice is executed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from bridge.domain.encryption import Unreadable
from bridge.domain.errors import Conflict
from bridge.store.encryption import decrypt_response, encrypt_response
from bridge.store.prepared_statements import execute_many, fetch
from bridge.store.tables import idempotency_keys
from bridge.store.transaction import Tx

_FIND = sa.select(idempotency_keys).where(idempotency_keys.c.key.in_(sa.bindparam("keys", expanding=True)))
_INSERT = sa.insert(idempotency_keys)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The response to the first request with a key; `fingerprint` shows whether a later request is the same."""

    fingerprint: str
    status: int
    body: bytes


def find_responses(tx: Tx, keys: Sequence[str]) -> list[StoredResponse | None]:
    """The responses stored for these keys, in their order. Conflict if one cannot be decrypted."""
    rows = {row.key: row for row in fetch(tx, _FIND, {"keys": list(keys)})}
    return [None if (row := rows.get(key)) is None else _decrypted(tx, row) for key in keys]


def _decrypted(tx: Tx, row: sa.Row[Any]) -> StoredResponse:
    try:
        return StoredResponse(row.fingerprint, row.status, decrypt_response(tx, row.key, row.body))
    except Unreadable as error:
        raise Conflict(f"the answer kept for this Idempotency-Key cannot be read: {error}; use a new key") from None


def replace_response(tx: Tx, key: str, response: StoredResponse) -> None:
    """Store the outcome of a request whose key is stored already."""
    body = encrypt_response(tx, key, response.body)
    values = {"fingerprint": response.fingerprint, "status": response.status, "body": body}
    tx.connection.execute(sa.update(idempotency_keys).where(idempotency_keys.c.key == key).values(values))


def forget_response(tx: Tx, key: str) -> None:
    """Remove what is stored for a key, so that it may be used again."""
    tx.connection.execute(sa.delete(idempotency_keys).where(idempotency_keys.c.key == key))


def store_responses(tx: Tx, responses: Sequence[tuple[str, StoredResponse]]) -> None:
    """Store responses by their keys. Conflict, which undoes this write, if another request stored one first."""
    rows = [
        {
            "key": key,
            "fingerprint": response.fingerprint,
            "status": response.status,
            "body": encrypt_response(tx, key, response.body),
            "created_at": tx.now,
        }
        for key, response in responses
    ]
    try:
        execute_many(tx, _INSERT, rows)
    except IntegrityError:
        raise Conflict("another request with this Idempotency-Key was faster; ask again for its answer") from None
