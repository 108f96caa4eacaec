"""`secrets.key`: made once, for its owner only, never overwritten, rotated by a line at the top."""

import os
import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from bridge.domain.encryption import new_key
from bridge.domain.errors import DatabaseRefused
from bridge.store.sqlite import key_file


def ids(path: Path) -> list[str]:
    return [key.id for key in key_file.read_or_create(path)]


def test_a_missing_file_is_made_for_its_owner_only_and_found_again(tmp_path: Path):
    path = key_file.path_beside(tmp_path / "runbridge.db")
    made = ids(path)
    assert path == tmp_path / "secrets.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(made) == 1
    assert ids(path) == made
    assert [entry.name for entry in tmp_path.iterdir()] == ["secrets.key"]


def test_a_rotation_puts_a_new_key_first_and_keeps_the_old_ones(tmp_path: Path):
    path = tmp_path / "secrets.key"
    first = ids(path)
    second = [key.id for key in key_file.add_new_key(path)]
    assert second[1:] == first
    assert second[0] not in first
    assert ids(path) == second
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_belongs_to_whom_the_folder_belongs_although_another_person_makes_it(tmp_path: Path):
    """Otherwise the daemon, which runs as another user than the shell's root, could not start any more."""
    owner = 12345 if os.geteuid() == 0 else os.geteuid()
    os.chown(tmp_path, owner, -1)
    path = tmp_path / "secrets.key"
    ids(path)
    assert path.stat().st_uid == owner
    key_file.add_new_key(path)
    assert path.stat().st_uid == owner


@pytest.mark.parametrize(
    "content", ["", "# nothing but words\n", "whsec_abc\n", pytest.param(new_key()[:20], id="cut off"), "\x00\x01"]
)
def test_a_file_without_a_usable_key_is_refused_and_stays(tmp_path: Path, content: str):
    """A fresh key in its place would make every secret in the database unreadable for good."""
    path = tmp_path / "secrets.key"
    path.write_text(content)
    with pytest.raises(DatabaseRefused, match=r"secrets\.key"):
        key_file.read_or_create(path)
    assert path.read_text() == content


def test_a_file_that_cannot_be_read_is_refused_with_a_sentence(tmp_path: Path):
    (tmp_path / "secrets.key").mkdir()
    with pytest.raises(DatabaseRefused, match="directory"):
        key_file.read_or_create(tmp_path / "secrets.key")


@pytest.mark.slow
def test_daemons_that_create_it_at_once_agree(tmp_path: Path):
    path = tmp_path / "secrets.key"
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as daemons:
        found = list(daemons.map(ids, [path] * 12))
    assert found == [ids(path)] * 12


def test_what_a_killed_process_left_is_deleted_at_the_next_start(tmp_path: Path):
    """Also what one with our process id left: in a container every daemon may be process 1."""
    path = tmp_path / "secrets.key"
    ids(path)
    for pid in (os.getpid(), os.getppid(), 2**22 + 1):
        (tmp_path / f".secrets.key.partial-{pid}").touch()
    ids(path)
    assert {path.name for path in tmp_path.iterdir()} == {"secrets.key", f".secrets.key.partial-{os.getppid()}"}
