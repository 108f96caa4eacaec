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
from bridge.store import events
from bridge.store.transaction import Tx

HEARTBEAT_S = 15.0
RECHECK_S = 2.0  # hints come from this process only; another node may record events
WRITE_TIMEOUT_S = 10.0  # a reader that takes nothing for so long is dropped; it can resume
STREAMS_MAX = 100
PAGE = 100
CHANGES_GAP_S = 2.0  # between two messages of a stream of changes, whose reader then asks for what it shows
READ_GAP_S = 0.1  # between two reads of one stream: a lone event is not delayed, and of many each read brings several


async def stream_events(context: RequestContext, request: Request[StreamQuery]) -> web.StreamResponse:
    """Stream every event from here on, or from behind `Last-Event-ID` or `after`.

    With `changes` only that there are new ones: at most every two seconds a `changed` with the id of the newest, whose
    data says how many were recorded since the message before, `{"events": 3}`.
    """
    query = request.data
    if context.streams >= STREAMS_MAX:
        raise Refusal(
            503, f"{STREAMS_MAX} streams are open already; close one or pull GET /v1/events", Retry_After="30"
        )
    given = request.http.headers.get("Last-Event-ID", "").encode(errors="replace").decode()  # what is no UTF-8 is no id
    after = given or query.after
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
    gap_s, read = (CHANGES_GAP_S, _read_change) if request.data.changes else (READ_GAP_S, _read_events)
    while not context.closing.is_set():
        async with context.listening(context.bridge.feed_grown(RECHECK_S)) as hint:
            if loop.time() - checked_at >= RECHECK_S:  # also while there is always something to send
                checked_at = loop.time()
                if await context.authentication.has_ended(request.http):
                    break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(max(loop.time(), read_at + gap_s)):
                    await context.closing.wait()
                    continue
            page, position = await read(context, request.data, position)
            if page or not request.data.changes:  # a lone change is not delayed
                read_at = loop.time() if len(page) < PAGE else -math.inf
            for message in page:
                await _write(response, message)
            if page:
                beat_at = loop.time() + HEARTBEAT_S
            elif loop.time() >= beat_at:
                await _write(response, b": ping\n\n")
                beat_at = loop.time() + HEARTBEAT_S
            if len(page) < PAGE:
                await hint()
    with contextlib.suppress(ConnectionError, TimeoutError):
        await response.write_eof()


async def _read_events(context: RequestContext, query: StreamQuery, after: int) -> tuple[list[bytes], int]:
    """Messages of events after position `after`, and the last position read, filtered ones included."""

    def work(tx: Tx) -> tuple[list[bytes], int]:
        last = events.last_position(tx)
        types = [t.value for t in query.type]
        page = events.list_feed(tx, after=after, limit=PAGE, types=types, run_id=query.run_id)
        messages = [_message(event.id, event.type.value, event.body) for event in page]
        if len(page) == PAGE:
            return messages, page[-1].position or after
        return messages, max(after, last, *(event.position or 0 for event in page))

    return await context.database.read(work)


async def _read_change(context: RequestContext, query: StreamQuery, after: int) -> tuple[list[bytes], int]:
    """A message about the newest event after position `after`, and its position."""
    types = [t.value for t in query.type]
    found = await context.database.read(
        lambda tx: events.list_newest(tx, before=None, limit=1, types=types, run_id=query.run_id)
    )
    position = (found[0].position or 0) if found else 0
    if position <= after:
        return [], after
    return [_message(found[0].id, "changed", b'{"events":%d}' % (position - after))], position


def _message(event_id: str, name: str, data: bytes) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), name.encode(), data)


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(data)


def _drop(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
