"""Mistakes that people make in a definition: each is named with line and key, what is allowed, and what is meant."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from bridge.cli.providers import key_sent
from bridge.definitions.check import faults_in
from bridge.definitions.doubts import doubts_in
from bridge.definitions.files import Definitions
from bridge.domain.definition import DefinitionInvalid

ACME = """\
schema = 1
name = "acme"
version = "1.0.0"
base_url = "https://api.acme.example"
auth = { header = "X-Api-Key" }
[run]
get = "/v1/jobs/{id}"
[read]
status = "state"
created_at = "createdAt"
progress = { completed = "done", total = "total" }
[status]
queued = ["PENDING"]
running = ["RUNNING"]
succeeded = ["DONE"]
failed = ["FAILED"]
[list]
get = "/v1/jobs"
items = "data"
id = "id"
next = { cursor = "next", query = "cursor" }
[trigger]
post = "/v1/jobs"
body = { job = "{workflow}", params = "{inputs}" }
run_from = "id"
"""
RULE = '[[status.when]]\nif = "IF"\nis = "failed"\n'


def mistakes(folder: Path, text: str) -> list[str]:
    (folder / "acme.toml").write_text(text)
    with pytest.raises(DefinitionInvalid) as caught:
        Definitions().read(folder / "acme.toml", "here")
    return [f"{one.line}: {one.said}" for one in caught.value.mistakes]


def test_the_definition_itself_has_no_mistake_and_no_doubt() -> None:
    tables = tomllib.loads(ACME)
    assert faults_in(tables) == []
    assert list(doubts_in(tables)) == []


def test_an_address_on_this_machine_needs_no_encryption() -> None:
    text = ACME.replace('auth = { header = "X-Api-Key" }', 'hosts = ["127.0.0.1:9000"]\nauth = AUTH')
    exchange = '{ exchange = "POST http://127.0.0.1:9000/token", token = "t" }'
    assert faults_in(tomllib.loads(text.replace("AUTH", exchange))) == []


@pytest.mark.parametrize(
    ("line", "was", "written", "said"),
    [
        (4, "base_url =", "url =", "write `base_url`"),
        (4, "base_url =", "baseUrl =", "did you mean `base_url`?"),
        (4, '"https://api.acme.example"', '"api.acme.example"', "begins with https://"),
        (4, "acme.example", "acme.example:99999/v1", "its port is 99999; allowed: a number from 1 to 65535"),
        (7, '"/v1/jobs/{id}"', '"https://[::1]:0/v1/jobs/{id}"', "its port is 0; allowed"),
        (5, '{ header = "X-Api-Key" }', '"X-Api-Key"', "{ header = … }, { header = …, scheme = … }"),
        (5, '{ header = "X-Api-Key" }', "{ bearer = true }", 'write auth = "bearer"'),
        (5, '{ header = "X-Api-Key" }', '{ header = "Authorization", prefix = "Token" }', "write `scheme`"),
        (5, '{ header = "X-Api-Key" }', '{ header = "Authorization: Bearer" }', "the name of an HTTP header"),
        (5, '{ header = "X-Api-Key" }', '{ header = "Authorization", scheme = "Token " }', "the key follows it"),
        (5, '{ header = "X-Api-Key" }', '{ query = "?token" }', "the name of a query parameter"),
        (5, 'auth = { header = "X-Api-Key" }', 'hosts = ["https://eu.acme.example"]', "without scheme and path"),
        (5, 'auth = { header = "X-Api-Key" }', "timeout = 30", "it belongs into the connection"),
        (7, "{id}", "{run_id}", "unknown name {run_id}; allowed: {id}"),
        (7, "{id}", "{ id }", "stands without blanks"),
        (6, "{id}", ":id", "no {id} stands in [run], so every run"),
        (7, '"/v1/jobs/{id}"', '"v1/jobs/{id}"', "begins with `/`"),
        (7, '"/v1/jobs/{id}"', '"http://api.acme.example/v1/jobs/{id}"', "unencrypted"),
        (7, "get = ", "url = ", "write the method for it: get = …"),
        (7, "[run]", "[run]\ninterval = 5", "the pace is learned"),
        (7, "[run]", "[run]\nmax_attempts = 40", "the deadline belongs into the connection"),
        (18, "[list]", '[pace]\nevery = "5s"\n[list]', "the pace is learned"),
        (17, "[list]", '[cadence]\nmin_interval = "5s"\n[list]', "[cadence] stands in the configuration"),
        (13, "queued", "others", "a word in no list is unknown"),
        (7, "[run]", '[run]\nheaders = { A = "b" }', "headers stand at the top of the file"),
        (7, "[run]", '[run]\nid = "string"', "slug (one name), uuid, int"),
        (7, "[run]", '[run]\nid = ["owner", "run"]', 'parts as { owner = "slug"'),
        (9, '"state"', '"$.state"', "without `$`"),
        (9, '"state"', "\"data['state']\"", "a member of a member is `data.state`"),
        (9, '"state"', '"items.*.state"', "take one item, as in `[0]`"),
        (9, "status = ", "state = ", "write `status`"),
        (10, "created_at", "completed_at", "write `finished_at`"),
        (10, '"createdAt"', '{ path = "createdAt", time = "epoch" }', "s (seconds since 1970)"),
        (10, '"createdAt"', '{ path = "createdAt", unit = "ms" }', "write `time`"),
        (11, '{ completed = "done", total = "total" }', '"percent"', 'as = "percent"'),
        (11, "completed = ", "current = ", "write `completed`"),
        (13, "queued", "pending", "write `queued`"),
        (14, '["RUNNING"]', '"RUNNING"', 'a list of their words, as ["RUNNING"]'),
        (14, "running = ", "in_progress = ", "write `running`"),
        (15, "succeeded", "success", "did you mean `succeeded`?"),
        (15, "succeeded", "completed", "write `succeeded`"),
        (16, '["FAILED"]', '["FAILED", "DONE"]', "'DONE' stands in `succeeded`, too"),
        (16, "failed", "expired", "runbridge itself says `expired`"),
        (17, "[list]", '[status.when]\nif = "a"\nis = "failed"\n[list]', "a list of tables: [[status.when]]"),
        (17, "[list]", '[[when]]\nif = "a"\nis = "failed"\n[list]', "rules stand in [[status.when]]"),
        (17, "[list]", "[answer]\nhttp = 202\n[list]", "a list of tables: [[answer]]"),
        (18, "[list]", '[[answer]]\nhttp = "202"\nmeans = "running"\n[list]', "a code such as 404 without quotes"),
        (18, "[list]", '[[answer]]\nstatus = 202\nmeans = "running"\n[list]', "write `http`"),
        (19, "[list]", '[[answer]]\nhttp = 404\nmeans = "not_found"\n[list]', "did you mean `not-found`?"),
        (19, "[list]", '[[answer]]\nhttp = 429\nafter = 30\nmeans = "retry"\n[list]', '{ header = "retry-after" }'),
        (18, "[list]", '[pace]\nhint = "retry-after"\n[list]', 'as ["retry-after"'),
        (21, '{ cursor = "next", query = "cursor" }', '"next"', '"link-header", { url = … }'),
        (21, "query = ", "param = ", "write `query`"),
        (24, "{inputs}", "{input}", "did you mean `inputs`?"),
        (25, "run_from = ", "id = ", "write `run_from`"),
        (26, 'run_from = "id"', 'run_from = "id"\nok = 202', "a list of codes, as [200, 202]"),
        (9, "status = ", "status: ", "joined by `=`"),
        (9, '"state"', "state", "text stands in quotation marks"),
        (9, '"state"', "“state”", "quotation marks are straight"),
        (11, '{ completed = "done", total = "total" }', "{\n completed = 1 }", "stands on one line"),
        (17, "[list]", "// more\n[list]", "a comment begins with `#`"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_named_where_it_is_with_the_remedy(
    tmp_path: Path, line: int, was: str, written: str, said: str
) -> None:
    told = mistakes(tmp_path, ACME.replace(was, written, 1))
    assert any(one.startswith(f"{line}: ") and said in one for one in told), told


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("state = 'x'", "compare with `==`"),
        ("state === 'x'", "compare with `==`"),
        ("code == 3", "a number stands in backticks"),
        ("done == True", "write `` `true` `` in backticks"),
        ("done == None", "write `` `null` `` in backticks"),
        ("done and error", "and is `&&`"),
        ("!a.b", "write `!(a.b)`"),
        ("!state == 'x'", "and `a != b`"),
        ("state in ['a', 'b']", "`contains(['a', 'b'], name)`"),
        ("contains(state, ['a', 'b'])", "takes the list first"),
        ("done is null", "nothing is `` == `null` ``"),
        ("lower(state) == 'a'", 'case = "ignore"'),
        ("len(steps) > `0`", "did you mean `length`?"),
        ("count > '3'", "compare numbers"),
        ("'state' == 'DONE'", "the same in every answer"),
        ("exists(state)", "there is no function exists()"),
    ],
)
def test_a_condition_that_is_none_or_never_true_is_named(tmp_path: Path, condition: str, said: str) -> None:
    told = mistakes(tmp_path, ACME + RULE.replace("IF", condition))
    assert [one for one in told if one.startswith("27: status.when[0].if: found ") and said in one], told


@pytest.mark.parametrize(
    ("was", "written", "said"),
    [
        ("{id}", "${id}", "run.get: the '$' before {id} is sent as it is"),
        ("https:", "http:", "base_url: http:// sends the key unencrypted"),
        ('auth = { header = "X-Api-Key" }', 'headers = { X-Api-Key = "k-1" }', "belongs into the connection"),
        ('"RUNNING"', '"RUNNING, STARTED"', "one word with a comma"),
        ('"RUNNING"', '"RUNNING "', "ends with a blank"),
        ('"RUNNING"', '"null"', "write absent = …"),
        ('"RUNNING"', '"*"', "a word like any other"),
        ("[list]", '[cancel]\npost = "/v1/jobs/:id/cancel"\n[list]', "cancel: no part of the run's id"),
        (
            "[list]",
            '[cancel]\npost = "/v1/jobs/{id}"\nbody = { n = "{{ id | int }}" }\n[list]',
            "cancel.body.n: braces in braces",
        ),
        ('"state"', "\"'state'\"", "the same in every answer"),
        ('"state"', "\"state || 'RUNNING'\"", "what a missing status means is `absent`"),
        ('failed = ["FAILED"]', "", "status.failed: neither a word nor a rule means it"),
        ('"{workflow}"', '"${workflow}"', "trigger.body.job: the '$' before {workflow}"),
        ("[run]", "[vars]\norg = { required = true }\n[run]", "vars.org: {org} stands nowhere"),
        ('run_from = "id"', 'run_from = "Location"', 'write { header = "Location" }'),
        ('{ job = "{workflow}", params = "{inputs}" }', '\'{"job": "{workflow}"}\'', "JSON in quotes"),
    ],
)
def test_what_is_allowed_and_hardly_meant_is_doubted(was: str, written: str, said: str) -> None:
    tables = tomllib.loads(ACME.replace(was, written))
    assert faults_in(tables) == []
    assert [one for one in doubts_in(tables) if said in one]


@pytest.mark.parametrize(
    ("auth", "sent"),
    [
        ('"bearer"', "Authorization: Bearer KEY"),
        ('"basic"', "Authorization: Basic KEY"),
        ('"none"', "not at all"),
        ('{ header = "Authorization" }', "Authorization: KEY"),
        ('{ header = "Authorization", scheme = "Token" }', "Authorization: Token KEY"),
        ('{ query = "token" }', "?token=KEY"),
        ('{ exchange = "POST /t", token = "t" }', "Authorization: Bearer the token for KEY"),
    ],
)
def test_how_the_key_is_sent_is_shown(auth: str, sent: str) -> None:
    """A scheme that is missing is seen here, not after a 401."""
    assert key_sent({"auth": tomllib.loads(f"auth = {auth}")["auth"]}) == sent
