"""Output: no text from outside moves the cursor, and only terminals get colours."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.cli import output
from bridge.cli.run_report import RUN_COLUMNS, progress_text
from tests.support.installation import RUNBRIDGE
from tests.support.stub_server import StubResponse, stub_server

NASTY = "a\x1b[2Jb\x9b31mc\u202ed\x07\r\ne"
RUN_BODY = {
    "id": "run_1", "connection": "c", "provider_run_id": NASTY, "status": "failed", "settled": True,
    "registered_at": "2026-01-15T10:30:00Z", "next_poll_at": None, "progress": {"completed": 1, "total": 2},
}  # fmt: skip


@given(st.text())
def test_cleaned_text_is_one_line_that_only_shows(text):
    cleaned = output.clean(text)
    assert not any(ord(character) < 32 or 0x7F <= ord(character) <= 0x9F for character in cleaned)
    assert output.clean(cleaned) == cleaned


def test_markup_and_emoji_names_in_foreign_text_stay_text(capsys):
    output.print_table(("A",), [("[red]x[/red] :smile:",)])
    output.say("[bold]x", ":warning:")
    assert capsys.readouterr().out == "A\n[red]x[/red] :smile:\n[bold]x :warning:\n"


def test_what_is_piped_is_neither_cut_nor_padded(capsys):
    output.print_table(("A", "B"), [("x" * 500, "y"), ("z", None)])
    lines = capsys.readouterr().out.splitlines()
    assert "x" * 500 in lines[1]
    assert lines == [line.rstrip() for line in lines]


def _on_a_terminal(*arguments: str, keys: Sequence[tuple[bytes, bytes]] = (), **env: str) -> tuple[int, bytes]:
    """Run a command with a terminal as its output. `keys`: pairs of a text, and the key to type once it is shown."""
    mine, theirs = pty.openpty()
    child = subprocess.Popen(
        [*RUNBRIDGE, *arguments], stdout=theirs, stderr=theirs, stdin=theirs,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TERM": "xterm", "COLUMNS": "120", **env},
    )  # fmt: skip
    os.close(theirs)
    shown = seen = b""
    waiting = list(keys)
    try:
        while part := os.read(mine, 65536):
            shown += part
            seen += part
            if waiting and waiting[0][0] in seen:
                os.write(mine, waiting.pop(0)[1])
                seen = b""
    except OSError:  # how Linux says that the other side of a terminal is closed
        pass
    os.close(mine)
    return child.wait(60), shown


NEWEST_RUN = {**RUN_BODY, "id": "run_" + "0" * 26, "provider_run_id": "fb47b2e6-aaaa-4000-8000-000000000000"}
DELIVERY = {
    "id": "dlv_" + "0" * 26, "event_id": "evt_" + "0" * 26, "event_type": "run.finished", "state": "delivered",
    "endpoint_id": "ep_" + "0" * 26, "attempt_count": 1, "last_status": 204, "next_attempt_at": None,
}  # fmt: skip
ENDPOINT = {"id": "ep_" + "0" * 26, "url": "https://app.example.org/hooks/of/runbridge?page=1", "source": "api"}
EVENT = {
    "id": "evt_" + "0" * 26, "timestamp": "2026-01-15T10:30:05.120Z", "type": "run.finished",
    "data": {"sequence": 3, "run": {"id": "run_" + "0" * 26, "connection": "dify-prod", "status": "succeeded"}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "row", "shown"),
    [
        (("runs", "list"), NEWEST_RUN, (NEWEST_RUN["id"], NEWEST_RUN["provider_run_id"], "failed")),
        (("deliveries", "list"), DELIVERY, (DELIVERY["id"], DELIVERY["endpoint_id"], "delivered")),
        (("events", "list"), EVENT, (EVENT["id"], EVENT["type"], "succeeded", "d ago")),
        (("endpoints", "list"), ENDPOINT, (ENDPOINT["id"],)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_at_eighty_columns_a_row_is_one_line_with_whole_ids(words, row, shown):
    with stub_server(lambda request: _response({"data": [row, row], "next_cursor": None})) as daemon:
        code, out = _on_a_terminal(*words, "--url", daemon.url, COLUMNS="80", NO_COLOR="1")
    heading, *lines = re.sub(r"\x1b\[\d*m", "", out.decode()).splitlines()
    assert code == 0
    assert len(lines) == 2
    assert max(map(len, (heading, *lines))) <= 80
    for word in shown:
        assert word in lines[0]


@pytest.mark.parametrize(("errors", "shown"), [(0, False), (3, True)])
def test_an_endpoint_shows_the_events_on_which_its_filter_failed(cli, errors, shown):
    endpoint = {**ENDPOINT, "filter": "data.run.error.code == 'x'", "filter_errors": errors}
    with stub_server(lambda request: _response(endpoint)) as daemon:
        result = cli("endpoints", "show", "ep_1", "--url", daemon.url)
    assert ("3 events not sent since the daemon started" in result.out) is shown


_DAY = {"delivered": 1999, "failed": 1, "success_rate": 0.9995, "p50_ms": 12, "p95_ms": 250}
STATS = {
    "hour": {"delivered": 0, "failed": 0, "success_rate": None, "p50_ms": None, "p95_ms": None}, "day": _DAY,
    "sampled_since": None, "pending": 20000, "oldest_due_at": "2026-01-15T10:30:00.000Z",
    "last_answer": {"at": "2026-01-15T10:30:00.000Z", "outcome": "server_error", "status": 503, "detail": "it is down"},
}  # fmt: skip


def test_an_endpoint_shows_how_its_attempts_went(cli):
    endpoint = {**ENDPOINT, "enabled": True, "failing_since": "2026-01-15T10:30:00.000Z", "stats": STATS}
    with stub_server(lambda request: _response(endpoint)) as daemon:
        out = cli("endpoints", "show", "ep_1", "--url", daemon.url).out
    shown = " ".join(out.split())
    assert f"{ENDPOINT['id']} failing" in shown
    assert "last day 99.9% (1999 delivered, 1 failed), p50 12 ms, p95 250 ms" in shown
    assert re.search(r"last answer \S+ ago: 503 \(server_error\), it is down", shown)
    assert re.search(r"oldest due \S+ ago", shown)
    assert "pending 20000" in shown
    assert "last hour" not in shown, "no attempt in it"


@pytest.mark.slow
def test_at_eighty_columns_endpoints_show_health_and_statistics():
    endpoint = {**ENDPOINT, "enabled": True, "stats": STATS}
    with stub_server(lambda request: _response({"data": [endpoint], "next_cursor": None})) as daemon:
        _, out = _on_a_terminal("endpoints", "list", "--url", daemon.url, COLUMNS="80", NO_COLOR="1")
    heading, line = re.sub(r"\x1b\[\d*m", "", out.decode()).splitlines()
    assert heading.split() == ["ENDPOINT", "HEALTH", "SUCCESS", "P95", "LAST", "DUE", "PENDING"]
    assert re.fullmatch(r"ep_0{26} +enabled +99.9% +250 ms +503 +\S+ ago +20000 *", line)


@pytest.mark.slow
def test_a_wide_terminal_shows_every_column():
    with stub_server(lambda request: _response({"data": [NEWEST_RUN], "next_cursor": None})) as daemon:
        _, out = _on_a_terminal("runs", "list", "--url", daemon.url, COLUMNS="200", NO_COLOR="1")
    assert all(column in out.decode() for column in RUN_COLUMNS)


def _response(body: object) -> StubResponse:
    return StubResponse(body=json.dumps(body).encode())


@pytest.mark.slow
def test_a_terminal_gets_colours_unless_no_color_is_set():
    with stub_server(lambda request: _response({"data": [RUN_BODY], "next_cursor": None})) as daemon:
        _, coloured = _on_a_terminal("runs", "list", "--url", daemon.url)
        _, plain = _on_a_terminal("runs", "list", "--url", daemon.url, NO_COLOR="1")
    assert b"\x1b[31mfailed" in coloured
    assert b"\x1b[31m" not in plain
    for shown in (coloured, plain):
        assert b"a[2Jb31mcd  e" in shown


@pytest.mark.slow
def test_json_on_a_terminal_is_indented_and_escaped_and_still_the_same_json():
    with stub_server(lambda request: _response({"data": [RUN_BODY], "next_cursor": None})) as daemon:
        code, shown = _on_a_terminal("runs", "list", "--json", "--url", daemon.url)
    assert code == 0
    assert json.loads(shown)["data"] == [RUN_BODY]
    assert not any(nasty in shown for nasty in (b"\x1b", b"\x07", "\x9b".encode(), "\u202e".encode()))


@pytest.mark.slow
def test_the_live_view_ends_when_the_named_runs_have_settled():
    states = iter(["running", "failed"])

    def respond(request: object) -> StubResponse:
        status = next(states)
        return _response({**RUN_BODY, "status": status, "settled": status == "failed"})

    with stub_server(respond) as daemon:
        code, shown = _on_a_terminal("runs", "watch", "run_1", "--url", daemon.url)
    assert code == 1
    assert shown.index(b"running") < shown.index(b"failed")


@pytest.mark.slow
def test_the_live_view_counts_filters_scrolls_and_quits():
    """Keys are typed once the table is drawn; the terminal has 14 lines."""
    runs = [{**NEWEST_RUN, "id": f"run_{number:026}", "status": "running"} for number in range(40)]

    def respond(request: object) -> StubResponse:
        assert "connection=hub" in request.target
        return _response({"data": runs, "next_cursor": None})

    with stub_server(respond) as daemon:
        code, shown = _on_a_terminal(
            "runs", "watch", "--connection", "hub", "--url", daemon.url,
            keys=[(b"q quits", b"G"), (runs[-1]["id"].encode(), b"g"), (b"rows 1 to 10", b"j"), (b"rows 2 to 11", b"q")],
            LINES="14", NO_COLOR="1",
        )  # fmt: skip
    assert code == 0
    assert "40 runs" in (plain := re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.decode()))
    assert "40 running" in plain
    assert "rows 31 to 40" in plain


@pytest.mark.slow
def test_the_live_view_says_that_the_daemon_is_away_and_heeds_keys_that_come_together():
    """In a narrow terminal the title takes several lines; a failed run among the newest is no failure of the command."""
    statuses = ("running", "failed", "succeeded", "waiting", "queued")
    runs = [{**NEWEST_RUN, "id": f"run_{number:026}", "status": statuses[number % 5]} for number in range(30)]
    responses = iter([_response({"data": runs, "next_cursor": None})])
    no_http = StubResponse(7)
    with stub_server(lambda request: next(responses, no_http)) as daemon:
        code, shown = _on_a_terminal(
            "runs", "watch", "--url", daemon.url,
            keys=[(b"q quits", b"\x1b[B" * 3), (b"no answer", b"q")], COLUMNS="40", LINES="14", NO_COLOR="1",
        )  # fmt: skip
    assert code == 0
    assert b"rows 4 to 12" in shown
    assert b"..." not in shown


def test_run_ids_and_filters_exclude_each_other(cli):
    result = cli("runs", "watch", "run_1", "--tag", "x", "--url", "http://127.0.0.1:1")
    assert (result.code, "give either RUN_ID" in result.err) == (2, True)


def test_json_that_is_piped_is_what_the_daemon_sent_byte_for_byte(cli):
    body = '{"data": [],  "next_cursor":null, "x":"ü\\u001b"}'.encode()
    with stub_server(lambda request: StubResponse(body=body)) as daemon:
        result = cli("runs", "list", "--json", "--url", daemon.url)
    assert result.out.encode() == body + b"\n"


@pytest.mark.slow
def test_a_terminal_that_cannot_show_a_mark_shows_something_else():
    with stub_server(lambda request: StubResponse(500)) as receiver:
        done = subprocess.run(
            [*RUNBRIDGE, "trigger", "bridge.ping", "--to", receiver.url],
            env={"PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"")
    assert done.stdout.startswith(b"? bridge.ping")


NOW = datetime(2026, 1, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "0.2s ago"),
        (59, "59s ago"),
        (119, "119s ago"),
        (120, "2m ago"),
        (7200, "2h ago"),
        (200_000, "2d ago"),
        (-5, "in 5.0s"),
    ],
)
def test_ages_have_two_significant_digits_and_one_unit(seconds, shown):
    at = (NOW - timedelta(seconds=seconds)).isoformat()
    assert output.ago(at, now=NOW) == shown


@pytest.mark.parametrize(
    ("progress", "shown"), [(None, ""), ({"completed": 0, "total": 0}, ""), ({"completed": 3, "total": 5}, "3/5")]
)
def test_progress_of_nothing_is_not_shown(progress, shown):
    assert progress_text({"progress": progress}) == shown


def test_what_is_overdue_is_due_now() -> None:
    """`next 5s ago` would read as a mistake while the POST is under way."""
    at = "2020-01-01T00:00:00Z"
    assert output.due(at) == "now"
    assert output.due(at, now=datetime(2019, 12, 31, 23, 59, tzinfo=UTC)) == "in 60s"


@pytest.mark.parametrize(("count", "words"), [(1, "ago)"), (4, "4 times in a row)")])
def test_a_run_shows_its_last_failed_poll(cli, count, words):
    error = {"at": "2026-01-15T10:30:00Z", "kind": "unreachable", "message": "connection refused", "count": count}
    run = {**RUN_BODY, "settled": False, "provider": "dify", "last_error": error}

    def respond(request: object) -> StubResponse:
        return _response(run if request.path == "/v1/runs/run_1" else {"data": [], "next_cursor": None})

    with stub_server(respond) as daemon:
        shown = cli("runs", "show", "run_1", "--url", daemon.url).out
    (line,) = [line for line in shown.splitlines() if line.startswith("last error")]
    assert "connection refused  (unreachable, " in line
    assert line.endswith(words)


def test_no_instant_is_no_text():
    assert output.ago(None) == output.due(None) == ""
    assert output.ago("yesterday") == ""
