"""Find the configuration file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SERVICE_CONFIG: Final = Path("/etc/runbridge/config.toml")


def find_config(explicit: Path | None, env: Mapping[str, str]) -> Path | None:
    """The file that `--config` or $RUNBRIDGE_CONFIG names, otherwise the first that exists; None if none does.

    The order is ./runbridge.toml, $XDG_CONFIG_HOME/runbridge/config.toml
    (~/.config without it), /etc/runbridge/config.toml. A named file need not exist; loading says so.
    """
    if explicit is not None:
        return explicit
    if named := env.get("RUNBRIDGE_CONFIG"):
        return Path(named)
    # os.path, not Path.is_file: a folder that we may not enter counts as missing instead of raising.
    return next((path for path in standard_places(env) if os.path.isfile(path)), None)  # noqa: PTH113


def service_env(env: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """The variables that systemd sets for the service only, for a shell that uses the service's configuration.

    Empty if another file comes first, if systemd has set them already, or if the folders cannot be read (root only).
    """
    if find_config(None, env) != SERVICE_CONFIG or "STATE_DIRECTORY" in env or "CREDENTIALS_DIRECTORY" in env:
        return {}
    places = {"STATE_DIRECTORY": "var/lib/runbridge", "CREDENTIALS_DIRECTORY": "run/credentials/runbridge.service"}
    return {name: str(root / place) for name, place in places.items() if os.access(root / place, os.R_OK | os.X_OK)}


def standard_places(env: Mapping[str, str]) -> tuple[Path, ...]:
    """The places that are searched when no file is named."""
    return Path("runbridge.toml"), user_config(env), SERVICE_CONFIG


def home_of(env: Mapping[str, str]) -> Path:
    """The user's home; unlike Path.home(), this does not fail for a user that the system does not know."""
    return Path(env.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111


def user_config(env: Mapping[str, str]) -> Path:
    """The user's own file, which `runbridge init` writes by default."""
    base = env.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if base.startswith("/") else home_of(env) / ".config"
    return folder / "runbridge" / "config.toml"
