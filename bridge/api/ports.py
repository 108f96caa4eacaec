"""The interface between the API and the running daemon. `DaemonControl` implements it, and so do tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from bridge.domain.alert import ChannelTest
from bridge.domain.connection import Connection, KeyCheck
from bridge.domain.endpoint import Endpoint
from bridge.domain.failure import LastError
from bridge.domain.finding import EffectiveSetting, Finding
from bridge.domain.run import Json, Run
from bridge.store.runs import LeaseOffer


@dataclass(frozen=True, slots=True)
class LivePoll:
    """Poll times of a run that this node watches; fresher than the database. `reason` explains `next_poll_at`."""

    polls: int
    last_polled_at: datetime | None
    next_poll_at: datetime | None
    reason: str | None = None
    last_error: LastError | None = None


@dataclass(frozen=True, slots=True)
class LimiterReading:
    """The request rate that a connection's limiter allows, and how contested it was lately (`FairRateLimiter`)."""

    requests_per_second: float
    shadow_price_s: float
    over_capacity: float


class Bridge(Protocol):
    """The daemon, as far as the API needs it."""

    @property
    def connections(self) -> Mapping[str, Connection]:
        """The configured connections by name; a reload may replace them."""
        ...

    def check_run_id(self, connection: str, provider_run_id: str) -> str | None:
        """Why this can never be a run's id at that connection's provider; None if it can."""
        ...

    def check_target(self, url: str) -> str:
        """The URL as it will be dialled. Raises InvalidInput (field `url`) if the address policy refuses it."""
        ...

    def live(self, run: Run) -> LivePoll | None:
        """The polls of a run whose connection this node watches; None if it does not."""
        ...

    def recent_polls(self, run: Run) -> list[datetime]:
        """When a run that this node holds was polled lately, oldest first; empty for any other."""
        ...

    def lease_offer(self, connection: str) -> LeaseOffer | None:
        """The offer of this node to poll new runs at once; None if they wait to be due."""
        ...

    def has_work_under_way(self) -> bool:
        """Whether this node is polling a run or delivering an event at this moment."""
        ...

    async def poll_now(self, run_id: str) -> None:
        """Poll a run now if it is held in memory; the database has it due already."""
        ...

    def forget(self, run_id: str) -> None:
        """Drop a run from memory: it is no longer watched."""
        ...

    async def trigger(
        self, connection: str, workflow_id: str, inputs: Json, extra: dict[str, Json]
    ) -> tuple[str, str | None]:
        """Start a run at the provider. Returns its id there and the provider's further reference, if any.

        Raises Unsupported, ProviderRefused or ProviderFailed (no usable answer).
        """
        ...

    async def cancel(self, run: Run) -> None:
        """Ask the provider to cancel. Raises Unsupported, ProviderRefused or ProviderFailed."""
        ...

    async def check_connection(self, name: str) -> KeyCheck:
        """Make one real authenticated call, and one with a wrong key; never raises for what the provider does."""
        ...

    def last_check(self, name: str) -> KeyCheck | None:
        """The outcome of the last `check_connection` since the start."""
        ...

    def last_list_at(self, name: str) -> datetime | None:
        """When the list of a connection's runs was last read here; None if it was not since the start."""
        ...

    def last_error(self, name: str) -> LastError | None:
        """The failed polls of a connection since the last one that could be read."""
        ...

    def remarks(self, name: str) -> list[dict[str, object]]:
        """The parts of answers that a connection's definition could not read: `message`, `at` and `count`, the newest first."""
        ...

    def connection_state(self, name: str) -> dict[str, Json]:
        """Current limits, requests in flight, pause and learned cadence, for display."""
        ...

    def distribution(self, name: str, workflow_id: str) -> Json:
        """The learned running time of a workflow ("" for runs without one) and the polls planned from it."""
        ...

    def limiter_reading(self, name: str) -> LimiterReading:
        """The load of a connection now; cheap."""
        ...

    def busiest_workflows(self, name: str, most: int) -> list[dict[str, Json]]:
        """Learned values of at most `most` workflows of a connection: those with most runs ended here."""
        ...

    async def wait_settled(self, run_id: str, timeout_s: float) -> None:
        """Return when this run is announced as settled, or after `timeout_s`. A hint: the database decides."""
        ...

    async def feed_grown(self, timeout_s: float) -> None:
        """Return when events are recorded, or after `timeout_s`. A hint: the database decides."""
        ...

    def filter_errors(self, endpoint: Endpoint) -> int:
        """The number of times that the endpoint's present filter failed on an event at this node since it started."""
        ...

    def expect_endpoints(self, ids: Iterable[str]) -> None:
        """Show their series from zero on, so that a first failure is an increase."""
        ...

    @property
    def settings(self) -> Sequence[EffectiveSetting]:
        """Every setting in effect; a reload replaces them."""
        ...

    def findings(self) -> list[Finding]:
        """The findings of `doctor` about this machine: configuration, SQLite, disk, files, backups, readiness. Reads files."""
        ...

    async def send_test_alerts(self, names: Sequence[str] | None) -> list[ChannelTest]:
        """Send a test message by these channels of `[alerts]`, or by all. Raises InvalidInput for an unknown name."""
        ...

    def readiness(self) -> dict[str, bool]:
        """Named checks; ready when all are true."""
        ...
