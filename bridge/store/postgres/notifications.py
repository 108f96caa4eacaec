"""Notices: what a commit announces, told to the other nodes through PostgreSQL's NOTIFY. Hints only.

A notice is sent within the transaction, so it comes if and only if that commits. It may be lost (the listener was
away, a long list was cut short): every worker looks into the database by itself every few seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa

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
    "r": "runs_due",
    "s": "settled_run_ids",
    "w": "polls_wanted",
    "g": "gone_run_ids",
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
