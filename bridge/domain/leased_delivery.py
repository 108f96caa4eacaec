"""A delivery that a node leases, with everything its POST needs, and a node's offer to lease new ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from bridge.domain.delivery import Delivery
from bridge.domain.endpoint import JSON, Endpoint
from bridge.domain.frozen import frozen
from bridge.domain.secret import Secret
from bridge.domain.signing.ed25519_v1a import signing_key, with_v1a
from bridge.domain.signing.hmac_v1 import secret_key, signature_headers
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

    def headers(self, file_secret: Secret | None, timestamp: int) -> dict[str, str]:
        """Our headers of one attempt: the signatures of every live secret over the bytes, and the content type.

        With the trace context if the endpoint asks for it. `file_secret` is that of an endpoint from the operator's file;
        `timestamp` is in Unix seconds. Raises ValueError with the reason if nothing can sign.
        """
        if self.fault is not None:
            raise ValueError(self.fault)
        shared = [file_secret] if file_secret is not None else [s.secret for s in self.secrets if s.kind == "v1"]
        if not shared:
            raise ValueError("it has no signing secret; rotate it to get one")
        keys = [secret_key(secret.reveal()) for secret in shared]
        headers = signature_headers(keys, self.delivery.event_id, timestamp, self.body)
        own = [signing_key(s.secret.reveal()) for s in self.secrets if s.kind == "v1a"]
        if own:
            headers = with_v1a(headers, own, self.body)
        if self.trace_context is not None and self.endpoint.trace_context:
            headers |= trace_headers(self.trace_context)
        return {**headers, "content-type": self.content_type}


@frozen
class DeliveryOffer:
    """A node that sends new deliveries at once, and for how many of an endpoint it has room.

    `room` is called where the deliveries are recorded, on any thread. While it `is_behind`, known events wait for their
    POST although their receivers are quick: what is younger must not crowd them out of the loop.
    """

    node: str
    room: Callable[[Endpoint], int]
    is_behind: Callable[[], bool] = lambda: False
