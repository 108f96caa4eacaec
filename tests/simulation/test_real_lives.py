"""Lives in real time: processes that are killed, and nodes whose cables fail."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.simulation.nursery import Nursery
from tests.simulation.real_cluster import live_in_cluster
from tests.simulation.real_life import live, points_of

pytestmark = pytest.mark.slow
KILLS, ROUNDS = 50, 10  # in each of four and five lives


@pytest.mark.parametrize("seed", range(1, 5))
async def test_kill_9_at_named_points_and_at_any_moment_breaks_no_promise(seed: int, tmp_path: Path) -> None:
    points = points_of(KILLS, random.Random(seed))
    async with Nursery() as nursery:
        life = await live(seed, tmp_path, nursery, points)
    assert not life.faults, "\n".join(life.faults[:8])
    assert life.kills == KILLS
    assert set(life.reached) == set(points) - {""}
    assert life.clients.registrations


@pytest.mark.parametrize("seed", range(1, 6))
async def test_no_failing_cable_breaks_a_promise_of_several_nodes(
    seed: int, postgresql_url: str, tmp_path: Path
) -> None:
    async with Nursery() as nursery:
        life = await live_in_cluster(seed, tmp_path, nursery, postgresql_url, ROUNDS)
    assert not life.faults, "\n".join(life.faults[:8])
    assert sum(life.reached.values()) == ROUNDS
    assert life.clients.registrations
