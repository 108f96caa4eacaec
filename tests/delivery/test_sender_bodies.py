"""The bodies that the sender posts: whole, and small ones in one piece with their head."""

import asyncio

import pytest

from bridge.domain.delivery import Outcome
from bridge.runtime.aiohttp_internals import WHOLE_BYTES_MAX
from tests.support.posting import post
from tests.support.raw_server import answer, raw_server, says


@pytest.mark.parametrize("size", [0, 1, WHOLE_BYTES_MAX, WHOLE_BYTES_MAX + 1, 256 * 1024])
async def test_a_body_of_any_size_arrives_whole_on_a_new_and_on_a_kept_connection(sender, size):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with raw_server(says(answer())) as raw:
        results = [await post(sender, raw, body=body) for _ in range(2)]
    assert [result.outcome for result in results] == [Outcome.DELIVERED] * 2
    assert [request.partition(b"\r\n\r\n")[2] for request in raw.requests] == [body] * 2
    assert all(f"content-length: {size}\r\n".encode() in request.lower() for request in raw.requests)


async def test_a_small_body_needs_no_task_of_its_own(sender):
    """aiohttp would make one for each body: a turn of the loop, and a sixth of what a POST costs."""
    loop, made = asyncio.get_running_loop(), list[str]()

    def make(loop, coroutine, **options):
        made.append(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=loop, **options)

    async with raw_server(says(answer())) as raw:
        await post(sender, raw)
        loop.set_task_factory(make)
        try:
            result = await post(sender, raw)
        finally:
            loop.set_task_factory(None)
    assert (result.outcome, made) == (Outcome.DELIVERED, [])
