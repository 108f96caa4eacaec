"""The manual says what the program does: every command, key, call, event and number that it shows is there."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bridge.api.request_models import BATCH_RUNS_MAX, METADATA_BYTES_MAX, WAIT_MAX_S
from bridge.api.routes import ROUTES
from bridge.api.serving import BATCH_BYTES_MAX
from bridge.api.stream import STREAMS_MAX
from bridge.cli.commands import runbridge
from bridge.cli.trigger import sample_event
from bridge.config.connection_sections import CadenceTable
from bridge.config.load import load_config
from bridge.config.sections import NAMED_SECTIONS, SECTIONS, DeliverySettings, RetentionSettings
from bridge.config.values import Table
from bridge.daemon import DRAIN_S
from bridge.delivery.sender import CONNECT_TIMEOUT_S, HEAD_BYTES_MAX, READ_BYTES_MAX
from bridge.domain.custom_headers import VALUE_CHARACTERS_MAX
from bridge.domain.delivery import RetrySchedule
from bridge.domain.event import BODY_BYTES_MAX, EventType
from bridge.domain.failure import FailureKind
from bridge.domain.filter import FILTER_CHARS_MAX
from bridge.domain.limits.adaptive import RATE_FIRST
from bridge.domain.run import RunStatus
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.domain.timestamps import format_duration
from bridge.domain.webhook_url import URL_CHARACTERS_MAX
from bridge.providers import REGISTRY
from bridge.providers.body import BODY_BYTES_MAX as PROVIDER_BYTES_MAX
from bridge.sandbox.server import FAKE_PROVIDERS
from tests.support.manual import PAGES, README, ROOT, Block, block, blocks, prose, read, rows, spans

SHOWN_COMMANDS = sorted(
    {" ".join(span.split()) for page in PAGES for span in spans(read(page)) if span.startswith("runbridge ")}
    | {
        line
        for each in blocks("sh")
        for line in each.text.replace("\\\n", "").splitlines()
        if line.startswith("runbridge ")
    }
)
DEFINITIONS = {"add-a-provider"}  # its blocks describe providers and have tests of their own
TOML = [each for each in blocks("toml") if each.page not in DEFINITIONS]
KIB = 1024
SAMPLE_SECRETS = {
    "key": b64encode(bytes(32)).decode(),
    "old_keys": b64encode(b"1" * 32).decode(),
    "headers": "x-key=value",
    "url": "postgresql://runbridge:secret@127.0.0.1/runbridge",
}


def spellings(shown: str) -> list[list[str]]:
    """`runbridge runs add|list` shows two commands, as lists of words."""
    words = shlex.split(shown)[1:]
    at = next((n for n, word in enumerate(words) if "|" in word and not word.startswith("-")), None)
    if at is None:
        return [words]
    return [[*words[:at], each, *words[at + 1 :]] for each in words[at].split("|")]


def resolve(words: list[str]) -> click.Command:
    command: click.Command = runbridge
    for word in words:
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        found = command.get_command(click.Context(command), word)
        assert found is not None, f"there is no command {word} in {command.name}"
        command = found
    return command


def leaves(group: click.Group, *before: str) -> Iterator[str]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from leaves(command, *before, name)
        else:
            yield " ".join((*before, name))


@pytest.mark.parametrize("shown", SHOWN_COMMANDS)
def test_every_command_that_is_shown_exists_with_its_options(shown: str):
    for words in spellings(shown):
        command = resolve(words)
        options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= options


def test_every_command_stands_in_the_table():
    shown = {" ".join(words) for row in rows(prose("cli")) for words in spellings(spans(row[0])[0])}
    assert shown == set(leaves(runbridge))


@pytest.mark.parametrize("shown", TOML, ids=lambda shown: shown.title)
def test_every_configuration_that_is_shown_loads(shown: Block, tmp_path: Path):
    text = shown.text
    (tmp_path / "runbridge.toml").write_text(text)
    env = {} if "api_token" in text else {"RUNBRIDGE_SERVER__API_TOKEN": "a-token"}  # a fragment
    for key, source in re.findall(r'^(\w+)_(?:file|env) = "([^"]+)"', text, re.MULTILINE):
        secret = {**SAMPLE_SECRETS, "secret": new_secret()}.get(key, f"value-of-{source}")
        if source == "slack-url":  # not that of a database
            secret = "https://hooks.slack.com/services/a/b/c"
        (tmp_path / source).write_text(secret)
        env[source] = secret
    config = load_config(tmp_path / "runbridge.toml", env=env)
    assert set(config.connections) | set(config.endpoints) == {
        name for kind in ("connections", "endpoints") for name in tomllib.loads(text).get(kind, {})
    }


def test_the_quick_start_needs_ten_lines():
    assert len(block("quickstart-config").splitlines()) == 10


def schema_of(heading: str) -> type[Table]:
    name = heading.strip("[]")
    return NAMED_SECTIONS[name.removesuffix(".NAME")] if name.endswith(".NAME") else SECTIONS[name]


@pytest.mark.parametrize("row", rows(prose("configuration")), ids=lambda row: row[0].strip("`"))
def test_every_key_of_a_section_is_named_and_no_other(row: list[str]):
    heading = spans(row[0])[0]
    named = {span for span in spans(row[1]) if re.fullmatch(r"[a-z_]+", span)}
    known = set(schema_of(heading).attributes())
    if heading == "[connections.NAME]":  # the row says in words that every [cadence] key may stand there
        known -= set(CadenceTable.attributes())
    assert named == known


def test_every_section_is_named():
    named = {spans(row[0])[0] for row in rows(prose("configuration"))}
    assert named == {f"[{name}]" for name in SECTIONS} | {f"[{name}.NAME]" for name in NAMED_SECTIONS}


def test_every_call_of_the_api_stands_in_the_table_and_no_other():
    shown = {call for row in rows(prose("api")) for call in calls(spans(row[0]))}
    assert shown == {(route.method, route.path) for route in ROUTES}


def calls(cell: list[str]) -> Iterator[tuple[str, str]]:
    """`GET, DELETE /a/b` is two calls; a further `/c` in the same cell stands for `/a/c`."""
    methods, _, first = cell[0].rpartition(" ")
    for path in (first, *(first[: first.rindex("/")] + other for other in cell[1:])):
        yield from ((method, path) for method in methods.split(", "))


def test_every_event_type_stands_in_the_table_and_no_other():
    assert [span for row in rows(prose("events")) for span in spans(row[0])] == [member.value for member in EventType]


def test_every_status_is_explained():
    assert {member.value for member in RunStatus} <= set(spans(prose("events")))


def test_every_kind_of_failed_poll_is_explained():
    shown = {span for row in rows(prose("troubleshooting")) for span in spans(row[0])}
    assert {kind.value for kind in FailureKind} <= shown


def test_the_event_that_is_shown_has_exactly_the_fields_of_a_real_one():
    shown = json.loads(block("event"))
    real = json.loads(sample_event(EventType.RUN_FINISHED).body)
    for part in (lambda event: event, lambda event: event["data"], lambda event: event["data"]["run"]):
        assert list(part(shown)) == list(part(real))


def test_every_provider_has_its_column():
    (names, *_) = rows(prose("providers"))
    shown = [span for cell in names[1:] for span in spans(cell)]
    assert sorted(shown) == sorted(fake.name for fake in FAKE_PROVIDERS)
    assert set(REGISTRY) <= set(shown)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("limits", f"batch of at most {BATCH_RUNS_MAX:,} runs"),
        ("limits", f"{BATCH_BYTES_MAX // KIB**2} MiB for a batch"),
        ("limits", f"{METADATA_BYTES_MAX // KIB} KiB of JSON"),
        ("limits", f"{BODY_BYTES_MAX // KIB} KiB; beyond it `output` is null"),
        ("limits", f"| provider's answer | {PROVIDER_BYTES_MAX // KIB**2} MiB"),
        (
            "limits",
            f"{URL_CHARACTERS_MAX:,} characters, {FILTER_CHARS_MAX:,} characters, 50 of {VALUE_CHARACTERS_MAX:,}",
        ),
        ("limits", f"{DeliverySettings().timeout_s:g} s from lookup to last byte"),
        ("limits", f"{CONNECT_TIMEOUT_S:g} s of them to connect"),
        ("limits", f"{DeliverySettings().max_in_flight}, {DeliverySettings().max_in_flight_per_endpoint} per endpoint"),
        ("limits", f"{READ_BYTES_MAX // KIB} KiB read, {HEAD_BYTES_MAX // KIB} KiB kept"),
        ("limits", f"{WAIT_MAX_S:g} s of `wait`, {STREAMS_MAX} event streams"),
        ("systemd", f"posts under way get {DRAIN_S:g} s"),
        ("backup", f"{format_duration(RetentionSettings().keep_s)} after they settled"),
        ("providers", f"begin at {RATE_FIRST:g} requests a second"),
    ],
)
def test_a_number_in_the_manual_is_that_of_the_code(page: str, text: str):
    assert text in " ".join(prose(page).split())


def test_the_retry_schedule_in_the_manual_is_that_of_the_code():
    shown = re.search(r"tried again after (.+?) \(each ±20 %\), ten", " ".join(prose("guarantees").split()))
    assert shown is not None
    parts = [part.replace("min", "m").replace(" ", "") for part in re.split(r", | and ", shown[1])]
    assert parts == [format_duration(s).replace("1d", "24h") for s in RetrySchedule().delays_s]
    assert len(parts) + 1 == 10


DOCUMENTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_named_exists(path: Path):
    """`bridge/api/NOUN.py` stands for any noun."""
    named = re.findall(r"`((?:bridge|tests|benchmarks|docs|systemd)/[\w./-]+)`", path.read_text(encoding="utf-8"))
    assert [name for name in named if not re.search("[A-Z]{4}", name) and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_inside_the_repository_leads_somewhere(path: Path):
    text = path.read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    links = re.findall(r"\]\((?!https?://)([^)]+)\)", text)
    dead = [
        link
        for link in links
        if not (link[1:] in anchors if link.startswith("#") else (path.parent / link.partition("#")[0]).exists())
    ]
    assert dead == []


def test_lines_fit_on_a_screen():
    """Table rows cannot be broken."""
    assert [line for line in read(README).splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_the_readme_is_read_in_one_go():
    assert len(read(README).splitlines()) <= 150


def test_every_block_of_code_is_run_by_a_test_or_says_that_it_is_not():
    """`not-run`: nothing to run here; `…-by-hand`: its runtime may be missing. Commands of ours are checked above."""
    tests = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")).replace("'", '"')
    silent = [
        each.title
        for each in blocks("sh", "bash", "console", "python", "js", "ruby", "php", "go", "java", "nginx", "caddy")
        if each.page not in DEFINITIONS
        and not each.name.endswith(("not-run", "by-hand"))
        and (not each.name or f'"{each.name}"' not in tests)
        and not all(line.startswith(("runbridge ", "#")) for line in each.text.splitlines())
    ]
    assert silent == []
