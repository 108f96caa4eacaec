"""Properties of every provider, for any answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.domain.connection import Connection
from bridge.domain.errors import BadPayload, ProviderRefused, Unsupported
from bridge.domain.failure import FailureKind
from bridge.domain.observation import Observation, Observed, PollFailed
from bridge.domain.secret import Secret
from bridge.providers import REGISTRY, dify, open_http, retab
from bridge.providers.http import ProviderFailure, ProviderSessions
from tests.support.foreign_server import answering
from tests.support.provider_http import KEY, provider_against, words_of

NAMES = ["dibby", "dify", "instabase", "retab"]
NORMALISE = {
    "dibby": lambda payload: REGISTRY["dibby"].answers.reader.read(payload).observation,
    "dify": dify.normalise,
    "instabase": lambda payload: REGISTRY["instabase"].answers.reader.read(payload).observation,
    "retab": retab.normalise,
}
UUID = "fb47b2e6-5e43-4f90-be01-d5c5a088d156"
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "id",
    "status",
    "steps",
    "stepsCompleted",
    "createdAt",
    "error",
    "output",
    "outputs",
    "created_at",
    "finished_at",
    "workflow_id",
    "workflow",
    "lifecycle",
    "timing",
    "final_outputs",
    "kind",
    "message",
    "reason",
    "details",
    "stage",
    "failing_step_id",
    "error_details",
    "error_code",
    "block_name",
    "start_timestamp",
    "finish_timestamp",
    "msg",
    "app_id",
    "deployment_id",
    "started_at",
    "completed_at",
]
BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # speed is not the point
WORDS = sorted({*dify.STATUSES, *retab.STATUSES, *words_of(REGISTRY["dibby"]), *words_of(REGISTRY["instabase"])})
NEARLY_A_RUN = st.dictionaries(
    st.sampled_from(FIELDS),
    ANY_JSON | st.sampled_from(WORDS) | st.dictionaries(st.sampled_from(FIELDS), ANY_JSON | st.sampled_from(WORDS)),
)


def test_the_registry_knows_each_provider_by_its_name():
    assert sorted(REGISTRY) == NAMES
    assert all(provider.name == name for name, provider in REGISTRY.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@BUSY_MACHINE
@given(payload=NEARLY_A_RUN)
def test_normalising_any_object_gives_an_observation_or_a_bad_payload(name, payload):
    try:
        seen = NORMALISE[name](payload)
    except BadPayload:
        return
    assert isinstance(seen, Observation)
    told = asdict(seen)
    json.dumps(told, allow_nan=False)
    assert all(value is None or isinstance(value, str) for key, value in told.items() if key.endswith("_at"))
    assert seen.workflow_id is None or isinstance(seen.workflow_id, str)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"RUNNING"', b"[" * 200_000, b"{}"], ids=repr)
async def test_a_poll_that_brings_no_run_is_a_bad_payload_and_never_an_exception(name, body):
    async with provider_against(answering(body), name) as (http, _):
        result = await REGISTRY[name].fetch_run(http, UUID)
    assert isinstance(result, PollFailed)
    assert result.kind is FailureKind.BAD_PAYLOAD
    assert result.status == 200


MISSING = {  # the provider's own 404, or what it is believed to be
    "dibby": {"error": "Run not found"},
    "dify": {"code": "not_found", "message": "Workflow run not found.", "status": 404},
    "instabase": {"message": "Run not found."},
    "retab": {"detail": "Workflow run not found"},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, FailureKind.NOT_FOUND),
        (410, FailureKind.NOT_FOUND),
        (401, FailureKind.UNAUTHORIZED),
        (500, FailureKind.SERVER_ERROR),
    ],
)
async def test_a_poll_that_fails_says_how(name, status, kind):
    async with provider_against(answering(MISSING[name], status=status), name) as (http, _):
        result = await REGISTRY[name].fetch_run(http, UUID)
    assert isinstance(result, PollFailed)
    assert (result.kind, result.status) == (kind, status)


KONG = b'{"message": "no Route matched with those values"}'


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (b"default backend - 404", "text/plain", '"default backend - 404"'),
        (b"404 page not found\n", "text/plain; charset=utf-8", '"404 page not found"'),
        (b"", "text/plain", "an empty body"),
        (b"<html><head><title>404 Not Found</title></head></html>", "text/html", 'titled "404 Not Found"'),
        (b"<Error><Code>NoSuchKey</Code></Error>", "application/xml", "a web page"),
        (b"null", "application/json", "this is not how the provider says it"),
        (b"{}", "application/json", "this is not how the provider says it"),
        (b'"not found"', "application/json", "not found"),
        (b'[{"error": "not found"}]', "application/json", "not found"),
    ],
)
async def test_a_404_that_is_not_the_providers_own_is_a_gateways(name, status, body, content_type, said):
    """An ingress that had lost its backend for a minute once made every run `lost`."""
    handler = answering(body, status=status, headers={"Content-Type": content_type})
    async with provider_against(handler, name) as (http, _):
        result = await REGISTRY[name].fetch_run(http, UUID)
    assert isinstance(result, PollFailed)
    assert (result.kind, result.status) == (FailureKind.GATEWAY, status)
    assert said in result.message
    assert "wrong base_url" in result.message


@pytest.mark.parametrize("name", ["dify", "retab"])
async def test_where_the_providers_errors_are_known_a_gateways_json_is_not_taken_for_them(name):
    async with provider_against(answering(KONG, status=404), name) as (http, _):
        result = await REGISTRY[name].fetch_run(http, UUID)
    assert isinstance(result, PollFailed)
    assert result.kind is FailureKind.GATEWAY
    assert "no Route matched" in result.message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (b"<!DOCTYPE html><html><title>Sign in\n to Acme</title>", "text/html", 'a web page titled "Sign in to Acme"'),
        (b"  \n<html>", "application/json", "a web page instead of JSON"),
        (b"\xef\xbb\xbf<html>", "text/html", "a web page instead of JSON"),
        (b"<?xml version='1.0'?><fault/>", "text/xml", "an XML document instead of JSON"),
        (b"<html>" + b"x" * 9 * 2**20, "text/html", "a web page instead of JSON"),
    ],
    ids=["login", "blank", "bom", "xml", "large"],
)
async def test_a_web_page_with_200_is_named_as_what_it_is(name, body, content_type, said):
    async with provider_against(answering(body, headers={"Content-Type": content_type}), name) as (http, _):
        result = await REGISTRY[name].fetch_run(http, UUID)
    assert isinstance(result, PollFailed)
    assert (result.kind, result.status) == (FailureKind.GATEWAY, 200)
    assert said in result.message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_a_login_is_named_without_what_its_query_holds(name, status):
    headers = {"Location": "https://login.example.com/signin?next=%2Fruns&token=secret"}
    async with provider_against(answering(b"", status=status, headers=headers), name) as (http, server):
        result = await REGISTRY[name].fetch_run(http, UUID)
    assert isinstance(result, PollFailed)
    assert (result.kind, result.status) == (FailureKind.GATEWAY, status)
    assert "a redirect to https://login.example.com/signin, which is not followed" in result.message
    assert "secret" not in result.message
    assert len(server.seen) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"error": "quota exceeded"}, "quota exceeded"),
        ({"error": {"code": "E1", "message": "no such app"}}, "no such app"),
        ({"code": "unauthorized", "message": "Access token is invalid", "status": 401}, "Access token is invalid"),
        ({"errors": [{"message": "internal"}]}, "internal"),
        ({"detail": "Not authenticated: " + KEY}, "Not authenticated: ****"),
        ({"success": False, "msg": "try\nlater"}, "try later"),
    ],
)
async def test_an_error_inside_a_200_is_shown_and_is_no_run(name, document, said):
    async with provider_against(answering(document), name) as (http, _):
        result = await REGISTRY[name].fetch_run(http, UUID)
    assert isinstance(result, PollFailed)
    assert (result.kind, result.status) == (FailureKind.BAD_PAYLOAD, 200)
    assert f"HTTP 200 with an error instead of a run: {said}" in result.message


@pytest.mark.parametrize("name", NAMES)
async def test_a_pause_asked_for_with_a_run_comes_with_the_observation(name):
    async with provider_against(answering({"status": "running"}, headers={"Retry-After": "9"}), name) as (http, _):
        result = await REGISTRY[name].fetch_run(http, UUID)
    assert isinstance(result, Observed)
    assert result.poll_after_s == 9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("run_id", ["../../keys", "a?admin=1", "a#b", "a/b", "a%2Fb", "a b", "ä", "a;b", "+:"])
async def test_a_run_id_stays_one_path_segment(name, run_id):
    async with provider_against(answering({"status": "running"}), name, suffix="/api") as (http, server):
        await REGISTRY[name].fetch_run(http, UUID)
        await REGISTRY[name].fetch_run(http, run_id)
    plain, odd = (seen.target for seen in server.seen)
    assert odd.count("/") == plain.count("/")
    assert odd.rpartition("/")[0] == plain.rpartition("/")[0]
    assert not {"?", "#", ";"} & set(odd)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("run_id", ["", ".", "..", "a\nb", "a\0b", "\ud800", "x" * 513])
def test_what_can_never_be_a_run_id_is_reported_in_a_sentence(name, run_id):
    assert REGISTRY[name].check_run_id(run_id)


@pytest.mark.parametrize("name", NAMES)
def test_an_ordinary_run_id_is_taken(name):
    assert REGISTRY[name].check_run_id(UUID) is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("status", [400, 404, 409, 422])
async def test_a_trigger_that_the_provider_declines_is_refused_in_its_own_words(name, status):
    async with provider_against(answering({"message": "No such workflow"}, status=status), name) as (http, _):
        with pytest.raises(ProviderRefused, match="No such workflow"):
            await REGISTRY[name].trigger(http, "wf", {}, {})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_the_provider_refuses_is_not_for_the_caller_who_triggers_or_cancels_to_mend(name, status):
    """Hence a failure and no refusal; where the provider has no cancel it is not even asked."""
    provider = REGISTRY[name]
    async with provider_against(answering({"message": "bad token"}, status=status), name) as (http, _):
        with pytest.raises(ProviderFailure, match=r"refuses this connection's key: .*bad token"):
            await provider.trigger(http, "wf", {}, {})
        with pytest.raises((ProviderFailure, Unsupported), match=r"refuses this connection's key|no call to cancel"):
            await provider.cancel(http, UUID, "task-1")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("status", "body", "is_ambiguous"),
    [
        (429, {}, False),
        (401, {}, False),
        (302, {}, False),
        (303, {}, True),
        (500, {}, True),
        (503, {}, True),
        (504, b"<html>Gateway Time-out", True),
        (200, {}, True),
        (200, {"id": ""}, True),
        (201, b"<html>", True),
    ],
)
async def test_a_trigger_without_a_usable_answer_is_a_failure_that_may_have_started_a_run(
    name, status, body, is_ambiguous
):
    async with provider_against(answering(body, status=status), name) as (http, _):
        with pytest.raises(ProviderFailure) as caught:
            await REGISTRY[name].trigger(http, "wf", {}, {})
    assert caught.value.is_ambiguous is is_ambiguous


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dify"])  # which answers with a stream
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html><title>Sign in</title>", r'a web page titled "Sign in" instead of JSON'),
        ({"error": "no such workflow"}, "no run id but an error: no such workflow"),
        ({"a": 1}, "the answer holds no run id"),
    ],
)
async def test_the_answer_to_a_trigger_is_named_where_it_holds_no_run_id(name, body, said):
    async with provider_against(answering(body), name) as (http, _):
        with pytest.raises(ProviderFailure, match=said):
            await REGISTRY[name].trigger(http, "wf", {}, {})


@pytest.mark.parametrize("name", NAMES)
async def test_a_trigger_that_gets_no_answer_may_have_started_a_run(name):
    async def hang(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    for handler in (hang, cut):
        async with provider_against(handler, name, timeout_s=0.3) as (http, _):
            with pytest.raises(ProviderFailure) as caught:
                await REGISTRY[name].trigger(http, "wf", {}, {})
        assert caught.value.is_ambiguous
    async with ProviderSessions() as sessions:
        nobody = open_http(sessions, Connection("c", name, "http://127.0.0.1:9", Secret("key-123456")))
        with pytest.raises(ProviderFailure) as caught:
            await REGISTRY[name].trigger(nobody, "wf", {}, {})
    assert not caught.value.is_ambiguous


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("status", [302, 401, 403, 429, 500])
async def test_a_check_fails_when_the_provider_does_not_take_the_key(name, status):
    async with provider_against(answering({}, status=status), name) as (http, server):
        with pytest.raises(ProviderFailure) as caught:
            await REGISTRY[name].check(http)
    assert caught.value.failed.status == status
    assert len(server.seen) == 1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dibby"])
@pytest.mark.parametrize("body", [{}, [], {"error": "no such app"}, {"data": {}, "runs": None}, b"OK", b"<html>"])
async def test_a_check_is_not_passed_by_a_200_that_is_no_list(name, body):
    async with provider_against(answering(body), name) as (http, _):
        with pytest.raises(ProviderFailure, match=r"key not proven|instead of JSON"):
            await REGISTRY[name].check(http)


ANSWERED = {  # a run that is over, as each provider sends it
    "dibby": {"status": "FINISHED"},
    "dify": {"status": "succeeded"},
    "instabase": {"status": "COMPLETE"},
    "retab": {"lifecycle": {"status": "completed"}},
}
OTHER = "0f4cd9c6-3b30-44c2-a1bb-6f4a4d5d7a55"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("run_id", [OTHER, "run_2", 7, 7.0, UUID[:-1], OTHER.replace("-", "")])
async def test_the_body_of_another_run_is_unusable_and_named(name, run_id):
    """A gateway that mixes up its answers once made one run end with the output of another."""
    async with provider_against(answering(ANSWERED[name] | {"id": run_id}), name) as (http, _):
        result = await REGISTRY[name].fetch_run(http, UUID)
    assert isinstance(result, PollFailed)
    assert (result.kind, result.status) == (FailureKind.BAD_PAYLOAD, 200)
    assert result.message.startswith("GET /")
    assert "the answer is about another run" in result.message
    assert str(run_id).removesuffix(".0") in result.message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "run_id",
    [
        UUID,
        UUID.upper(),
        f" {UUID} ",
        UUID.replace("-", ""),
        f"{{{UUID}}}",
        f"urn:uuid:{UUID}",
        "",
        [UUID],
        {"id": OTHER},
        True,
    ],
)
async def test_the_same_run_may_be_spelled_otherwise(name, run_id):
    async with provider_against(answering(ANSWERED[name] | {"id": run_id}), name) as (http, _):
        assert isinstance(await REGISTRY[name].fetch_run(http, UUID), Observed)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dify"])
@pytest.mark.parametrize(("asked", "told"), [("4711", 4711), ("4711", 4711.0), ("4711", "4711"), ("run_1", None)])
async def test_an_id_may_be_a_number_and_may_be_left_out(name, asked, told):
    body = ANSWERED[name] | ({} if told is None else {"id": told})
    async with provider_against(answering(body), name) as (http, _):
        assert isinstance(await REGISTRY[name].fetch_run(http, asked), Observed)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dify"])
async def test_only_uuids_are_compared_without_regard_to_case(name):
    async with provider_against(answering(ANSWERED[name] | {"id": "RUN_1"}), name) as (http, _):
        assert isinstance(await REGISTRY[name].fetch_run(http, "run_1"), PollFailed)


@pytest.mark.parametrize(
    ("name", "body"),
    [("instabase", {"id": OTHER, "files": []}), ("retab", {"data": [{"run_id": OTHER, "block_id": "b"}]})],
)
async def test_the_output_of_another_run_is_refused(name, body):
    async with provider_against(answering(body), name) as (http, _):
        with pytest.raises(ProviderFailure, match="the answer is about another run"):
            await REGISTRY[name].fetch_output(http, UUID)
