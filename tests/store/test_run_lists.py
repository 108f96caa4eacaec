"""Lists of runs find what is asked for, however many runs there are; both engines."""

from __future__ import annotations

import pytest

from bridge.store import run_lists, runs
from bridge.store.database import Database
from bridge.store.run_lists import RunFilter
from tests.support.watching import record, register


@pytest.mark.parametrize("found_max", [2_000, 1])
async def test_runs_are_found_by_the_beginning_of_an_id_however_many_begin_so(
    database: Database, monkeypatch: pytest.MonkeyPatch, found_max: int
) -> None:
    monkeypatch.setattr(run_lists, "FOUND_MAX", found_max)
    names = ("ab%", "ab_1", "AB2", "abz\U0010ffff", "b", "run_x")
    made = {name: await register(database, name, connection=f"c{len(name)}") for name in names}
    old = await register(database, "ab-old")
    await record(database, old, "succeeded")
    await database.write(lambda tx: runs.supersede(tx, [old.id]))
    again = await register(database, "ab-old")
    ids = {run.id: name for name, run in made.items()} | {old.id: "old", again.id: "again"}

    async def listed(prefix: str, **more: str) -> list[str]:
        wanted = RunFilter(id_prefix=prefix, **more)
        return [
            ids[r.id] for r in await database.read(lambda tx: run_lists.list_runs(tx, wanted, limit=9, before=None))
        ]

    assert await listed("ab") == ["again", "old", "abz\U0010ffff", "ab_1", "ab%"]
    assert await listed("ab", connection="c4") == ["abz\U0010ffff", "ab_1"]
    assert await listed("ab-old") == ["again", "old"]
    assert await listed("run_x") == ["run_x"]
    assert await listed(made["b"].id) == ["b"]
    assert await listed("zz") == []
    by_id = RunFilter(provider_run_id="ab-old")
    found = await database.read(lambda tx: run_lists.list_runs(tx, by_id, limit=9, before=None))
    assert [ids[run.id] for run in found] == ["again", "old"]
