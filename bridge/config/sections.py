"""The sections of the configuration file: one field per setting, with its unit, bounds and default.

A setting's key in the file is its alias where it has one (`timeout`), its attribute carries the unit
(`timeout_s`). Tables that become domain values (`ConnectionTable`, `EndpointTable`, `CadenceTable`)
never leave this room; the others are passed on as they are, frozen.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from bridge.config import values
from bridge.config.connection_sections import CadenceTable, ConnectionTable
from bridge.config.values import CalendarSchedule, HeaderSecret, ListenAddress, Table, choice
from bridge.domain import alert, endpoint
from bridge.domain.api_token import Scope
from bridge.domain.delivery import RetrySchedule
from bridge.domain.encryption import EncryptionKey, parse_keys
from bridge.domain.fields import Duration, Lax, Printable, SigningSecret, between
from bridge.domain.secret import Secret

OTEL_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "json", "console")


class ServerSettings(Table):
    """[server]: the HTTP API. `body_bytes_max` limits a request's body."""

    secrets: ClassVar[tuple[str, ...]] = ("api_token",)

    listen: Annotated[ListenAddress, BeforeValidator(values.read_listen)] = ListenAddress("127.0.0.1", 8484)
    api_token: HeaderSecret
    allowed_hosts: Annotated[tuple[Annotated[str, BeforeValidator(values.read_host_name)], ...], Lax] = ()
    body_bytes_max: int = Field(4 * 1024 * 1024, ge=1024, le=1024**3)


class TokenTable(Table):
    """[server.tokens.NAME]: a further token of the API, and what it may do."""

    secrets: ClassVar[tuple[str, ...]] = ("token",)

    token: HeaderSecret
    scope: Annotated[str, choice(*Scope)]


class DatabaseSettings(Table):
    """[database]: the URL, which may hold a password; `shown` does not.

    `lease_s`: on PostgreSQL, how long a silent node keeps its claims.
    """

    secrets: ClassVar[tuple[str, ...]] = ("url",)

    url: Annotated[str, BeforeValidator(values.check_database_url)] = Field(repr=False)
    lease_s: Annotated[Duration, between("5s", "10m")] = Field(20.0, alias="lease")

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return values.mask_password(self.url)


class EndpointTable(endpoint.EndpointSettings, Table):
    """[endpoints.NAME]: a subscriber. Without `events` it gets every type except `run.progressed`."""

    secrets: ClassVar[tuple[str, ...]] = ("secret",)

    url: Annotated[str, AfterValidator(values.check_url)]
    secret: SigningSecret

    @field_validator("payload", "format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("description", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return value or None


class DeliverySettings(Table):
    """[delivery]: how webhooks are posted. `allow` lists private networks for endpoints made over the API."""

    allow: Annotated[tuple[Annotated[str, AfterValidator(values.check_allow)], ...], Lax] = ()
    timeout_s: Annotated[Duration, between("1s", "60s")] = Field(15.0, alias="timeout")
    retry_schedule: Annotated[tuple[Duration, ...], Field(strict=False, max_length=100)] = RetrySchedule().delays_s
    allow_http: bool = False
    max_in_flight: int = Field(64, ge=1)
    max_in_flight_per_endpoint: int = Field(8, ge=1)

    @property
    def schedule(self) -> RetrySchedule:
        """The retry schedule; each delay is spread by ±20 %."""
        return RetrySchedule(self.retry_schedule)


class SecretsSettings(Table):
    """[secrets]: the keys that encrypt secrets in the database. Without `key`: `secrets.key` beside a SQLite file."""

    secrets: ClassVar[tuple[str, ...]] = ("key", "old_keys")

    key: Annotated[Secret, AfterValidator(values.check_vault_keys)] | None = None
    old_keys: Annotated[Secret, AfterValidator(values.check_vault_keys)] | None = None

    @field_validator("old_keys")
    @classmethod
    def _not_alone(cls, value: Secret | None, info: ValidationInfo) -> Secret | None:
        if value is not None and info.data.get("key", value) is None:
            raise ValueError("old keys only decrypt; set key as well, which encrypts from now on")
        return value

    @property
    def vault_keys(self) -> list[EncryptionKey]:
        """The keys, the encrypting one first; empty if none is set."""
        return [key for text in (self.key, self.old_keys) if text for key in parse_keys(text.reveal())]


class RetentionSettings(Table):
    """[retention]: settled runs are removed when older than `keep`, or when the database is larger than `size`."""

    keep_s: Annotated[Duration, between("1s", "3650d")] = Field(30 * 86400.0, alias="keep")
    size_bytes: Annotated[int, BeforeValidator(values.read_size)] = Field(10**9, alias="size")


class BackupSettings(Table):
    """[backup]: copies of the SQLite database by the calendar (UTC); none without `schedule`.

    `folder`: absolute, or relative to the database's own; of the copies in it the newest `keep` stay.
    """

    schedule: Annotated[CalendarSchedule, BeforeValidator(values.read_schedule)] | None = None
    keep_count: int = Field(7, ge=1, le=10_000, alias="keep")
    folder: Annotated[str, Printable, AfterValidator(values.check_folder)] = "backups"

    @field_validator("keep_count", "folder")
    @classmethod
    def _scheduled(cls, value: int | str, info: ValidationInfo) -> int | str:
        if "schedule" in info.data and info.data["schedule"] is None:
            raise ValueError('has no effect without a schedule; set schedule = "03:15" as well, or leave it out')
        return value


class AlertTable(alert.AlertChannel, Table):
    """[alerts.NAME]: a channel for alerts to people."""

    secrets: ClassVar[tuple[str, ...]] = ("url", "password", "token")


class DashboardSettings(Table):
    """[dashboard]: the page at `/`. With `read_only` its sessions change nothing, whatever token opened them."""

    enabled: bool = True
    read_only: bool = False


class ProvidersSettings(Table):
    """[providers]: the folder with definitions, absolute or relative to that of the configuration file."""

    folder: Annotated[str, Printable, Field(min_length=1)] = "providers"


class OtelSettings(Table):
    """[otel]: the collector of spans, if any. The standard OTEL_… variables supply what is not set."""

    secrets: ClassVar[tuple[str, ...]] = ("headers",)

    endpoint: Annotated[str, AfterValidator(values.check_base_url)] | None = None
    headers: Annotated[Secret, AfterValidator(values.check_header_list)] | None = None
    service_name: Annotated[str, Printable, Field(min_length=1, max_length=255)] | None = None

    def sends(self, env: Mapping[str, str]) -> bool:
        """Whether spans are sent: a collector is named here or in the environment, and nothing switches them off."""
        is_off = env.get("OTEL_SDK_DISABLED", "").lower() == "true" or env.get("OTEL_TRACES_EXPORTER") == "none"
        return not is_off and bool(self.endpoint or any(env.get(name) for name in OTEL_ENDPOINTS))


def otel_lacks() -> str | None:
    """How to install what sending spans needs; None if it is there."""
    try:
        for package in ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"):
            metadata.version(package)
    except metadata.PackageNotFoundError:
        return f'needs libraries that are not installed: {sys.executable} -m pip install "runbridge[otel]"'
    return None


class LogSettings(Table):
    """[log]: `auto` writes text for people on a terminal, and JSON elsewhere."""

    level: Annotated[str, choice(*LOG_LEVELS)] = "info"
    format: Annotated[str, choice(*LOG_FORMATS)] = "auto"


SECTIONS: dict[str, type[Table]] = {
    "server": ServerSettings,
    "database": DatabaseSettings,
    "secrets": SecretsSettings,
    "retention": RetentionSettings,
    "backup": BackupSettings,
    "delivery": DeliverySettings,
    "cadence": CadenceTable,
    "dashboard": DashboardSettings,
    "providers": ProvidersSettings,
    "otel": OtelSettings,
    "log": LogSettings,
}
NAMED_SECTIONS: dict[str, type[Table]] = {
    "server.tokens": TokenTable,
    "connections": ConnectionTable,
    "endpoints": EndpointTable,
    "alerts": AlertTable,
}
