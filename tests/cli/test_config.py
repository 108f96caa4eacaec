"""The `config` commands."""

from __future__ import annotations

from tests.support.ports import free_port


def test_check_names_every_mistake_and_gives_1(cli, config):
    config.write_text(config.read_text() + '[cadence]\nprice = "soon"\n[delivery2]\n')
    result = cli("config", "check", "--config", config)
    assert result.code == 1
    assert "cadence.price" in result.out
    assert "delivery2" in result.out
    as_json = cli("config", "check", "--config", config, "--json")
    assert as_json.code == 1
    assert {error["field"] for error in as_json.json["errors"]} == {"cadence.price", "delivery2"}


def test_a_file_that_others_can_read_is_a_remark_and_no_mistake(cli, config):
    config.chmod(0o644)
    result = cli("config", "check", "--config", config)
    assert result.code == 0
    assert "! server.api_token" in result.out


def test_show_prints_origins_and_no_secret(cli, config, monkeypatch):
    monkeypatch.setenv("RUNBRIDGE_LOG__LEVEL", "debug")
    result = cli("config", "show", "--origin", "--config", config)
    assert result.code == 0
    lines = {line.split()[0]: line.split()[1:] for line in result.out.splitlines()}
    assert lines["log.level"] == ["debug", "env:RUNBRIDGE_LOG__LEVEL"]
    assert lines["log.format"] == ["auto", "default"]
    assert lines["server.api_token"] == ["****", f"file:{config}"]
    assert "the-token" not in result.out
    assert "the-key" not in result.out
    keys = [row["key"] for row in cli("config", "show", "--config", config, "--json").json]
    assert "log.level" in keys


def test_show_with_a_mistake_is_wrong_use_and_names_it(cli, tmp_path):
    (tmp_path / "x.toml").write_text("[server\n")
    result = cli("config", "show", "--config", tmp_path / "x.toml")
    assert result.code == 2
    assert "line 1" in result.err


def test_endpoints_that_will_get_nothing_are_remarks(cli, config):
    listen = config.read_text().partition('listen = "')[2].partition('"')[0]
    secret, closed = "whsec_" + "A" * 32, free_port()
    for name, address in (("own", listen), ("closed", f"127.0.0.1:{closed}")):
        text = f'[endpoints.{name}]\nurl = "http://{address}/hooks"\nsecret = "{secret}"\n'
        config.write_text(config.read_text() + text)
    result = cli("config", "check", "--config", config)
    assert result.code == 0
    own, nobody = [line for line in result.out.splitlines() if line.startswith("!")]
    assert "endpoints.own.url" in own
    assert "this daemon itself" in own
    assert f"endpoints.closed.url: nothing listens at 127.0.0.1:{closed} now" in nobody


def test_a_key_of_another_kind_is_a_remark(cli, config):
    config.write_text(config.read_text().replace("the-key", "dataset-canary"))
    result = cli("config", "check", "--config", config)
    assert (result.code, "connections.d.api_key: is not a key of a Dify app" in result.out) == (0, True)
    assert "canary" not in result.out
