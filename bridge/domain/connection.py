"""A connection: named credentials and a base URL at a provider, with its limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from bridge.domain.definition import Definition
from bridge.domain.finding import RESULTS
from bridge.domain.run import NO_OVERRIDES, CadenceOverrides
from bridge.domain.secret import Secret


@dataclass(frozen=True, slots=True)
class CadenceSettings:
    """How often to poll, all in seconds.

    `price_s`: seconds of delay that one request is worth; `target_delay` ("2s" or "5%") instead of it.
    `min_interval_s` lies between any two polls of one run; `max_interval_s` applies to every status.
    `deadline_s`: a run that has not settled by then becomes `expired`; waiting time is not counted.
    """

    price_s: float = 0.5
    target_delay: str | None = None
    min_interval_s: float = 0.25
    max_interval_s: float = 300.0
    deadline_s: float = 30 * 86400.0

    def overridden_by(self, own: CadenceOverrides) -> CadenceSettings:
        """These settings overridden by `own`; setting one of price and target delay unsets the other."""
        if own is NO_OVERRIDES or own == NO_OVERRIDES:
            return self
        price, target = self.price_s, self.target_delay
        if own.target_delay is not None:
            target = own.target_delay
        elif own.price_s is not None:
            price, target = own.price_s, None
        return CadenceSettings(
            price_s=price,
            target_delay=target,
            min_interval_s=self.min_interval_s if own.min_interval_s is None else own.min_interval_s,
            max_interval_s=self.max_interval_s if own.max_interval_s is None else own.max_interval_s,
            deadline_s=self.deadline_s,
        )


@dataclass(frozen=True, slots=True)
class Connection:
    """The credentials, limits and settings of one account at one provider.

    `requests_per_second` and `max_in_flight`: None means that they are learned from 429s and latency.
    `options` are the provider's own settings (`ib_context`, `auth_scheme` …), already validated.
    `headers` go with every request, beside the provider's own. `ca_file`: certificates to trust besides the system's.
    `proxy`: the URL of the HTTP proxy to use; the environment's proxy variables are ignored.
    `definition`: that of its provider, None for one that is code; the variables it asks for are in `options`.
    `discover`: watch the runs that its list shows without registration, all or those of `discover_workflows`.
    """

    name: str
    provider: str
    base_url: str
    api_key: Secret
    requests_per_second: float | None = None
    max_in_flight: int | None = None
    fetch_output: bool = True
    output_wait_s: float = 60.0
    timeout_s: float = 30.0
    cadence: CadenceSettings = field(default_factory=CadenceSettings)
    options: dict[str, str] = field(default_factory=dict)
    discover: bool = False
    discover_workflows: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    ca_file: str | None = None
    proxy: str | None = field(default=None, repr=False)
    definition: Definition | None = None


class ConnectionHealth(StrEnum):
    """Whether a provider account answers."""

    UNKNOWN = "unknown"
    OK = "ok"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """Whether a check that a person asked for proved the key; `detail` is a sentence without secrets.

    `is_good` is None if the provider answered but refused no wrong key, or cannot be asked: it may need no key.
    """

    is_good: bool | None
    detail: str
    at: datetime
    duration_ms: int

    @property
    def ok(self) -> bool:
        """Whether the key is proven."""
        return self.is_good is True

    @property
    def result(self) -> str:
        """`ok`, `remark` or `wrong`, as `doctor` says it."""
        return RESULTS[self.is_good]
