"""Reading hostile responses: never more than can be used, and never less than a status line."""

import asyncio
import time

import pytest

from bridge.delivery.sender import Sender
from bridge.domain.delivery import Outcome
from bridge.runtime.aiohttp_internals import RAW_BYTES_MAX
from tests.support.posting import LOOPBACK, post, post_for
from tests.support.raw_server import RawExchange, answer, raw_server, says

OK_LINE = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK_LINE + b"Transfer-Encoding: chunked\r\n\r\n"


def endless(beginning: bytes, piece: bytes):
    """A script that sends `piece` again and again, after `beginning`."""

    async def script(exchange: RawExchange) -> None:
        await exchange.send(beginning)
        while True:
            await exchange.send(piece)

    return script


# --- answers without end ---


@pytest.mark.parametrize(
    ("beginning", "piece", "outcome"),
    [
        (b"", b"\r\n" * 32768, Outcome.PROTOCOL),
        (b"", b"\n" * 65536, Outcome.PROTOCOL),
        (b"", b"\r" * 65536, Outcome.PROTOCOL),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"\r\n" * 32768, Outcome.PROTOCOL),
        (CHUNKED + b"5;", b"a" * 65536, Outcome.DELIVERED),
        (CHUNKED, b"1;" + b"a" * 5000 + b"\r\nx\r\n", Outcome.DELIVERED),
        (CHUNKED + b"0\r\n", b"X-A: b\r\n" * 8000, Outcome.DELIVERED),
        (b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"a" * 65536, Outcome.SERVER_ERROR),
    ],
)
async def test_an_answer_without_end_ends_with_its_bytes_and_not_with_its_deadline(sender, beginning, piece, outcome):
    """In single bytes of work or in 15 s of a core: a receiver must not choose how long we calculate."""
    async with raw_server(endless(beginning, piece)) as raw:
        cpu_s = time.thread_time()
        result = await post(sender, raw)
        cpu_s = time.thread_time() - cpu_s  # the server's share is in it
        await asyncio.wait_for(raw.lost.wait(), 60)
    assert result.outcome is outcome
    assert "in time" not in (result.detail or "")
    assert cpu_s < 1


async def test_blank_lines_before_an_answer_are_no_part_of_it(sender):
    assert (await post_for(sender, b"\r\n" * 2000 + answer("200 OK", b"fine"))).head == b"fine"


async def test_the_bytes_of_each_response_are_counted_separately(sender):
    """A kept connection serves any number of answers."""
    async with raw_server(says(answer("200 OK", b"x" * 60_000))) as raw:
        for _ in range(RAW_BYTES_MAX // 60_000 + 2):
            result = await post(sender, raw)
            assert (result.outcome, result.detail) == (Outcome.DELIVERED, None)
        assert raw.connections == 1


async def test_what_comes_after_an_answer_on_a_kept_connection_is_bounded_too(sender):
    async with raw_server(endless(answer("204 None"), b"\r\n" * 32768)) as raw:
        assert (await post(sender, raw)).outcome is Outcome.DELIVERED
        await asyncio.wait_for(raw.lost.wait(), 60)


# --- a 2xx status line decides ---


async def reset(exchange):
    await exchange.send(OK_LINE)
    await exchange.is_read()
    exchange.reset()


async def in_single_bytes(exchange):
    for byte in b"\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 None\r\nContent-Length: x\r\n":
        await exchange.send(bytes([byte]))
        await asyncio.sleep(0)
    exchange.close()


@pytest.mark.parametrize(
    "script",
    [
        reset,
        in_single_bytes,
        says(OK_LINE, then_closes=True),
        says(b"HTTP/1.0 200\n", then_closes=True),
        says(OK_LINE + b"Foo: b", then_closes=True),
        says(OK_LINE + b"\x00\x01\r\n\r\n", then_closes=True),
        says(OK_LINE + b"Content-Length: abc\r\n\r\n", then_closes=True),
        says(OK_LINE + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", then_closes=True),
        says(OK_LINE + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", then_closes=True),
        says(OK_LINE + b"X-A: b\r\n" * 100_000 + b"\r\n", then_closes=True),
        says(OK_LINE + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n", then_closes=True),
        says(b"HTTP/1.1 100 Continue\r\n\r\n" + OK_LINE + b"\x00", then_closes=True),
        says(b"HTTP/1.1 100 Continue\n\n" + OK_LINE + b"\x00", then_closes=True),
        endless(OK_LINE, b"X: " + b"a" * 1000 + b"\r\n"),
    ],
)
async def test_a_success_stands_whatever_its_head_is_worth(sender, script):
    """The receiver has taken the event; to send it again would only repeat it there."""
    async with raw_server(script) as raw:
        result = await post(sender, raw)
    assert result.outcome is Outcome.DELIVERED
    assert result.status in {200, 204}
    assert result.detail.startswith(f"the receiver answered {result.status}; behind its status line: ")
    assert "first_byte" in result.phases


async def test_a_success_stands_even_if_its_head_never_ends():
    async def script(exchange):
        await exchange.send(OK_LINE)
        await asyncio.Event().wait()

    sender = Sender(LOOPBACK, timeout_s=1.5)  # in which the status line must come, but not the end
    async with raw_server(script) as raw:
        result = await post(sender, raw)
    await sender.close()
    detail = "the receiver answered 200; behind its status line: no complete answer within 1.5 s"
    assert (result.outcome, result.status, result.detail) == (Outcome.DELIVERED, 200, detail)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1 20 OK\r\n",
        b"HTTP/1.1 200OK\r\n",
        b"HTTP/2 200 OK\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\x00",
        b" HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 500 HTTP/1.1 200 OK\r\n\x00",
        b"HTTP/1.1 500 Oops\r\nHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\nHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 " + b"a" * 10_000 + b"\r\n",
    ],
)
async def test_what_is_no_whole_status_line_of_success_is_none(sender, data):
    result = await post_for(sender, data)
    assert result.outcome in {Outcome.PROTOCOL, Outcome.OVERSIZE}
    assert result.status is None


async def test_an_event_that_was_taken_is_not_sent_again_when_a_kept_connection_breaks_off(sender):
    """A reset of a kept connection is mostly no more than its age, but not once an answer has begun."""

    async def script(exchange):
        if exchange.number == 2:
            return await reset(exchange)
        return await exchange.send(answer())

    async with raw_server(script) as raw:
        assert [(await post(sender, raw)).outcome for _ in range(2)] == [Outcome.DELIVERED] * 2
        assert len(raw.requests) == 2
