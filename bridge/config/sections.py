"""The sections of the configuration file: one field per setting, with its unit, bounds and default.

A setting's key in the file is its alias where it has one (`timeout`), its attribute carries the unit
(`timeout_s`). Tables that become domain values (`ConnectionTable`, `EndpointTable`, `CadenceTable`)
never leave this room; the others are passed on as they are, frozen.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo, field_validator

from bridge.config import values
from bridge.config.values import CalendarSchedule, ListenAddress
from bridge.definitions.files import Definitions
from bridge.domain import alert, endpoint
from bridge.domain.api_token import Scope
from bridge.domain.connection import CadenceSettings, Connection
from bridge.domain.definition import Definition, DefinitionInvalid, key_place
from bridge.domain.delivery import RetrySchedule
from bridge.domain.encryption import EncryptionKey, parse_keys
from bridge.domain.fields import (
    STRICT,
    CustomHeaders,
    Duration,
    Interval,
    Lax,
    Price,
    Printable,
    SigningSecret,
    TargetDelay,
    between,
    one_of,
)
from bridge.domain.run import CadenceOverrides
from bridge.domain.secret import Secret
from bridge.domain.suggestions import unknown
from bridge.domain.timestamps import format_duration

# The base URLs of the providers that are code, from their own documentation.
BASE_URLS = {
    "retab": "https://api.retab.com",
    "dify": "https://api.dify.ai/v1",
}
# Settings that only one provider understands.
PROVIDER_OPTIONS = {"ib_context": "instabase", "auth_scheme": "retab", "workflow_key": "dibby"}
# Providers whose API lists runs of every status; only there can unregistered runs be discovered.
LISTING_PROVIDERS = ("retab", "instabase")
OTEL_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "json", "console")


def _choice(*known: str) -> BeforeValidator:
    return BeforeValidator(lambda value: one_of(value.lower() if isinstance(value, str) else value, known))


def _read_provider(value: object, info: ValidationInfo) -> object:
    """The name of a provider: one of those in code, or of a definition."""
    name = value.lower() if isinstance(value, str) else value
    return one_of(name, (*BASE_URLS, *_definitions(info).names))


def _definitions(info: ValidationInfo) -> Definitions:
    found: Definitions = info.context["definitions"] if info.context else Definitions()
    return found


def _definition(info: ValidationInfo) -> Definition | None:
    """The definition that the connection's provider is; None for a provider in code, and for one with mistakes."""
    name, definitions = info.data.get("provider"), _definitions(info)
    if name is None or name not in definitions.files:
        return None
    try:
        return definitions.get(name)
    except DefinitionInvalid:
        return None  # its own mistakes are reported beside this connection's


HeaderSecret = Annotated[Secret, AfterValidator(values.check_header_safe)]


class Table(BaseModel):
    """One table of the file. `secrets` names the keys that may also be given as X_env or X_file."""

    model_config = STRICT
    secrets: ClassVar[tuple[str, ...]] = ()
    rivals: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def attributes(cls) -> dict[str, str]:
        """Key in the file → attribute, in the order of the fields."""
        return {field.alias or name: name for name, field in cls.model_fields.items()}

    @classmethod
    def known_keys(cls) -> list[str]:
        """Every key that may stand in this table."""
        return [*cls.attributes(), *(f"{name}_{how}" for name in cls.secrets for how in ("env", "file"))]


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
    scope: Annotated[str, _choice(*Scope)]


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


class CadenceTable(Table):
    """[cadence], and the same keys in a connection; None means not set here. Seconds.

    Validated with `context={"cadence": CadenceSettings}`, the settings that these keys override.
    """

    rivals: ClassVar[frozenset[str]] = frozenset({"price", "target_delay"})

    price_s: Price | None = Field(None, alias="price")
    target_delay: TargetDelay | None = None
    min_interval_s: Interval | None = Field(None, alias="min_interval")
    max_interval_s: Interval | None = Field(None, alias="max_interval", validate_default=True)
    deadline_s: Annotated[Duration, between("1ms", "3650d")] | None = Field(None, alias="deadline")

    @field_validator("target_delay")
    @classmethod
    def _not_both(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("price_s") is not None:
            raise ValueError("give either price or target_delay in one table, not both")
        return value

    @field_validator("max_interval_s")
    @classmethod
    def _in_order(cls, value: float | None, info: ValidationInfo) -> float | None:
        base: CadenceSettings = info.context["cadence"] if info.context else CadenceSettings()
        own_s = info.data.get("min_interval_s")
        least_s = base.min_interval_s if own_s is None else own_s
        most_s = base.max_interval_s if value is None else value
        if least_s > most_s:
            shown = f"min_interval {format_duration(least_s)}, max_interval {format_duration(most_s)}"
            raise ValueError(f"must not be shorter than min_interval (in effect: {shown})")
        return value

    def over(self, base: CadenceSettings) -> CadenceSettings:
        """`base` with what this table sets."""
        own = CadenceOverrides(self.price_s, self.target_delay, self.min_interval_s, self.max_interval_s)
        settings = base.overridden_by(own)
        return settings if self.deadline_s is None else replace(settings, deadline_s=self.deadline_s)


class ConnectionTable(CadenceTable):
    """[connections.NAME]: an account at a provider. Without limits they are learned from its answers."""

    secrets: ClassVar[tuple[str, ...]] = ("api_key", "proxy")

    provider: Annotated[str, BeforeValidator(_read_provider)]
    vars: dict[str, str] = Field(default_factory=dict, validate_default=True)
    base_url: Annotated[str, AfterValidator(values.check_base_url)] | None = Field(None, validate_default=True)
    api_key: HeaderSecret
    ib_context: Annotated[str, Field(max_length=255), AfterValidator(values.check_header_text)] | None = None
    auth_scheme: Annotated[str, _choice("bearer", "api-key")] | None = None
    workflow_key: Annotated[str, Field(min_length=1, max_length=255), Printable] | None = None
    requests_per_second: float | None = Field(None, gt=0)
    max_in_flight: int | None = Field(None, ge=1)
    fetch_output: bool = True
    output_wait_s: Annotated[Duration, between("0s", "1h")] = Field(60.0, alias="output_wait")
    discover: bool = False
    discover_workflows: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=255), Printable], ...], Lax] = ()
    timeout_s: Annotated[Duration, between("100ms", "10m")] = Field(30.0, alias="timeout")
    headers: CustomHeaders = Field(default_factory=dict, repr=False)
    ca_file: Annotated[str, Field(min_length=1)] | None = None
    proxy: Annotated[str, BeforeValidator(values.read_proxy)] | None = Field(None, repr=False)

    @field_validator("vars")
    @classmethod
    def _asked_for(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if "provider" not in info.data:
            return value
        definition = _definition(info)
        known = definition.variables if definition else {}
        if definition is None and value and info.data["provider"] in BASE_URLS:
            raise ValueError("only a provider that is a definition has variables; leave it out here")
        for name in value:
            if definition and name not in known:
                raise ValueError(unknown("variable", name, sorted(known)))
        missing = [name for name, spec in known.items() if spec.get("required") and name not in value]
        if missing:
            about = "; ".join(f"{name} ({known[name].get('about', 'no description')})" for name in missing)
            raise ValueError(f"missing: {about}; give it in [connections.NAME.vars]")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_known(cls, value: str | None, info: ValidationInfo) -> str | None:
        definition = _definition(info)
        if value is None and definition is not None and definition.base_url is None:
            raise ValueError(f"missing; the definition {definition.name} leaves the address to the connection")
        return value

    @field_validator("headers")
    @classmethod
    def _leaves_the_key(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        definition = _definition(info)
        if definition is not None:
            own = key_place(definition.tables).get("header", "").lower()
        else:
            own = "api-key" if info.data.get("auth_scheme") == "api-key" else "authorization"
        taken = {own: "api_key", "ib-context": "ib_context"}
        for name in value:
            if name.lower() in taken:
                raise ValueError(f"{name!r} is sent for {taken[name.lower()]}; leave it out here")
        return value

    @field_validator(*PROVIDER_OPTIONS)
    @classmethod
    def _belongs(cls, value: str | None, info: ValidationInfo) -> str | None:
        owner = PROVIDER_OPTIONS[str(info.field_name)]
        provider = info.data.get("provider", owner)
        if value is not None and provider != owner:
            raise ValueError(f"only {owner} connections have this setting; leave it out here")
        return value

    @field_validator("discover")
    @classmethod
    def _lists(cls, value: bool, info: ValidationInfo) -> bool:
        provider = info.data.get("provider")
        definition = _definition(info)
        lists = "list" in definition.tables if definition else provider in LISTING_PROVIDERS
        if value and provider is not None and not lists:
            where = " and ".join(LISTING_PROVIDERS)
            raise ValueError(f"{provider} has no list that shows running runs, only {where} have; register runs here")
        lacks = definition.list_lacks(info.data.get("vars") or {}) if definition and value else []
        if lacks:
            raise ValueError(f"the list of {provider} needs {' and '.join(lacks)}; give it in [connections.NAME.vars]")
        return value

    @field_validator("discover_workflows")
    @classmethod
    def _discovers(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value and info.data.get("discover") is False:
            raise ValueError("narrows down what is discovered; set discover = true as well, or leave it out")
        return value

    def connection(self, name: str, cadence: CadenceSettings, definition: Definition | None) -> Connection:
        """The domain's connection; `cadence` is the global one, which this table's keys override."""
        options = {key: value for key in PROVIDER_OPTIONS if (value := getattr(self, key)) is not None} | self.vars
        return Connection(
            name=name,
            provider=self.provider,
            base_url=self.base_url or (definition.base_url if definition else None) or BASE_URLS.get(self.provider, ""),
            api_key=self.api_key,
            requests_per_second=self.requests_per_second,
            max_in_flight=self.max_in_flight,
            fetch_output=self.fetch_output,
            output_wait_s=self.output_wait_s,
            timeout_s=self.timeout_s,
            cadence=self.over(cadence),
            options=options,
            discover=self.discover,
            discover_workflows=self.discover_workflows,
            headers=self.headers,
            ca_file=self.ca_file,
            proxy=self.proxy,
            definition=definition,
        )


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
            raise ValueError("only opens what was sealed before; set key as well, which seals from now on")
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
    """[otel]: where spans go, if anywhere. What is not set comes from the standard OTEL_… variables."""

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

    level: Annotated[str, _choice(*LOG_LEVELS)] = "info"
    format: Annotated[str, _choice(*LOG_FORMATS)] = "auto"


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
