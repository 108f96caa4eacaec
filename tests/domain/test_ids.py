"""Identifiers: sorted by age, never twice, fit for `webhook-id`."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bridge.domain import ids
from bridge.domain.ids import new_id

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def milliseconds_in(identifier: str) -> int:
    value = 0
    for character in identifier.partition("_")[2]:
        value = value * 32 + ALPHABET.index(character)
    return value >> 80


@pytest.mark.parametrize("prefix", ["run", "evt", "ep", "dlv", "att", "sec", "node"])
def test_an_id_is_its_prefix_and_26_characters_without_a_dot(prefix: str) -> None:
    """`webhook-id` must not hold a dot: it separates the parts of what is signed."""
    for _ in range(100):
        assert re.fullmatch(rf"{prefix}_[{ALPHABET}]{{26}}", new_id(prefix))


def test_ids_sort_in_the_order_in_which_they_were_made() -> None:
    made = [new_id("evt") for _ in range(20_000)]
    assert made == sorted(set(made))


def test_an_id_begins_with_the_time_at_which_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    made = milliseconds_in(new_id("run"))
    assert before <= made <= time.time_ns() // 1_000_000 + 1


def test_threads_never_make_the_same_id_and_each_sees_its_own_in_order() -> None:
    with ThreadPoolExecutor(8) as pool:
        lots = list(pool.map(lambda _: [new_id("evt") for _ in range(2000)], range(8)))
    assert len({identifier for lot in lots for identifier in lot}) == 16_000
    assert all(lot == sorted(lot) for lot in lots)


def test_a_clock_that_is_set_back_does_not_put_later_ids_before_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_id("evt")
    hour_ago_ns = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(ids.time, "time_ns", lambda: hour_ago_ns)
    later = [new_id("evt") for _ in range(100)]
    assert [first, *later] == sorted({first, *later})
