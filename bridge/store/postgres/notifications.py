"""Notices: what a commit announces, told to the other nodes through PostgreSQL's NOTIFY. Hints only.

A notice is sent within the transaction, so it comes if and only if that commits. It may be lost (the listener was
away, a long list was cut short): every worker looks into the database by itself every few seconds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from bridge.domain.errors import StoreUnavailable
from bridge.store.postgres.engine import open_patient_engine
from bridge.store.transaction import CommitSignals, Tx

CHANNEL: Final = "runbridge"
_NAMES_MAX: Final = 60  # of each list: a payload must stay below 8,000 bytes, and a name may have 64 characters
_BYTES_MAX: Final = 7_900
_FLAGS: Final = {
    "d": "deliveries_due",
    "p": "replays_due",
    "e": "events_recorded",
    "m": "nodes_changed",
}
_LISTS: Final = {
    "r": "connections_due",
    "s": "settled_run_ids",
    "w": "poll_requested_run_ids",
    "g": "deleted_run_ids",
}
_SEND: Final = sa.text(f"SELECT pg_notify('{CHANNEL}', :payload)")


def tell_others(tx: Tx, sender: str) -> None:
    """Let the other nodes hear what this transaction announces, once it is committed."""
    payload = encode(tx.signals, sender)
    if payload is not None:
        tx.connection.execute(_SEND, {"payload": payload})


def encode(signals: CommitSignals, sender: str) -> str | None:
    """The payload of a notice; None when there is nothing to tell."""
    told: dict[str, Any] = {key: 1 for key, name in _FLAGS.items() if getattr(signals, name)}
    for key, name in _LISTS.items():
        if names := sorted(getattr(signals, name))[:_NAMES_MAX]:
            told[key] = names
    if not told:
        return None
    payload = json.dumps({"n": sender, **told}, separators=(",", ":"))
    while len(payload) > _BYTES_MAX:
        longest = max((key for key in _LISTS if key in told), key=lambda key: len(str(told[key])))
        told[longest] = told[longest][: len(told[longest]) // 2]
        payload = json.dumps({"n": sender, **told}, separators=(",", ":"))
    return payload


def decode(payload: str) -> tuple[str, CommitSignals]:
    """Who sent a notice, and what it announces; what cannot be understood announces nothing."""
    try:
        told = json.loads(payload)
        sender = str(told["n"])
    except (ValueError, TypeError, KeyError):
        return "", CommitSignals()
    signals = CommitSignals()
    for key, name in _FLAGS.items():
        setattr(signals, name, bool(told.get(key)))
    for key, name in _LISTS.items():
        setattr(signals, name, _names(told.get(key)))
    return sender, signals


def _names(given: object) -> set[str]:
    return {name for name in given if isinstance(name, str)} if isinstance(given, Iterable) else set()


class NotifyListener:
    """One connection that hears the notices of this database. `hear` is called with each payload."""

    def __init__(self, url: URL, hear: Callable[[str], None]) -> None:
        self._engine = open_patient_engine(url)
        self._hear = hear
        self._connection: Any = None

    async def keep_open(self, within_s: float) -> None:
        """Open it, or make sure that it still is; StoreUnavailable if that cannot be had in time."""
        try:
            async with asyncio.timeout(within_s):
                await self._check_or_open(within_s)
        except (OSError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self.close()
            raise StoreUnavailable(f"no notices can be heard: {error or type(error).__name__}") from error
        except BaseException:
            self.close()
            raise

    async def _check_or_open(self, within_s: float) -> None:
        if self._connection is not None and not self._connection.is_closed():
            await self._connection.execute("SELECT 1", timeout=within_s / 2)
            return
        self.close()
        raw = await self._engine.raw_connection()
        self._connection = raw.driver_connection
        raw.detach()  # ours alone from here on
        await self._connection.add_listener(CHANNEL, lambda *said: self._hear(said[3]))

    def close(self) -> None:
        """Hang up at once, without a word to a server that may not answer."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
