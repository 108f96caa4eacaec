"""Delivery slots: whose POST begins, and how many deliveries are claimed ahead."""

from __future__ import annotations

from bridge.delivery.limiter import AHEAD_MAX, AHEAD_OF_ALL, NEW_AHEAD, PACES_MAX, DeliverySlots


def filled(*endpoint_ids: str, total: int = 64, per_endpoint: int = 8, each: int = 20) -> DeliverySlots[str]:
    slots: DeliverySlots[str] = DeliverySlots(total, per_endpoint)
    for number in range(each):
        for endpoint_id in endpoint_ids:
            slots.add(endpoint_id, f"{endpoint_id}{number}")
    return slots


def start_all(slots: DeliverySlots[str]) -> list[str]:
    return list(iter(slots.start_next, None))


def deliver(slots: DeliverySlots[str], endpoint_id: str, post_s: float) -> None:
    slots.note_delivered(endpoint_id, post_s)
    slots.release(endpoint_id)


def test_endpoints_take_turns_and_each_begins_in_the_order_of_its_claims() -> None:
    assert start_all(filled("a", "b", per_endpoint=2)) == ["a0", "b0", "a1", "b1"]


def test_what_a_person_asked_for_goes_before_what_waits() -> None:
    slots = filled("a", per_endpoint=1)
    slots.add("a", "ping", goes_first=True)
    assert start_all(slots) == ["ping"]


def test_the_last_quarter_of_the_slots_begins_only_for_endpoints_that_hold_none() -> None:
    slots = filled("slow", total=8)
    assert len(start_all(slots)) == 6
    slots.add("quick", "quick0")
    assert start_all(slots) == ["quick0"]


def test_a_quick_receiver_may_have_more_claimed_ahead_than_a_slow_one() -> None:
    slots = filled("quick", "slow", "hung")
    start_all(slots)
    for _ in range(8):
        deliver(slots, "quick", 0.005)
        deliver(slots, "slow", 2.0)
    held = slots.held()
    assert (held["quick"].ahead, held["slow"].ahead, held["hung"].ahead) == (64, 0, 0)
    assert slots.room("quick") > 0
    assert slots.room("hung") == 0


def test_what_is_claimed_ahead_is_bounded_for_one_endpoint_and_for_all() -> None:
    names = [f"e{number}" for number in range(50)]
    slots = filled("a", total=1000, each=40)
    for _ in range(40):
        start_all(slots)
        deliver(slots, "a", 0.001)
    assert slots.room("a") <= NEW_AHEAD * AHEAD_MAX + 8
    many = filled(*names, total=1000, per_endpoint=1, each=400)
    for _ in range(300):
        start_all(many)
        for name in names:
            deliver(many, name, 0.001)
    assert sum(one.ahead for one in many.held().values()) <= AHEAD_OF_ALL


def test_after_a_failure_nothing_begins_until_it_is_recorded_and_nothing_is_ahead() -> None:
    slots = filled("a", per_endpoint=2)
    start_all(slots)
    deliver(slots, "a", 0.001)
    start_all(slots)
    slots.note_failed("a")
    slots.release("a")
    assert (start_all(slots), slots.room("a"), slots.held()["a"].ahead) == ([], 0, 0)
    slots.end_failure("a")
    assert start_all(slots) == ["a3"]


def test_what_waits_can_be_withdrawn_and_the_pace_outlives_a_rest() -> None:
    slots = filled("a", each=9)
    start_all(slots)
    for _ in range(8):
        slots.note_delivered("a", 0.001)
    assert slots.withdraw("a") == ["a8"]
    for _ in range(8):
        slots.release("a")
    assert (slots.busy, slots.waiting, slots.held()["a"].claimed) == (0, 0, 0)
    assert slots.room("a") > 8


def test_of_endpoints_that_rest_only_the_latest_are_remembered() -> None:
    """Each run may have a webhook of its own, which is an endpoint that gets one delivery."""
    slots: DeliverySlots[str] = DeliverySlots(64, 8)
    for number in range(2 * PACES_MAX):
        slots.add(f"e{number}", "event")
        start_all(slots)
        deliver(slots, f"e{number}", 0.001)
    assert list(slots.held()) == [f"e{number}" for number in range(PACES_MAX, 2 * PACES_MAX)]
