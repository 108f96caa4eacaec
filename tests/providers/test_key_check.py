"""A check proves the key: the provider takes it, and refuses a wrong one of the same form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from bridge.definitions.files import BUILT_IN, Definitions
from bridge.domain.connection import Connection
from bridge.domain.secret import Secret
from bridge.providers import open_http
from bridge.providers.base import Provider
from bridge.providers.defined import DefinedProvider
from bridge.providers.http import ProviderSessions
from bridge.providers.key_check import check_key, wrong_key_like
from bridge.providers.registry import REGISTRY
from bridge.sandbox.defined import DefinedSandbox
from tests.support.foreign_server import Handler, answering, foreign_server
from tests.support.provider_http import KEY

NAMES = sorted(path.name for path in BUILT_IN.iterdir() if (path / "definition.toml").is_file())
UNASKED = {"azure-lro", "fal", "google-operation"}  # neither [check] nor [list]
EXCHANGING = {"airbyte", "airflow"}
ALIKE = "reachable, key not proven: {} answers alike with a wrong key; check base_url, unless it needs no key"
LISTS = {"retab": {"data": []}, "dify": {"data": []}, "dibby": {}, "instabase": {"runs": []}}


async def checked(url: str, provider: Provider, **options: str) -> tuple[bool | None, str]:
    definition = provider.definition if isinstance(provider, DefinedProvider) else None
    connection = Connection("c", provider.name, url, Secret(KEY), options=options, definition=definition)
    async with ProviderSessions() as sessions:
        return await check_key(provider, connection, open_http(sessions, connection, provider), sessions)


def guarded(body: object, refusal: int = 401, *, key: str = KEY) -> Handler:
    """Answers the key with `body`, any other with `refusal`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        is_ours = any(key in value for value in (*request.headers.values(), *request.query.values()))
        return await answering(body if is_ours else {"error": "no"}, status=200 if is_ours else refusal)(request)

    return answer


def key_in(headers: dict[str, str]) -> str:
    return (headers.get("api-key") or headers["authorization"]).removeprefix("Bearer ")


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("refusal", [401, 403])
async def test_a_key_is_proven_where_a_wrong_one_is_refused(name, refusal):
    async with foreign_server(guarded(LISTS[name], refusal)) as server:
        ok, said = await checked(server.url, REGISTRY[name])
    assert (ok, said) == (True, f"{server.url} takes the key and refuses a wrong one")
    real, wrong = server.seen
    assert (real.method, real.target) == (wrong.method, wrong.target)
    assert key_in(real.headers) == KEY
    assert re.fullmatch(r"[a-z]{3}-\d{10}", key_in(wrong.headers))
    assert key_in(wrong.headers) != KEY


async def test_the_wrong_key_goes_the_way_of_the_right_one():
    async with foreign_server(guarded(LISTS["retab"])) as server:
        ok, _ = await checked(server.url, REGISTRY["retab"], auth_scheme="api-key")
    assert ok
    assert "authorization" not in server.seen[1].headers
    assert key_in(server.seen[1].headers) != KEY


@pytest.mark.parametrize("name", LISTS)
async def test_a_server_that_takes_any_key_proves_nothing(name):
    async with foreign_server(answering(LISTS[name])) as server:
        ok, said = await checked(server.url, REGISTRY[name])
    assert (ok, said) == (None, ALIKE.format(server.url))
    assert len(server.seen) == 2


@pytest.mark.parametrize("status", [400, 404, 410, 422])
async def test_a_server_that_knows_no_run_whatever_the_key_proves_nothing(status):
    async with foreign_server(answering({}, status=status)) as server:
        ok, said = await checked(server.url, REGISTRY["dibby"])
    assert ok is None
    assert said.startswith("reachable, key not proven: ")


@pytest.mark.parametrize(("refusal", "why"), [(429, "HTTP 429"), (500, "HTTP 500"), (302, "a redirect"), (404, "404")])
async def test_trouble_with_the_wrong_key_does_not_prove_the_right_one(refusal, why):
    async with foreign_server(guarded(LISTS["retab"], refusal)) as server:
        ok, said = await checked(server.url, REGISTRY["retab"])
    assert ok is None
    assert said.startswith("reachable, key not proven: with a wrong key: GET /v1/workflows/runs: ")
    assert why in said


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_is_refused_is_not_asked_about_again(status):
    async with foreign_server(answering({"error": "no"}, status=status)) as server:
        ok, said = await checked(server.url, REGISTRY["retab"])
    assert ok is False
    assert said.startswith("the key is refused; check api_key")
    assert len(server.seen) == 1


async def test_no_key_is_repeated_in_what_is_said():
    """A server may repeat any key that it was ever given."""

    async def repeating(request: web.Request) -> web.StreamResponse:
        given = request.headers["Authorization"]
        if KEY in given:
            return web.json_response({"data": []})
        return web.json_response({"error": f"not {given}, it is {KEY}"}, status=418)

    async with foreign_server(repeating) as server:
        ok, said = await checked(server.url, REGISTRY["retab"])
    assert not ok
    assert KEY not in said
    assert key_in(server.seen[1].headers) not in said
    assert "HTTP 418" in said


@pytest.mark.parametrize("name", NAMES)
async def test_every_definition_proves_its_key_at_a_server_that_looks_at_it(name):
    sandbox = await DefinedSandbox(BUILT_IN / name, key=KEY, step_s=1).start()
    try:
        definition = Definitions().get(name)
        options = dict.fromkeys(definition.tables.get("vars", {}), "demo")
        ok, said = await checked(sandbox.origin, DefinedProvider(definition, options), **options)
    finally:
        await sandbox.stop()
    if name in UNASKED:
        assert (ok, said.startswith("key not proven: the definition of")) == (None, True)
    elif definition.tables.get("auth") == "none":
        assert (ok, said) == (True, f"{sandbox.origin} answers; {name} is asked without a key")
    else:
        assert (ok, said) == (True, f"{sandbox.origin} takes the key and refuses a wrong one")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNASKED | EXCHANGING | {"buildbot"}])
async def test_no_definition_believes_a_server_that_takes_any_key(name):
    """A gateway that puts the key in by itself answers any key as it answers the right one."""
    sandbox = await DefinedSandbox(BUILT_IN / name, key=KEY, step_s=1).start()

    async def with_key(request: web.Request) -> web.StreamResponse:
        body, headers = await request.read(), {"X-Key": KEY, "Content-Type": "application/json"}
        async with (
            ClientSession() as session,
            session.request(request.method, sandbox.origin + request.raw_path, data=body, headers=headers) as came,
        ):
            return web.Response(body=await came.read(), status=came.status, content_type="application/json")

    try:
        definition = Definitions().get(name)
        options = dict.fromkeys(definition.tables.get("vars", {}), "demo")
        async with foreign_server(with_key) as server:
            ok, said = await checked(server.url, DefinedProvider(definition, options), **options)
    finally:
        await sandbox.stop()
    assert (ok, said) == (None, ALIKE.format(server.url))
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("refusal", "body", "ok"),
    [(401, {}, True), (400, {"error": "invalid_client"}, True), (400, {"error": "bad"}, None), (200, None, None)],
)
async def test_the_exchange_of_a_wrong_key_for_a_token_must_be_refused(refusal, body, ok):
    """OAuth refuses a client with a 400, too; a server that exchanges anything is asked nothing more."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            is_ours = KEY in await request.text() or body is None
            return web.json_response(
                {"access_token": "t-123456"} if is_ours else body, status=200 if is_ours else refusal
            )
        return web.json_response({"data": []})

    async with foreign_server(answer) as server:
        definition = Definitions().get("airbyte")
        options = dict.fromkeys(definition.tables["vars"], "demo")
        proven, said = await checked(server.url, DefinedProvider(definition, options), **options)
    assert proven is ok
    assert ok or said.startswith("reachable, key not proven: ")
    assert [one.method for one in server.seen] == ["POST", "GET", "POST"]


async def test_a_user_gets_no_wrong_password():
    """Some servers lock an account after so many of them."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"dag_runs": []})
        is_ours = await request.json() == {"username": "anna-m", "password": KEY}
        return web.json_response({"access_token": "t-123456"} if is_ours else {}, status=201 if is_ours else 401)

    async with foreign_server(answer) as server:
        proven, _ = await checked(server.url, DefinedProvider(Definitions().get("airflow"), {}), user="anna-m")
    assert proven
    right, _, wrong = server.seen
    assert right.body == {"username": "anna-m", "password": KEY}
    assert isinstance(wrong.body, dict)
    assert re.fullmatch(r"[a-z]{4}-[a-z]", wrong.body["username"])
    assert wrong.body["username"] != "anna-m"


async def test_a_definition_may_forbid_the_wrong_key(tmp_path: Path):
    file = tmp_path / "jobs.toml"
    file.write_text(
        'schema = 1\nname = "jobs"\n[run]\nget = "/jobs/{id}"\n[read]\nstatus = "s"\n[status]\nrunning = ["RUN"]\n'
        '[check]\nget = "/me"\nwrong_key = false\n'
    )
    async with foreign_server(answering({})) as server:
        ok, said = await checked(server.url, DefinedProvider(Definitions(tmp_path).get("jobs")))
    assert (ok, said) == (None, "reachable, key not proven: the definition of jobs forbids asking with a wrong one")
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ("app-0a1B2c3D4e5F", r"app-\d[a-f]\d[A-F]\d[a-f]\d[A-F]\d[a-f]\d[A-F]"),
        ("0f4cd9c6-3b30-44c2-a1bb-6f4a4d5d7a55", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
        ("user:pa55 word", r"[a-z]{4}:[a-z]{2}\d\d [a-z]{4}"),
        ("sesame-1", r"[a-z]{6}-\d"),
        ("--", "runbridge-wrong-key"),
    ],
)
def test_a_wrong_key_has_the_form_of_the_right_one_and_none_of_its_letters(key, form):
    wrong = wrong_key_like(key)
    assert re.fullmatch(form, wrong)
    tag = re.match(r"[a-z]{1,8}-(?=.{8})", key)
    start = tag.end() if tag and wrong.startswith(tag[0]) else 0
    if len(wrong) == len(key):
        assert all(a != b for a, b in zip(key[start:], wrong[start:], strict=True) if a.isalnum())
