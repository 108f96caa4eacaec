"""Definitions of providers: where they are found, what is wrong with one, and what a connection must give."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.config.load import ConfigInvalid, load_config
from bridge.definitions.files import Definitions
from bridge.domain.definition import DefinitionInvalid
from tests.support.definition_texts import JOBS

TOKEN = '[server]\napi_token = "token-token-token"\n'
CONNECTION = f'{TOKEN}[connections.a]\nprovider = "jobs"\nbase_url = "http://127.0.0.1:9"\napi_key = "k"\n'


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / "providers" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder / "providers"


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(DefinitionInvalid) as caught:
        Definitions(write(folder, jobs=text)).get("jobs")
    return [f"{one.line}: {one.said}" for one in caught.value.mistakes]


def problems(folder: Path, config: str) -> list[str]:
    (folder / "c.toml").write_text(config)
    with pytest.raises(ConfigInvalid) as caught:
        load_config(folder / "c.toml", env={})
    return [f"{problem.field}: {problem.message}" for problem in caught.value.problems]


def test_a_file_and_a_folder_are_found(tmp_path: Path) -> None:
    folder = write(tmp_path, jobs=JOBS)
    (folder / "more").mkdir()
    (folder / "more/definition.toml").write_text(JOBS.replace("jobs", "more", 1))
    found = Definitions(folder)
    assert {"jobs", "more"} <= set(found.names)
    assert "list" not in found.get("more").tables
    assert found.mistakes == []


def test_every_mistake_is_reported_at_once_with_its_line_what_is_allowed_and_the_nearest_word(tmp_path: Path) -> None:
    told = mistakes(
        tmp_path,
        JOBS.replace("/jobs/{id}", "/jobs/{ids}")
        .replace('status = "state"', 'status = "state"\nfinished = "end"\nerror = "msg == \\"x\\""')
        .replace('running = ["RUN"]', 'runing = ["RUN"]\nfailed = [\n  "BAD",\n]\ncancelled = ["BAD"]')
        + '[[status.when]]\nif = "a == null"\nis = "done"\n[[status.when]]\nif = "lenght(a) > `1`"\nis = "failed"\n',
    )
    expected = {
        4: ("run.get", "{ids}", "did you mean `id`"),
        7: ("read.finished", "unknown key", "did you mean `finished_at`"),
        8: ("read.error", "single quotes", "'x'"),
        10: ("status.runing", "unknown key", "did you mean `running`"),
        14: ("status.cancelled[0]", "'BAD'", "`failed`"),
        16: ("status.when[0].if", "`null`", "backticks"),
        17: ("status.when[0].is", '"done"', "allowed: queued"),
        19: ("status.when[1].if", "no function lenght()", ""),
    }
    for line, parts in expected.items():
        assert any(one.startswith(f"{line}: ") and all(part in one for part in parts) for one in told), (line, told)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("schema = 1", "schema = 2"), "schema: found 2"),
        (('name = "jobs"', 'name = "other"'), "name: found 'other'"),
        (('status = "state"', ""), "the key `status` is missing"),
        (("[run]", '[run]\npost = "/x"'), "exactly one of get, post"),
        (('get = "/jobs/{id}"', 'get = "/jobs"'), "no {id} stands in [run], so every run"),
        (('get = "/jobs/{id}"', 'get = "https://other.example.com/jobs/{id}"'), "is not in `hosts`"),
        (('["RUN"]', '["RUN", true, 10, "10"]'), "the word '10' stands in `running`, too"),
        (("[run]", '[run]\nquery = { key = "{key}" }'), "`{key}` may stand in [auth] only"),
        (('status = "state"', f'status = "{"a" * 513}"'), "at most 512 characters"),
        (('status = "state"', f'status = "{"[" * 40}a{"]" * 40}"'), "levels deep"),
        (('status = "state"', 'status = "task-id"'), "needs double quotes, in TOML within single ones: '\"task-id\"'"),
        (('status = "state"', 'status = "length(a, b)"'), "length() takes 1 argument"),
        (("[status]", "[[answer]]\nmeans = 'retry'\n[status]"), "no condition"),
        (("[status]", "[list]\nget = '/jobs'\nitems = 'jobs'\nid = 'id'\nnext = { cursor = 'c' }\n[status]"), "needs `query`"),
        (('running = ["RUN"]', ""), "no word at all"),
        (("[run]", "[run"), "is not TOML"),
        (('name = "jobs"', 'name = "jobs"\nbase = "nothing"'), "unknown definition"),
        (('name = "jobs"', 'name = "jobs"\nbase = "jobs"'), "in a circle"),
        (('name = "jobs"', 'name = "jobs"\nreplaces = "other"'), "replaces: found 'other'; the file is called 'jobs'"),
        (('name = "jobs"', 'name = "jobs"\nchecked = "2026-11-29"'), "a date such as"),
        (('name = "jobs"', 'name = "jobs"\nauth = { header = "X", query = "k" }'), "exactly one of header, query, exchange"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    told = mistakes(tmp_path, JOBS.replace(*change))
    assert any(said in one for one in told), told


def test_a_base_gives_what_the_file_leaves_out(tmp_path: Path) -> None:
    base = JOBS.replace('"jobs"', '"basis"').replace('["RUN"]', '["RUN"]\nfailed = ["BAD"]')
    own = 'schema = 1\nname = "jobs"\nbase = "basis"\n[run]\npost = "/ask"\nbody = { id = "{id}" }\n[status]\nrunning = ["GO"]\n'
    tables = Definitions(write(tmp_path, jobs=own, basis=base)).get("jobs").tables
    assert tables["run"] == {"post": "/ask", "body": {"id": "{id}"}}, "the other method goes"
    assert tables["status"] == {"running": ["GO"], "failed": ["BAD"]}
    assert tables["read"] == {"status": "state"}


def test_a_mistake_in_the_base_is_reported_with_its_file(tmp_path: Path) -> None:
    base = JOBS.replace('"jobs"', '"basis"').replace("[read]", '[read]\nid = "a b"')
    folder = write(tmp_path, jobs='schema = 1\nname = "jobs"\nbase = "basis"\n', basis=base)
    with pytest.raises(DefinitionInvalid) as caught:
        Definitions(folder).get("jobs")
    assert [(Path(one.file).name, one.line, one.key) for one in caught.value.mistakes] == [("basis.toml", 6, "read.id")]


def test_a_built_in_name_needs_replaces(tmp_path: Path) -> None:
    mine = JOBS.replace('"jobs"', '"dify"')
    config = CONNECTION.replace("jobs", "dify")
    write(tmp_path, dify=mine)
    assert any('say replaces = "dify"' in one for one in problems(tmp_path, config))
    write(tmp_path, dify=mine.replace("schema = 1", 'schema = 1\nreplaces = "dify"'))
    (tmp_path / "c.toml").write_text(config)
    assert load_config(tmp_path / "c.toml", env={}).connections["a"].definition is not None


def test_a_connection_of_a_definition(tmp_path: Path) -> None:
    write(
        tmp_path, jobs=JOBS + '[vars]\norg = { required = true, about = "your organisation" }\nst = { default = "p" }\n'
    )
    assert problems(tmp_path, CONNECTION) == [
        "connections.a.vars: missing: org (your organisation); give it in [connections.NAME.vars]"
    ]
    assert any("did you mean `org`" in one for one in problems(tmp_path, f'{CONNECTION}vars = {{ orgg = "x" }}\n'))
    (tmp_path / "c.toml").write_text(f'{CONNECTION}[connections.a.vars]\norg = "x"\n')
    connection = load_config(tmp_path / "c.toml", env={}).connections["a"]
    assert (connection.provider, connection.options) == ("jobs", {"org": "x"})
    assert any("base_url: missing" in one for one in problems(tmp_path, CONNECTION.replace("base_url", "#")))


def test_a_definition_that_sends_no_key_needs_none(tmp_path: Path) -> None:
    write(tmp_path, jobs=JOBS.replace('name = "jobs"', 'name = "jobs"\nauth = "none"'))
    (tmp_path / "c.toml").write_text(CONNECTION.replace('api_key = "k"\n', ""))
    assert load_config(tmp_path / "c.toml", env={}).connections["a"].definition is not None


def test_a_faulty_definition_stops_the_configuration_with_file_and_line(tmp_path: Path) -> None:
    folder = write(tmp_path, jobs=JOBS.replace("running", "runnning"))
    assert problems(tmp_path, CONNECTION)[0].startswith(f"{folder / 'jobs.toml'}:8: status.runnning: unknown key")


def test_an_unknown_provider_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, jobs=JOBS)
    assert any("jobs" in one for one in problems(tmp_path, CONNECTION.replace('"jobs"', '"jobz"')))


def test_a_folder_that_is_named_must_be_there(tmp_path: Path) -> None:
    assert any("there is no folder" in one for one in problems(tmp_path, f'{TOKEN}[providers]\nfolder = "elsewhere"\n'))


def test_the_parts_of_an_id_that_a_list_does_not_show_are_variables(tmp_path: Path) -> None:
    """One definition serves every repository; only its list must know which one."""
    text = JOBS.replace('get = "/jobs/{id}"', 'get = "/{owner}/{run}"\nid = { owner = "slug", run = "int" }')
    write(tmp_path, jobs=f'{text}[list]\nget = "/{{owner}}"\nitems = "@"\nid = {{ run = "n" }}\n')

    (tmp_path / "c.toml").write_text(CONNECTION)
    load_config(tmp_path / "c.toml", env={})
    assert "needs owner" in problems(tmp_path, f"{CONNECTION}discover = true\n")[0]
    (tmp_path / "c.toml").write_text(f'{CONNECTION}discover = true\nvars = {{ owner = "me" }}\n')
    load_config(tmp_path / "c.toml", env={})
