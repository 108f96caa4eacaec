"""Bulk operations: on everything that a filter selects, counted first, a bounded part with each request.

Each part is committed by itself, so a client that stops in between keeps the parts that were answered.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from bridge.api.context import Request, RequestContext, Response
from bridge.api.request_models import Body, EmptyIsAbsent, Name
from bridge.api.response_models import NextCursor, Shown, cursor_of, read_cursor
from bridge.api.selections import DeliverySelection, RunSelection
from bridge.domain.delivery import DeliveryState, Lane
from bridge.domain.errors import BridgeError
from bridge.domain.run import Run
from bridge.store import deliveries, endpoints, run_leases, run_lists, runs
from bridge.store.transaction import Tx

PART_MAX: Final = 500
CANCEL_MAX: Final = 20
"""A cancellation is a request to a provider, which may take long."""
COUNT_MAX: Final = 100_000


class BulkBody(Body):
    """Which ones: those with these `ids`, or all that the filter selects. With `dry_run` they are only counted."""

    ids: Annotated[list[Name], Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="Only these; a filter beside them narrows them further."
    )
    dry_run: bool = Field(default=False, description="Count what is selected, and do nothing.")
    cursor: Annotated[Annotated[str, Field(max_length=200)] | None, EmptyIsAbsent] = Field(
        default=None, description="The `next_cursor` of the answer before; continues with the next part."
    )

    @model_validator(mode="after")
    def _selects(self) -> Self:
        if not self.model_fields_set - {"dry_run", "cursor"}:
            raise ValueError("name ids or at least one filter; nothing is done to everything at once")
        return self


class DeliveriesBulkBody(DeliverySelection, BulkBody):
    """Which deliveries to send again."""


class RunsBulkBody(RunSelection, BulkBody):
    """Which runs; settled ones are left out."""


class BulkCount(Shown):
    """How many are selected."""

    count: int = Field(description="How many are selected, counted up to 100,000.")
    is_exact: bool = Field(description="False if there are more.")


class BulkError(Shown):
    """Why it was not done to one of them."""

    id: str = Field(description="The run.")
    message: str = Field(description="What went wrong, and what to do.")


class BulkAnswer(Shown):
    """The result of one part; `next_cursor` continues with the next one."""

    count: int = Field(description="To how many it was done.")
    skipped: int = Field(description="How many were selected but left alone.")
    errors: list[BulkError] = Field(description="Those for which it failed.")
    next_cursor: NextCursor = Field(description="Give it as `cursor` to continue; null after the last part.")


async def retry_deliveries(context: RequestContext, request: Request[DeliveriesBulkBody]) -> Response:
    """Send deliveries again, at most 500 with one request, newest first; with `dry_run` count them.

    Skipped are those that are being sent at this moment, and those whose endpoint is off or was removed.
    """
    body = request.data
    wanted = replace(body.wanted, ids=body.ids)
    if body.dry_run:
        return _counted(
            await context.database.read(lambda tx: deliveries.count_selected(tx, wanted, most=COUNT_MAX + 1))
        )
    before = read_cursor(body.cursor)

    def work(tx: Tx) -> Response:
        found = deliveries.list_deliveries(tx, wanted, limit=PART_MAX + 1, before=before)
        part = found[:PART_MAX]
        on = endpoints.enabled_ids(tx, {delivery.endpoint_id for delivery in part})
        able = [d.id for d in part if d.endpoint_id in on and d.state is not DeliveryState.DISCARDED]
        done = deliveries.retry_now(tx, able, lane=Lane.AGAIN) if able else 0
        return _done(done, len(part) - done, part[-1].id if len(found) > PART_MAX else None)

    return await context.write(request, work)


async def stop_runs(context: RequestContext, request: Request[RunsBulkBody]) -> Response:
    """Stop watching open runs, at most 500 with one request, without events; with `dry_run` count them."""
    body = request.data
    if body.dry_run:
        return await _count_open(context, body)
    wanted, before = _open(body), read_cursor(body.cursor)
    stopped: list[str] = []

    def work(tx: Tx) -> Response:
        found = run_lists.list_runs(tx, wanted, limit=PART_MAX + 1, before=before)
        part = [run.id for run in found[:PART_MAX]]
        own = endpoints.list_run_endpoints(tx, part)
        stopped[:] = [run_id for run_id in part if runs.delete_run(tx, run_id)]
        for endpoint in own:
            endpoints.remove_endpoint(tx, endpoint.id)
        return _done(len(stopped), len(part) - len(stopped), part[-1] if len(found) > PART_MAX else None)

    response = await context.write(request, work)
    for run_id in stopped:
        context.bridge.forget(run_id)
    return response


async def cancel_runs(context: RequestContext, request: Request[RunsBulkBody]) -> Response:
    """Ask the providers to cancel open runs, at most 20 with one request; with `dry_run` count them.

    Each is polled at once and settles when its provider says so.
    """
    body = request.data
    if body.dry_run:
        return await _count_open(context, body)
    wanted, before = _open(body), read_cursor(body.cursor)
    found = await context.database.read(lambda tx: run_lists.list_runs(tx, wanted, limit=CANCEL_MAX + 1, before=before))
    part = found[:CANCEL_MAX]
    results = await asyncio.gather(*(_cancel(context, run) for run in part))
    errors = [result for result in results if isinstance(result, BulkError)]
    asked = [result for result in results if isinstance(result, str)]

    def work(tx: Tx) -> Response:
        for run_id in asked:
            run_leases.request_poll(tx, run_id)
        return _done(len(asked), 0, part[-1].id if len(found) > CANCEL_MAX else None, errors)

    response = await context.write(request, work)
    for run_id in asked:
        await context.bridge.poll_now(run_id)
    return response


async def _cancel(context: RequestContext, run: Run) -> str | BulkError:
    try:
        await context.bridge.cancel(run)
    except BridgeError as error:
        return BulkError(id=run.id, message=str(error))
    return run.id


def _open(body: RunsBulkBody) -> run_lists.RunFilter:
    return replace(body.wanted, statuses=body.open_statuses, ids=body.ids)


async def _count_open(context: RequestContext, body: RunsBulkBody) -> Response:
    wanted = _open(body)
    return _counted(await context.database.read(lambda tx: run_lists.count_runs(tx, wanted, most=COUNT_MAX + 1)))


def _counted(count: int) -> Response:
    return Response.of(200, BulkCount(count=min(count, COUNT_MAX), is_exact=count <= COUNT_MAX))


def _done(count: int, skipped: int, last_id: str | None, errors: list[BulkError] | None = None) -> Response:
    next_cursor = None if last_id is None else cursor_of(last_id)
    return Response.of(202, BulkAnswer(count=count, skipped=skipped, errors=errors or [], next_cursor=next_cursor))
