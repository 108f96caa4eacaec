"""The event stream (Server-Sent Events): resumes from `Last-Event-ID`, sends heartbeats, drops slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import math

from aiohttp import web

from bridge.api.context import Request, RequestContext
from bridge.api.events import position_of
from bridge.api.problem import Refusal
from bridge.api.request_models import StreamQuery
from bridge.domain.event import Event
from bridge.store import events
from bridge.store.transaction import Tx

HEARTBEAT_S = 15.0
RECHECK_S = 2.0  # hints come from this process only; another node may record events
WRITE_TIMEOUT_S = 10.0  # a reader that takes nothing for so long is dropped; it can resume
STREAMS_MAX = 100
PAGE = 100
READ_GAP_S = 0.1  # between two reads of one stream: a lone event is not delayed, and of many each read brings several


async def stream_events(context: RequestContext, request: Request[StreamQuery]) -> web.StreamResponse:
    """Stream every event from here on, or from behind `Last-Event-ID` or `after`."""
    query = request.data
    if context.streams >= STREAMS_MAX:
        raise Refusal(
            503, f"{STREAMS_MAX} streams are open already; close one or pull GET /v1/events", Retry_After="30"
        )
    after = request.http.headers.get("Last-Event-ID") or query.after
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
    context.streams += 1  # before the first await, so that the next request sees it
    try:
        position = await context.database.read(lambda tx: position_of(tx, after) if after else events.last_position(tx))
        await response.prepare(request.http)
        await _follow(context, request, response, position)
    except (ConnectionError, TimeoutError):
        _drop(request.http)
    finally:
        context.streams -= 1
    return response


async def _follow(
    context: RequestContext, request: Request[StreamQuery], response: web.StreamResponse, position: int
) -> None:
    await _write(response, b"retry: 2000\n\n")
    loop = asyncio.get_running_loop()
    beat_at = loop.time() + HEARTBEAT_S
    checked_at = loop.time()
    read_at = -math.inf
    while not context.closing.is_set():
        async with context.listening(context.bridge.feed_grown(RECHECK_S)) as hint:
            if loop.time() - checked_at >= RECHECK_S:  # also while there is always something to send
                checked_at = loop.time()
                if await context.authentication.has_ended(request.http):
                    break
            await asyncio.sleep(max(0.0, read_at + READ_GAP_S - loop.time()))
            page, position = await _next_page(context, request.data, position)
            read_at = loop.time() if len(page) < PAGE else -math.inf
            for event in page:
                await _write(response, _message(event))
            if page:
                beat_at = loop.time() + HEARTBEAT_S
            elif loop.time() >= beat_at:
                await _write(response, b": ping\n\n")
                beat_at = loop.time() + HEARTBEAT_S
            if len(page) < PAGE:
                await hint()
    with contextlib.suppress(ConnectionError, TimeoutError):
        await response.write_eof()


async def _next_page(context: RequestContext, query: StreamQuery, after: int) -> tuple[list[Event], int]:
    """Events after position `after`, and the last position read, filtered ones included."""

    def work(tx: Tx) -> tuple[list[Event], int]:
        last = events.last_position(tx)
        types = [t.value for t in query.type]
        page = events.list_feed(tx, after=after, limit=PAGE, types=types, run_id=query.run_id)
        if len(page) == PAGE:
            return page, page[-1].position or after
        return page, max(after, last, *(event.position or 0 for event in page))

    return await context.database.read(work)


def _message(event: Event) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event.id.encode(), event.type.value.encode(), event.body)


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(data)


def _drop(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
