"""The `doctor` command, without and beside a running daemon."""

from __future__ import annotations

import pytest

from bridge.cli.doctor import check_clock
from bridge.domain.connection import Connection
from bridge.domain.secret import Secret
from bridge.store.checks import check_disk
from tests.support.stub_server import StubResponse, stub_server


def test_doctor_before_the_first_start_remarks_and_gives_0(cli, config):
    result = cli("doctor", "--config", config)
    assert result.code == 0, result.out
    assert "! daemon: no daemon" in result.out
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
    assert [finding["check"] for finding in wrong] == ["database"]


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
    assert len(wrong) == 1
    assert "dify-wrong-key" in wrong[0]
    assert any("daemon" in line and line.startswith("✓") for line in lines)
    assert any("clock against 127.0.0.1" in line and line.startswith("✓") for line in lines)


def test_doctor_offline_asks_no_provider(cli, running):
    result = cli("doctor", "--config", running.config, "--offline", "--json")
    assert result.code == 0
    assert {finding["result"] for finding in result.json} <= {"ok", "remark"}
    assert not [f for f in result.json if f["check"].startswith(("clock", "connection "))]
