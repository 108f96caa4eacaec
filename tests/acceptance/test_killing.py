"""Repeated `kill -9`: nothing is lost and no event is recorded twice. RUNBRIDGE_SOAK=1 makes it 400 runs.

The long one takes minutes: give pytest `-o faulthandler_timeout=0` with it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from tests.acceptance.killing import Killed
from tests.acceptance.slowly import Slowly


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_kill_9_again_and_again_loses_nothing_and_gives_no_run_a_second_finish(slowly: Slowly, engine: str) -> None:
    killed: Killed = slowly.outcome_of(f"kill on {engine}")
    events_by_run: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in killed.feed:
        events_by_run[event["data"]["run"]["id"]].append(event)
    assert set(events_by_run) == set(killed.expected)
    for run_id, events in events_by_run.items():
        assert [event["data"]["sequence"] for event in events] == list(range(1, len(events) + 1))
        finishes = [event for event in events if event["type"] == "run.finished"]
        assert [event["data"]["run"]["status"] for event in finishes] == [killed.expected[run_id]]
        assert events[-1] is finishes[0]
    bodies: defaultdict[str, set[bytes]] = defaultdict(set)
    for one in killed.received:
        assert one.verified
        bodies[one.id].add(one.body)
    assert set(bodies) == {event["id"] for event in killed.feed}
    assert all(len(variants) == 1 for variants in bodies.values())
