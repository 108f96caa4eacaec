"""Where the daemon listens and which token it takes, as far as the configuration can be read here.

The daemon's own environment and credentials are often not the shell's: a provider key that is missing
here must not keep `runbridge runs list` from finding the daemon.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from bridge.config.layers import Layers
from bridge.config.load import load_config
from bridge.config.mistakes import ConfigInvalid
from bridge.config.secret_sources import sources_for
from bridge.config.sections import ServerSettings
from bridge.config.values import ListenAddress, read_listen
from bridge.domain.secret import Secret


def read_reach(path: Path | None, *, env: Mapping[str, str]) -> tuple[ListenAddress, Secret | None]:
    """The listen address, and the token unless it cannot be had here.

    ConfigInvalid where the file cannot be read as TOML or the address is wrong; all else is left to `config check`.
    """
    try:
        server = load_config(path, env=env).server
        return server.listen, server.api_token
    except ConfigInvalid as invalid:
        layers = Layers()
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
        except (OSError, ValueError, RecursionError):
            raise invalid from None
        layers.add_document({"server": document.get("server", {})}, f"file:{path}")
        layers.add_env(env)
        given, _ = sources_for(path, env).resolve(("server",), layers.tables.get(("server",), {}))
        token = given["api_token"].value if "api_token" in given else None
        try:
            listen = read_listen(given["listen"].value) if "listen" in given else _default_listen()
        except ValueError:
            raise invalid from None
        return listen, token if isinstance(token, Secret) else None


def _default_listen() -> ListenAddress:
    default = ServerSettings.model_fields["listen"].default
    assert isinstance(default, ListenAddress)
    return default
