"""Twelve traps that other systems with declared polling fell into; each number is a test."""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from bridge.definitions.check import faults_in
from bridge.definitions.doubts import doubts_in
from bridge.definitions.files import Definitions
from bridge.domain.connection import Connection, ConnectionHealth
from bridge.domain.definition import DefinitionInvalid
from bridge.domain.failure import FailureKind
from bridge.domain.observation import Observed, PollFailed
from bridge.domain.run import RunStatus
from bridge.domain.secret import Secret
from bridge.polling.connection_client import ConnectionClient
from bridge.providers import open_http
from bridge.providers.defined import DefinedProvider
from bridge.providers.fixtures import compare, read_fixture
from bridge.providers.http import ProviderFailure, ProviderSessions
from tests.support.foreign_server import Handler, answering, foreign_server

BASE = """\
schema = 1
name = "jobs"
version = "1.2.3"
[run]
post = "/jobs"
body = { job = "{id}" }
[read]
status = "state"
[status]
running = ["RUN"]
succeeded = ["OK"]
"""
LIST = '[list]\nget = "/jobs"\nitems = "items"\nid = "id"\n'


def definition(folder: Path, text: str) -> DefinedProvider:
    (folder / "jobs.toml").write_text(text)
    return DefinedProvider(Definitions(folder).get("jobs"))


async def poll(provider: DefinedProvider, handler: Handler, run_id: str = "7"):
    async with foreign_server(handler) as server, ProviderSessions() as sessions:
        connection = Connection("a", "jobs", server.url, Secret("key-123456"), definition=provider.definition)
        return await provider.fetch_run(open_http(sessions, connection), run_id), server


@pytest.mark.parametrize("run_id", ["478", "None", "true", "1e3", "007"])
async def test_1_text_is_never_typed_again(tmp_path, run_id):
    """Airbyte sent 478 for "478", and "None" disappeared."""
    _, server = await poll(definition(tmp_path, BASE), answering({"state": "RUN"}), run_id)
    assert server.seen[0].body == {"job": run_id}


def test_2_a_definition_from_a_package_is_read_and_no_code_of_it_runs(tmp_path, monkeypatch):
    site = tmp_path / "site"
    package, info = site / "evil_package", site / "evil_package-1.0.dist-info"
    (package / "providers").mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "providers/packaged-jobs.toml").write_text(BASE.replace('"jobs"', '"packaged-jobs"', 1))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[runbridge.providers]\nany = evil_package:run\n")
    (info / "RECORD").write_text("evil_package/__init__.py,,\nevil_package/providers/packaged-jobs.toml,,\n")
    monkeypatch.syspath_prepend(str(site))
    found = Definitions()
    assert found.get("packaged-jobs").origin == "package evil-package 1.0"
    assert "evil_package" not in sys.modules


async def test_3_an_unknown_word_is_neither_an_exception_nor_still_running(tmp_path):
    result, _ = await poll(definition(tmp_path, BASE), answering({"state": "HALF-DONE"}))
    assert isinstance(result, Observed)
    assert (result.observation.status, result.observation.provider_status) == (RunStatus.UNKNOWN, "HALF-DONE")


async def test_4_a_failing_expression_is_a_remark_and_never_a_value(tmp_path):
    """Uptime Kuma took a failed expression for 0, which passed `< 120`."""
    rule = '[[status.when]]\nif = "length(steps) < `120`"\nis = "succeeded"\n'
    result, _ = await poll(definition(tmp_path, BASE + rule), answering({"state": "RUN", "steps": 5}))
    assert isinstance(result, Observed)
    assert result.observation.status is RunStatus.RUNNING
    assert any("status.when[0].if" in remark for remark in result.remarks)


async def test_4_an_outcome_is_not_believed_where_a_rule_before_it_failed(tmp_path):
    """The rule might have been true: the run stays watched, and the connection says why."""
    rule = '[[status.when]]\nif = "length(steps) > `120`"\nis = "failed"\n'
    result, _ = await poll(definition(tmp_path, BASE + rule), answering({"state": "OK"}))
    assert isinstance(result, Observed)
    assert (result.observation.status, result.observation.provider_status) == (RunStatus.UNKNOWN, "OK")
    whole, _ = await poll(definition(tmp_path, BASE + rule), answering({"state": "OK", "steps": []}))
    assert isinstance(whole, Observed)
    assert whole.observation.status is RunStatus.SUCCEEDED


@pytest.mark.parametrize("condition", ['state == "OK"', "state == null", "state == true", "lenght(state) > `1`"])
def test_5_an_expression_that_can_never_be_true_is_a_fault_of_the_file(condition):
    tables = tomllib.loads(BASE)
    tables["status"]["when"] = [{"if": condition, "is": "succeeded"}]
    assert [at for at, _ in faults_in(tables)] == [("status", "when", 0, "if")]


@pytest.mark.parametrize("body", [{"state": "RUN"}, {"state": "OK"}, {"state": "X"}, {}, {"message": "no"}])
async def test_6_a_fixture_and_a_poll_are_read_alike(tmp_path, body):
    provider = definition(tmp_path, BASE)
    (tmp_path / "one.json").write_text(json.dumps({"body": body}))
    compared = compare(provider.answers, read_fixture(tmp_path / "one.json"))
    result, _ = await poll(provider, answering(body))
    assert compared.status == (result.observation.status.value if isinstance(result, Observed) else None)


@pytest.mark.parametrize("table", ["run", "pace", "list"])
@pytest.mark.parametrize("key", ["interval", "every", "timeout", "max_attempts"])
def test_7_no_pace_stands_in_a_file(table, key):
    tables = tomllib.loads(BASE + LIST)
    tables.setdefault(table, {})[key] = 15
    assert ((table, key)) in [at for at, _ in faults_in(tables)]


async def test_8_where_the_next_page_is_is_never_guessed(tmp_path):
    provider = definition(tmp_path, BASE + LIST)
    body = {"items": [{"id": 1, "state": "RUN"}], "next": "/jobs?page=2", "next_cursor": "c", "has_more": True}
    async with (
        foreign_server(answering(body, headers={"Link": '</x>; rel="next"'})) as server,
        ProviderSessions() as own,
    ):
        connection = Connection("a", "jobs", server.url, Secret("key-123456"), definition=provider.definition)
        page = await provider.list_runs(open_http(own, connection), since=datetime(2026, 1, 1, tzinfo=UTC))
    assert page.next_cursor is None


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([{"id": 1, "job": {"state": "RUN"}}], "read.status finds nothing in any item"),
        ([{"key": 1, "state": "RUN"}], "list.id finds no run id"),
        ([{"id": 1, "state": "RUN"}, {"id": 2}], None),
        ([{"id": 1, "state": None}], "read.status finds nothing in any item"),
        ([], None),
    ],
)
async def test_8_a_list_of_which_nothing_can_be_read_says_so_at_the_connection(tmp_path, items, said):
    """Discovery found nothing for ever, and nothing showed why."""
    text = BASE + 'absent = "queued"\n[list]\nget = "/jobs"\nitems = "jobs"\nid = "id"\n'
    async with foreign_server(answering({"jobs": items})) as server, ProviderSessions() as sessions:
        settings = Connection(
            "j", "jobs", server.url, Secret("k-123456"), definition=definition(tmp_path, text).definition
        )
        client = ConnectionClient(settings, sessions, health=ConnectionHealth.UNKNOWN)
        await client.list_runs(since=datetime(2026, 1, 15, tzinfo=UTC))
    assert [*client.remarks] == ([one for one in client.remarks if said in one] if said else [])
    assert bool(client.remarks) is bool(said)


@pytest.mark.parametrize(
    ("read", "item", "said"),
    [
        ('status = ["keys(jobs) | [0]", "state"]', {"id": 1, "state": "RUN"}, "read.status: `keys(jobs) | [0]` fails"),
        ('status = "state"\ncreated_at = "at"', {"id": 1, "state": "RUN", "at": "noon"}, "read.created_at finds text"),
    ],
)
async def test_4_what_fails_in_an_item_of_a_list_is_said_as_of_an_answer(tmp_path, read, item, said):
    """It was forgotten with the item: a list could be read by half for ever, and nothing showed it."""
    provider = definition(tmp_path, (BASE + LIST).replace('status = "state"', read))
    items = [({}, item), ({}, {"id": 2, "state": "OK", "jobs": {"a": 1}})]
    runs, remark = provider.answers.runs_in([(None, one) for _, one in items], {})
    assert len(runs) == 2
    assert remark is not None
    assert remark.startswith(f"in an item of [list]: {said}")


async def test_9_a_run_that_is_not_there_yet_is_no_failed_run(tmp_path):
    """Whether it is lost, or only not there yet, is decided by its age, not by the definition."""
    result, _ = await poll(definition(tmp_path, BASE), answering({"message": "no such job"}, status=404))
    assert isinstance(result, PollFailed)
    assert result.kind is FailureKind.NOT_FOUND


def test_10_a_mistake_has_file_line_key_found_allowed_and_the_nearest(tmp_path):
    with pytest.raises(DefinitionInvalid) as caught:
        definition(tmp_path, BASE.replace("succeeded =", "suceeded =").replace('"state"', "3"))
    said = sorted(map(str, caught.value.mistakes))
    assert said[0].startswith(f"{tmp_path}/jobs.toml:11: status.suceeded: unknown key `suceeded`; allowed: ")
    assert said[0].endswith("did you mean `succeeded`?")
    assert said[1].startswith(f"{tmp_path}/jobs.toml:8: read.status: found 3; allowed: a JMESPath expression")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_11_the_key_follows_neither_a_redirect_nor_an_address_in_an_answer(tmp_path, status):
    trigger = '[trigger]\npost = "/start"\nrun_from = { header = "Operation-Location" }\n'
    text = BASE.replace('post = "/jobs"\nbody = { job = "{id}" }', 'get = "/jobs/{id}"') + trigger
    provider = definition(tmp_path, text)
    async with foreign_server(answering({"state": "OK"})) as elsewhere, ProviderSessions() as sessions:

        async def answer(request: web.Request) -> web.Response:
            address = {"Location": f"{elsewhere.url}/jobs/7", "Operation-Location": f"{elsewhere.url}/jobs/7"}
            return web.json_response({}, status=status if request.method == "GET" else 202, headers=address)

        async with foreign_server(answer) as server:
            connection = Connection("a", "jobs", server.url, Secret("key-123456"), definition=provider.definition)
            http = open_http(sessions, connection)
            result = await provider.fetch_run(http, "7")
            with pytest.raises(ProviderFailure, match="may not see the key"):
                await provider.trigger(http, "w", {}, {})
        await asyncio.sleep(0)
    assert isinstance(result, PollFailed)
    assert elsewhere.seen == []


def test_12_a_change_in_place_is_seen_by_its_digest(tmp_path):
    before = definition(tmp_path, BASE).definition
    after = definition(tmp_path, BASE.replace('["OK"]', '["OK", "FINE"]')).definition
    assert (before.version, after.version) == ("1.2.3", "1.2.3")
    assert before.digest != after.digest
    assert before != after


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (BASE + '[[answer]]\nhttp = 404\nmeans = "failed"\n', "answer[0]: a run that is not there yet"),
        (BASE + '[[answer]]\nhttp = [404, 410]\nmeans = "gone"\n', "answer[0]: a run that is not there yet"),
        (BASE.replace('["RUN"]', '["RUN.*"]'), "status.running[0]: 'RUN.*' is a word like any other, not a pattern"),
    ],
)
def test_lint_doubts_what_would_end_a_run_that_is_not_there_yet(wrong, said):
    assert any(doubt.startswith(said) for doubt in doubts_in(tomllib.loads(wrong)))


def test_a_code_that_a_body_explains_may_end_a_run():
    rule = '[[answer]]\nhttp = 404\nif = "code == \'deleted\'"\nmeans = "gone"\n'
    assert not [one for one in doubts_in(tomllib.loads(BASE + rule)) if one.startswith("answer")]


@pytest.mark.parametrize(
    ("written", "wrong", "said"),
    [
        ('body = { job = "{id}" }', "", "write it into the address"),
        ('succeeded = ["OK"]', 'else = "failed"\nsucceeded = ["OK"]', "a word in no list is unknown"),
        ('status = "state"', 'status = "{{ state | lower }}"', "a path stands without braces"),
        ('succeeded = ["OK"]', 'succeeded = ["OK" "DONE"]', "a comma stands between the items"),
    ],
)
def test_10_what_people_write_has_its_remedy(tmp_path, written, wrong, said):
    with pytest.raises(DefinitionInvalid, match=said):
        definition(tmp_path, BASE.replace(written, wrong))
