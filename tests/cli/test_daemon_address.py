"""Where the command line looks for address and token."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from bridge.cli.daemon_address import find_daemon
from bridge.domain.secret import Secret


def _find(tmp_path: Path, *, url=None, token=None, config=None, **env: str):
    path = None
    if config is not None:
        path = tmp_path / "bridge.toml"
        path.write_text(config)
    return find_daemon(url=url, token=token, config_path=path, env={"HOME": str(tmp_path), **env})


CONFIG = """
[server]
listen = "127.0.0.1:9001"
api_token = "from-the-file"
"""


def test_flags_win_over_environment_and_environment_over_the_file(tmp_path):
    env = {"RUNBRIDGE_URL": "http://127.0.0.1:9002", "RUNBRIDGE_TOKEN": "from-env"}
    by_flag = _find(tmp_path, url="http://127.0.0.1:9003", token=Secret("from-flag"), config=CONFIG, **env)
    assert (by_flag.port, by_flag.token, by_flag.origin) == (9003, Secret("from-flag"), "--url")
    by_env = _find(tmp_path, config=CONFIG, **env)
    assert (by_env.port, by_env.token, by_env.origin) == (9002, Secret("from-env"), "RUNBRIDGE_URL")
    by_file = _find(tmp_path, config=CONFIG)
    assert (by_file.port, by_file.token, by_file.origin) == (
        9001,
        Secret("from-the-file"),
        str(tmp_path / "bridge.toml"),
    )


def test_a_token_in_the_environment_goes_with_an_address_in_the_file(tmp_path):
    found = _find(tmp_path, config=CONFIG, RUNBRIDGE_TOKEN="from-env")
    assert (found.port, found.token) == (9001, Secret("from-env"))


def test_a_provider_key_that_only_the_daemon_has_does_not_hide_the_daemon(tmp_path):
    """systemd gives keys to the service, not to the operator's shell."""
    config = CONFIG + '\n[connections.x]\nprovider = "dify"\napi_key_env = "NOT_IN_THIS_SHELL"\n'
    found = _find(tmp_path, config=config)
    assert (found.port, found.token) == (9001, Secret("from-the-file"))


def test_a_token_that_cannot_be_read_here_leaves_the_address(tmp_path):
    found = _find(tmp_path, config='[server]\nlisten = "127.0.0.1:9001"\napi_token_file = "not-readable-here"\n')
    assert (found.port, found.token) == (9001, None)


@pytest.mark.parametrize(
    ("listen", "shown"),
    [
        ("127.0.0.1:9001", "http://127.0.0.1:9001"),
        ("0.0.0.0:9001", "http://127.0.0.1:9001"),
        ("[::]:9001", "http://[::1]:9001"),
        ("[::1]:9001", "http://[::1]:9001"),
        ("bridge.example.org:9001", "http://bridge.example.org:9001"),
        ("unix:/run/bridge.sock", "unix:/run/bridge.sock"),
    ],
)
def test_the_listen_address_becomes_one_that_can_be_reached(tmp_path, listen, shown):
    assert str(_find(tmp_path, config=f'[server]\nlisten = "{listen}"\napi_token = "x"\n')) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://10.0.0.1:80", "http://10.0.0.1:80"),
        ("https://bridge.example.org/api/", "https://bridge.example.org:443/api"),
        ("127.0.0.1:8484", "http://127.0.0.1:8484"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_a_given_address_may_be_written_in_the_usual_ways(tmp_path, url, shown):
    assert str(_find(tmp_path, url=url, token=Secret("x"))) == shown


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://user:pw@x", "http://x:99999", "http://[::1", "http://x/?a=b"]
)
def test_an_address_that_is_none_is_wrong_use(tmp_path, url):
    with pytest.raises(click.UsageError):
        _find(tmp_path, url=url, token=Secret("x"))


def test_the_token_shows_in_no_repr(tmp_path):
    assert "from-the-file" not in repr(_find(tmp_path, config=CONFIG))
