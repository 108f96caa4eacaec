"""The `guard` command."""

from __future__ import annotations

import pytest


def test_guard_explains_with_the_allow_list_of_the_configuration(cli, config):
    allowed = cli("guard", "explain", "http://10.1.2.3:8080/x", "--config", config)
    assert allowed.code == 0
    refused = cli("guard", "explain", "http://10.1.2.3:9090/x", "--config", config)
    assert refused.code == 1
    assert "[delivery] allow" in refused.out
    metadata = cli("guard", "explain", "http://169.254.169.254/", "--trust", "config", "--json")
    assert metadata.code == 1
    assert metadata.json["allowed"] is False


@pytest.mark.parametrize("listen", ["localhost:9191", "127.0.0.1:9191", "0.0.0.0:9191"])
def test_guard_knows_what_the_daemon_listens_on(cli, tmp_path, listen):
    path = tmp_path / "listening.toml"
    path.write_text(f'[server]\nlisten = "{listen}"\napi_token = "{"t" * 32}"\n')
    refused = cli("guard", "explain", "http://127.0.0.1:9191/", "--trust", "config", "--config", path)
    assert refused.code == 1
    assert "rule: own address" in refused.out
    assert cli("guard", "explain", "http://127.0.0.1:9192/", "--trust", "config", "--config", path).code == 0


def test_an_endpoint_of_the_file_is_judged_as_the_daemon_judges_it(cli, config):
    """By its name or its URL: anything else is judged as if it were made over the API."""
    secret = "whsec_" + "A" * 32
    text = f'[endpoints.mine]\nurl = "http://192.168.1.9:9000/hooks"\nsecret = "{secret}"\n'
    config.write_text(config.read_text() + text)
    for given, code in (("mine", 0), ("http://192.168.1.9:9000/hooks", 0), ("http://192.168.1.9:9000/other", 1)):
        assert cli("guard", "explain", given, "--config", config).code == code, given
    assert cli("guard", "explain", "mine", "--trust", "api", "--config", config).code == 1
