"""The tables [connections.NAME] and [cadence] of the configuration file, and what is known about providers in code."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from bridge.config import values
from bridge.config.values import HeaderSecret, Table, choice
from bridge.definitions.files import Definitions
from bridge.domain.connection import CadenceSettings, Connection
from bridge.domain.definition import Definition, DefinitionInvalid, key_place
from bridge.domain.fields import CustomHeaders, Duration, Interval, Lax, Price, Printable, TargetDelay, between, one_of
from bridge.domain.run import CadenceOverrides
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
    auth_scheme: Annotated[str, choice("bearer", "api-key")] | None = None
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
