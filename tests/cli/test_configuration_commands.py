"""`init`, `config`, `db`, `guard`, `providers`, `doctor` without a daemon."""

from __future__ import annotations

import fcntl
import json
import sqlite3
import stat
from pathlib import Path

import pytest

from bridge.cli import checkup
from bridge.cli.checkup import check_clock, check_disk
from tests.support.cli_world import free_port
from tests.support.stub_daemon import Said, stub_daemon


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "bridge.toml"
    path.write_text(
        f'[server]\nlisten = "127.0.0.1:{free_port()}"\napi_token = "the-token"\n'
        f'[database]\nurl = "sqlite:///{tmp_path / "data" / "runbridge.db"}"\n'
        f'[connections.d]\nprovider = "dify"\nbase_url = "http://127.0.0.1:{free_port()}/v1"\napi_key = "the-key"\n'
        '[delivery]\nallow = ["10.0.0.0/8:8080"]\n'
    )
    path.chmod(0o600)
    return path


# -- init and config


def test_init_writes_a_private_file_that_loads_and_never_overwrites(cli):
    first = cli("init", "mine.toml")
    assert first.code == 0
    assert stat.S_IMODE(Path("mine.toml").stat().st_mode) == 0o600
    before = Path("mine.toml").read_text()
    again = cli("init", "mine.toml")
    assert again.code == 1
    assert "mine.toml" in again.err
    assert Path("mine.toml").read_text() == before
    assert cli("config", "check", "--config", "mine.toml").code == 0


def test_what_init_writes_without_a_path_is_found_by_itself(cli):
    assert cli("init").code == 0
    checked = cli("config", "check")
    assert checked.code == 0
    assert ".config/runbridge/config.toml" in checked.out


def test_check_names_every_mistake_and_gives_1(cli, config):
    config.write_text(config.read_text() + '[cadence]\nprice = "soon"\n[delivery2]\n')
    result = cli("config", "check", "--config", config)
    assert result.code == 1
    assert "cadence.price" in result.out
    assert "delivery2" in result.out
    as_json = cli("config", "check", "--config", config, "--json")
    assert as_json.code == 1
    assert {error["field"] for error in as_json.json["errors"]} == {"cadence.price", "delivery2"}


def test_a_file_that_others_can_read_is_a_remark_and_no_mistake(cli, config):
    config.chmod(0o644)
    result = cli("config", "check", "--config", config)
    assert result.code == 0
    assert "! server.api_token" in result.out


def test_show_tells_origins_and_no_secret(cli, config, monkeypatch):
    monkeypatch.setenv("RUNBRIDGE_LOG__LEVEL", "debug")
    result = cli("config", "show", "--origin", "--config", config)
    assert result.code == 0
    lines = {line.split()[0]: line.split()[1:] for line in result.out.splitlines()}
    assert lines["log.level"] == ["debug", "env:RUNBRIDGE_LOG__LEVEL"]
    assert lines["log.format"] == ["auto", "default"]
    assert lines["server.api_token"] == ["****", f"file:{config}"]
    assert "the-token" not in result.out
    assert "the-key" not in result.out
    keys = [row["key"] for row in cli("config", "show", "--config", config, "--json").json]
    assert "log.level" in keys


def test_show_with_a_mistake_is_wrong_use_and_names_it(cli, tmp_path):
    (tmp_path / "x.toml").write_text("[server\n")
    result = cli("config", "show", "--config", tmp_path / "x.toml")
    assert result.code == 2
    assert "line 1" in result.err


def test_serve_with_a_mistake_gives_no_traceback(cli, tmp_path):
    (tmp_path / "x.toml").write_text("[server\n")
    result = cli("serve", "--config", tmp_path / "x.toml")
    assert result.code in (1, 2)
    assert "line 1" in result.err
    assert "Traceback" not in result.err


# -- db


def test_upgrade_makes_a_database_that_check_finds_sound(cli, config):
    missing = cli("db", "check", "--config", config)
    assert missing.code == 1
    assert "there is no database" in missing.err
    assert cli("db", "upgrade", "--config", config).code == 0
    checked = cli("db", "check", "--config", config, "--json")
    assert checked.code == 0
    assert checked.json["ok"] is True
    assert checked.json["pending"] == []


def test_a_missing_provider_key_does_not_keep_anyone_from_the_database(cli, config):
    """The shell of an operator at night seldom has the service's keys."""
    config.write_text(config.read_text().replace('api_key = "the-key"', 'api_key_env = "NOT_HERE"'))
    assert cli("db", "upgrade", "--config", config).code == 0
    assert cli("guard", "explain", "https://8.8.8.8/", "--config", config).code == 0


def test_a_foreign_or_damaged_file_is_refused_with_one_sentence(cli, tmp_path):
    (tmp_path / "text.db").write_text("hello, this is no database at all")
    for words in (("check",), ("upgrade",), ("backup", tmp_path / "copy.db")):
        result = cli("db", *words, "--database", f"sqlite:///{tmp_path / 'text.db'}")
        assert result.code == 1
        assert "is not a SQLite database" in result.err
    assert not (tmp_path / "copy.db").exists()


def test_damage_inside_the_file_is_found(cli, config, tmp_path):
    assert cli("db", "upgrade", "--config", config).code == 0
    path = tmp_path / "data" / "runbridge.db"
    content = bytearray(path.read_bytes())
    for start in range(4096 * 2, len(content), 4096):
        content[start : start + 64] = b"\xff" * 64
    path.write_bytes(content)
    result = cli("db", "check", "--config", config)
    assert result.code == 1
    assert "damaged" in result.err + result.out


def test_a_backup_is_private_complete_and_never_overwrites(cli, config, tmp_path):
    assert cli("db", "upgrade", "--config", config).code == 0
    target = tmp_path / "copy.db"
    assert cli("db", "backup", target, "--config", config).code == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == ["copy.db"]
    again = cli("db", "backup", target, "--config", config)
    assert again.code == 1
    assert "stays as it is" in again.err


def test_a_backup_into_a_folder_gets_a_name_with_its_time(cli, config, tmp_path):
    assert cli("db", "upgrade", "--config", config).code == 0
    (tmp_path / "backups").mkdir()
    assert cli("db", "backup", tmp_path / "backups", "--config", config).code == 0
    (made,) = (tmp_path / "backups").iterdir()
    assert made.name.startswith("runbridge-")


def test_a_backup_that_cannot_be_written_leaves_nothing_behind(cli, config, tmp_path):
    assert cli("db", "upgrade", "--config", config).code == 0
    result = cli("db", "backup", tmp_path / "nowhere" / "copy.db", "--config", config)
    assert result.code == 1
    assert "cannot write the backup" in result.err


def test_a_backup_while_another_process_holds_the_lock_and_writes_is_one_consistent_state(cli, config, tmp_path):
    """The daemon goes on writing; its open transaction must not be in the copy."""
    assert cli("db", "upgrade", "--config", config).code == 0
    path = tmp_path / "data" / "runbridge.db"
    with path.with_name("runbridge.db.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE probe (n)")
        writer.execute("INSERT INTO probe VALUES (1)")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO probe VALUES (2)")
        assert cli("db", "backup", tmp_path / "copy.db", "--config", config).code == 0
        writer.execute("COMMIT")
        writer.close()
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert copy.execute("SELECT n FROM probe").fetchall() == [(1,)]
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    copy.close()


def test_postgresql_is_pointed_to_its_own_tool_without_its_password(cli, tmp_path):
    result = cli("db", "backup", tmp_path / "x", "--database", "postgresql://me:hidden@db.example.org/rb")
    assert result.code == 1
    assert "pg_dump" in result.err
    assert "hidden" not in result.err


def test_postgresql_is_checked_and_upgraded(cli, postgresql_url):
    before = cli("db", "check", "--database", postgresql_url, "--json")
    assert before.json["pending"] != []
    assert cli("db", "upgrade", "--database", postgresql_url).code == 0
    after = cli("db", "check", "--database", postgresql_url, "--json")
    assert (after.code, after.json["pending"]) == (0, [])


def test_a_postgresql_that_is_not_there_is_one_sentence(cli):
    result = cli("db", "check", "--database", f"postgresql://me:hidden@127.0.0.1:{free_port()}/rb")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "hidden" not in result.err


# -- guard and providers


def test_guard_explains_with_the_allow_list_of_the_configuration(cli, config):
    allowed = cli("guard", "explain", "http://10.1.2.3:8080/x", "--config", config)
    assert allowed.code == 0
    refused = cli("guard", "explain", "http://10.1.2.3:9090/x", "--config", config)
    assert refused.code == 1
    assert "[delivery] allow" in refused.out
    metadata = cli("guard", "explain", "http://169.254.169.254/", "--trust", "config", "--json")
    assert metadata.code == 1
    assert metadata.json["allowed"] is False


@pytest.mark.parametrize("listen", ["localhost:9191", "127.0.0.1:9191", "0.0.0.0:9191"])
def test_guard_knows_what_the_daemon_listens_on(cli, tmp_path, listen):
    path = tmp_path / "listening.toml"
    path.write_text(f'[server]\nlisten = "{listen}"\napi_token = "{"t" * 32}"\n')
    refused = cli("guard", "explain", "http://127.0.0.1:9191/", "--trust", "config", "--config", path)
    assert refused.code == 1
    assert "rule: own address" in refused.out
    assert cli("guard", "explain", "http://127.0.0.1:9192/", "--trust", "config", "--config", path).code == 0


def test_providers_say_what_they_can_do(cli):
    listed = {p["name"]: p for p in cli("providers", "list", "--json").json["data"]}
    assert set(listed) == {"dibby", "retab", "dify", "instabase"}
    assert "cancel" in listed["retab"]["can"]
    assert "cancel" not in listed["dibby"]["can"]
    assert listed["dify"]["base_url"] == "https://api.dify.ai/v1"
    assert 'provider = "dify"' in cli("providers", "show", "dify").out
    assert cli("providers", "show", "nope").code == 1


def test_a_recorded_body_is_read_without_asking_anybody(cli, tmp_path):
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"id": "x", "status": "FINISHED", "stepsCompleted": 2, "steps": 5}))
    result = cli("providers", "check", "dibby", "--body", body, "--json")
    assert result.code == 0
    assert (result.json["status"], result.json["provider_status"]) == ("succeeded", "FINISHED")
    body.write_text("{}")
    assert cli("providers", "check", "dibby", "--body", body).code == 1
    body.write_text("no json")
    assert cli("providers", "check", "dibby", "--body", body).code == 1


# -- doctor


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
        (None, None, "tells no time"),
    ],
)
def test_a_clock_that_differs_from_the_providers_is_told(monkeypatch, date, is_good, words):
    from http.server import BaseHTTPRequestHandler

    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda *_: date or "")
    if date is None:
        original = BaseHTTPRequestHandler.send_header
        monkeypatch.setattr(
            BaseHTTPRequestHandler, "send_header", lambda self, k, v: None if k == "Date" else original(self, k, v)
        )
    with stub_daemon(lambda seen: Said(401, b"")) as provider:
        finding = check_clock(f"{provider.url}/v1")
    assert finding.is_good is is_good
    assert words in finding.detail


def test_a_disk_that_runs_full_is_told(monkeypatch, tmp_path):
    assert check_disk(tmp_path / "not" / "yet" / "x.db").is_good is not False
    for free, is_good in ((10**6, False), (500 * 10**6, None), (10**12, True)):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(checkup.shutil, "disk_usage", lambda _, usage=usage: usage)
        assert check_disk(tmp_path / "x.db").is_good is is_good


def test_a_key_that_cannot_be_read_from_here_is_not_replaced_by_another(cli, config, tmp_path):
    """A credential of the unit is there only while the service runs, which has to be stopped for this."""
    config.write_text(config.read_text() + '[secrets]\nkey_file = "secrets-key"\n')
    assert cli("db", "upgrade", "--config", config).code == 0
    result = cli("db", "rotate-key", "--config", config)
    assert result.code == 2
    assert "secrets.key_file" in result.err
    assert not (tmp_path / "data" / "secrets.key").exists()


@pytest.mark.parametrize("command", ["check", "upgrade", "rotate-key"])
def test_an_address_that_cannot_be_read_from_here_is_not_taken_for_the_default(cli, config, tmp_path, command):
    text = config.read_text()
    config.write_text(
        text.replace(f'url = "sqlite:///{tmp_path / "data" / "runbridge.db"}"', 'url_file = "database-url"')
    )
    result = cli("db", command, "--config", config)
    assert result.code == 2
    assert "database.url_file" in result.err
