"""The runs in hand: taken in the order of their due times, whatever was dropped or held anew meanwhile."""

from __future__ import annotations

import sys
from dataclasses import replace

from bridge.polling.schedule import STALE_MAX, Hand, Watch
from tests.support.sample_run import REGISTERED_AT, sample_run


def watch(number: int, due: float) -> Watch:
    run = replace(sample_run(), id=f"run_{number}", provider_run_id=f"r{number}")
    return Watch(run, due, now=REGISTERED_AT, monotonic=0.0)


def test_what_was_dropped_leaves_nothing_behind_and_the_order_stays() -> None:
    hand = Hand()
    count = 3 * STALE_MAX
    for number in range(count):
        hand.hold(watch(number, due=float(count - number)))
    full = sys.getsizeof(hand._heap)
    for number in range(count):
        if number % 100:
            hand.drop(f"run_{number}")
    again = hand.get("run_200")
    assert again is not None
    hand.hold_until(again, 0.5)
    assert sys.getsizeof(hand._heap) < full / 2
    taken = hand.take_due(float(count), count)
    assert [each.due for each in taken] == sorted(each.due for each in taken)
    assert taken[0] is again
    assert len(taken) == len(hand) == count // 100
