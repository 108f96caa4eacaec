"""Every mistake and failure is reported in one clear sentence, without a secret."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from bridge.domain.signing.hmac_v1 import new_secret
from bridge.sandbox import Receiver, Sandbox, Scenario
from tests.support.daemon_process import TOKEN, DaemonProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRETS = {
    "good key": "key-that-is-right-b1f0",
    "wrong key": "key-that-is-wrong-77aa",
    "file secret": new_secret(),
    "api secret": new_secret(),
    "header": "header-that-is-hidden-90c2",
    "token": TOKEN,
}


@dataclass
class World:
    """A daemon with troubled surroundings, and everything that it answered."""

    daemon: DaemonProcess
    sandbox: Sandbox
    receiver: Receiver
    closed_port: int
    answers: list[bytes] = field(default_factory=list)

    async def call(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """As the daemon's `call`, and remembers; header names with _ for -; the body as JSON where it is."""
        own = {name.replace("_", "-"): value for name, value in headers.items()}
        status, seen, answer = await self.daemon.call(method, path, body, headers=own)
        self.answers.append(answer + repr(seen).encode())
        return status, seen, json.loads(answer) if "json" in seen.get("content-type", "") else answer.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    with closing(socket.socket()) as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections to it are refused
        port = closed.getsockname()[1]
        async with Sandbox(api_key=SECRETS["good key"]) as sandbox, Receiver() as receiver:
            daemon = DaemonProcess(
                tmp_path_factory.mktemp("world"),
                delivery={"allow": ["127.0.0.0/8"], "retry_schedule": ["100ms"], "timeout": "2s"},
            )
            daemon.add_connection("good", "dify", sandbox.url("dify"), api_key=SECRETS["good key"])
            daemon.add_connection("wrong", "retab", sandbox.url("retab"), api_key=SECRETS["wrong key"])
            daemon.add_connection("dead", "dibby", f"http://127.0.0.1:{port}", api_key=SECRETS["good key"])
            daemon.add_endpoint("dead-app", f"http://127.0.0.1:{port}/hooks", secret=SECRETS["file secret"])
            async with daemon:
                yield World(daemon, sandbox, receiver, port)


def is_a_sentence(text: object, *words: str) -> bool:
    """One line for a person that holds these words."""
    return (
        isinstance(text, str)
        and "\n" not in text
        and len(text) > 10
        and "Traceback" not in text
        and all(word.lower() in text.lower() for word in words)
    )


async def test_a_dead_provider_is_reported_and_leaves_the_run_queued(world: World) -> None:
    status, _, checked = await world.call("POST", "/v1/connections/dead/check")
    assert (status, checked["ok"]) == (200, False)
    assert is_a_sentence(checked["detail"], "connect") or is_a_sentence(checked["detail"], "refused")
    run = await world.daemon.register("dead", "run_1")
    line = await world.daemon.wait_for_log("poll.failed", connection="dead")
    assert is_a_sentence(line["reason"])
    _, _, shown = await world.call("GET", f"/v1/runs/{run['id']}")
    assert (shown["status"], shown["settled"], shown["events"]) == ("queued", False, [])


async def test_a_wrong_key_is_reported_in_the_providers_own_words(world: World) -> None:
    status, _, checked = await world.call("POST", "/v1/connections/wrong/check")
    assert (status, checked["ok"]) == (200, False)
    assert is_a_sentence(checked["detail"], "401", "Invalid API key")
    await world.daemon.register("wrong", world.sandbox.add_run("retab"))
    line = await world.daemon.wait_for_log("connection.failing", connection="wrong")
    assert is_a_sentence(line["reason"], "401")
    _, _, listed = await world.call("GET", "/v1/connections")
    wrong = next(one for one in listed["data"] if one["name"] == "wrong")
    assert (wrong["health"], is_a_sentence(wrong["reason"], "401")) == ("failing", True)


async def test_a_dead_receiver_is_reported_with_each_attempt_until_the_schedule_is_used_up(world: World) -> None:
    over = world.sandbox.add_run("dify", scenario=Scenario(duration_s=1), age_s=60)
    run = await world.daemon.register("good", over)
    answer = await world.daemon.eventually(
        f"/v1/deliveries?run={run['id']}",
        lambda found: bool(found["data"]) and all(one["state"] == "exhausted" for one in found["data"]),
    )
    (delivery,) = answer["data"]
    attempts = delivery["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["connect", "connect"]
    assert all(is_a_sentence(attempt["detail"], "connection") for attempt in attempts)


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong-token", "Basic dG9rZW46", f"Token {TOKEN}"])
@pytest.mark.parametrize("path", ["/v1/runs", "/v1/events/stream", "/v1/nothing", "/metrics"])
async def test_a_wrong_token_is_a_401_with_its_remedy(world: World, path: str, given: str) -> None:
    status, headers, problem = await world.call("GET", path, Authorization=given)
    assert (status, headers["content-type"], problem["status"]) == (401, "application/problem+json", 401)
    assert is_a_sentence(problem["detail"], "token", "Authorization: Bearer")
    assert headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json", "/"])
async def test_pages_without_private_data_need_no_token(world: World, path: str) -> None:
    status, _, _ = await world.call("GET", path, Authorization="")
    assert status == 200


RUN = {"connection": "good", "provider_run_id": "137ebb3c-6bd9-4db4-a4c5-9ef3a4b8b9ae"}
WRONG: dict[str, tuple[object, int, tuple[str, ...]]] = {
    "cut off": (b'{"connection": ', 400, ()),
    "empty": (b"", 422, ("connection", "provider_run_id")),
    "not utf-8": (b'{"connection": "\xff"}', 400, ()),
    "twice the same key": (b'{"connection": "good", "connection": "good"}', 400, ("connection",)),
    "not a number": (b'{"connection": NaN}', 400, ()),
    "deep": (b"[" * 100_000 + b"]" * 100_000, 400, ()),
    "a list": ([1], 422, ()),
    "unknown connection": ({**RUN, "connection": "god"}, 422, ("connection", "good")),
    "misspelled field": ({**RUN, "metdata": {}}, 422, ("metdata", "metadata")),
    "nothing to watch": ({"connection": "good"}, 422, ("provider_run_id", "trigger")),
    "not this provider's id": ({**RUN, "provider_run_id": "run_1"}, 422, ("provider_run_id", "UUID")),
    "wrong type": ({**RUN, "tags": "a"}, 422, ("tags",)),
    "past deadline": ({**RUN, "deadline": "2020-01-01T00:00:00Z"}, 422, ("deadline",)),
    "metadata address": ({**RUN, "webhook": {"url": "http://169.254.169.254/x"}}, 422, ("webhook.url",)),
    "several at once": ({"connection": "x", "tags": 1, "deadline": "soon"}, 422, ("connection", "tags", "deadline")),
}


@pytest.mark.parametrize("mistake", WRONG)
async def test_a_wrong_body_is_a_problem_document_that_names_every_field(world: World, mistake: str) -> None:
    body, expected, words = WRONG[mistake]
    status, headers, problem = await world.call("POST", "/v1/runs", body)
    assert (status, headers["content-type"]) == (expected, "application/problem+json"), problem
    assert is_a_sentence(problem["detail"], *words), problem
    assert {"type", "title", "status", "detail"} <= set(problem)
    if status == 422 and words:
        assert words[0] in {error["field"] for error in problem["errors"]}


async def test_a_body_of_another_type_or_too_large_is_refused(world: World) -> None:
    status, _, problem = await world.call("POST", "/v1/runs", b"{}", Content_Type="text/plain")
    assert (status, is_a_sentence(problem["detail"], "application/json")) == (415, True)
    status, _, problem = await world.call("POST", "/v1/runs", b" " * (4 * 1024 * 1024 + 1))
    assert (status, is_a_sentence(problem["detail"])) == (413, True)


async def test_a_host_name_that_is_not_ours_is_refused(world: World) -> None:
    status, _, problem = await world.call("GET", "/v1/runs", Host="evil.example")
    assert (status, is_a_sentence(problem["detail"], "host")) == (421, True)


async def test_no_secret_is_in_any_answer_nor_in_the_log(world: World) -> None:
    wanted = {
        "url": world.receiver.url("/api"),
        "secret": SECRETS["api secret"],
        "headers": {"x-key": SECRETS["header"]},
    }
    made = await world.daemon.ask("POST", "/v1/endpoints", wanted, status=201)
    assert made["secret"] == SECRETS["api secret"]  # here, and only here
    await world.daemon.ask("POST", f"/v1/endpoints/{made['id']}/ping", status=202)
    received = await world.receiver.wait_for(lambda got: any(one.type == "bridge.ping" for one in got))
    assert received[-1].headers["x-key"] == SECRETS["header"]
    await world.call("POST", "/v1/endpoints", {**wanted, "events": ["no.such"], "secret": SECRETS["api secret"] + "!"})
    for path in ("runs", "endpoints", f"endpoints/{made['id']}", "events", "deliveries", "connections"):
        assert (await world.call("GET", f"/v1/{path}"))[0] == 200
    for path in ("/metrics", "/readyz", "/openapi.json", "/"):
        assert (await world.call("GET", path))[0] == 200
    await world.daemon.stop()
    log = world.daemon.log_since()
    for name, secret in SECRETS.items():
        for text in (secret, secret.removeprefix("whsec_")):
            assert text not in log, name
            assert not any(text.encode() in answer for answer in world.answers), name
    assert "Traceback" not in log
