"""[backup]: when copies are made, and every mistake in saying so."""

import os
from pathlib import Path

import pytest

from bridge.config.show import show_config
from bridge.config.values import read_schedule
from tests.config.config_files import TOKEN, load, mistakes

POSTGRESQL = '[database]\nurl = "postgresql://user:password@localhost/runbridge"\n'


def test_there_are_no_backups_unless_a_schedule_is_set(tmp_path: Path):
    backup = load(tmp_path, TOKEN).backup
    assert (backup.schedule, backup.keep_count, backup.folder) == (None, 7, "backups")


def test_a_schedule_is_shown_as_it_was_written(tmp_path: Path):
    config = load(tmp_path, f'{TOKEN}[backup]\nschedule = "15 3 * * 0"\nfolder = "/srv/backups"\n')
    shown = {row.key: row.value for row in show_config(config)}
    assert (shown["backup.schedule"], shown["backup.keep"], shown["backup.folder"]) == (
        "15 3 * * 0",
        "7",
        "/srv/backups",
    )


@pytest.mark.parametrize(
    ("text", "cron"),
    [
        ("03:15", "15 3 * * *"),
        ("0:00", "0 0 * * *"),
        ("*/10 * * * *", "*/10 * * * *"),
        (" 15  3 1 jan *", "15 3 1 jan *"),
        ("15 3 * * 0", "15 3 * * sun"),
        ("15 3 * * 7", "15 3 * * sun"),
        ("15 3 * * 1-5", "15 3 * * mon,tue,wed,thu,fri"),
        ("15 3 * * Fri-Mon", "15 3 * * sun,mon,fri,sat"),
        ("15 3 * * */2", "15 3 * * sun,tue,thu,sat"),
        ("15 3 * * 1,3-5/2", "15 3 * * mon,wed,fri"),
    ],
)
def test_a_schedule_is_a_time_of_day_or_a_line_as_cron_reads_it(text: str, cron: str):
    """cron's Sunday is 0 and 7; for APScheduler 0 is Monday."""
    assert read_schedule(text).cron == cron


@pytest.mark.parametrize(
    "text",
    [
        "",
        "daily",
        "24:00",
        "3:5",
        "03:15:00",
        "* * * *",
        "* * * * * *",
        "61 3 * * *",
        "* * * * 8",
        "* * * * mo",
        "0 0 31 2 *",
        "* * * * 1-",
        "@daily",
        315,
        None,
    ],
)
def test_what_is_no_schedule_is_refused(text: object):
    with pytest.raises(ValueError, match=r"cron line|time of day"):
        read_schedule(text)


def test_all_mistakes_are_named_at_once(tmp_path: Path):
    found = mistakes(tmp_path, f'{TOKEN}[backup]\nschedule = "daily"\nkeep = 0\nfolder = "~/backups"\nkept = 1\n')
    assert set(found) == {"backup.schedule", "backup.keep", "backup.folder", "backup.kept"}


def test_settings_without_a_schedule_are_refused_because_they_would_do_nothing(tmp_path: Path):
    found = mistakes(tmp_path, f'{TOKEN}[backup]\nkeep = 3\nfolder = "/srv/backups"\n')
    assert set(found) == {"backup.keep", "backup.folder"}
    assert 'set schedule = "03:15" as well' in found["backup.keep"]


def test_on_postgresql_the_remedy_is_named(tmp_path: Path):
    found = mistakes(tmp_path, f'{TOKEN}{POSTGRESQL}[backup]\nschedule = "03:15"\n')
    assert "pg_dump" in found["backup.schedule"]
    assert load(tmp_path, f"{TOKEN}{POSTGRESQL}[backup]\n").backup.schedule is None


def test_everything_can_come_from_the_environment(tmp_path: Path):
    env = {"RUNBRIDGE_BACKUP__SCHEDULE": "*/5 * * * *", "RUNBRIDGE_BACKUP__KEEP": "2"}
    backup = load(tmp_path, TOKEN, env=env).backup
    assert backup.schedule is not None
    assert (backup.schedule.cron, backup.keep_count) == ("*/5 * * * *", 2)


def test_a_folder_that_cannot_be_made_is_a_mistake_before_the_first_night(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    text = f'{TOKEN}[database]\nurl = "sqlite:///{tmp_path}/x.db"\n[backup]\nschedule = "03:15"\n'
    assert load(tmp_path, f'{text}folder = "copies"\n').warnings == ()
    for folder in ("taken", "taken/below"):
        (said,) = mistakes(tmp_path, f'{text}folder = "{folder}"\n').values()
        assert "is a file" in said


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The daemon may run as another user than this command."""
    access = os.access
    monkeypatch.setattr("bridge.config.load.os.access", lambda path, mode: mode == os.F_OK and access(path, mode))
    text = f'{TOKEN}[database]\nurl = "sqlite:///{tmp_path}/x.db"\n[backup]\nschedule = "03:15"\n'
    assert [each.field for each in load(tmp_path, text).warnings] == ["backup.folder"]
