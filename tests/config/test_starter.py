"""`init` writes a file that loads, for its owner only, and never over another; `find_config` finds it."""

import stat
import tomllib
from pathlib import Path

import pytest

from bridge.config.load import load_config
from bridge.config.locate import find_config, user_config
from bridge.config.starter import init_config
from bridge.domain.errors import BridgeError, Conflict

HOME = {"HOME": "/home/me"}


def test_a_fresh_configuration_loads_without_mistakes_or_warnings(tmp_path: Path):
    path = tmp_path / "deep" / "er" / "config.toml"
    init_config(path)
    config = load_config(path, env=HOME)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(config.server.api_token.reveal()) == 43  # 32 random bytes in base64
    assert config.connections == {}
    assert config.warnings == ()


def test_two_fresh_configurations_have_different_tokens(tmp_path: Path):
    tokens = set()
    for name in ("a.toml", "b.toml"):
        init_config(tmp_path / name)
        tokens.add(load_config(tmp_path / name, env=HOME).server.api_token.reveal())
    assert len(tokens) == 2


def test_what_init_is_given_is_written(tmp_path: Path):
    path = tmp_path / "config.toml"
    given = {"my.hub": {"provider": "instabase", "api_key": 'q"\\k\x7e', "ib_context": "org"}}
    init_config(path, listen="unix:/run/x.sock", database_url="sqlite:////a/b.db", connections=given)
    config = load_config(path, env=HOME)
    assert str(config.server.listen) == "unix:/run/x.sock"
    assert config.database.url == "sqlite:////a/b.db"
    assert config.connections["my.hub"].api_key.reveal() == 'q"\\k\x7e'
    assert config.connections["my.hub"].options == {"ib_context": "org"}


def test_the_commented_examples_of_init_are_valid_when_uncommented(tmp_path: Path):
    """Their # is all that a new user should have to remove."""
    path = tmp_path / "config.toml"
    init_config(path)
    settings = [line.removeprefix("# ") for line in path.read_text().splitlines()]
    lines = [line for line in settings if line.startswith("[") or " = " in line]
    path.write_text("\n".join(lines))
    (tmp_path / "instabase.key").write_text("k")
    env = HOME | dict.fromkeys(("DIFY_API_KEY", "RETAB_API_KEY", "DIBBY_TOKEN"), "k")
    config = load_config(path, env=env)
    assert set(config.connections) == {"dify", "retab", "instabase", "dibby"}
    assert set(config.endpoints) == {"my-app"}
    assert "my-app" in tomllib.loads(path.read_text())["endpoints"]


def test_init_never_overwrites(tmp_path: Path):
    path = tmp_path / "config.toml"
    path.write_text("mine")
    with pytest.raises(Conflict, match="stays as it is"):
        init_config(path)
    assert path.read_text() == "mine"
    link = tmp_path / "link.toml"
    link.symlink_to(tmp_path / "not-yet")
    with pytest.raises(Conflict):
        init_config(link)
    assert not (tmp_path / "not-yet").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BridgeError, match="cannot write"):
        init_config(tmp_path / "file" / "config.toml")


def test_a_named_configuration_is_taken_even_if_missing(tmp_path: Path):
    """A typing error in --config must be an error, not lead to another file."""
    assert find_config(Path("/no/such.toml"), {"RUNBRIDGE_CONFIG": "/other.toml"}) == Path("/no/such.toml")
    assert find_config(None, {"RUNBRIDGE_CONFIG": "/other.toml"}) == Path("/other.toml")


def test_the_first_standard_place_that_exists_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    env = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path)}
    user = user_config(env)
    assert user == tmp_path / "xdg" / "runbridge" / "config.toml"
    init_config(user)
    assert find_config(None, env) == user
    init_config(Path("runbridge.toml"))
    assert find_config(None, env) == Path("runbridge.toml")
    assert user_config({"XDG_CONFIG_HOME": "relative", "HOME": "/h"}) == Path("/h/.config/runbridge/config.toml")
