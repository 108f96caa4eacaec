"""Deadlines end what takes too long, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from bridge.runtime.deadlines import Deadlines


async def test_what_takes_too_long_is_ended():
    with pytest.raises(TimeoutError), Deadlines().within(0.001):
        await asyncio.Event().wait()


async def test_a_deadline_that_has_passed_ends_the_first_wait():
    deadlines = Deadlines()
    with pytest.raises(TimeoutError), deadlines.until(asyncio.get_running_loop().time() - 1):
        await asyncio.Event().wait()


async def test_each_ends_at_its_own_time():
    deadlines, ended = Deadlines(), list[str]()

    async def wait(name: str, seconds: float) -> None:
        with pytest.raises(TimeoutError), deadlines.within(seconds):
            await asyncio.Event().wait()
        ended.append(name)

    waits = [asyncio.create_task(wait(*each)) for each in (("last", 0.2), ("first", 0.01), ("second", 0.1))]
    await asyncio.wait_for(asyncio.gather(*waits), 30)
    assert ended == ["first", "second", "last"]


async def test_what_ends_in_time_is_left_alone():
    deadlines = Deadlines()
    with deadlines.within(0.001):
        pass
    with pytest.raises(TimeoutError), deadlines.within(0.01):  # later than the first, which would end this task
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_one_that_is_inside_another_ends_alone():
    deadlines = Deadlines()
    with deadlines.within(60):
        with pytest.raises(TimeoutError), deadlines.within(0.001):
            await asyncio.Event().wait()
        await asyncio.sleep(0)  # the outer one goes on


async def test_a_task_that_is_cancelled_from_outside_stays_cancelled():
    began = asyncio.Event()

    async def wait() -> None:
        with Deadlines().within(60):
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_is_cancelled_when_its_time_is_over_stays_cancelled():
    async def wait() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        with Deadlines().until(loop.time() - 1):
            loop.call_soon(task.cancel)
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(wait())


async def test_another_fault_is_raised_as_it_is():
    with pytest.raises(KeyError), Deadlines().within(60):
        raise KeyError
