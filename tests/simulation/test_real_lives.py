"""Lives in real time: processes that are killed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.simulation.nursery import Nursery
from tests.simulation.real_life import live, points_of

pytestmark = pytest.mark.slow
KILLS = 20


@pytest.mark.parametrize("seed", [1])
async def test_kill_9_at_named_points_and_at_any_moment_breaks_no_promise(seed: int, tmp_path: Path) -> None:
    points = points_of(KILLS, random.Random(seed))
    async with Nursery() as nursery:
        life = await live(seed, tmp_path, nursery, points)
    assert not life.faults, "\n".join(life.faults[:8])
    assert life.kills == KILLS
    assert set(life.reached) == set(points) - {""}
    assert life.clients.registrations
