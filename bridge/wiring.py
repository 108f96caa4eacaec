"""The configuration as plain values for each room: only the composition root knows the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

from aiohttp import web

from bridge.config.load import Config
from bridge.config.values import header_list
from bridge.delivery.deliverer import DeliverySettings
from bridge.domain.addresses.policy import AddressPolicy, AllowRule, Trust
from bridge.domain.addresses.tables import Address
from bridge.maintenance.backups import BackupPlan
from bridge.maintenance.retention import Retention

if TYPE_CHECKING:
    from bridge.runtime.metrics import Metrics
    from bridge.runtime.tracing import Tracing


def allowed_hosts(config: Config) -> frozenset[str]:
    """Host names that the API accepts: this machine's own, the listen address, and those that the operator adds."""
    host = config.server.listen.host
    listening = {f"[{host}]" if ":" in host else host.lower()} if host else set()
    return frozenset({"127.0.0.1", "localhost", "[::1]", *listening, *config.server.allowed_hosts})


def delivery_settings(config: Config, open_files_max: int) -> DeliverySettings:
    """The deliverer's settings; each POST is an open file."""
    delivery = config.delivery
    in_flight = min(delivery.max_in_flight, max(1, open_files_max // 8))
    return DeliverySettings(delivery.schedule, in_flight, delivery.max_in_flight_per_endpoint)


def backup_plan(config: Config) -> BackupPlan:
    """When and where copies of the database are made."""
    backup = config.backup
    return BackupPlan(backup.schedule.cron if backup.schedule else None, backup.folder, backup.keep_count)


def retention_of(config: Config) -> Retention:
    """The retention settings."""
    return Retention(config.retention.keep_s, config.retention.size_bytes)


def policies(config: Config, own: tuple[tuple[Address, int], ...]) -> dict[Trust, AddressPolicy]:
    """The address policy by trust; `own` are the addresses that the API listens on."""
    allow = tuple(AllowRule.parse(line) for line in config.delivery.allow)
    return {trust: AddressPolicy(trust, allow, config.delivery.allow_http, own) for trust in Trust}


def lost_definitions(present: Config, new: Config) -> dict[str, str]:
    """The definitions that `new` lacks, by the present connections that use them."""
    return {
        name: connection.definition.name
        for name, connection in present.connections.items()
        if connection.definition is not None and connection.definition.name not in new.definitions
    }


def still_used(lost: Mapping[str, str], active: Mapping[tuple[str, str], int]) -> list[str]:
    """A problem for each lost definition with which runs are watched; `active` counts runs by connection and status."""
    watched = Counter[str]()
    for (connection, _), count in active.items():
        watched[lost.get(connection, "")] += count
    return [
        f"providers.{name}: {watched[name]} runs are watched with this definition; keep it until they are over"
        for name in sorted(set(lost.values()))
        if watched[name]
    ]


def own_addresses(runner: web.AppRunner) -> tuple[tuple[Address, int], ...]:
    """The addresses and ports that the API listens on; none for a Unix socket."""
    return tuple((ip_address(a[0]), a[1]) for a in runner.addresses if isinstance(a, tuple))


def open_tracing(config: Config, metrics: Metrics) -> Tracing | None:
    """Only a daemon that sends spans loads what makes them."""
    if config.otel is None:
        return None
    from bridge.runtime.tracing import Tracing

    headers = header_list(config.otel.headers) if config.otel.headers else None
    return Tracing(metrics, endpoint=config.otel.endpoint, headers=headers, service_name=config.otel.service_name)
