"""Every setting in effect with its origin, for `config show --origin`; secrets as ****."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.config.connection_sections import PROVIDER_OPTIONS, CadenceTable, ConnectionTable
from bridge.config.layers import place
from bridge.config.load import Config, FileEndpoint
from bridge.config.sections import AlertTable, EndpointTable, OtelSettings
from bridge.config.values import Table, format_size, mask_password, mask_query
from bridge.domain.connection import CadenceSettings, Connection
from bridge.domain.finding import EffectiveSetting
from bridge.domain.timestamps import format_duration

UNSET = "-"


def show_config(config: Config) -> list[EffectiveSetting]:
    """Every setting in effect, in the order of the example file."""
    rows = [
        *_section(config, "server", config.server),
        *_tokens(config),
        EffectiveSetting("database.url", config.database.shown, config.origins["database.url"]),
        *_section(config, "secrets", config.secrets),
        *_section(config, "retention", config.retention),
        *_section(config, "backup", config.backup),
    ]
    for connection in config.connections.values():
        rows += _connection(config, connection)
    for endpoint in config.endpoints.values():
        rows += _endpoint(config, endpoint)
    for name, channel in config.alerts.items():
        for key, attribute in AlertTable.attributes().items():
            at = place(("alerts", name), key)
            rows.append(EffectiveSetting(at, _text(attribute, getattr(channel, attribute)), _origin(config, at)))
    rows += _section(config, "delivery", config.delivery)
    rows += (
        EffectiveSetting(f"cadence.{key}", text, _origin(config, f"cadence.{key}"))
        for key, text in _cadence(config.cadence)
    )
    rows += _section(config, "dashboard", config.dashboard)
    return [*rows, *_section(config, "otel", config.otel or OtelSettings()), *_section(config, "log", config.log)]


def _section(config: Config, section: str, table: Table) -> Iterator[EffectiveSetting]:
    for key, attribute in table.attributes().items():
        name = place((section,), key)
        yield EffectiveSetting(name, _text(attribute, getattr(table, attribute)), _origin(config, name))


def _tokens(config: Config) -> Iterator[EffectiveSetting]:
    for token in config.tokens:
        for key, value in (("token", token.token), ("scope", token.scope.value)):
            name = place(("server.tokens", token.name), key)
            yield EffectiveSetting(name, _text(key, value), _origin(config, name))


def _connection(config: Config, connection: Connection) -> Iterator[EffectiveSetting]:
    at = ("connections", connection.name)
    for key, attribute in ConnectionTable.attributes().items():
        if key in PROVIDER_OPTIONS and key in connection.options:
            yield EffectiveSetting(place(at, key), connection.options[key], _origin(config, place(at, key)))
        elif hasattr(connection, attribute):
            yield EffectiveSetting(
                place(at, key), _text(attribute, getattr(connection, attribute)), _origin(config, place(at, key))
            )
    for key, text in _cadence(connection.cadence):
        yield EffectiveSetting(
            place(at, key), text, config.origins.get(place(at, key)) or _origin(config, f"cadence.{key}")
        )


def _endpoint(config: Config, endpoint: FileEndpoint) -> Iterator[EffectiveSetting]:
    for key, attribute in EndpointTable.attributes().items():
        name = place(("endpoints", endpoint.id), key)
        yield EffectiveSetting(name, _text(attribute, getattr(endpoint, attribute)), _origin(config, name))


def _cadence(settings: CadenceSettings) -> Iterator[tuple[str, str]]:
    """Key and value; of price and target delay only the one in effect."""
    for key, attribute in CadenceTable.attributes().items():
        if key != ("target_delay" if settings.target_delay is None else "price"):
            yield key, _text(attribute, getattr(settings, attribute))


def _origin(config: Config, name: str) -> str:
    return config.origins.get(name, "default")


def _text(attribute: str, value: object) -> str:
    """One value as text; the attribute's suffix is its unit."""
    match value:
        case None:
            return UNSET
        case bool():
            return str(value).lower()
        case float() | int() if attribute.endswith("_s"):
            return format_duration(value)
        case int() if attribute.endswith("_bytes"):
            return format_size(value)
        case tuple():
            shown = (format_duration(each) if isinstance(each, float | int) else str(each) for each in value)
            return f"[{', '.join(shown)}]"
        case dict():
            return f"{{{', '.join(f'{name} = ****' for name in value)}}}"
        case str() if attribute == "proxy":
            return mask_password(value)
        case str() if attribute in ("url", "base_url"):
            return mask_query(value)
        case _:
            return str(value)
