"""What the API asks of the running daemon. The daemon implements it; tests do so in their own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from bridge.domain.connection import Connection
from bridge.domain.run import Json, Run


@dataclass(frozen=True, slots=True)
class LivePoll:
    """What the node that watches a run knows better than the database. `reason`: why the next poll is then."""

    polls: int
    last_polled_at: datetime | None
    next_poll_at: datetime | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one real authenticated call brought; `detail` is a sentence without secrets."""

    ok: bool
    detail: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class LimiterReading:
    """The limit in force at a connection's gate, requests per second, and how contested it was lately (`Gate`)."""

    requests_per_second: float
    shadow_price_s: float
    over_capacity: float


class Bridge(Protocol):
    """The daemon, as far as the API needs it."""

    @property
    def connections(self) -> Mapping[str, Connection]:
        """The configured connections by name, as they are now (a reload may swap them)."""
        ...

    def check_run_id(self, connection: str, provider_run_id: str) -> str | None:
        """A sentence if this can never be a run's id at that connection's provider, else None."""
        ...

    def check_target(self, url: str) -> str:
        """The URL as it will be dialled; InvalidInput (field `url`) where the address policy refuses it."""
        ...

    def live(self, run: Run) -> LivePoll | None:
        """The polls of a run whose connection this node watches; None if it does not."""
        ...

    async def poll_now(self, run_id: str) -> None:
        """A run was made due at once in the database; also look at it if it is held in memory."""
        ...

    def forget(self, run_id: str) -> None:
        """A run is no longer watched; drop it from memory."""
        ...

    async def trigger(
        self, connection: str, workflow_id: str, inputs: Json, extra: dict[str, Json]
    ) -> tuple[str, str | None]:
        """Start a run at the provider; its id there and the provider's further reference, if any.

        Unsupported, ProviderRefused or ProviderFailed (no answer that could be used: 502).
        """
        ...

    async def cancel(self, run: Run) -> None:
        """Ask the provider to cancel; Unsupported, ProviderRefused or ProviderFailed."""
        ...

    async def check_connection(self, name: str) -> CheckResult:
        """One real authenticated call; never raises for what the provider does."""
        ...

    def connection_state(self, name: str) -> dict[str, Json]:
        """Limits in force, requests in flight, paused until, learned cadence: whatever there is to show."""
        ...

    def distribution(self, name: str, workflow_id: str) -> Json:
        """The learned running time of a workflow ("": of the runs without one) with the polls planned on it."""
        ...

    def limiter_reading(self, name: str) -> LimiterReading:
        """How contested a connection is at this moment; costs nothing."""
        ...

    def busiest_workflows(self, name: str, most: int) -> list[dict[str, Json]]:
        """What was learned of at most so many workflows of a connection: those of which most runs ended here."""
        ...

    async def wait_settled(self, run_id: str, timeout_s: float) -> None:
        """Return when this run was announced as settled or after `timeout_s`; a hint, the database decides."""
        ...

    async def feed_grown(self, timeout_s: float) -> None:
        """Return when events were recorded or after `timeout_s`; a hint, the database decides."""
        ...

    def readiness(self) -> dict[str, bool]:
        """Named checks; ready when all are true."""
        ...
