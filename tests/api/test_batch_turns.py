"""Batches of registrations leave most of a busy machine to the polls and deliveries of what is older."""

from __future__ import annotations

import asyncio

import pytest

from bridge.api.context import OTHERS_SHARE, BatchTurns


class Machine:
    """A clock that moves by `step_s` when it is asked about CPU, of which the process uses so much."""

    def __init__(self, *, used_share: float, step_s: float) -> None:
        self.now = 0.0
        self.cpu = 0.0
        self._used_share, self._step_s = used_share, step_s

    def cpu_s(self) -> float:
        self.now += self._step_s
        self.cpu += self._step_s * self._used_share
        return self.cpu


@pytest.mark.parametrize(
    ("used_share", "step_s", "has_older_work", "waits"),
    [(0.9, 0.002, True, True), (0.1, 0.001, True, False), (0.1, 0.05, True, True), (0.9, 0.002, False, False)],
)
async def test_the_next_batch_waits_while_older_work_is_under_way_and_the_process_is_short_of_a_core(
    used_share: float, step_s: float, *, has_older_work: bool, waits: bool
) -> None:
    """It uses most of one, or the loop wakes late because other processes use them."""
    machine = Machine(used_share=used_share, step_s=step_s)
    turns = BatchTurns(lambda: has_older_work, lambda: machine.now, machine.cpu_s)
    async with turns.take():
        machine.now += 0.1
    ended_at = machine.now
    async with turns.take():
        assert (machine.now >= ended_at + OTHERS_SHARE * 0.1) is waits


async def test_batches_take_turns_in_the_order_of_their_arrival() -> None:
    turns, order = BatchTurns(lambda: True), []

    async def batch(name: str) -> None:
        async with turns.take():
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            order.append(f"{name} ends")

    await asyncio.gather(*(batch(name) for name in "abc"))
    assert order == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]
