"""Where the command line looks for address and token."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from bridge.cli.daemon_address import find_daemon
from bridge.config.reach import read_reach
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


def test_a_plain_section_says_the_same_as_the_whole_configuration(tmp_path):
    """It is read without the models of the configuration, which take longer to load than `runs list` takes."""
    path = tmp_path / "config.toml"
    path.write_text('[server]\nlisten = "127.0.0.1:9100"\napi_token = "a-long-enough-token"\n')
    plain = find_daemon(url=None, token=None, config_path=path, env={"HOME": str(tmp_path)})
    listen, token = read_reach(path, env={"HOME": str(tmp_path)})
    assert (plain.host, plain.port, plain.token.reveal()) == (listen.host, listen.port, token.reveal())


def test_the_environment_goes_before_a_plain_section(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[server]\nlisten = "127.0.0.1:9100"\napi_token = "a-long-enough-token"\n')
    env = {"HOME": str(tmp_path), "RUNBRIDGE_SERVER__LISTEN": "127.0.0.1:9200"}
    assert find_daemon(url=None, token=None, config_path=path, env=env).port == 9200


@pytest.mark.slow
def test_help_loads_neither_tables_nor_models():
    """Importing takes most of the time of `runbridge --help`."""
    code = "import sys; sys.argv = ['runbridge', '--help']; from bridge.cli import main; main(); print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert loaded.isdisjoint({"rich", "pydantic", "http.client", "ssl", "sqlalchemy", "aiohttp"})
