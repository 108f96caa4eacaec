"""Deliveries: list, show with every attempt, retry."""

from __future__ import annotations

from bridge.api.context import Request, RequestContext, Response, present
from bridge.api.endpoints import enabled_endpoint
from bridge.api.request_models import NoBody, NoQuery
from bridge.api.response_models import page_of, read_cursor
from bridge.api.selections import DeliveriesQuery
from bridge.api.subscriber_response_models import DeliveryAnswer, DeliveryList
from bridge.domain.delivery import DeliveryState, Lane
from bridge.domain.errors import Conflict
from bridge.store import attempts, deliveries, endpoints, runs
from bridge.store.transaction import Tx


async def list_deliveries(context: RequestContext, request: Request[DeliveriesQuery]) -> Response:
    """List deliveries, newest first, with their attempts; receivers' answers are shown with a single delivery."""
    query, before = request.data, read_cursor(request.data.cursor)
    wanted = query.wanted

    def work(tx: Tx) -> list[DeliveryAnswer]:
        found = deliveries.list_deliveries(tx, wanted, limit=query.limit + 1, before=before)
        made = attempts.list_attempts(tx, [delivery.id for delivery in found])
        return [DeliveryAnswer.of(delivery, made.get(delivery.id, []), with_responses=False) for delivery in found]

    return Response.of(200, page_of(DeliveryList, await context.database.read(work), query.limit))


async def show_delivery(context: RequestContext, request: Request[NoQuery]) -> Response:
    """Show a delivery with every attempt and what the receiver answered."""
    return Response.of(200, await context.database.read(lambda tx: _shown(tx, request.id())))


async def retry_delivery(context: RequestContext, request: Request[NoBody]) -> Response:
    """Send a delivery again now, whatever its state: same id, same bytes."""

    def work(tx: Tx) -> Response:
        delivery = present(deliveries.get_delivery(tx, request.id()), f"delivery {request.id()}")
        if delivery.state is DeliveryState.DISCARDED:
            raise Conflict("its endpoint was removed; there is nowhere to send it to")
        enabled_endpoint(tx, delivery.endpoint_id)
        if not deliveries.retry_now(tx, [delivery.id], lane=Lane.AT_ONCE):
            raise Conflict("it is being sent at this moment; try again in a few seconds")
        return Response.of(202, _shown(tx, delivery.id))

    return await context.write(request, work)


def _shown(tx: Tx, delivery_id: str) -> DeliveryAnswer:
    delivery = present(deliveries.get_delivery(tx, delivery_id), f"delivery {delivery_id}")
    made = attempts.list_attempts(tx, [delivery_id]).get(delivery_id, [])
    endpoint = endpoints.get_endpoint(tx, delivery.endpoint_id)
    run = runs.get_run(tx, delivery.run_id) if endpoint and endpoint.trace_context and delivery.run_id else None
    return DeliveryAnswer.of(delivery, made, endpoint, with_responses=True, trace=run.trace_context if run else None)
