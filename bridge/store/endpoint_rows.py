"""The rows of `endpoints`: an endpoint read from one, and the columns that a person sets."""

from __future__ import annotations

from typing import Any

from bridge.domain.auto_disable import FailureStreak
from bridge.domain.encryption import Unreadable
from bridge.domain.endpoint import Endpoint, EndpointSettings, EndpointSource
from bridge.domain.endpoint_backoff import EndpointBackoff
from bridge.domain.event import EventType
from bridge.store.encryption import decrypt_headers, encrypt_headers
from bridge.store.transaction import Tx


def endpoint_of(tx: Tx, row: Any) -> Endpoint:
    """The endpoint in a row of `endpoints`; headers that cannot be decrypted are its `fault`."""
    headers, fault = _decrypt_headers(tx, row.id, row.headers)
    settings: dict[str, Any] = {name: getattr(row, name) for name in EndpointSettings.model_fields}
    settings["events"] = None if row.events is None else tuple(EventType(name) for name in row.events)
    return Endpoint.model_construct(  # unchecked: what is stored stays readable when the rules get stricter
        id=row.id,
        source=EndpointSource(row.source),
        **{**settings, "headers": headers, "signature": tuple(row.signature)},
        fault=fault,
        run_id=row.run_id,
        enabled=row.enabled,
        disabled_reason=row.disabled_reason,
        created_at=row.created_at,
        failing_since=row.failing_since,
        paused_until=max((at for at in (row.paused_until, row.probe_at) if at is not None), default=None),
    )


def _decrypt_headers(tx: Tx, endpoint_id: str, stored: dict[str, str] | str) -> tuple[dict[str, str], str | None]:
    try:
        return decrypt_headers(tx, endpoint_id, stored), None
    except Unreadable as error:
        return {}, f"its custom headers cannot be read: {error}; set them again"


def values_of(tx: Tx, endpoint: Endpoint) -> dict[str, Any]:
    """The columns that a person sets; headers that could not be read stay as they are."""
    values = endpoint.model_dump(mode="json", include=set(EndpointSettings.model_fields))
    headers = values.pop("headers")
    return values if endpoint.fault else {**values, "headers": encrypt_headers(tx, endpoint.id, headers)}


def backoff_of(row: Any) -> EndpointBackoff:
    """The back-off in a row of `endpoints`."""
    return EndpointBackoff(row.failures, row.slowdowns, row.paused_until, row.probe_at)


def health_values(backoff: EndpointBackoff, failing: FailureStreak | None) -> dict[str, Any]:
    """The columns that hold the health of an endpoint."""
    return {
        "failures": backoff.failures,
        "slowdowns": backoff.slowdowns,
        "paused_until": backoff.paused_until,
        "probe_at": backoff.probe_at,
        "failing_since": failing and failing.since,
        "failing_attempts": failing.attempts if failing else 0,
        "warned_at": failing and failing.warned_at,
    }
