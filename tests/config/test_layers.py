"""Command line > environment > file > default, and every value knows where it came from."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.config.load import changes_that_need_restart, load_config
from bridge.config.show import show_config
from bridge.domain.connection import CadenceSettings
from bridge.domain.delivery import RetrySchedule
from bridge.domain.event import EventType
from tests.config.config_files import DIFY, ENDPOINT, SIGNING_SECRET, TOKEN, load, mistakes, write


def test_the_higher_layer_wins(tmp_path: Path):
    text = '[server]\napi_token = "t"\nlisten = "127.0.0.1:1"\n'
    env = {"RUNBRIDGE_SERVER__LISTEN": "127.0.0.1:2"}
    assert load(tmp_path, TOKEN).server.listen.port == 8484
    assert load(tmp_path, text).server.listen.port == 1
    assert load(tmp_path, text, env=env).server.listen.port == 2
    assert load(tmp_path, text, env=env, **{"server.listen": "127.0.0.1:3"}).server.listen.port == 3


def test_defaults_are_the_domain_s(tmp_path: Path):
    config = load(tmp_path, TOKEN + DIFY + ENDPOINT)
    assert config.cadence == CadenceSettings()
    assert config.connections["main"].cadence == CadenceSettings()
    assert config.connections["main"].base_url == "https://api.dify.ai/v1"
    assert config.delivery.schedule == RetrySchedule()
    assert (config.delivery.timeout_s, config.delivery.allow_http, config.delivery.allow) == (15.0, False, ())
    assert config.endpoints["app"].events is None
    assert config.endpoints["app"].secret.reveal() == SIGNING_SECRET


@pytest.mark.parametrize(
    ("variable", "text", "read"),
    [
        ("RUNBRIDGE_DELIVERY__ALLOW", "127.0.0.0/8, [fd00::/8]:80", lambda c: c.delivery.allow),
        ("RUNBRIDGE_DELIVERY__ALLOW", '["127.0.0.0/8", "[fd00::/8]:80"]', lambda c: c.delivery.allow),
    ],
)
def test_lists_from_the_environment_are_toml_or_commas(tmp_path: Path, variable, text, read):
    assert read(load(tmp_path, TOKEN, env={variable: text})) == ("127.0.0.0/8", "[fd00::/8]:80")


def test_values_from_the_environment_are_read_as_the_key_wants(tmp_path: Path):
    """A token of digits stays text, a number becomes one, quotes are TOML's."""
    config = load(
        tmp_path,
        TOKEN + DIFY + ENDPOINT,
        env={
            "RUNBRIDGE_SERVER__API_TOKEN": "0012",
            "RUNBRIDGE_CONNECTIONS__MAIN__API_KEY": "'quoted'",
            "RUNBRIDGE_CONNECTIONS__MAIN__REQUESTS_PER_SECOND": "2.5",
            "RUNBRIDGE_CONNECTIONS__MAIN__FETCH_OUTPUT": "false",
            "RUNBRIDGE_CONNECTIONS__MAIN__TIMEOUT": "5s",
            "RUNBRIDGE_ENDPOINTS__APP__EVENTS": "run.finished,run.started",
            "RUNBRIDGE_ENDPOINTS__APP__HEADERS": '{ authorization = "Bearer x" }',
            "RUNBRIDGE_ENDPOINTS__APP__DESCRIPTION": "2024-01-01",
        },
    )
    connection, endpoint = config.connections["main"], config.endpoints["app"]
    assert config.server.api_token.reveal() == "0012"
    assert connection.api_key.reveal() == "quoted"
    assert (connection.requests_per_second, connection.fetch_output, connection.timeout_s) == (2.5, False, 5.0)
    assert endpoint.events == (EventType.RUN_FINISHED, EventType.RUN_STARTED)
    assert endpoint.headers == {"authorization": "Bearer x"}
    assert endpoint.description == "2024-01-01"


@settings(deadline=None)  # the machine may be busy; speed is not the point
@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40))
def test_a_secret_from_the_environment_arrives_unchanged_unless_quoted(text: str):
    """Tokens look like numbers, dates, lists; only a text that is a whole TOML string is unquoted."""
    config = load_config(None, env={"RUNBRIDGE_SERVER__API_TOKEN": text, "HOME": "/h"}) if is_plain(text) else None
    if config is not None:
        assert config.server.api_token.reveal() == text


def is_plain(text: str) -> bool:
    try:
        return not isinstance(tomllib.loads(f"v = {text}")["v"], str)
    except tomllib.TOMLDecodeError:
        return True


def test_a_connection_may_come_from_the_environment_alone(tmp_path: Path):
    env = {"RUNBRIDGE_CONNECTIONS__DIFY_PROD__PROVIDER": "dify", "runbridge_connections__dify_prod__api_key": "k"}
    assert load(tmp_path, TOKEN, env=env).connections["dify_prod"].provider == "dify"


def test_dashes_and_dots_in_names_are_underscores_in_variables(tmp_path: Path):
    text = TOKEN + DIFY.replace("main", '"my-hub.eu"')
    config = load(tmp_path, text, env={"RUNBRIDGE_CONNECTIONS__MY_HUB_EU__MAX_IN_FLIGHT": "3"})
    assert config.connections["my-hub.eu"].max_in_flight == 3


def test_a_variable_that_could_mean_two_tables_is_a_mistake(tmp_path: Path):
    text = TOKEN + DIFY.replace("main", "a-b") + DIFY.replace("main", "a_b")
    found = mistakes(tmp_path, text, env={"RUNBRIDGE_CONNECTIONS__A_B__PRICE": "1s"})
    assert found["RUNBRIDGE_CONNECTIONS__A_B__PRICE"] == "means several tables: a-b, a_b; set it in the file"


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("RUNBRIDGE_SERVER_LISTEN", "RUNBRIDGE_SERVER__LISTEN"),
        ("RUNBRIDGE_SERVER__LISTN", "RUNBRIDGE_SERVER__LISTEN"),
        ("RUNBRIDGE_CONNECTIONS__MAIN__APIKEY", "RUNBRIDGE_CONNECTIONS__MAIN__API_KEY"),
        ("RUNBRIDGE_CADENCE__A__PRICE", "RUNBRIDGE_CADENCE__PRICE"),
    ],
)
def test_an_unknown_variable_is_a_mistake(tmp_path: Path, variable: str, meant: str):
    found = mistakes(tmp_path, TOKEN + DIFY, env={variable: "x"})
    assert found == {variable: f"unknown variable; did you mean `{meant}`?"}


@pytest.mark.parametrize(
    "variable",
    [
        "RUNBRIDGE_CONFIG",
        "RUNBRIDGE_URL",
        "RUNBRIDGE_TOKEN",
        "RUNBRIDGE_SERVICE_HOST",
        "RUNBRIDGE_PORT_8484_TCP_ADDR",
    ],
)
def test_variables_that_are_not_settings_are_left_alone(tmp_path: Path, variable: str):
    """The command line's own, and what Kubernetes sets beside a Service of this name."""
    assert load(tmp_path, TOKEN, env={variable: "x"}).server.listen.port == 8484


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RUNBRIDGE_METRICS_PORT", "tcp://10.0.0.1:9090"),
        ("RUNBRIDGE_METRICS_PORT_9090_TCP", "tcp://10.0.0.1:9090"),
        ("RUNBRIDGE_METRICS_PORT_9090_TCP_PROTO", "tcp"),
        ("RUNBRIDGE_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("RUNBRIDGE_METRICS_SERVICE_PORT_HTTP", "9090"),
        ("RUNBRIDGE__ODD_PORT", "udp://10.0.0.1:53"),
    ],
)
def test_what_kubernetes_sets_for_another_service_is_left_alone(tmp_path: Path, variable: str, value: str):
    assert load(tmp_path, TOKEN, env={variable: value}).server.listen.port == 8484


def test_a_variable_that_only_looks_like_a_service_link_is_still_a_mistake(tmp_path: Path):
    assert list(mistakes(tmp_path, TOKEN, env={"RUNBRIDGE_METRICS_PORT": "9090"})) == ["RUNBRIDGE_METRICS_PORT"]


def test_a_variable_that_an_env_key_names_is_no_unknown_variable(tmp_path: Path):
    text = '[server]\napi_token_env = "RUNBRIDGE_MY_TOKEN"\n'
    assert load(tmp_path, text, env={"RUNBRIDGE_MY_TOKEN": "abc"}).server.api_token.reveal() == "abc"


def test_a_wrong_value_shows_the_variable_it_came_from(tmp_path: Path):
    found = mistakes(tmp_path, TOKEN, env={"RUNBRIDGE_DELIVERY__TIMEOUT": "1h"})
    assert found == {"delivery.timeout": "must lie between 1s and 60s (from env:RUNBRIDGE_DELIVERY__TIMEOUT)"}
    assert mistakes(tmp_path, TOKEN, **{"log.level": "x"})["log.level"].endswith("(from flag)")


def test_an_unknown_key_on_the_command_line_is_a_mistake(tmp_path: Path):
    assert mistakes(tmp_path, TOKEN, **{"server.port": "1"}) == {"server.port": "unknown key on the command line"}


def test_a_connection_s_cadence_overrides_the_global_one(tmp_path: Path):
    """Price and target delay are two ways to say one thing: setting one unsets the inherited other."""
    text = TOKEN + '[cadence]\ntarget_delay = "5%"\nmin_interval = "1s"\ndeadline = "1d"\n' + DIFY
    config = load(tmp_path, text + 'price = "2s"\ndeadline = "2h"\n' + DIFY.replace("main", "other"))
    assert config.cadence == CadenceSettings(target_delay="5%", min_interval_s=1.0, deadline_s=86400.0)
    own = CadenceSettings(price_s=2.0, min_interval_s=1.0, deadline_s=7200.0)
    assert config.connections["main"].cadence == own
    assert config.connections["other"].cadence == config.cadence


def test_a_higher_layer_s_price_unsets_the_file_s_target_delay(tmp_path: Path):
    config = load(tmp_path, TOKEN + '[cadence]\ntarget_delay = "5%"\n', env={"RUNBRIDGE_CADENCE__PRICE": "1s"})
    assert config.cadence == CadenceSettings(price_s=1.0)


def test_show_lists_every_setting_in_effect_and_its_origin(tmp_path: Path):
    text = TOKEN + DIFY + 'price = "2s"\n' + ENDPOINT + '[database]\nurl = "postgresql://u:p@ss@h/db"\n'
    config = load(tmp_path, text, env={"RUNBRIDGE_CADENCE__DEADLINE": "1h"}, **{"log.level": "debug"})
    rows = {row.key: (row.value, row.origin) for row in show_config(config)}
    file = f"file:{tmp_path / 'runbridge.toml'}"
    assert rows["server.listen"] == ("127.0.0.1:8484", "default")
    assert rows["server.api_token"] == ("****", file)
    assert rows["database.url"] == ("postgresql://u:****@h/db", file)
    assert rows["connections.main.api_key"] == ("****", file)
    assert rows["connections.main.base_url"] == ("https://api.dify.ai/v1", "default")
    assert rows["connections.main.price"] == ("2s", file)
    assert rows["connections.main.deadline"] == ("1h", "env:RUNBRIDGE_CADENCE__DEADLINE")
    assert rows["connections.main.requests_per_second"] == ("-", "default")
    assert rows["endpoints.app.secret"] == ("****", file)
    assert rows["delivery.retry_schedule"] == ("[5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 1d]", "default")
    assert rows["cadence.price"] == ("500ms", "default")
    assert rows["log.level"] == ("debug", "flag")
    assert "connections.main.target_delay" not in rows


def test_no_secret_is_shown_by_any_repr_or_row(tmp_path: Path):
    """Custom headers and URL queries often hold tokens too."""
    text = (
        '[server]\napi_token = "canary1"\n[database]\nurl = "postgresql://u:canary2@h/db?sslpassword=canary3"\n'
        '[connections.a]\nprovider = "dify"\napi_key = "canary4"\n'
        + ENDPOINT.replace("/hooks", "/hooks?token=canary5")
        + 'headers = { authorization = "Bearer canary6" }\n'
    )
    config = load(tmp_path, text)
    shown = " ".join(f"{row.key} {row.value} {row.origin}" for row in show_config(config))
    assert "canary" not in shown
    assert SIGNING_SECRET not in shown
    assert not any(f"canary{n}" in repr(config) for n in (1, 2, 3, 4, 6))
    assert SIGNING_SECRET not in repr(config)


def test_the_database_is_in_the_state_directory_unless_set(tmp_path: Path):
    def url(**env: str) -> str:
        return load_config(None, env={"RUNBRIDGE_SERVER__API_TOKEN": "t", "HOME": "/home/me"} | env).database.url

    assert url(STATE_DIRECTORY="/var/lib/runbridge:/x") == "sqlite:////var/lib/runbridge/runbridge.db"
    assert url(XDG_STATE_HOME="/state") == "sqlite:////state/runbridge/runbridge.db"
    assert url(XDG_STATE_HOME="relative") == "sqlite:////home/me/.local/state/runbridge/runbridge.db"
    assert url() == "sqlite:////home/me/.local/state/runbridge/runbridge.db"
    assert load(tmp_path, TOKEN, env={"STATE_DIRECTORY": "/s"}).origins["database.url"] == "default"


def test_what_a_reload_cannot_change_is_named(tmp_path: Path):
    old = load(tmp_path, TOKEN + '[database]\nurl = "sqlite:////a.db"\n')
    assert changes_that_need_restart(old, load(tmp_path, TOKEN + DIFY + '[database]\nurl = "sqlite:////a.db"\n')) == []
    new = load(tmp_path, TOKEN + 'listen = "[::1]:1"\n[database]\nurl = "sqlite:////b.db"\n')
    assert changes_that_need_restart(old, new) == ["server.listen", "database.url"]


def test_loading_twice_gives_equal_configurations(tmp_path: Path):
    """A reload compares two of them; loading has no hidden state."""
    text = TOKEN + DIFY + ENDPOINT
    path = write(tmp_path, text)
    assert load_config(path, env={"HOME": "/h"}) == load_config(path, env={"HOME": "/h"})
