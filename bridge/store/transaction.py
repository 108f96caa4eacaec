"""A transaction: a connection, the instant at which it happens, and what to announce after its commit."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from bridge.domain.encryption import Keyring
from bridge.domain.leased_delivery import LeasedDelivery
from bridge.domain.run import Run
from bridge.store.filtering import Filters
from bridge.store.postgres.one_statement import OneStatement


@dataclass(slots=True)
class CommitSignals:
    """The changes of a commit, so that workers wake. Most are hints; the database is the truth."""

    connections_due: set[str] = field(default_factory=set)
    """Names of connections with a run that is due sooner than before."""
    deliveries_due: bool = False
    has_claimed_due: bool = False
    """The deliverer has claimed what was due before it in this commit. Only where one writer orders all commits."""
    replays_due: bool = False
    events_recorded: bool = False
    settled_run_ids: set[str] = field(default_factory=set)
    poll_requested_run_ids: set[str] = field(default_factory=set)
    deleted_run_ids: set[str] = field(default_factory=set)
    nodes_changed: bool = False
    filter_failures: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """How often the filter of an endpoint failed on an event, by id and filter; for this node only."""
    leased_runs: list[Run] = field(default_factory=list)
    """New runs under the lease of this node, for their pollers; no hint, and for this node only."""
    leased_deliveries: list[LeasedDelivery] = field(default_factory=list)
    """New deliveries under the lease of this node, for its deliverer; no hint, and for this node only."""
    is_in_doubt: bool = False
    """A commit before this one failed, or only seemed to: what it leased may be leased. For this node only."""
    endpoints_changed: bool = False
    """A person changed an endpoint or its secrets: what was leased for it before must not be sent any more."""

    def add(self, other: CommitSignals) -> None:
        """Merge the signals of another transaction in the same commit."""
        self.connections_due |= other.connections_due
        self.deliveries_due = other.deliveries_due or (self.deliveries_due and not other.has_claimed_due)
        self.has_claimed_due |= other.has_claimed_due
        self.leased_deliveries += other.leased_deliveries
        self.is_in_doubt |= other.is_in_doubt
        self.endpoints_changed |= other.endpoints_changed
        self.replays_due |= other.replays_due
        self.events_recorded |= other.events_recorded
        self.settled_run_ids |= other.settled_run_ids
        self.poll_requested_run_ids |= other.poll_requested_run_ids
        self.deleted_run_ids |= other.deleted_run_ids
        self.leased_runs += other.leased_runs
        self.nodes_changed |= other.nodes_changed
        for failed, count in other.filter_failures.items():
            self.filter_failures[failed] += count


def merged(signals: Sequence[CommitSignals]) -> CommitSignals:
    """The signals of all transactions in one commit."""
    if not signals:
        return CommitSignals()
    for each in signals[1:]:
        signals[0].add(each)
    return signals[0]


@dataclass(slots=True)
class Tx:
    """One caller's part of a transaction. `now` is read once, when it begins."""

    connection: Connection
    now: datetime
    signals: CommitSignals = field(default_factory=CommitSignals)
    cache: dict[str, Any] = field(default_factory=dict)
    """Values that were read and still hold: for this transaction, on SQLite until a writer changes it and drops the entry."""
    keyring: Keyring = field(default_factory=Keyring)
    filters: Filters = field(default_factory=Filters)
    driver: sqlite3.Connection | None = None
    """SQLite's own connection below `connection`, only where SQLite is written; see `prepared_statements`."""
    statement: OneStatement | None = None
    """Set where PostgreSQL is written without reading: `connection` cannot be used then."""

    @property
    def is_postgresql(self) -> bool:
        """Whether several nodes may write to this database at the same time."""
        return self.statement is not None or self.connection.dialect.name == "postgresql"
