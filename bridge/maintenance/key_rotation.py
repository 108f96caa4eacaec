"""Sealing anew: after a change of keys, everything secret in the database goes under the present one."""

from __future__ import annotations

import asyncio

import structlog

from bridge.store import encryption
from bridge.store.database import Database

log = structlog.get_logger()
_REST_S = 0.01  # between batches, so that others get their turn at the write desk
SHOWN_MAX = 20


async def seal_all(database: Database) -> tuple[int, list[str]]:
    """Seal what is not under the present key: how many values were, and the rows that no key opens."""
    if await database.read(encryption.is_all_encrypted):
        return 0, []
    count, unreadable = 0, list[str]()
    at: tuple[int, str] | None = encryption.START
    while at is not None:
        here = at
        done = await database.write(lambda tx, here=here: encryption.reencrypt_batch(tx, here))  # type: ignore[misc]
        count, at = count + done.sealed, done.next
        unreadable += done.unreadable
        await asyncio.sleep(_REST_S)
    return count, unreadable


async def tell_sealed(database: Database) -> None:
    """`seal_all` with what an operator should know of it in the log."""
    if not database.keyring.has_key:
        log.warning(
            "secrets.plain",
            advice="signing secrets made over the API lie in the database unencrypted; set [secrets] key to encrypt them",
        )
        return
    count, unreadable = await seal_all(database)
    if count:
        log.info("secrets.sealed", count=count)
    if unreadable:
        log.error(
            "secrets.unreadable",
            count=len(unreadable),
            rows=unreadable[:SHOWN_MAX],
            advice="no key at hand opens these; add the key that they were sealed with to [secrets] old_keys (or to "
            "secrets.key, as a further line), or rotate the secrets and set the headers of their endpoints again",
        )
