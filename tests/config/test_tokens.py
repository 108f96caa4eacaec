"""[server.tokens.NAME]: who may use the API for what, and what is wrong with it."""

from pathlib import Path

from bridge.config.show import show_config
from bridge.domain.api_token import Scope
from tests.config.config_files import TOKEN, load, mistakes

CI = '[server.tokens.ci]\ntoken_env = "CI"\nscope = "register"\n'


def test_tokens_come_from_anywhere_and_are_never_shown(tmp_path: Path):
    (tmp_path / "reader").write_text("read-token\n")
    text = f'{TOKEN}{CI}[server.tokens.grafana]\ntoken_file = "reader"\nscope = "read"\n'
    config = load(tmp_path, text, env={"CI": "ci-token"})
    assert [(each.name, each.token.reveal(), each.scope) for each in config.tokens] == [
        ("ci", "ci-token", Scope.REGISTER),
        ("grafana", "read-token", Scope.READ),
    ]
    shown = {row.key: row.value for row in show_config(config)}
    assert (shown["server.tokens.ci.token"], shown["server.tokens.ci.scope"]) == ("****", "register")
    assert "ci-token" not in repr(config)


def test_a_variable_can_set_one(tmp_path: Path):
    env = {"RUNBRIDGE_SERVER__TOKENS__CI__TOKEN": "other", "CI": "ci-token"}
    (token,) = load(tmp_path, TOKEN + CI, env=env).tokens
    assert token.token.reveal() == "other"


def test_every_mistake_is_named_with_its_place(tmp_path: Path):
    text = f'{TOKEN}[server.tokens.a]\nscope = "write"\nname = "x"\n[server.tokens.b]\ntoken = "t"\n'
    assert set(mistakes(tmp_path, text)) == {
        "server.tokens.a.token",
        "server.tokens.a.scope",
        "server.tokens.a.name",
        "server.tokens.b.scope",
    }
    assert set(mistakes(tmp_path, '[server]\napi_token = "t"\ntokens = 1\n')) == {"server.tokens"}


def test_two_tokens_must_differ(tmp_path: Path):
    """Changes by either would be logged under one name."""
    text = (
        f'{TOKEN}[server.tokens.a]\ntoken = "a-token"\nscope = "read"\n[server.tokens.b]\ntoken = "b"\nscope = "read"\n'
    )
    found = mistakes(tmp_path, f'{text}[server.tokens.c]\ntoken = "b"\nscope = "admin"\n')
    assert found == {
        "server.tokens.a.token": "is the same as server.api_token; give each its own",
        "server.tokens.c.token": "is the same as server.tokens.b.token; give each its own",
    }
