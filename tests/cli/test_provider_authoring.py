"""From recorded answers to a definition that is linted, tried and tested."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, quote_plus

import pytest
from aiohttp import web

from bridge.providers.definition_trial import masked
from tests.support.foreign_server import foreign_server

RUNNING = {
    "id": 17,
    "status": "RUNNING",
    "createdAt": "2026-11-30T05:00:00Z",
    "startedAt": 1_796_000_000_123,
    "progress": 0.5,
    "workflow": {"id": "w"},
    "owner": {"email": "carol@example.org", "api_key": "canary-in-a-field"},
    "download": "https://files.example.org/a?X-Amz-Signature=canary-in-a-query",
}
DONE = {**RUNNING, "status": "DONE", "progress": 1.0, "result": '{"n": 1}'}
KEY = "canary-key-0123456789"


@pytest.fixture
def answers(tmp_path):
    paths = []
    for body in (RUNNING, DONE):
        paths.append(tmp_path / f"{body['status']}.json")
        paths[-1].write_text(json.dumps(body))
    return [word for path in paths for word in ("--from", path)]


def test_a_draft_is_guessed_once_lints_and_passes_its_own_fixtures(cli, tmp_path, answers):
    folder = tmp_path / "providers"
    made = cli("providers", "new", "jobs", *answers, "--folder", folder, "--base-url", "https://a.example")
    assert made.code == 0, made
    text = (folder / "jobs/definition.toml").read_text()
    draft = tomllib.loads(text)
    assert draft["status"]["running"] == ["RUNNING"]
    assert draft["status"]["succeeded"] == ["DONE"]
    assert draft["run"]["id"] == "int"
    assert draft["read"]["started_at"] == {"path": "startedAt", "time": "ms"}
    assert draft["read"]["progress"] == {"path": "progress", "as": "fraction"}
    assert draft["read"]["output"] == {"path": "result", "decode": "json"}
    assert "guessed from" in text
    assert "canary-in" not in "".join(path.read_text() for path in folder.rglob("*.json"))
    assert cli("providers", "lint", folder / "jobs").code == 0
    tested = cli("providers", "test", folder / "jobs", "--json")
    assert tested.code == 0, tested
    assert [one["status"] for one in tested.json["fixtures"]] == ["succeeded", "running"]
    assert cli("providers", "new", "jobs", *answers, "--folder", folder).code == 1
    assert cli("providers", "new", "No Name", *answers, "--folder", folder).code == 2


def test_several_answers_may_follow_one_option(cli, tmp_path, answers):
    paths = [word for word in answers if word != "--from"]
    assert cli("providers", "new", "jobs", "--from", *paths, "--folder", tmp_path).code == 0
    assert tomllib.loads((tmp_path / "jobs/definition.toml").read_text())["status"]["succeeded"] == ["DONE"]


def test_a_status_that_moves_is_looked_for_where_it_is(cli, tmp_path):
    """Two of three answers were dropped in silence, because they had the status elsewhere."""
    paths = [tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.json"]
    bodies = ({"phase": "Queued", "life": None}, {"life": {"phase": "Running"}}, {"life": {"phase": "Done"}})
    for path, body in zip(paths, bodies, strict=True):
        path.write_text(json.dumps(body))
    assert cli("providers", "new", "jobs", "--from", *paths, "--folder", tmp_path).code == 0
    tables = tomllib.loads((tmp_path / "jobs/definition.toml").read_text())
    assert tables["read"]["status"] == ["phase", "life.phase"]
    assert len(list((tmp_path / "jobs/fixtures").iterdir())) == 3
    assert cli("providers", "test", tmp_path / "jobs").code == 0


def test_an_unknown_word_and_a_missing_path_are_left_to_the_author(cli, tmp_path):
    body = tmp_path / "body.json"
    body.write_text(json.dumps([{"run_id": "a", "state": "REVIEWING-3"}, {"run_id": "b", "state": "RUNNING"}]))
    made = cli("providers", "new", "jobs", "--from", body, "--folder", tmp_path)
    assert made.code == 0
    text = (tmp_path / "jobs/definition.toml").read_text()
    assert 'what does "REVIEWING-3" mean' in text
    assert tomllib.loads(text)["list"] == {"get": "/TODO", "items": "@", "id": "run_id"}
    assert "TODO" in made.out
    linted = cli("providers", "lint", tmp_path / "jobs")
    assert "the word 'REVIEWING-3' of fixture REVIEWING-3 is in no list of [status]" in linted.out


def test_the_id_is_a_usual_name_or_a_uuid_beside_the_status_before_any_name(cli, tmp_path):
    """As of Conductor, whose answer also holds the name of the workflow that runs."""
    of_the_run = "a81dea3a-1263-4488-90af-f6e8f7a17556"
    body = {
        "status": "FAILED",
        "workflowId": of_the_run,
        "workflowDefinition": {"name": "human"},
        "workflowName": "human",
    }
    (tmp_path / "one.json").write_text(json.dumps(body | {"reasonForIncompletion": "no paper"}))
    assert cli("providers", "new", "jobs", "--from", tmp_path / "one.json", "--folder", tmp_path).code == 0
    read = tomllib.loads((tmp_path / "jobs/definition.toml").read_text())["read"]
    assert (read["id"], read["workflow"], read["error"]) == ("workflowId", "workflowName", "reasonForIncompletion")


def test_what_is_null_while_a_run_goes_on_is_guessed_by_its_name(cli, tmp_path):
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"id": "a", "status": "running", "result": None, "finishedAt": None, "percent": None}))
    assert cli("providers", "new", "jobs", "--from", body, "--folder", tmp_path).code == 0
    read = tomllib.loads((tmp_path / "jobs/definition.toml").read_text())["read"]
    assert read == {"status": "status", "id": "id", "finished_at": "finishedAt", "output": "result"}


@pytest.mark.slow
def test_a_lint_loads_no_http_client(tmp_path):
    """Importing it would take longer than the check."""
    (tmp_path / "jobs.toml").write_text(DEFINITION.format(auth='"bearer"'))
    code = (
        "import sys; from bridge.cli import main\n"
        f"try: main(['providers', 'lint', {str(tmp_path / 'jobs.toml')!r}])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "jobs 1.0.0: no mistakes" in done.stdout
    assert {"aiohttp", "sqlalchemy", "pydantic"}.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("key", ["a", "x7", "sk-Canary/123+==", "us:er p/a+ss", 'é"quoted'])
def test_a_key_is_masked_in_every_form_in_which_an_answer_may_repeat_it(key):
    encoded = base64.b64encode(key.encode()).decode()
    forms = [key, quote(key, safe=""), quote(key), quote_plus(key), encoded, encoded.rstrip("="), json.dumps(key)]
    body = {"said": [f"it was {form}, you see" for form in forms], "path": f"/jobs/7?t={forms[1]}", key: 1}
    kept = masked(body, frozenset({key, ""}))
    assert kept["path"] == "/jobs/7?t=****"
    assert [one.replace('"', "") for one in kept["said"]] == ["it was ****, you see"] * len(forms)
    assert kept["****"] == 1


DEFINITION = """\
schema = 1
name = "jobs"
version = "1.0.0"
auth = {auth}
[vars]
team = {{ required = true, about = "the team" }}
[run]
get = "/{{team}}/jobs/{{id}}"
[read]
status = ["phase.word", "status"]
error = "length(status.x)"
[status]
running = ["RUNNING"]
"""


@pytest.mark.parametrize("auth", ['"bearer"', '"basic"', '{ header = "X-Key" }', '{ query = "token" }'])
async def test_a_try_shows_what_was_sent_and_read_and_no_secret(cli, tmp_path, auth):
    """The server repeats the key in a header and in the body, as some do."""

    async def answer(_: web.Request) -> web.Response:
        headers = {"Set-Cookie": f"session={KEY}", "Retry-After": "7", "ETag": f'"{KEY}"'}
        return web.json_response(
            {**RUNNING, "echo": f"you sent {KEY}", "session_token": "canary-token"}, headers=headers
        )

    file, key = tmp_path / "jobs.toml", tmp_path / "key"
    file.write_text(DEFINITION.format(auth=auth))
    key.write_text(f"user:{KEY}\n")
    async with foreign_server(answer) as server:
        given = (
            "providers",
            "try",
            file,
            "--id",
            "17",
            "--key-file",
            key,
            "--base-url",
            server.url,
            "--var",
            "team=a b",
        )
        with ThreadPoolExecutor() as pool:
            tried = await _in(pool, cli, *given, "--save", "running")
            again = await _in(pool, cli, *given, "--json")
            twice = await _in(pool, cli, *given, "--save", "running")
    assert tried.code == 0, tried
    assert [one.target.partition("?")[0] for one in server.seen] == ["/a%20b/jobs/17"] * 3
    assert again.json["status"] == "running"
    assert again.json["poll_after_s"] == 7
    assert {"key": "read.status", "path": "phase.word", "value": "nothing"} not in again.json["values"]
    assert {"key": "status", "path": "phase.word", "value": "nothing"} in again.json["values"]
    assert any("fails" in one["value"] for one in again.json["values"])
    assert any("read.error" in remark for remark in again.json["remarks"])
    assert twice.code == 1
    kept = (tmp_path / "jobs/fixtures/running.json").read_text()
    for text in (tried.out, tried.err, again.out, kept):
        assert "canary" not in text
    assert "carol@" not in kept
    assert "Set-Cookie" not in kept
    assert cli("providers", "test", file).code == 0


async def _in(pool, cli, *arguments):
    import asyncio

    return await asyncio.get_running_loop().run_in_executor(pool, lambda: cli(*arguments))


def test_what_is_missing_for_a_try_is_said_at_once_before_any_request(cli, tmp_path):
    file = tmp_path / "jobs.toml"
    file.write_text(DEFINITION.format(auth='"bearer"'))
    tried = cli("providers", "try", file, "--id", "", "--var", "tema=x")
    assert tried.code == 2
    for said in ("--var team=", "no variable tema", "--base-url", "--id", "--key-file"):
        assert said in tried.err


def test_the_names_in_an_address_are_the_parts_of_the_id_and_a_list_is_above_its_runs(cli, tmp_path):
    page = tmp_path / "page.json"
    page.write_text(json.dumps({"items": [{"id": 1, "status": "error"}, {"id": 2, "status": "running"}], "next": "/x"}))
    made = cli(
        "providers", "new", "jobs", "--from", page, "--folder", tmp_path,
        "--base-url", "https://a.example", "--get", "/teams/{team}/jobs/{job}/",
    )  # fmt: skip
    assert made.code == 0
    draft = tomllib.loads((tmp_path / "jobs/definition.toml").read_text())
    assert draft["run"]["id"] == {"team": "slug", "job": "slug"}
    assert draft["list"]["get"] == "/teams/{team}/jobs/"
    assert (draft["status"]["failed"], draft["status"]["running"]) == (["error"], ["running"])


def test_an_answer_without_a_status_word_is_kept_all_the_same(cli, tmp_path):
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"kind": "Job", "metadata": {"name": "a"}, "status": {"active": 1}}))
    made = cli("providers", "new", "jobs", "--from", body, "--folder", tmp_path, "--get", "/jobs/{id}")
    assert made.code == 0
    assert "[[status.when]]" in made.out
    assert json.loads((tmp_path / "jobs/fixtures/answer-1.json").read_text())["body"]["kind"] == "Job"


@pytest.mark.parametrize(
    ("run", "page", "status", "listing"),
    [
        (
            {"run": {"info": {"run_id": "a", "status": "RUNNING"}}},
            {"runs": [{"info": {"run_id": "a", "status": "RUNNING"}}]},
            ["run.info.status", "info.status"],
            {"items": "runs", "id": "info.run_id"},
        ),
        (
            {"jid": "a", "state": "RUNNING", "name": "nightly"},
            {"jobs": [{"job_id": None, "jid": "a", "state": "DONE"}]},
            "state",
            {"items": "jobs", "id": "jid"},
        ),
        (
            {"uuid": "a", "state": "DONE", "worker": 1},
            {"a": {"uuid": "a", "state": "DONE"}, "b": {"uuid": "b", "state": "FAILED", "worker": 1}},
            "state",
            {"items": "@", "items_as": "map"},
        ),
        (
            {"id": "a", "state": "DONE"},
            {"response": {"a": {"name": "a", "state": "DONE"}, "b": {"name": "b", "state": "DONE"}}},
            "state",
            {"items": "response", "items_as": "map"},
        ),
    ],
)
def test_a_page_is_recognised_by_the_runs_in_it(cli, tmp_path, run, page, status, listing):
    """MLflow has the status deeper in an item, Flink and Ray other names of an id, Flower and Luigi a map of runs."""
    paths = [tmp_path / "run.json", tmp_path / "page.json"]
    for path, body in zip(paths, (run, page), strict=True):
        path.write_text(json.dumps(body))
    assert cli("providers", "new", "jobs", "--from", *paths, "--get", "/jobs/{id}", "--folder", tmp_path).code == 0
    tables = tomllib.loads((tmp_path / "jobs/definition.toml").read_text())
    assert tables["read"]["status"] == status
    assert {key: value for key, value in tables["list"].items() if key != "get"} == listing
    assert cli("providers", "lint", tmp_path / "jobs").code == 0
