"""Replays: start one for an endpoint, list, show progress, cancel."""

from __future__ import annotations

from bridge.api.context import Request, RequestContext, Response, present
from bridge.api.endpoints import enabled_endpoint, present_endpoint
from bridge.api.request_models import EndpointReplayBody, NoBody, NoQuery
from bridge.api.response_models import page_of, read_cursor
from bridge.api.selections import ReplaysQuery
from bridge.api.subscriber_response_models import ReplayAnswer, ReplayCount, ReplayList
from bridge.domain.errors import Conflict, InvalidInput, Problem
from bridge.domain.replay import Replay, ReplayStatus, Selection
from bridge.store import events, replays
from bridge.store.transaction import Tx


async def replay_to_endpoint(context: RequestContext, request: Request[EndpointReplayBody]) -> Response:
    """Send a selection of events to this endpoint again, same ids and bytes; with `dry_run` only count them.

    The answer comes before the events are on their way: GET /v1/replays/{id} tells how far it is.
    """
    body = request.data
    if body.until is not None and body.until <= body.since:
        raise InvalidInput([Problem("until", "must be later than since")])
    find = present_endpoint if body.dry_run else enabled_endpoint
    await context.database.read(lambda tx: find(tx, request.id()))
    last = await context.database.read(events.last_position)  # what is recorded from now on is sent anyway
    wanted = Selection(body.since, body.until, tuple(body.types or ()), body.status or ReplayStatus.ALL, last)
    count = await _count(context, request.id(), wanted)
    if body.dry_run:
        return Response.of(200, ReplayCount(count=count))

    def work(tx: Tx) -> Response:
        endpoint = enabled_endpoint(tx, request.id())
        return Response.of(202, _shown(replays.start_replay(tx, endpoint, wanted, rate=body.rate, count=count)))

    return await context.write(request, work)


async def _count(context: RequestContext, endpoint_id: str, wanted: Selection) -> int:
    """The number of selected events, counted in parts so that no read is long."""
    total, after = 0, 0
    while True:
        here = after

        def work(tx: Tx, here: int = here) -> tuple[int, int | None]:
            return replays.count_selected(tx, present_endpoint(tx, endpoint_id), wanted, after=here)

        count, position = await context.database.read(work)
        total += count
        if position is None:
            return total
        after = position


async def list_replays(context: RequestContext, request: Request[ReplaysQuery]) -> Response:
    """List replays, newest first."""
    query, before = request.data, read_cursor(request.data.cursor)
    found = await context.database.read(
        lambda tx: replays.list_replays(
            tx, limit=query.limit + 1, before=before, endpoint_id=query.endpoint, state=query.state
        )
    )
    return Response.of(200, page_of(ReplayList, [_shown(replay) for replay in found], query.limit))


async def show_replay(context: RequestContext, request: Request[NoQuery]) -> Response:
    """Show a replay and how far it is."""
    return Response.of(200, _shown(await context.database.read(lambda tx: _present(tx, request.id()))))


async def cancel_replay(context: RequestContext, request: Request[NoBody]) -> Response:
    """Cancel a replay; what is on its way already is sent."""

    def work(tx: Tx) -> Response:
        replay = _present(tx, request.id())
        if not replays.cancel_replay(tx, replay.id):
            raise Conflict(f"this replay has ended already: {replay.state.value}")
        return Response.of(200, _shown(_present(tx, request.id())))

    return await context.write(request, work)


def _shown(replay: Replay) -> ReplayAnswer:
    return ReplayAnswer.model_validate(replay)


def _present(tx: Tx, replay_id: str) -> Replay:
    return present(replays.get_replay(tx, replay_id), f"replay {replay_id}, or it is no longer kept")
