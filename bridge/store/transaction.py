"""A transaction as the functions of this room see it: a connection, the instant it happens at, and
what is to be announced once it is durable."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from bridge.domain.encryption import Keyring


@dataclass(slots=True)
class CommitSignals:
    """What a commit made true, for the bells of the workers. Hints only: the database is the truth."""

    connections_due: set[str] = field(default_factory=set)
    """Names of connections with a run that is due sooner than was known."""
    deliveries_due: bool = False
    replays_due: bool = False
    events_recorded: bool = False
    settled_run_ids: set[str] = field(default_factory=set)
    poll_requested_run_ids: set[str] = field(default_factory=set)
    """Runs that somebody asked to have looked at now."""
    deleted_run_ids: set[str] = field(default_factory=set)
    """Runs that are no longer watched."""
    nodes_changed: bool = False

    def add(self, other: CommitSignals) -> None:
        """Take in what another transaction of the same commit announces."""
        self.connections_due |= other.connections_due
        self.deliveries_due |= other.deliveries_due
        self.replays_due |= other.replays_due
        self.events_recorded |= other.events_recorded
        self.settled_run_ids |= other.settled_run_ids
        self.poll_requested_run_ids |= other.poll_requested_run_ids
        self.deleted_run_ids |= other.deleted_run_ids
        self.nodes_changed |= other.nodes_changed


@dataclass(slots=True)
class Tx:
    """One caller's part of a transaction. `now` was read once, at its door; `vault` seals what is secret."""

    connection: Connection
    now: datetime
    signals: CommitSignals = field(default_factory=CommitSignals)
    known: dict[str, Any] = field(default_factory=dict)
    """What was read and still holds, in this transaction or for the one writer of a file; who changes it forgets it."""
    keyring: Keyring = field(default_factory=Keyring)
    driver: sqlite3.Connection | None = None
    """What is below `connection` where SQLite is written: for statements that are ready for it."""

    @property
    def is_postgresql(self) -> bool:
        """Whether several nodes may write to this database at once."""
        return self.connection.dialect.name == "postgresql"
