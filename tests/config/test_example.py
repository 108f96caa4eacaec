"""The example file says what the code does: every key, every default, and valid."""

import re
import tomllib
from pathlib import Path

import pytest

from bridge.config.connection_sections import BASE_URLS, CadenceTable
from bridge.config.layers import schema_of
from bridge.config.load import load_config
from bridge.config.sections import NAMED_SECTIONS, SECTIONS
from bridge.config.values import read_size
from bridge.definitions.files import built_in
from bridge.domain.connection import CadenceSettings
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.domain.timestamps import format_duration, parse_duration

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
COMMENTED_SETTING = re.compile(r"^#(?=[a-z_]+ = )", re.MULTILINE)
SECRETS = {
    "RUNBRIDGE_API_TOKEN": "example-token",
    "MY_APP_WEBHOOK_SECRET": new_secret(),
    **dict.fromkeys(("DIFY_API_KEY", "RETAB_API_KEY", "INSTABASE_TOKEN", "DIBBY_TOKEN"), "key"),
    "CI_TOKEN": "ci-token",
    "SMTP_PASSWORD": "password",
    "NTFY_TOKEN": "token",
}
TABLES = {
    "server": ("server",),
    "server.tokens": ("server.tokens", "ci"),
    "database": ("database",),
    "secrets": ("secrets",),
    "retention": ("retention",),
    "backup": ("backup",),
    "connections": ("connections", "dify"),
    "endpoints": ("endpoints", "my-app"),
    "delivery": ("delivery",),
    "alerts": ("alerts", "mail"),
    "cadence": ("cadence",),
    "dashboard": ("dashboard",),
    "providers": ("providers",),
    "otel": ("otel",),
    "log": ("log",),
}
BASES = {**BASE_URLS, **{name: built_in(name).base_url for name in ("dibby", "instabase")}}
SECTION_NAMES = sorted(TABLES)


def shown(section: str, text: str) -> dict[str, object]:
    """The keys that `text` has for a section; tables of one kind are taken together."""
    content = tomllib.loads(text)
    for part in section.split("."):
        content = content[part]
    if section not in NAMED_SECTIONS:
        return {key: value for key, value in content.items() if f"{section}.{key}" not in NAMED_SECTIONS}
    return {key: value for table in content.values() for key, value in table.items()}


def everything() -> str:
    return COMMENTED_SETTING.sub("", EXAMPLE.read_text())


def test_the_example_loads_once_its_variables_are_set():
    config = load_config(EXAMPLE, env=SECRETS)
    assert set(config.connections) == {"dify", "retab", "hub", "dibby"}
    assert {connection.provider for connection in config.connections.values()} == BASES.keys()
    assert set(config.endpoints) == {"my-app"}


@pytest.mark.parametrize("section", SECTION_NAMES)
def test_every_key_of_the_code_stands_in_the_example_and_no_other(section: str):
    known = set(schema_of(TABLES[section]).known_keys())
    if section == "connections":  # the example says in words that every [cadence] key may stand there
        known -= set(CadenceTable.attributes()) - {"target_delay", "deadline"}
    assert set(shown(section, everything())) == known


def test_every_section_of_the_code_stands_in_the_example():
    assert set(TABLES) == set(SECTIONS) | set(NAMED_SECTIONS)
    assert set(tomllib.loads(EXAMPLE.read_text())) == {name.partition(".")[0] for name in TABLES}


@pytest.mark.parametrize("section", SECTION_NAMES)
def test_every_default_in_the_example_is_the_code_s(section: str):
    """A commented-out setting shows its default; what is in force is an example."""
    schema = schema_of(TABLES[section])
    in_force, offered = shown(section, EXAMPLE.read_text()), shown(section, everything())
    compared = set()
    for key, attribute in schema.attributes().items():
        default = schema.model_fields[attribute].get_default(call_default_factory=True)
        if key in in_force or key in schema.secrets or default is None:
            continue
        if attribute.endswith("_bytes"):
            assert read_size(offered[key]) == default
            compared.add(key)
            continue
        is_duration = attribute.endswith(("_s", "schedule"))
        assert as_text(offered[key], is_duration=is_duration) == as_text(default, is_duration=is_duration)
        compared.add(key)
    assert compared or section in ("server.tokens", "database", "secrets", "cadence", "otel")


def test_the_cadence_defaults_in_the_example_are_the_domain_s():
    offered, settings = shown("cadence", everything()), CadenceSettings()
    for key, attribute in CadenceTable.attributes().items():
        if key != "target_delay":
            assert parse_duration(str(offered[key])) == getattr(settings, attribute)


@pytest.mark.parametrize("provider", sorted(BASES))
def test_the_base_urls_in_the_example_are_the_code_s(provider: str):
    assert f'"{BASES[provider]}"' in EXAMPLE.read_text()


def test_setting_the_defaults_that_are_shown_changes_nothing(tmp_path: Path):
    """So that removing a # is safe."""
    alternatives = re.compile(
        r"^(api_token|token|api_key|secret|url|key|old_keys|proxy|ca|password|endpoint)(_env|_file)? = .*\n"
        r"|^headers(_env|_file)? = [^{].*\n|^target_delay = .*\n",
        re.MULTILINE,
    )
    spelled = "".join(
        f"{line[1:]}\n" if COMMENTED_SETTING.match(line) and not alternatives.match(f"{line[1:]}\n") else f"{line}\n"
        for line in EXAMPLE.read_text().splitlines()
    )
    assert spelled != EXAMPLE.read_text()
    path = tmp_path / "runbridge.toml"
    path.write_text(spelled)
    plain, set_by_hand = load_config(EXAMPLE, env=SECRETS), load_config(path, env=SECRETS)
    for section in (
        "server",
        "secrets",
        "retention",
        "delivery",
        "cadence",
        "log",
        "connections",
        "endpoints",
        "alerts",
    ):
        assert getattr(set_by_hand, section) == getattr(plain, section)


def as_text(value: object, *, is_duration: bool = False) -> str:
    match value:
        case bool():
            return str(value).lower()
        case tuple() | list():
            return ", ".join(as_text(each, is_duration=is_duration) for each in value)
        case float() | int() if is_duration:
            return format_duration(value)
        case str() if is_duration:
            return format_duration(parse_duration(value))
        case _:
            return str(value)
