"""`runbridge alerts test`: the result of a test message, channel by channel."""

from __future__ import annotations

import json

from tests.support.stub_server import StubResponse, stub_server

PHONE = {"channel": "phone", "kind": "ntfy", "ok": True, "detail": "the message was taken"}
TEAM = {"channel": "team", "kind": "slack", "ok": False, "detail": "the receiver answered 404"}


def tried(cli, *data, arguments=()):
    with stub_server(lambda request: StubResponse(body=json.dumps({"data": data}).encode())) as daemon:
        done = cli("alerts", "test", *arguments, "--url", daemon.url)
    [request] = daemon.requests
    assert (request.method, request.target) == ("POST", "/v1/alerts/test")
    return done, json.loads(request.body)


def test_each_channel_has_a_line_and_a_failed_one_is_exit_1(cli):
    done, asked = tried(cli, PHONE, TEAM)
    assert asked == {}
    assert done.code == 1
    assert done.out.splitlines() == [
        "✓ phone (ntfy): the message was taken",
        "✗ team (slack): the receiver answered 404",
    ]


def test_named_channels_alone_are_tried(cli):
    done, asked = tried(cli, PHONE, arguments=("phone",))
    assert (done.code, asked) == (0, {"channels": ["phone"]})


def test_without_a_channel_it_says_how_to_add_one(cli):
    done, _ = tried(cli)
    assert done.code == 1
    assert "[alerts.NAME]" in done.out
