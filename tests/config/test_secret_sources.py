"""Exactly one of X, X_env and X_file, found where the operator put it."""

import os
from pathlib import Path

import pytest

from bridge.config.load import load_config
from bridge.config.show import show_config
from tests.config.config_files import DIFY, ENDPOINT, TOKEN, load, mistakes, write

FROM_FILE = '[connections.main]\nprovider = "dify"\napi_key_file = "hub.key"\n'


def key_of(config) -> str:
    return config.connections["main"].api_key.reveal()


def test_a_relative_file_is_looked_for_in_the_credentials_then_beside_the_configuration(tmp_path: Path):
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    env = {"CREDENTIALS_DIRECTORY": str(credentials)}
    (tmp_path / "hub.key").write_text("beside\n")
    assert key_of(load(tmp_path, TOKEN + FROM_FILE, env=env)) == "beside"
    (credentials / "hub.key").write_text("credential")
    assert key_of(load(tmp_path, TOKEN + FROM_FILE, env=env)) == "credential"
    assert key_of(load(tmp_path, TOKEN + FROM_FILE)) == "beside"


def test_a_relative_configuration_path_finds_its_secrets_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "hub.key").write_text("beside")
    write(tmp_path, TOKEN + FROM_FILE)
    monkeypatch.chdir(tmp_path)
    assert key_of(load_config(Path("runbridge.toml"), env={})) == "beside"


def test_an_absolute_file_is_taken_as_it_stands(tmp_path: Path):
    (tmp_path / "elsewhere").write_text("abs\r\n")
    text = FROM_FILE.replace("hub.key", str(tmp_path / "elsewhere"))
    assert key_of(load(tmp_path, TOKEN + text, env={"CREDENTIALS_DIRECTORY": "/none"})) == "abs"


def test_only_one_newline_is_dropped(tmp_path: Path):
    """A second one is part of the file, and no header can hold it: an error is better than a guess."""
    (tmp_path / "hub.key").write_text("key\n\n")
    found = mistakes(tmp_path, TOKEN + FROM_FILE)
    assert "line break" in found["connections.main.api_key"]
    assert found["connections.main.api_key"].endswith(f"(from file:{tmp_path / 'hub.key'})")


def test_a_missing_file_shows_what_was_looked_for_and_where(tmp_path: Path):
    found = mistakes(tmp_path, TOKEN + FROM_FILE, env={"CREDENTIALS_DIRECTORY": "/run/credentials/x"})
    assert found == {
        "connections.main.api_key_file": (
            f"no file hub.key in /run/credentials/x or in {tmp_path}; create it or correct the name"
        )
    }


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda path: path.write_text("\n"), "is empty"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not text in UTF-8"),
        (lambda path: path.write_bytes(b"x" * 70_000), "more than 64 KiB"),
        (lambda path: path.mkdir(), "Is a directory"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to("/nowhere/at/all"), "No such file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
    ],
    ids=["empty", "binary", "huge", "folder", "fifo", "dangling link", "loop"],
)
def test_a_file_that_holds_no_secret_is_a_mistake(tmp_path: Path, make, part: str):
    make(tmp_path / "hub.key")
    assert part in mistakes(tmp_path, TOKEN + FROM_FILE)["connections.main.api_key_file"]


def test_an_unset_variable_is_named_with_a_near_one(tmp_path: Path):
    text = TOKEN + '[connections.main]\nprovider = "dify"\napi_key_env = "DIFY_KEY"\n'
    assert key_of(load(tmp_path, text, env={"DIFY_KEY": "v"})) == "v"
    found = mistakes(tmp_path, text, env={"DIFY_KEYS": "v"})["connections.main.api_key_env"]
    assert "DIFY_KEY is not set" in found
    assert "DIFY_KEYS" in found
    assert "is empty" in mistakes(tmp_path, text, env={"DIFY_KEY": ""})["connections.main.api_key_env"]


def test_two_ways_at_once_are_a_mistake(tmp_path: Path):
    text = TOKEN + DIFY + 'api_key_env = "X"\napi_key_file = "y"\n'
    assert mistakes(tmp_path, text) == {
        "connections.main.api_key": "give only one of api_key and api_key_env and api_key_file"
    }


def test_a_higher_layer_replaces_the_file_s_way(tmp_path: Path):
    env = {"RUNBRIDGE_CONNECTIONS__MAIN__API_KEY": "from-env"}
    assert key_of(load(tmp_path, TOKEN + FROM_FILE, env=env)) == "from-env"


def test_the_database_url_may_come_from_a_file(tmp_path: Path):
    (tmp_path / "url").write_text("postgresql://u:p@h/db\n")
    assert load(tmp_path, TOKEN + '[database]\nurl_file = "url"\n').database.url == "postgresql://u:p@h/db"
    assert "url_file" in next(iter(mistakes(tmp_path, TOKEN + '[database]\nurl_file = "none"\n')))


def test_the_origin_of_a_secret_is_where_its_value_stood(tmp_path: Path):
    (tmp_path / "hub.key").write_text("k")
    text = '[server]\napi_token_env = "TOKEN"\n' + FROM_FILE
    origins = {row.key: row.origin for row in show_config(load(tmp_path, text, env={"TOKEN": "t"}))}
    assert origins["server.api_token"] == "env:TOKEN"
    assert origins["connections.main.api_key"] == f"file:{tmp_path / 'hub.key'}"


def test_a_secret_in_a_file_that_others_can_read_is_a_warning(tmp_path: Path):
    text = TOKEN + DIFY + ENDPOINT + '[database]\nurl = "sqlite:////a.db"\n'
    warned = load_config(write(tmp_path, text, mode=0o644), env={}).warnings
    assert [problem.field for problem in warned] == [
        "server.api_token",
        "connections.main.api_key",
        "endpoints.app.secret",
    ]
    assert all("chmod 600" in problem.message for problem in warned)
    assert load_config(write(tmp_path, text, mode=0o600), env={}).warnings == ()
    by_env = '[server]\napi_token_env = "T"\n[database]\nurl = "postgresql://u:p@h/d"\n'
    warned = load_config(write(tmp_path, by_env, mode=0o640), env={"T": "t"}).warnings
    assert [problem.field for problem in warned] == ["database.url"]
