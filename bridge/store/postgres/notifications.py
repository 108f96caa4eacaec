"""LISTEN/NOTIFY: a commit's signals, sent to the other nodes. Hints only.

An ordinary transaction sends its notification itself, so it arrives only if that commits. Transactions of one statement
are followed by one, because commits with a notification wait for one another. It may be lost (the listener was
disconnected, a long list was cut, the node ended): every worker also reads the database every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy.engine import URL

from bridge.domain.errors import StoreUnavailable
from bridge.store.postgres.engine import connect_to_listen
from bridge.store.transaction import CommitSignals, Tx

CHANNEL: Final = "runbridge"
GATHER_S: Final = 0.02  # after a commit; another node is rarely waiting for it
_NAMES_MAX: Final = 60  # of each list: a payload must stay below 8,000 bytes, and a name may have 64 characters
_BYTES_MAX: Final = 7_900
_FLAGS: Final = {  # keys are short and the same in every version
    "d": "deliveries_due",
    "p": "replays_due",
    "e": "events_recorded",
    "m": "nodes_changed",
    "c": "endpoints_changed",
}
_LISTS: Final = {
    "r": "connections_due",
    "s": "settled_run_ids",
    "w": "poll_requested_run_ids",
    "g": "deleted_run_ids",
}
_NOTIFY: Final = sa.text(f"SELECT pg_notify('{CHANNEL}', :payload)")
NOTIFY_AFTER: Final = f"SELECT pg_notify('{CHANNEL}', $1) IS NOT NULL"


def notify(tx: Tx, sender: str) -> None:
    """Send the signals of this transaction to the other nodes when it commits."""
    payload = encode(tx.signals, sender)
    if payload is not None:
        tx.connection.execute(_NOTIFY, {"payload": payload})


def encode(signals: CommitSignals, sender: str) -> str | None:
    """The payload of a notification; None when there is nothing to send."""
    content: dict[str, Any] = {key: 1 for key, name in _FLAGS.items() if getattr(signals, name)}
    for key, name in _LISTS.items():
        if names := sorted(getattr(signals, name))[:_NAMES_MAX]:
            content[key] = names
    if not content:
        return None
    payload = json.dumps({"n": sender, **content}, separators=(",", ":"))
    while len(payload) > _BYTES_MAX:
        longest = max((key for key in _LISTS if key in content), key=lambda key: len(str(content[key])))
        content[longest] = content[longest][: len(content[longest]) // 2]
        payload = json.dumps({"n": sender, **content}, separators=(",", ":"))
    return payload


def decode(payload: str) -> tuple[str, CommitSignals]:
    """The sender of a notification and its signals; none for a payload that cannot be read."""
    try:
        content = json.loads(payload)
        sender = str(content["n"])
    except (ValueError, TypeError, KeyError):
        return "", CommitSignals()
    signals = CommitSignals()
    for key, name in _FLAGS.items():
        setattr(signals, name, bool(content.get(key)))
    for key, name in _LISTS.items():
        setattr(signals, name, _names(content.get(key)))
    return sender, signals


def _names(given: object) -> set[str]:
    return {name for name in given if isinstance(name, str)} if isinstance(given, Iterable) else set()


class NotifySender:
    """Sends signals to the other nodes after their commits, those of `GATHER_S` together."""

    def __init__(self, sender: str, send: Callable[[str], Awaitable[object]]) -> None:
        """`send` takes a payload; StoreUnavailable is passed over, because these are hints."""
        self._sender = sender
        self._send = send
        self._gathered: CommitSignals | None = None
        self._task: asyncio.Task[None] | None = None

    def add(self, signals: CommitSignals) -> None:
        """Send these soon."""
        if self._gathered is None:
            self._gathered = CommitSignals()
            self._task = asyncio.create_task(self._send_gathered(), name="notify")
        self._gathered.add(signals)

    async def _send_gathered(self) -> None:
        await asyncio.sleep(GATHER_S)
        signals, self._gathered = self._gathered or CommitSignals(), None
        if (payload := encode(signals, self._sender)) is not None:
            with contextlib.suppress(StoreUnavailable):
                await self._send(payload)

    async def close(self) -> None:
        """Send what is gathered."""
        if self._task is not None:
            await asyncio.wait([self._task])


class NotifyListener:
    """One connection that receives the notifications of this database and passes each payload to `receive`."""

    def __init__(self, url: URL, receive: Callable[[str], None]) -> None:
        self._url = url
        self._receive = receive
        self._connection: Any = None

    async def keep_open(self, within_s: float) -> None:
        """Connect, or check that the connection still works. StoreUnavailable when that takes longer."""
        try:
            async with asyncio.timeout(within_s):
                await self._check_or_connect(within_s)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self.close()
            raise StoreUnavailable(f"cannot listen for notifications: {error or type(error).__name__}") from error
        except BaseException:
            self.close()
            raise

    async def _check_or_connect(self, within_s: float) -> None:
        if self._connection is not None and not self._connection.is_closed():
            await self._connection.execute("SELECT 1", timeout=within_s / 2)
            return
        self.close()
        self._connection = await connect_to_listen(self._url)
        await self._connection.add_listener(CHANNEL, lambda *arguments: self._receive(arguments[3]))

    def close(self) -> None:
        """Disconnect at once, without waiting for a server that may not answer."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
