"""Deliveries: what was sent where, with every attempt, and sending one again."""

from __future__ import annotations

from bridge.api.context import Call, Door, Response, answer
from bridge.api.endpoints import enabled_endpoint
from bridge.api.request_models import DeliveriesQuery, NoBody, NoQuery
from bridge.api.serializers import read_cursor, shown_delivery, shown_page
from bridge.domain.delivery import Delivery, DeliveryState, Lane
from bridge.domain.errors import Conflict, NotFound
from bridge.domain.run import Json
from bridge.store import attempts, deliveries
from bridge.store.transaction import Tx


async def list_deliveries(door: Door, call: Call[DeliveriesQuery]) -> Response:
    """Newest first, each with its attempts; the receivers' answers are shown with a single delivery."""
    query, before = call.given, read_cursor(call.given.cursor)
    wanted = deliveries.DeliveryFilter(query.endpoint, query.event, query.run, query.state)

    def work(tx: Tx) -> list[dict[str, Json]]:
        found = deliveries.list_deliveries(tx, wanted, limit=query.limit + 1, before=before)
        made = attempts.list_attempts(tx, [delivery.id for delivery in found])
        return [shown_delivery(delivery, made.get(delivery.id, []), with_responses=False) for delivery in found]

    return answer(200, shown_page(await door.database.read(work), query.limit))


async def show_delivery(door: Door, call: Call[NoQuery]) -> Response:
    """One delivery with every attempt and what the receiver answered."""
    return answer(200, await door.database.read(lambda tx: _shown(tx, call.id())))


async def retry_delivery(door: Door, call: Call[NoBody]) -> Response:
    """Send it again now, whatever became of it: same id, same bytes."""

    def work(tx: Tx) -> Response:
        delivery = _present(tx, call.id())
        if delivery.state is DeliveryState.DISCARDED:
            raise Conflict("its endpoint was removed; there is nowhere to send it to")
        enabled_endpoint(tx, delivery.endpoint_id)
        if not deliveries.retry_now(tx, [delivery.id], lane=Lane.AT_ONCE):
            raise Conflict("it is being sent at this moment; look again in some seconds")
        return answer(202, _shown(tx, delivery.id))

    return await door.write(call, work)


def _present(tx: Tx, delivery_id: str) -> Delivery:
    delivery = deliveries.get_delivery(tx, delivery_id)
    if delivery is None:
        raise NotFound(f"there is no delivery {delivery_id}")
    return delivery


def _shown(tx: Tx, delivery_id: str) -> dict[str, Json]:
    delivery = _present(tx, delivery_id)
    made = attempts.list_attempts(tx, [delivery_id]).get(delivery_id, [])
    return shown_delivery(delivery, made, with_responses=True)
