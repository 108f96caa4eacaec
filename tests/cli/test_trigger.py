"""`trigger`: test events have the form of real ones and are signed like them."""

from __future__ import annotations

import json

import pytest
from standardwebhooks import Webhook

from bridge.cli.trigger import sample_event
from bridge.cli.webhook_post import WebhookTarget
from bridge.domain.event import EventType
from bridge.domain.run import RunStatus
from bridge.domain.signing.hmac_v1 import new_secret
from tests.support.ports import free_port
from tests.support.stub_server import StubResponse, stub_server

SECRET = new_secret()
RUN_FIELDS = {
    "id", "connection", "provider", "provider_run_id", "workflow_id", "status", "provider_status", "settled", "progress",
    "output", "output_truncated", "error", "created_at", "started_at", "finished_at", "registered_at", "observed_at",
    "metadata", "tags",
}  # fmt: skip


@pytest.mark.parametrize("event_type", list(EventType))
def test_every_type_can_be_sent_and_verifies(cli, event_type):
    with stub_server(lambda request: StubResponse(204, b"")) as receiver:
        result = cli("trigger", event_type.value, "--to", f"{receiver.url}/hooks", "--secret", SECRET)
    assert result.code == 0, result.err
    seen = receiver.requests[0]
    body = Webhook(SECRET).verify(seen.body.decode(), seen.headers)
    assert body["type"] == event_type.value
    assert body["id"] == seen.headers["webhook-id"]
    assert set(body["data"]) >= {"sequence", "previous_status", "run"}
    if event_type.value.startswith("run."):
        assert set(body["data"]["run"]) == RUN_FIELDS
        assert body["data"]["run"]["metadata"] == {"test": True}
    else:
        assert body["data"]["run"] is None


@pytest.mark.parametrize("status", [status for status in RunStatus if status.is_settled])
def test_a_finished_run_may_have_ended_in_any_way(status):
    run = json.loads(sample_event(EventType.RUN_FINISHED, status).body)["data"]["run"]
    assert (run["status"], run["settled"]) == (status.value, True)
    assert (run["error"] is None) == (status is RunStatus.SUCCEEDED)


def test_without_a_secret_nothing_is_signed(cli):
    with stub_server(lambda request: StubResponse()) as receiver:
        assert cli("trigger", "bridge.ping", "--to", receiver.url).code == 0
    assert "webhook-signature" not in receiver.requests[0].headers
    assert receiver.requests[0].headers["webhook-id"].startswith("evt_")


@pytest.mark.parametrize("status", [302, 400, 410, 500])
def test_a_receiver_that_does_not_take_it_gives_1(cli, status):
    with stub_server(lambda request: StubResponse(status, b"no")) as receiver:
        result = cli("trigger", "run.finished", "--to", receiver.url, "--json")
    assert result.code == 1
    assert result.json["status"] == status


@pytest.mark.parametrize(
    "arguments",
    [
        ("run.finished",),
        ("run.finished", "--to", "http://x", "--endpoint", "y"),
        ("run.finishd", "--to", "http://x"),
        ("run.finished,bridge.ping", "--to", "http://x"),
        ("run.started", "--status", "failed", "--to", "http://x"),
        ("run.finished", "--to", "ftp://x"),
        ("run.finished", "--to", "http://"),
        ("run.finished", "--to", "http://x/\r\nEvil: 1"),
        ("run.finished", "--to", "http://x", "--secret", "nothing"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_sent(cli, arguments):
    assert cli("trigger", *arguments).code == 2


def test_a_receiver_that_is_not_there_is_a_reason_and_no_exception():
    assert WebhookTarget(f"http://127.0.0.1:{free_port()}/", []).post("evt_1", b"{}").why == "connection refused"
    assert "TLS failed" in str(_post_tls_to_plain())


def _post_tls_to_plain() -> str | None:
    with stub_server(lambda request: StubResponse()) as receiver:
        return WebhookTarget(receiver.url.replace("http:", "https:"), []).post("evt_1", b"{}").why


def test_trigger_pings_an_endpoint_through_the_daemon(bridge):
    assert bridge("trigger", "bridge.ping", "--endpoint", "my-app").code == 0


def test_trigger_sends_any_type_to_an_endpoints_url_with_its_secret(bridge, running, tmp_path):
    (tmp_path / "secret").write_text(running.secret)
    result = bridge("trigger", "run.finished", "--endpoint", "my-app", "--secret-file", tmp_path / "secret")
    assert result.code == 0, result.out
    assert bridge("trigger", "run.finished", "--endpoint", "my-app").code == 2


def test_the_secret_in_an_endpoints_url_is_masked_wherever_it_is_shown(bridge, running, tmp_path):
    url = f"{running.receiver}?token=hidden&page=1"
    (tmp_path / "secret").write_text(running.secret)
    added = bridge("endpoints", "add", url)
    endpoint_id = added.out.split()[0]
    shown = [
        bridge("endpoints", *words) for words in (("list",), ("show", endpoint_id), ("show", endpoint_id, "--json"))
    ]
    shown += [added, bridge("trigger", "bridge.ping", "--to", url), bridge("guard", "explain", url)]
    for result in shown:
        assert "hidden" not in result.out + result.err
        assert "token=****&page=1" in result.out
    refused = bridge("trigger", "run.finished", "--endpoint", endpoint_id, "--secret-file", tmp_path / "secret")
    assert (refused.code, "give it with --to URL" in refused.err) == (2, True)
    assert bridge("endpoints", "update", endpoint_id, "--to", f"{running.receiver}?token=****").code == 2
    assert bridge("endpoints", "rm", endpoint_id).code == 0
