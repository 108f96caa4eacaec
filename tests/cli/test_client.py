"""The client against servers that misbehave, and over a Unix socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bridge.cli.client import GIVE_UP_AFTER_S, Client, Patience
from bridge.cli.daemon_address import ApiRefused, DaemonUnreachable, find_daemon
from bridge.domain.secret import Secret
from tests.support.stub_server import StubResponse, stub_server


def _client(url: str) -> Client:
    return Client(find_daemon(url=url, token=Secret("the-token"), config_path=None, env={}))


def test_the_token_goes_along_and_ids_are_escaped():
    with stub_server(lambda request: StubResponse()) as daemon:
        _client(daemon.url).get("v1", "runs", "../../x?y", tag="a b", type=["p", "q"], none=None, empty=[])
    assert daemon.requests[0].target == "/v1/runs/..%2F..%2Fx%3Fy?tag=a+b&type=p&type=q"
    assert daemon.requests[0].headers["authorization"] == "Bearer the-token"


def test_a_post_says_that_it_is_json():
    with stub_server(lambda request: StubResponse(202)) as daemon:
        _client(daemon.url).post("v1", "runs", body={"a": 1})
        _client(daemon.url).post("v1", "x")
    assert [json.loads(seen.body) for seen in daemon.requests] == [{"a": 1}, {}]
    assert daemon.requests[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (StubResponse(404, b"<html>nginx</html>", "text/html"), "not a runbridge daemon"),
        (StubResponse(200, b"<html>welcome</html>", "text/html"), "not a runbridge daemon"),
        (StubResponse(200, b"[" * 100_000), "not a runbridge daemon"),
        (StubResponse(401, b"{}"), "does not accept this token"),
        (StubResponse(404, b'{"title":"Not Found","detail":"there is no run x"}'), "there is no run x"),
        (StubResponse(503, b'{"status":"not ready","checks":{"database":false,"poller":true}}'), "not ready: database"),
        (StubResponse(302, b"", "text/html"), "not a runbridge daemon (HTTP 302)"),
    ],
    ids=["html 404", "html 200", "depth bomb", "401", "problem", "not ready", "redirect"],
)
def test_a_refusal_becomes_one_sentence(said, text):
    with stub_server(lambda request: said) as daemon, pytest.raises(ApiRefused) as caught:
        _client(daemon.url).get("v1", "runs")
    assert text in str(caught.value)
    assert "the-token" not in str(caught.value)


def test_a_daemon_that_is_frozen_is_not_one_to_be_started():
    """The system still takes connections for a stopped process."""
    with socket.create_server(("127.0.0.1", 0)) as frozen, pytest.raises(DaemonUnreachable) as caught:
        _client(f"http://127.0.0.1:{frozen.getsockname()[1]}").get("healthz", timeout_s=0.1)
    assert "did not answer in time; it may be frozen" in str(caught.value)
    assert "runbridge serve" not in str(caught.value)


def test_every_field_at_fault_is_named_and_that_is_wrong_use():
    problem = {"detail": "two mistakes", "errors": [{"field": "a", "message": "b"}, {"field": "c", "message": "d"}]}
    with (
        stub_server(lambda request: StubResponse(422, json.dumps(problem).encode())) as daemon,
        pytest.raises(ApiRefused) as caught,
    ):
        _client(daemon.url).post("v1", "runs")
    assert str(caught.value) == "a: b; c: d"
    assert caught.value.is_wrong_use


def test_a_refusal_by_the_provider_is_not_the_callers_wrong_use():
    with (
        stub_server(lambda request: StubResponse(422, b'{"detail":"dify says no","errors":[]}')) as daemon,
        pytest.raises(ApiRefused) as caught,
    ):
        _client(daemon.url).post("v1", "runs", "x", "cancel")
    assert not caught.value.is_wrong_use


def test_what_speaks_no_http_is_an_unreachable_daemon():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        answering_once(server, b"220 smtp ready\r\n"),
        pytest.raises(DaemonUnreachable, match="does not speak HTTP"),
    ):
        _client(f"http://127.0.0.1:{server.getsockname()[1]}").get("healthz")


@contextmanager
def answering_once(server: socket.socket, answer: bytes) -> Iterator[None]:
    """Accept one connection in a thread and send this, whatever is asked."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4000)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    thread.join()


def test_a_daemon_on_a_unix_socket_is_reached(tmp_path):
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with answering_once(server, b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'):
            assert _client(f"unix:{path}").get("healthz").object() == {"status": "ok"}


def test_a_missing_unix_socket_is_an_unreachable_daemon(tmp_path):
    with pytest.raises(DaemonUnreachable, match="no such file"):
        _client(f"unix:{tmp_path}/none.sock").get("healthz")


STREAM = (
    b'retry: 2000\n\nid: evt_%d\nevent: run.finished\ndata: {"id":"evt_%d",\ndata: "type":"run.finished"}\n\n: ping\n\n'
)


def test_the_stream_resumes_after_the_last_event():
    number = iter(range(1, 10))

    def respond(request: object) -> StubResponse:
        n = next(number)
        return StubResponse(content_type="text/event-stream", chunks=[STREAM % (n, n)])

    with stub_server(respond) as daemon:
        events = _client(daemon.url).stream_events(
            after=None, types=["run.finished"], patience=Patience(sleep=lambda _: None)
        )
        ids = [next(events).id for _ in range(3)]
        events.close()
    assert ids == ["evt_1", "evt_2", "evt_3"]
    assert [seen.headers.get("last-event-id") for seen in daemon.requests[:3]] == [None, "evt_1", "evt_2"]
    assert daemon.requests[0].target == "/v1/events/stream?type=run.finished"


def test_the_body_of_a_streamed_event_is_put_together_from_its_data_lines():
    with stub_server(
        lambda request: StubResponse(content_type="text/event-stream", chunks=[STREAM % (1, 1)])
    ) as daemon:
        events = _client(daemon.url).stream_events(after="evt_0")
        assert json.loads(next(events).body) == {"id": "evt_1", "type": "run.finished"}
        events.close()


class _Time:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


def test_a_daemon_that_never_answered_is_not_waited_for():
    time = _Time()
    with pytest.raises(DaemonUnreachable):
        Patience(sleep=time.sleep, monotonic=time.monotonic).wait_or_raise(DaemonUnreachable("gone"))
    assert time.now == 0


def test_a_daemon_that_restarts_is_waited_for_a_minute_each_time():
    time = _Time()
    patience = Patience(sleep=time.sleep, monotonic=time.monotonic)
    gone = DaemonUnreachable("gone")
    for _ in range(3):
        patience.reset()
        time.now += 3600  # it was there all the time
        patience.wait_or_raise(gone)
    with pytest.raises(DaemonUnreachable):
        for _ in range(1000):
            patience.wait_or_raise(gone)
    assert time.now <= 3 * 3601 + GIVE_UP_AFTER_S + 2
