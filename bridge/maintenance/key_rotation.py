"""Key rotation: after a change of keys, encrypt every secret in the database with the present one."""

from __future__ import annotations

import asyncio

import structlog

from bridge.store import encryption
from bridge.store.database import Database

log = structlog.get_logger()
_REST_S = 0.01  # seconds between batches, for other writes
SHOWN_MAX = 20


async def reencrypt_all(database: Database) -> tuple[int, list[str]]:
    """Encrypt what is not under the present key; returns the number of values and the rows that no key opens."""
    if await database.read(encryption.is_all_encrypted):
        return 0, []
    count, unreadable = 0, list[str]()
    at: tuple[int, str] | None = encryption.START
    while at is not None:
        here = at
        done = await database.write(lambda tx, here=here: encryption.reencrypt_batch(tx, here))  # type: ignore[misc]
        count, at = count + done.count, done.next
        unreadable += done.unreadable
        await asyncio.sleep(_REST_S)
    return count, unreadable


async def rotate(database: Database) -> None:
    """`reencrypt_all`, and log what an operator should know of it."""
    if not database.keyring.has_key:
        log.warning(
            "secrets.plain",
            advice="signing secrets made over the API lie in the database unencrypted; set [secrets] key to encrypt them",
        )
        return
    count, unreadable = await reencrypt_all(database)
    if count:
        log.info("secrets.sealed", count=count)
    if unreadable:
        log.error(
            "secrets.unreadable",
            count=len(unreadable),
            rows=unreadable[:SHOWN_MAX],
            advice="no present key decrypts these; add the key that they were encrypted with to [secrets] old_keys (or to "
            "secrets.key, as a further line), or rotate the secrets and set the headers of their endpoints again",
        )
