"""The fake of a provider with a definition: every built-in one is played from its start to its end."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.definitions.files import BUILT_IN, Definitions
from bridge.domain.connection import Connection
from bridge.domain.errors import BridgeError, Unsupported
from bridge.domain.observation import Observed
from bridge.domain.run import RunStatus
from bridge.domain.secret import Secret
from bridge.providers import open_http
from bridge.providers.defined import DefinedProvider
from bridge.providers.http import ProviderFailure, ProviderHttp, ProviderSessions
from bridge.sandbox.defined import DefinedSandbox
from tests.support.manual_clock import ManualClock

DEFINITIONS = Definitions()
NAMES = [name for name in DEFINITIONS.names if DEFINITIONS.files[name].path.is_relative_to(BUILT_IN)]
IDS = {"uuid": "fb47b2e6-5e43-4f90-be01-d5c5a088d156", "int": "4711", "slug": "run-7", "path": "a/b"}
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "sandbox-key"


def provider_at(sandbox: DefinedSandbox, name: str) -> tuple[DefinedProvider, Connection]:
    definition = DEFINITIONS.get(name)
    given = {one: "mine" for one, spec in definition.variables.items() if "default" not in spec}
    options = given | {"job": "job/a"} if name == "jenkins" else given
    connection = Connection("c", name, sandbox.origin, Secret(KEY), options=options, definition=definition)
    return DefinedProvider(definition, options), connection


async def statuses(provider: DefinedProvider, http: ProviderHttp, run_id: str, clock: ManualClock) -> list[RunStatus]:
    """The statuses that polls of a run show until it is settled."""
    seen: list[RunStatus] = []
    for _ in range(40):
        result = await provider.fetch_run(http, run_id)
        assert isinstance(result, Observed), result
        seen.append(result.observation.status)
        if seen[-1].is_settled:
            return seen
        clock.advance(1)
    raise AssertionError(seen)


@pytest.mark.parametrize("name", NAMES)
async def test_a_run_of_every_definition_goes_from_its_start_to_its_end(name: str) -> None:
    clock = ManualClock(SINCE)
    sandbox = await DefinedSandbox(DEFINITIONS.files[name].path, key=KEY, step_s=1, clock=clock).start()
    try:
        provider, connection = provider_at(sandbox, name)
        async with ProviderSessions() as sessions:
            http = open_http(sessions, connection, provider)
            run_id = "/".join(IDS[kind] for kind in provider.answers.run_id.kinds.values())
            first = await statuses(provider, http, run_id, clock)
            assert first[0] in {RunStatus.QUEUED, RunStatus.RUNNING} or len(first) == 1
            if "trigger" in provider.tables:
                inputs = None if not provider.tables["trigger"].get("inputs", {}).get("merge") else {"a": 1}
                started = await provider.trigger(http, "w", inputs, {})
                assert (await statuses(provider, http, started.provider_run_id, clock))[-1].is_settled
            if "list" in provider.tables and provider.lists:
                await provider.list_runs(http, since=SINCE)
            if "output" in provider.tables:
                await provider.fetch_output(http, run_id)
            try:
                await provider.cancel(http, run_id, None)
                result = await provider.fetch_run(http, run_id)
                assert isinstance(result, Observed)
            except Unsupported:
                assert "cancel" not in provider.tables
    finally:
        await sandbox.stop()


async def test_the_ends_take_turns_and_runs_are_listed() -> None:
    clock = ManualClock(SINCE)
    sandbox = await DefinedSandbox(BUILT_IN / "instabase", key=KEY, step_s=1, clock=clock).start()
    try:
        provider, connection = provider_at(sandbox, "instabase")
        async with ProviderSessions() as sessions:
            http = open_http(sessions, connection, provider)
            ends = {(await statuses(provider, http, f"run-{number}", clock))[-1] for number in range(3)}
            page = await provider.list_runs(http, since=SINCE)
            await provider.check(http)
    finally:
        await sandbox.stop()
    assert ends == {RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED}
    assert [run.provider_run_id for run in page.runs] == ["run-2", "run-1", "run-0"]


async def test_a_wrong_key_and_another_address_are_reported() -> None:
    sandbox = await DefinedSandbox(BUILT_IN / "dibby", key="another", step_s=1).start()
    try:
        provider, connection = provider_at(sandbox, "dibby")
        async with ProviderSessions() as sessions:
            with pytest.raises(ProviderFailure, match="the key is missing or wrong"):
                await provider.trigger(open_http(sessions, connection, provider), "w", {}, {})
            other = ProviderHttp(sessions, sandbox.origin, {"Authorization": "Bearer another"}, 5)
            with pytest.raises(ProviderFailure, match="no such request; it has"):
                await other.request("GET", "/elsewhere")
    finally:
        await sandbox.stop()


async def test_an_id_whose_name_has_a_dash_is_that_of_the_run(tmp_path: Path) -> None:
    """Each run had the id of the fixture, so that no answer was believed."""
    text = (
        'schema = 1\nname = "jobs"\n[run]\nget = "/jobs/{id}"\n[read]\nstatus = "s"\nid = \'task."task-id"\'\n'
        '[status]\nsucceeded = ["OK"]\n[trigger]\npost = "/jobs"\nrun_from = \'task."task-id"\'\n'
    )
    (tmp_path / "jobs.toml").write_text(text)
    (tmp_path / "fixtures").mkdir()
    for name in ("run", "trigger"):
        fixture = {"request": name, "body": {"s": "OK", "task": {"task-id": "t-1"}}}
        (tmp_path / f"fixtures/{name}.json").write_text(json.dumps(fixture))
    sandbox = await DefinedSandbox(tmp_path / "jobs.toml", key=KEY, step_s=0).start()
    try:
        definition = Definitions(tmp_path).get("jobs")
        connection = Connection("a", "jobs", sandbox.origin, Secret(KEY), definition=definition)
        provider = DefinedProvider(definition)
        async with ProviderSessions() as sessions:
            http = open_http(sessions, connection, provider)
            assert await statuses(provider, http, "j-9", ManualClock(SINCE)) == [RunStatus.SUCCEEDED]
            started = await provider.trigger(http, "w", None, {})
    finally:
        await sandbox.stop()
    assert started.provider_run_id == "run-1"


def test_without_a_fixture_there_is_nothing_to_play(tmp_path: Path) -> None:
    text = 'schema = 1\nname = "jobs"\n[run]\nget = "/jobs/{id}"\n[read]\nstatus = "s"\n[status]\nrunning = ["RUN"]\n'
    (tmp_path / "jobs.toml").write_text(text)
    with pytest.raises(BridgeError, match="no fixture beside"):
        DefinedSandbox(tmp_path / "jobs.toml", key=KEY, step_s=1)


async def test_the_address_of_the_list_is_no_run(tmp_path: Path) -> None:
    """Flink has its list at /jobs/overview, beside /jobs/{id}."""
    folder = tmp_path / "jobs"
    (folder / "fixtures").mkdir(parents=True)
    (folder / "fixtures" / "running.json").write_text('{"body": {"id": "7", "state": "RUNNING"}}')
    (folder / "definition.toml").write_text("""schema = 1
name = "jobs"
[run]
get = "/jobs/{id}"
[read]
status = "state"
id = "id"
[status]
running = ["RUNNING"]
[list]
get = "/jobs/all"
items = "@"
id = "id"
""")
    sandbox = await DefinedSandbox(folder, key=KEY, step_s=1).start()
    try:
        definition = Definitions().read(folder / "definition.toml", "test")
        connection = Connection("c", definition.name, sandbox.origin, Secret(KEY), definition=definition)
        provider = DefinedProvider(definition)
        async with ProviderSessions() as sessions:
            http = open_http(sessions, connection, provider)
            assert isinstance(await provider.fetch_run(http, "7"), Observed)
            page = await provider.list_runs(http, since=SINCE)
    finally:
        await sandbox.stop()
    assert [run.provider_run_id for run in page.runs] == ["7"]
