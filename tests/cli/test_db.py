"""The `db` commands, without and beside a running daemon."""

from __future__ import annotations

import fcntl
import sqlite3
import stat

import pytest

from tests.cli.conftest import add_run
from tests.support.ports import free_port


def test_upgrade_makes_a_database_that_check_finds_sound(cli, config):
    missing = cli("db", "check", "--config", config)
    assert missing.code == 1
    assert "there is no database" in missing.err
    assert cli("db", "upgrade", "--config", config).code == 0
    checked = cli("db", "check", "--config", config, "--json")
    assert checked.code == 0
    assert checked.json["ok"] is True
    assert checked.json["pending"] == []


def test_a_missing_provider_key_does_not_stop_the_db_commands(cli, config):
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


def test_a_backup_into_a_folder_that_is_not_there_is_refused(cli, config, tmp_path):
    """`backup /backups/` where /backups is not mounted must not make a file of that name."""
    cli("db", "upgrade", "--config", config)
    result = cli("db", "backup", f"{tmp_path}/backups/", "--config", config)
    assert result.code == 1
    assert "no folder" in result.err
    assert not (tmp_path / "backups").exists()


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


def test_a_backup_beside_the_running_daemon_is_sound_and_holds_the_runs(bridge, running, tmp_path):
    run_id = add_run(bridge, running, duration_s=0.1)
    result = bridge("db", "backup", tmp_path / "copy.db", "--config", running.config)
    assert result.code == 0, result.err
    assert bridge("db", "check", "--config", running.config).code == 0
    assert bridge("db", "check", "--database", f"sqlite:///{tmp_path / 'copy.db'}").code == 0
    assert run_id.encode() in (tmp_path / "copy.db").read_bytes()
    assert bridge("runs", "show", run_id).code == 0


def test_upgrading_under_a_running_daemon_is_refused(cli, running):
    result = cli("db", "upgrade", "--config", running.config)
    assert result.code == 1
    assert "another runbridge" in result.err


def test_a_copy_is_checked_by_its_name(cli, config, tmp_path):
    assert cli("db", "upgrade", "--config", config).code == 0
    copy = tmp_path / "copy.db"
    assert cli("db", "backup", copy, "--config", config).code == 0
    assert cli("db", "check", copy, "--config", config).code == 0
    copy.write_bytes(b"broken")
    assert cli("db", "check", copy, "--config", config).code == 1
    assert cli("db", "check", copy, "--database", f"sqlite:///{copy}").code == 2
