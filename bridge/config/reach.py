"""Single sections of the configuration, for commands that need no more.

A shell often lacks the daemon's environment and credentials: a missing provider key must stop neither
`runbridge runs list` from finding the daemon nor `db backup` from finding the database. Each function loads the
whole configuration if it can, and otherwise reads its own section alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from bridge.config.layers import Layers
from bridge.config.load import Config, ConfigInvalid, default_database_url, load_config
from bridge.config.secret_sources import sources_for
from bridge.config.sections import DatabaseSettings, DeliverySettings, SecretsSettings, ServerSettings
from bridge.config.values import ListenAddress, Table, read_listen
from bridge.domain.secret import Secret

SomeTable = TypeVar("SomeTable", bound=Table)


def read_reach(path: Path | None, *, env: Mapping[str, str]) -> tuple[ListenAddress, Secret | None]:
    """The listen address, and the token if it can be read. Raises ConfigInvalid if the address is wrong."""
    loaded = _load(path, env)
    if isinstance(loaded, Config):
        return loaded.server.listen, loaded.server.api_token
    values = _values("server", path, env, loaded)
    token = values.get("api_token")
    default: ListenAddress = ServerSettings.model_fields["listen"].default
    try:
        listen = read_listen(values["listen"]) if "listen" in values else default
    except ValueError:
        raise loaded from None
    return listen, token if isinstance(token, Secret) else None


def read_database_url(path: Path | None, *, env: Mapping[str, str]) -> str:
    """[database] url, or its default. Raises ConfigInvalid if it is wrong or cannot be read from here."""
    loaded = _load(path, env)
    if isinstance(loaded, Config):
        return loaded.database.url
    values = _values("database", path, env, loaded, needs_all=True)
    if "url" in values:
        return _validated(DatabaseSettings, values, loaded).url
    return default_database_url(env)


def read_endpoint_urls(path: Path | None, *, env: Mapping[str, str]) -> dict[str, str]:
    """The URLs of the endpoints in the file by name; none if the configuration has mistakes."""
    loaded = _load(path, env)
    return {name: each.url for name, each in loaded.endpoints.items()} if isinstance(loaded, Config) else {}


def read_delivery(path: Path | None, *, env: Mapping[str, str]) -> DeliverySettings:
    """[delivery]. Raises ConfigInvalid if it is wrong."""
    loaded = _load(path, env)
    if isinstance(loaded, Config):
        return loaded.delivery
    return _validated(DeliverySettings, _values("delivery", path, env, loaded), loaded)


def read_secrets(path: Path | None, *, env: Mapping[str, str]) -> SecretsSettings:
    """[secrets]. Raises ConfigInvalid if it is wrong or a key cannot be read from here."""
    loaded = _load(path, env)
    if isinstance(loaded, Config):
        return loaded.secrets
    return _validated(SecretsSettings, _values("secrets", path, env, loaded, needs_all=True), loaded)


def _load(path: Path | None, env: Mapping[str, str]) -> Config | ConfigInvalid:
    try:
        return load_config(path, env=env)
    except ConfigInvalid as invalid:
        return invalid


def _values(
    section: str, path: Path | None, env: Mapping[str, str], invalid: ConfigInvalid, *, needs_all: bool = False
) -> dict[str, object]:
    """The values of one section, with secrets resolved if they can be; `needs_all` raises if one cannot."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig")) if path else {}
    except (OSError, ValueError, RecursionError):
        raise invalid from None
    layers = Layers()
    layers.add_document({section: document.get(section, {})}, f"file:{path}")
    layers.add_env(env)
    given, problems = sources_for(path, env).resolve((section,), layers.tables.get((section,), {}))
    if problems and needs_all:
        raise ConfigInvalid(problems)
    return {key: value.value for key, value in given.items()}


def _validated(table: type[SomeTable], values: dict[str, object], invalid: ConfigInvalid) -> SomeTable:
    try:
        return table.model_validate(values)
    except ValidationError:
        raise invalid from None
