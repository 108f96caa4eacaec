"""A delivery that a node leases, with everything its POST needs, and a node's offer to lease new ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from bridge.domain.delivery import Delivery
from bridge.domain.endpoint import JSON, Endpoint
from bridge.domain.frozen import frozen
from bridge.domain.secret import Secret
from bridge.domain.trace_context import trace_headers


@dataclass(frozen=True, slots=True)
class LiveSecret:
    """A secret that signs now; `expires_at` is set for one that was rotated out.

    `kind` is the scheme it signs with: v1 (a shared `whsec_` secret) or v1a (our `whsk_` key).
    """

    id: str
    kind: str
    secret: Secret
    created_at: datetime
    expires_at: datetime | None


@frozen
class LeasedDelivery:
    """A delivery that this node leases, with everything its POST needs."""

    delivery: Delivery
    endpoint: Endpoint
    body: bytes
    secrets: tuple[LiveSecret, ...]
    fault: str | None = None
    """Why it cannot be signed or sent as it is stored."""
    content_type: str = JSON
    trace_context: str | None = None
    """That of its run, where the endpoint asks for it or traces are sent."""

    @property
    def headers(self) -> dict[str, str]:
        """Its content type, and the trace context if the endpoint asks for it."""
        headers = {"content-type": self.content_type}
        if self.trace_context is not None and self.endpoint.trace_context:
            headers |= trace_headers(self.trace_context)
        return headers


@frozen
class DeliveryOffer:
    """A node that sends new deliveries at once, and for how many of an endpoint it has room.

    `room` is called where the deliveries are recorded, on any thread. While it `is_behind`, known events wait for their
    POST although their receivers are quick: what is younger must not crowd them out of the loop.
    """

    node: str
    room: Callable[[Endpoint], int]
    is_behind: Callable[[], bool] = lambda: False
