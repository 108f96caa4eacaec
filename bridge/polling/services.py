"""The services of a node that each of its pollers uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge.cluster.lease_guard import LeaseGuard
from bridge.domain.clock import Clock
from bridge.domain.leased_delivery import DeliveryOffer
from bridge.runtime.metrics import Metrics
from bridge.store.database import Database

if TYPE_CHECKING:
    from bridge.runtime.tracing import Tracing


@dataclass(frozen=True, slots=True)
class PollingServices:
    """The parts of a node that its pollers share."""

    database: Database
    clock: Clock
    metrics: Metrics
    lease_guard: LeaseGuard
    offer_of: Callable[[], DeliveryOffer | None] = lambda: None
    """Returns the deliverer's offer to take new deliveries at once; None without one."""
    tracing: Tracing | None = None
