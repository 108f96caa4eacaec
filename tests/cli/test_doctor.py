"""The `doctor` command, without and beside a running daemon."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from bridge.cli.doctor import check_clock
from bridge.domain.connection import Connection
from bridge.domain.secret import Secret
from bridge.maintenance import backups
from bridge.maintenance.backups import BackupPlan
from bridge.store.checks import check_disk, check_files
from bridge.store.sqlite.database_file import FileLock
from tests.support.stub_server import StubResponse, stub_server


def test_doctor_without_a_daemon_says_so_and_gives_1(cli, config):
    result = cli("doctor", "--config", config)
    assert result.code == 1, result.out
    assert [line for line in result.out.splitlines() if line.startswith("✗")] == [
        line for line in result.out.splitlines() if "daemon: no daemon" in line
    ]
    assert "! database: there is no database" in result.out
    assert "! clock against 127.0.0.1: not reachable" in result.out


def test_doctor_without_a_configuration_says_how_to_get_one(cli):
    result = cli("doctor")
    assert result.code == 1
    assert "runbridge init" in result.out


def test_doctor_reports_a_file_that_is_not_toml_once(cli, config):
    config.write_text("[server\n")
    result = cli("doctor", "--config", config)
    assert result.code == 1
    assert (result.out + result.err).count("not TOML") == 1
    assert "SQLite" in result.out


def test_doctor_finds_a_damaged_database(cli, config, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "runbridge.db").write_text("not a database")
    result = cli("doctor", "--config", config, "--json")
    assert result.code == 1
    wrong = [finding for finding in result.json if finding["result"] == "wrong"]
    assert [finding["check"] for finding in wrong] == ["daemon", "database"]


def test_doctor_names_the_daemon_that_uses_the_database_but_does_not_answer_here(cli, config, tmp_path):
    """The configuration of a second daemon names the file of the first: to start another one would not help."""
    lock = FileLock.take(tmp_path / "data" / "runbridge.db")
    try:
        result = cli("doctor", "--config", config, "--offline", "--json")
    finally:
        lock.release()
    (database,) = (each for each in result.json if each["check"] == "database" and each["result"] == "wrong")
    assert f"another runbridge (pid {os.getpid()} on " in database["detail"]
    assert "another [database] url" in database["detail"]
    assert result.code == 1
    again = cli("doctor", "--config", config, "--offline", "--json")
    assert not [each for each in again.json if "another runbridge" in each["detail"]]


@pytest.mark.parametrize(
    ("date", "is_good", "words"),
    [
        ("Thu, 01 Jan 2026 00:00:00 GMT", False, "ahead"),
        ("Fri, 01 Jan 2100 00:00:00 GMT", False, "behind"),
        ("garbage", None, "not reachable"),
        (None, None, "no Date header"),
    ],
)
def test_a_clock_that_differs_from_the_providers_is_reported(date, is_good, words):
    with stub_server(lambda request: StubResponse(401, b"", date=date)) as provider:
        finding = check_clock(Connection("d", "dify", f"{provider.url}/v1", Secret("k")))
    assert finding.is_good is is_good
    assert words in finding.detail


@pytest.mark.parametrize("has_witness", [True, False])
def test_a_provider_whose_clock_is_wrong_is_not_ours_to_set_where_another_agrees_with_us(cli, config, has_witness):
    now = datetime.now(UTC)
    dates = [format_datetime(at, usegmt=True) for at in (now + timedelta(hours=1), now)]
    with ExitStack() as stack:
        off, right = [
            stack.enter_context(stub_server(lambda request, date=date: StubResponse(401, b"", date=date)))
            for date in dates
        ]
        more = f'[connections.off]\nprovider = "dify"\nbase_url = "{off.url}/v1"\napi_key = "k"\n'
        if has_witness:
            address = right.url.replace("127.0.0.1", "localhost")
            more += f'[connections.right]\nprovider = "dify"\nbase_url = "{address}/v1"\napi_key = "k"\n'
        config.write_text(config.read_text() + more)
        result = cli("doctor", "--config", config, "--json")
    (clock,) = (each for each in result.json if "connections: off" in each["detail"])
    if has_witness:
        assert clock["result"] == "remark"
        assert "s behind, but agrees with localhost; tell the provider" in clock["detail"]
    else:
        assert clock["result"] == "wrong"
        assert "set its clock (timedatectl set-ntp true), unless the provider's is wrong" in clock["detail"]


@pytest.mark.parametrize(
    ("offset_s", "result", "words"),
    [
        (-1200, "wrong", "s behind this machine's"),
        (1200, "wrong", "s ahead of this machine's"),
        (-20, "remark", "behind"),
    ],
)
def test_a_daemon_elsewhere_whose_clock_is_wrong_is_reported(cli, offset_s, result, words):
    """The command compares the providers' clocks with its own machine's, which may be right."""
    theirs = format_datetime(datetime.now(UTC) + timedelta(seconds=offset_s), usegmt=True)
    with stub_server(lambda request: StubResponse(200, b'{"data": []}', date=theirs)) as daemon:
        found = cli("doctor", "--offline", "--json", "--url", daemon.url, "--token", "t")
    (clock,) = (each for each in found.json if each["check"] == "clock of the daemon")
    assert clock["result"] == result
    assert words in clock["detail"]


@pytest.mark.parametrize("date", ["soon", "", "Mon, 30 Nov 2099 16:00:00 -0000"])
def test_a_date_of_a_daemon_that_is_none_or_has_no_zone_is_no_fault_of_ours(cli, date):
    """A proxy may write it."""
    with stub_server(lambda request: StubResponse(200, b'{"data": []}', date=date)) as daemon:
        found = cli("doctor", "--offline", "--json", "--url", daemon.url, "--token", "t")
    clocks = [each["result"] for each in found.json if each["check"] == "clock of the daemon"]
    assert clocks == (["wrong"] if "2099" in date else [])


def test_the_clock_of_a_provider_behind_a_proxy_is_asked_by_that_proxy():
    """Its name may not even be known here."""
    seen = []

    def answer(request):
        seen.append((request.target, request.headers.get("proxy-authorization")))
        return StubResponse(200, b"", date="Thu, 01 Jan 2026 00:00:00 GMT")

    with stub_server(answer) as proxy:
        address = proxy.url.replace("http://", "http://me:p%40ss@")
        connection = Connection("d", "dify", "http://dify.internal.invalid/v1", Secret("k"), proxy=address)
        finding = check_clock(connection)
    assert "ahead" in finding.detail
    assert seen == [("http://dify.internal.invalid/v1", "Basic bWU6cEBzcw==")]


def test_a_disk_that_runs_full_is_reported(monkeypatch, tmp_path):
    assert check_disk(tmp_path / "not" / "yet" / "x.db").is_good is not False
    for free, is_good in ((10**6, False), (500 * 10**6, None), (10**12, True)):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr("shutil.disk_usage", lambda _, usage=usage: usage)
        assert check_disk(tmp_path / "x.db").is_good is is_good


def test_doctor_finds_the_wrong_key(cli, running):
    result = cli("doctor", "--config", running.config)
    assert result.code == 1
    lines = result.out.splitlines()
    wrong = [line for line in lines if line.startswith("✗")]
    assert any(line.startswith("✗ key of connection dify-wrong-key") for line in wrong)
    assert all("dify-wrong-key" in line for line in wrong)
    again = cli("doctor", "--config", running.config).out.splitlines()  # the daemon found it at the first
    assert [line.partition(":")[0] for line in again if line.startswith("✗")] == ["✗ key of connection dify-wrong-key"]
    assert any("daemon" in line and line.startswith("✓") for line in lines)
    assert any("clock against 127.0.0.1" in line and line.startswith("✓") for line in lines)


def test_a_key_that_no_wrong_one_is_refused_beside_is_a_remark_of_doctor(cli):
    """The server may need no key. `connections check` was asked for a proof, and there is none."""
    check = {"ok": False, "result": "remark", "detail": "reachable, key not proven: any key", "duration_ms": 3}
    bodies = {"/v1/connections": {"data": [{"name": "open"}]}, "/v1/connections/open/check": check}
    with stub_server(
        lambda request: StubResponse(body=json.dumps(bodies.get(request.target, {"data": []})).encode())
    ) as daemon:
        found = cli("doctor", "--json", "--url", daemon.url, "--token", "t")
        checked = cli("connections", "check", "open", "--url", daemon.url, "--token", "t")
    (key,) = (each for each in found.json if each["check"] == "key of connection open")
    assert (key["result"], key["detail"], found.code) == ("remark", check["detail"], 0)
    assert (checked.code, checked.out) == (1, "! open reachable, key not proven: any key (3 ms)\n")


def test_doctor_offline_asks_no_provider(cli, running):
    result = cli("doctor", "--config", running.config, "--offline", "--json")
    wrong = {finding["check"] for finding in result.json if finding["result"] == "wrong"}
    assert wrong <= {"connection dify-wrong-key"}  # once another test has had its key checked
    assert not [f for f in result.json if f["check"].startswith(("clock", "key of "))]


def test_doctor_shows_what_the_daemon_finds_about_itself_and_each_thing_by_name(cli, running):
    result = cli("doctor", "--config", running.config, "--offline", "--json")
    checks = {finding["check"] for finding in result.json}
    assert {"files", "backups", "database", "secrets", "endpoint my-app", "connection dify-prod"} <= checks
    assert any(check.startswith("node ") for check in checks)


def test_health_says_by_its_exit_code_alone_whether_the_daemon_can_work(cli, running):
    healthy = cli("health", "--config", running.config)
    assert (healthy.code, healthy.out, healthy.err) == (0, "", "")
    for wrong in ("http://127.0.0.1:1", "no address:at all"):
        ill = cli("health", "--url", wrong)
        assert (ill.code, ill.out, ill.err) == (1, "", "")


def test_files_that_others_may_open_or_that_cannot_be_written_are_reported(tmp_path, monkeypatch):
    database = tmp_path / "x.db"
    database.touch(0o600)
    assert [finding.result for finding in check_files(database)] == ["ok"]
    database.chmod(0o644)
    ((result, detail),) = [(finding.result, finding.detail) for finding in check_files(database)]
    assert (result, f"chmod 600 {database}" in detail) == ("remark", True)
    database.chmod(0o400)
    assert [finding.what for finding in check_files(database)] == ["permissions"]  # also for root
    database.chmod(0o600)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("bridge.store.checks.owner_of", lambda path: 1000 if path == tmp_path else 0)
    ((result, detail),) = [(finding.result, finding.detail) for finding in check_files(database)]
    assert (result, f"chown 1000 {database}" in detail) == ("remark", True)
    monkeypatch.undo()
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.F_OK)  # root may write everything
    ((result, detail),) = [(finding.result, finding.detail) for finding in check_files(database)]
    assert (result, "cannot write" in detail) == ("wrong", True)


def test_backups_that_stop_being_made_are_reported(tmp_path):
    plan, database = BackupPlan("15 3 * * *", "backups", 7), tmp_path / "x.db"
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups/runbridge-20260115T031500Z.db").touch()
    made_at = datetime(2026, 1, 15, 3, 15, tzinfo=UTC)

    def result_after(hours, since=None):
        return backups.check(plan, database, now=made_at + timedelta(hours=hours), since=since).result

    assert [result_after(hours) for hours in (1, 24.9, 25.1)] == ["ok", "ok", "wrong"]
    failed = backups.check(plan, database, now=made_at, failure="no room")
    assert (failed.result, "no room" in failed.detail) == ("wrong", True)
    (tmp_path / "backups/runbridge-20260115T031500Z.db").unlink()
    assert [result_after(hours) for hours in (1, 100)] == ["remark", "remark"]
    assert [result_after(hours, since=made_at) for hours in (1, 25.1)] == ["remark", "wrong"]
    assert backups.check(BackupPlan(None, "backups", 7), database, now=made_at).result == "remark"
