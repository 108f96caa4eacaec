"""Sources of secrets: X itself, X_env (a variable) or X_file (a file); exactly one of the three.

Relative files are searched in $CREDENTIALS_DIRECTORY (systemd's LoadCredential=), then in the
folder of the configuration file. One newline at the end of a file is dropped.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bridge.config.layers import Given, Layer, Layers, TablePath, place, schema_of, variants
from bridge.config.locate import home_of
from bridge.domain.errors import Problem
from bridge.domain.secret import Secret
from bridge.domain.suggestions import closest

SECRET_BYTES_MAX = 64 * 1024

READABLE_BY_OTHERS = 0o044
_ODD_SECRETS = (
    (
        re.compile(r"bearer\b", re.IGNORECASE | re.ASCII).match,
        "begins with `Bearer`, which is added to it; leave it out",
    ),
    (re.compile(r"[\"'`]").search, "holds a quotation mark; give the key without quotes"),
    (re.compile(r"(?:export )?[A-Z_][A-Z0-9_]*=.", re.ASCII).match, "begins with `NAME=`; give what stands after it"),
    (re.compile(r"[\w-]+: ", re.ASCII).match, "begins with the name of a header; give what stands after it"),
    (
        re.compile(r"<.*>|\$?\{.*\}|\$[A-Z_]+|%[A-Z_]+%|(?i:your[-_].*)", re.ASCII).fullmatch,
        "looks like a placeholder; give the key itself",
    ),
    (re.compile(" ").search, "holds a blank, as no key does; give the key alone"),
)
_OTHERS = ("dibby", "retab", "instabase")
SYSTEMD = Path("/run/systemd/system")  # exists if systemd booted the machine
_PERHAPS = " (a credential of the unit is to be had only while the service runs, and needs a LoadCredential= line)"


@dataclass(frozen=True, slots=True)
class SecretSources:
    """The environment, and the folders for relative files in order of search."""

    env: Mapping[str, str]
    folders: tuple[Path, ...]

    def resolve(self, path: TablePath, given: Mapping[str, Given]) -> tuple[dict[str, Given], list[Problem]]:
        """The table with every secret under its own key as a `Secret`, and the problems with the others."""
        resolved, problems = dict(given), []
        for key in schema_of(path).secrets:
            present = [name for name in variants(key) if name in given]
            for name in present:
                del resolved[name]
            if len(present) > 1:
                problems.append(Problem(place(path, key), f"give only one of {' and '.join(present)}"))
            elif present:
                try:
                    resolved[key] = self._fetch(key, present[0], given[present[0]])
                except ValueError as error:
                    problems.append(Problem(place(path, present[0]), str(error)))
        return resolved, problems

    def _fetch(self, key: str, name: str, given: Given) -> Given:
        if not isinstance(given.value, str):
            raise ValueError("expected text in quotes")  # noqa: TRY004 - collected with the other mistakes
        value, origin = given.value, given.origin
        if name == f"{key}_env":
            value, origin = self._variable(given.value), f"env:{given.value}"
        elif name == f"{key}_file":
            file = self.find(given.value)
            value, origin = _read(file), f"file:{file}"
        if not value:
            raise ValueError("is empty; put the secret there" if name != key else "is empty; give the secret")
        return Given(Secret(value), given.layer, origin)

    def _variable(self, name: str) -> str:
        if name in self.env:
            return self.env[name]
        meant = closest(name, self.env)
        raise ValueError(
            f"the environment variable {name} is not set; set it where the daemon is started"
            + (f" (there is one named {meant})" if meant else "")
        )

    def find(self, name: str) -> Path:
        """The file that a name means; ValueError if there is none."""
        if not name or "\0" in name:
            raise ValueError("expected the path of a file")
        path = home_of(self.env) / name[2:] if name.startswith("~/") else Path(name)
        if path.is_absolute():
            return path
        candidates = [folder / path for folder in self.folders]
        for candidate in candidates:
            if os.path.lexists(candidate):
                return candidate
        places = " or in ".join(str(folder) for folder in self.folders)
        perhaps = "" if len(self.folders) > 1 or not SYSTEMD.exists() else _PERHAPS
        raise ValueError(f"no file {name} in {places}; create it or correct the name{perhaps}")


def sources_for(config: Path | None, env: Mapping[str, str]) -> SecretSources:
    """The sources that belong to the configuration file `config` (None: the present folder)."""
    home = config.absolute().parent if config else Path.cwd()
    credentials = env.get("CREDENTIALS_DIRECTORY")
    return SecretSources(env, (Path(credentials), home) if credentials else (home,))


def _open_without_waiting(path: str, flags: int) -> int:
    """Open for reading without blocking: a FIFO without a writer must not delay the start."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read(path: Path) -> str:
    """The text of a secret file without its final newline, and without the mark that Windows writes before it."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"{path} is not a regular file")
            content = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > SECRET_BYTES_MAX:
        raise ValueError(f"{path} holds more than {SECRET_BYTES_MAX // 1024} KiB; that is no secret of ours")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None
    return text.removeprefix("\ufeff").removesuffix("\n").removesuffix("\r")


def readable_secrets(path: Path | None, layers: Layers) -> list[Problem]:
    """A warning for each secret in a file that other users can read."""
    if path is None or not path.exists() or not path.stat().st_mode & READABLE_BY_OTHERS:
        return []
    return [
        Problem(
            place(at, key),
            f"stands in a file that others can read; use {key}_file, or let only the daemon's user read {path} (chmod 600)",
        )
        for at, given in layers.tables.items()
        for key, value in given.items()
        if key in schema_of(at).secrets and value.layer is Layer.FILE and not _is_plain_url(key, value.value)
    ]


def _is_plain_url(key: str, value: object) -> bool:
    return key in ("url", "proxy") and "@" not in str(value) and "password" not in str(value)


def odd_secrets(at: TablePath, table: Mapping[str, Given], *, is_login: bool = False) -> list[Problem]:
    """A warning for each key that holds more than a key: what was copied around it.

    A login, `user:password`, may hold anything but needs its colon.
    """
    found = []
    for key in ("api_key", "api_token"):
        given = table.get(key)
        text = given.value.reveal() if given and isinstance(given.value, Secret) else ""
        if is_login:
            said = None if ":" in text else "holds no `:`; this provider takes `user:password`"
        else:
            said = next((said for is_odd, said in _ODD_SECRETS if is_odd(text)), None)
        provider = table["provider"].value if "provider" in table else None
        if provider == "dify" and text.startswith(("dataset-", "sk-")):
            said = "is not a key of a Dify app, which begins with `app-`; a run is read with the key of its own app"
        elif provider in _OTHERS and text.startswith("app-"):
            said = f"begins with `app-`, as the keys of Dify apps do; give the key of {provider}"
        if given and said:
            found.append(Problem(place(at, key), f"{said} (from {given.origin})"))
    return found
