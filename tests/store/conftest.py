"""The store's tests run on both engines unless a file says otherwise."""

from __future__ import annotations

import pytest

from bridge.store.database import Database


@pytest.fixture
def database(either: Database) -> Database:
    """A new database, open, once per engine."""
    return either
