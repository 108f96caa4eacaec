"""Replays: start one for an endpoint, see how far it is, stop it."""

from __future__ import annotations

from bridge.api.context import Call, Door, Response, answer
from bridge.api.endpoints import enabled_endpoint, present_endpoint
from bridge.api.request_models import EndpointReplayBody, NoBody, NoQuery, PageQuery
from bridge.api.serializers import read_cursor, shown_page, shown_replay
from bridge.domain.errors import Conflict, InvalidInput, NotFound, Problem
from bridge.domain.replay import Replay, ReplayStatus, Selection
from bridge.store import events, replays
from bridge.store.transaction import Tx


async def replay_to_endpoint(door: Door, call: Call[EndpointReplayBody]) -> Response:
    """Send a selection of events to this endpoint again, same ids and bytes; with `dry_run` only count them.

    The answer comes before the events are on their way: GET /v1/replays/{id} tells how far it is.
    """
    body = call.given
    if body.until is not None and body.until <= body.since:
        raise InvalidInput([Problem("until", "must be later than since")])
    find = present_endpoint if body.dry_run else enabled_endpoint
    await door.database.read(lambda tx: find(tx, call.id()))
    last = await door.database.read(events.last_position)  # what is recorded from now on is sent anyway
    wanted = Selection(body.since, body.until, tuple(body.types or ()), body.status or ReplayStatus.ALL, last)
    count = await _count(door, call.id(), wanted)
    if body.dry_run:
        return answer(200, {"count": count})

    def work(tx: Tx) -> Response:
        endpoint = enabled_endpoint(tx, call.id())
        return answer(202, shown_replay(replays.start_replay(tx, endpoint, wanted, rate=body.rate, count=count)))

    return await door.write(call, work)


async def _count(door: Door, endpoint_id: str, wanted: Selection) -> int:
    """Part by part, so that no read is long."""
    total, after = 0, 0
    while True:
        here = after

        def work(tx: Tx, here: int = here) -> tuple[int, int | None]:
            return replays.count_selected(tx, present_endpoint(tx, endpoint_id), wanted, after=here)

        count, position = await door.database.read(work)
        total += count
        if position is None:
            return total
        after = position


async def list_replays(door: Door, call: Call[PageQuery]) -> Response:
    """Newest first."""
    query, before = call.given, read_cursor(call.given.cursor)
    found = await door.database.read(lambda tx: replays.list_replays(tx, limit=query.limit + 1, before=before))
    return answer(200, shown_page([shown_replay(replay) for replay in found], query.limit))


async def show_replay(door: Door, call: Call[NoQuery]) -> Response:
    """One replay and how far it is."""
    return answer(200, shown_replay(await door.database.read(lambda tx: _present(tx, call.id()))))


async def cancel_replay(door: Door, call: Call[NoBody]) -> Response:
    """Make nothing more due; what is on its way already is sent."""

    def work(tx: Tx) -> Response:
        replay = _present(tx, call.id())
        if not replays.cancel_replay(tx, replay.id):
            raise Conflict(f"this replay has ended already: {replay.state.value}")
        return answer(200, shown_replay(_present(tx, call.id())))

    return await door.write(call, work)


def _present(tx: Tx, replay_id: str) -> Replay:
    replay = replays.get_replay(tx, replay_id)
    if replay is None:
        raise NotFound(f"there is no replay {replay_id}, or it is no longer kept")
    return replay
