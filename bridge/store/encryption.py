"""Secrets at rest: signing secrets, custom headers, and stored responses that may show a secret.

Each value is bound to its row, so that a copy in another row cannot be decrypted. After a change of keys values are
encrypted again in small batches; this may stop anywhere, because every value names the key that it needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.encryption import SecretPlace, Unreadable
from bridge.domain.secret import Secret
from bridge.store.tables import endpoint_secrets, endpoints, idempotency_keys
from bridge.store.transaction import Tx

BATCH = 100


def encrypt_secret(tx: Tx, endpoint_id: str, secret_id: str, secret: Secret) -> str:
    """A signing secret as it is stored."""
    return tx.keyring.encrypt(_secret_place(endpoint_id, secret_id), secret.reveal())


def decrypt_secret(tx: Tx, endpoint_id: str, secret_id: str, stored: str) -> Secret:
    """The signing secret that was stored; Unreadable if no key opens it."""
    return Secret(tx.keyring.decrypt(_secret_place(endpoint_id, secret_id), stored))


def encrypt_headers(tx: Tx, endpoint_id: str, headers: dict[str, str]) -> dict[str, str] | str:
    """Custom headers as they are stored: as one ciphertext, unless there are none or no key."""
    if not headers or not tx.keyring.has_key:
        return headers
    return tx.keyring.encrypt(_headers_place(endpoint_id), json.dumps(headers))


def decrypt_headers(tx: Tx, endpoint_id: str, stored: dict[str, str] | str) -> dict[str, str]:
    """The custom headers that were stored; Unreadable if no key opens them."""
    if not isinstance(stored, str):
        return stored
    opened: dict[str, str] = json.loads(tx.keyring.decrypt(_headers_place(endpoint_id), stored))
    return opened


def encrypt_response(tx: Tx, key: str, body: bytes) -> bytes:
    """The body of a stored response as it is stored; it may hold a secret that is shown once."""
    return tx.keyring.encrypt(_response_place(key), body.decode()).encode()


def decrypt_response(tx: Tx, key: str, stored: bytes) -> bytes:
    """The body that was stored; Unreadable if no key opens it."""
    return tx.keyring.decrypt(_response_place(key), stored.decode()).encode()


def _secret_place(endpoint_id: str, secret_id: str) -> SecretPlace:
    return SecretPlace("endpoint_secrets", "secret", f"{endpoint_id}/{secret_id}")


def _headers_place(endpoint_id: str) -> SecretPlace:
    return SecretPlace("endpoints", "headers", endpoint_id)


def _response_place(key: str) -> SecretPlace:
    return SecretPlace("idempotency_keys", "body", key)


# -- after a change of keys


@dataclass(frozen=True, slots=True)
class _Kind:
    """A column of encrypted values: how to find those under another key, and how to encrypt one again."""

    id: sa.ColumnElement[Any]
    column: sa.ColumnElement[Any]
    columns: tuple[sa.ColumnElement[Any], ...]
    others: Callable[[str], sa.ColumnElement[bool]]
    again: Callable[[Tx, sa.Row[Any]], Any]
    name: Callable[[sa.Row[Any]], str]
    """The name shown to people."""


def _not_beginning(column: sa.ColumnElement[Any], prefix: str | bytes) -> sa.ColumnElement[bool]:
    return sa.func.substr(column, 1, len(prefix)) != prefix


_TEXT_OF_HEADERS = sa.type_coerce(endpoints.c.headers, sa.Text)
_KINDS: Final = (
    _Kind(
        endpoint_secrets.c.id,
        endpoint_secrets.c.secret,
        (endpoint_secrets.c.endpoint_id,),
        lambda prefix: _not_beginning(endpoint_secrets.c.secret, prefix),
        lambda tx, row: encrypt_secret(
            tx, row.endpoint_id, row.id, decrypt_secret(tx, row.endpoint_id, row.id, row.value)
        ),
        lambda row: f"the signing secret of {row.endpoint_id}",
    ),
    _Kind(
        endpoints.c.id,
        endpoints.c.headers,
        (),
        lambda prefix: sa.and_(_TEXT_OF_HEADERS != "{}", _not_beginning(_TEXT_OF_HEADERS, f'"{prefix}')),
        lambda tx, row: encrypt_headers(tx, row.id, decrypt_headers(tx, row.id, row.value)),
        lambda row: f"the headers of {row.id}",
    ),
    _Kind(
        idempotency_keys.c.key,
        idempotency_keys.c.body,
        (),
        lambda prefix: _not_beginning(idempotency_keys.c.body, prefix.encode()),
        lambda tx, row: encrypt_response(tx, row.id, decrypt_response(tx, row.id, row.value)),
        lambda _row: "an answer kept for its Idempotency-Key",
    ),
)


@dataclass(frozen=True, slots=True)
class ReencryptedBatch:
    """The result of a batch. `unreadable` names the rows that no key opens; `next` is where to continue, None at the end."""

    count: int
    unreadable: tuple[str, ...]
    next: tuple[int, str] | None


START: Final = (0, "")


def is_all_encrypted(tx: Tx) -> bool:
    """Whether every value is encrypted with the present key. A read, so that an ordinary start writes nothing."""
    if not tx.keyring.has_key:
        return True
    return not any(tx.connection.execute(_rows(tx, kind, "").limit(1)).first() for kind in _KINDS)


def list_unreadable(tx: Tx, limit: int) -> list[str]:
    """Up to `limit` values that no key opens, as a person calls them. The daemon re-encrypts all others when it starts."""
    found: list[str] = []
    for kind in _KINDS if tx.keyring.has_key else ():
        for row in tx.connection.execute(_rows(tx, kind, "").limit(limit)):
            try:
                kind.again(tx, row)
            except Unreadable:
                found.append(kind.name(row))
    return found[:limit]


def reencrypt_batch(tx: Tx, at: tuple[int, str]) -> ReencryptedBatch:
    """Encrypt the next BATCH of values that are not under the present key, from `at` on."""
    number, after = at
    kind = _KINDS[number]
    rows = tx.connection.execute(_rows(tx, kind, after).limit(BATCH).with_for_update()).all()
    count, unreadable = 0, []
    for row in rows:
        try:
            value = kind.again(tx, row)
        except Unreadable:
            unreadable.append(str(row.id))
            continue
        table = kind.id.table
        tx.connection.execute(sa.update(table).where(kind.id == row.id).values({kind.column: value}))
        count += 1
    if len(rows) == BATCH:
        return ReencryptedBatch(count, tuple(unreadable), (number, str(rows[-1].id)))
    return ReencryptedBatch(count, tuple(unreadable), (number + 1, "") if number + 1 < len(_KINDS) else None)


def _rows(tx: Tx, kind: _Kind, after: str) -> sa.Select[Any]:
    found = sa.select(kind.id.label("id"), kind.column.label("value"), *kind.columns)
    return found.where(kind.id > after, kind.others(tx.keyring.prefix)).order_by(kind.id)
