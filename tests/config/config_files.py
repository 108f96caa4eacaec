"""Small configuration files for the tests of this room."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from bridge.config.load import Config, ConfigInvalid, load_config

SIGNING_SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
TOKEN = '[server]\napi_token = "a-token"\n'
DIFY = '[connections.main]\nprovider = "dify"\napi_key = "app-key"\n'
ENDPOINT = f'[endpoints.app]\nurl = "http://127.0.0.1:9000/hooks"\nsecret = "{SIGNING_SECRET}"\n'


def write(folder: Path, text: str, *, mode: int = 0o600) -> Path:
    path = folder / "runbridge.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def load(folder: Path, text: str, *, env: Mapping[str, str] | None = None, **flags: str) -> Config:
    return load_config(write(folder, text), env={"HOME": str(folder)} | dict(env or {}), flags=flags)


def mistakes(folder: Path, text: str, *, env: Mapping[str, str] | None = None, **flags: str) -> dict[str, str]:
    """Field → message of everything that is wrong; fails if nothing is."""
    with pytest.raises(ConfigInvalid) as caught:
        load(folder, text, env=env, **flags)
    return {problem.field: problem.message for problem in caught.value.problems}
