"""The sender's policies and connections: which one a POST uses, what is kept, and what is tried again."""

import asyncio

import pytest

from bridge.delivery.sender import Sender
from bridge.domain.addresses.policy import AddressPolicy, Trust
from bridge.domain.delivery import Outcome
from tests.support.posting import LOOPBACK, post
from tests.support.raw_server import answer, hang, raw_server, says

STRICT = {trust: AddressPolicy(trust) for trust in Trust}
OK_HEAD = b"HTTP/1.1 200 OK\r\n"
BUSY_HEAD = b"HTTP/1.1 503 Busy\r\n"


async def test_a_forbidden_address_is_not_dialled_and_the_detail_says_what_would_allow_it():
    sender = Sender(STRICT)
    async with raw_server(says(answer())) as raw:
        refused = await post(sender, raw)
        trusted = await post(sender, raw, trust=Trust.CONFIG)
    assert (refused.outcome, refused.peer, refused.phases) == (Outcome.BLOCKED_ADDRESS, None, {})
    assert f'allow = ["127.0.0.1/32:{raw.port}"]' in refused.detail
    assert trusted.outcome is Outcome.DELIVERED
    assert raw.connections == 1
    await sender.close()


async def test_a_connection_of_a_trusted_endpoint_is_never_used_for_another():
    """Otherwise a kept connection would carry an API-made endpoint past the guard."""
    sender = Sender(STRICT)
    async with raw_server(says(answer())) as raw:
        assert (await post(sender, raw, trust=Trust.CONFIG)).outcome is Outcome.DELIVERED
        assert (await post(sender, raw, trust=Trust.API)).outcome is Outcome.BLOCKED_ADDRESS
        assert len(raw.requests) == 1
    await sender.close()


async def test_plain_http_to_a_public_address_needs_leave():
    async def lookup(name):
        return ["8.8.8.8"]

    sender = Sender(STRICT, lookup=lookup, timeout_s=0.2)
    result = await sender.post("http://hooks.test/", headers={}, body=b"", trust=Trust.CONFIG)
    assert result.outcome is Outcome.BLOCKED_ADDRESS
    assert "allow_http" in result.detail
    await sender.close()


async def test_new_policies_hold_for_the_next_post_and_leave_those_under_way_alone():
    sender = Sender(LOOPBACK)
    begun, go = asyncio.Event(), asyncio.Event()

    async def script(exchange):
        begun.set()
        await go.wait()
        await exchange.send(answer())

    async with raw_server(script) as raw:
        under_way = asyncio.create_task(post(sender, raw))
        await asyncio.wait_for(begun.wait(), 60)
        await sender.replace_policies(STRICT)
        assert (await post(sender, raw)).outcome is Outcome.BLOCKED_ADDRESS
        go.set()
        assert (await under_way).outcome is Outcome.DELIVERED
        await asyncio.wait_for(raw.lost.wait(), 60)  # the last post of the old policies closed their connections
    await sender.close()


async def test_a_new_deadline_comes_with_new_policies(sender):
    await sender.replace_policies(LOOPBACK, timeout_s=0.1)
    async with raw_server(hang) as raw:
        assert (await post(sender, raw)).detail == "no complete answer within 0.1 s"


# --- kept connections ---


async def test_connections_are_kept_for_the_next_post(sender):
    async with raw_server(says(answer("200 OK", b"fine"))) as raw:
        for _ in range(3):
            assert (await post(sender, raw)).head == b"fine"
        assert (len(raw.requests), raw.connections) == (3, 1)


async def test_a_kept_connection_that_the_receiver_has_closed_is_no_failure(sender):
    async def script(exchange):
        if exchange.number == 2:
            return exchange.close()
        return await exchange.send(answer())

    async with raw_server(script) as raw:
        first, second, third = [await post(sender, raw) for _ in range(3)]
        assert [result.outcome for result in (first, second, third)] == [Outcome.DELIVERED] * 3
        assert len(raw.requests) == 4
        heads, bodies = zip(*(request.split(b"\r\n\r\n") for request in raw.requests), strict=True)
        assert set(bodies) == {b'{"a":1}'}
        assert all(b"webhook-id: evt_1" in head for head in heads)


async def test_a_fresh_connection_that_is_closed_is_a_failure_and_not_tried_again(sender):
    async def script(exchange):
        exchange.close()

    async with raw_server(script) as raw:
        assert (await post(sender, raw)).outcome is Outcome.PROTOCOL
        assert raw.connections == 1


async def test_a_second_failure_after_a_stale_connection_is_final(sender):
    async def script(exchange):
        if exchange.number > 1:
            return exchange.close()
        return await exchange.send(answer())

    async with raw_server(script) as raw:
        assert (await post(sender, raw)).outcome is Outcome.DELIVERED
        assert (await post(sender, raw)).outcome is Outcome.PROTOCOL
        assert len(raw.requests) == 3


async def test_a_kept_connection_that_breaks_off_within_an_answer_is_a_failure(sender):
    """Once a byte of an answer has come, the receiver has seen the event: no silent second copy."""

    async def script(exchange):
        if exchange.number == 2:
            await exchange.send(BUSY_HEAD + b"X: b\r\n")
            return exchange.close()
        return await exchange.send(answer())

    async with raw_server(script) as raw:
        assert (await post(sender, raw)).outcome is Outcome.DELIVERED
        assert (await post(sender, raw)).outcome is Outcome.PROTOCOL
        assert len(raw.requests) == 2


async def test_a_post_that_is_cancelled_leaves_nothing_behind(sender):
    async with raw_server(hang) as raw:
        task = asyncio.create_task(post(sender, raw))
        await asyncio.wait_for(raw.asked.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_fifty_posts_at_once_do_not_mix_up_their_answers(sender):
    async def script(exchange):
        await exchange.send(answer("200 OK", exchange.request.partition(b"\r\n\r\n")[2]))

    async with raw_server(script) as raw:
        bodies = [b"%d" % number for number in range(50)]
        result = await asyncio.gather(*(post(sender, raw, body=body) for body in bodies))
    assert [one.head for one in result] == bodies


async def test_no_answer_shows_the_query_or_a_header(hasty):
    """Both may hold tokens, and an attempt's detail is shown and logged."""
    scripts = [says(answer("500 Oops")), says(b"garbage\r\n"), hang, says(b"", then_closes=True)]
    for script in scripts:
        async with raw_server(script) as raw:
            result = await post(hasty, raw, "/?token=hunter2", custom_headers={"Authorization": "Bearer hunter2"})
        assert "hunter2" not in repr(result)
