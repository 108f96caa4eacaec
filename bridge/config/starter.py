"""`runbridge init`: a first configuration with a fresh token, readable by its owner only."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from bridge.domain.errors import BridgeError, Conflict
from bridge.domain.signing.hmac_v1 import new_secret

TOKEN_BYTES = 32

_HEAD = """\
# runbridge configuration. `runbridge config check` finds mistakes; config.example.toml lists every key.
# A secret X may be given as X, as X_env (name of an environment variable) or as X_file (a file).
"""

_CONNECTION_EXAMPLES = """
# Your accounts at the providers: remove the # of one and put your key in.
#
# [connections.dify]
# provider = "dify"
# api_key_env = "DIFY_API_KEY"             # the app's key, app-…
#
# [connections.retab]
# provider = "retab"
# api_key_env = "RETAB_API_KEY"
#
# [connections.instabase]
# provider = "instabase"
# api_key_file = "instabase.key"           # beside this file, or in $CREDENTIALS_DIRECTORY
# ib_context = "my-org"
#
# [connections.dibby]
# provider = "dibby"
# api_key_env = "DIBBY_TOKEN"
"""

_ENDPOINT_EXAMPLE = """
# Where webhooks go. The receiver verifies signatures with the same secret (this one is new).
#
# [endpoints.my-app]
# url = "http://127.0.0.1:9000/hooks"
# events = ["run.finished"]
# secret = "{secret}"
"""


def init_config(
    path: Path,
    *,
    listen: str = "127.0.0.1:8484",
    database_url: str | None = None,
    connections: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write a new configuration to `path` (mode 0600), with folders as needed; never overwrites.

    `connections` holds text settings by name and key. Raises Conflict if the file exists, BridgeError
    if it cannot be written.
    """
    text = starter_text(listen=listen, database_url=database_url, connections=connections or {})
    if os.path.lexists(path):
        raise Conflict(f"{path} exists already and stays as it is; name another file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_new(path, text)
    except OSError as error:
        raise BridgeError(f"cannot write {path}: {error.strerror}") from None


def _write_new(path: Path, text: str) -> None:
    """Write a file that does not exist yet; an incomplete one is removed again."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def starter_text(*, listen: str, database_url: str | None, connections: Mapping[str, Mapping[str, str]]) -> str:
    """The text of a first configuration, with a new token each time."""
    server = {"listen": listen, "api_token": secrets.token_urlsafe(TOKEN_BYTES)}
    return "".join(
        [
            _HEAD,
            *_table(("server",), server),
            *(_table(("database",), {"url": database_url}) if database_url else ()),
            *(line for name, given in connections.items() for line in _table(("connections", name), given)),
            _CONNECTION_EXAMPLES if not connections else "",
            _ENDPOINT_EXAMPLE.format(secret=new_secret()),
        ]
    )


def _table(path: tuple[str, ...], settings: Mapping[str, str]) -> Iterator[str]:
    heading = ".".join(_quoted(part) if "." in part else part for part in path)
    yield f"\n[{heading}]\n"
    for key, value in settings.items():
        yield f"{key} = {_quoted(value)}\n"


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, except that TOML wants DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
