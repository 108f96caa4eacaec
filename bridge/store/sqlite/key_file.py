"""`secrets.key` beside the SQLite file: the encryption keys, unless the operator names others.

Created at the first start, readable by its owner only, and durable before it is used. Each line is a key, the newest
first; older ones decrypt what was encrypted before a rotation, also in old backups.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.domain.encryption import EncryptionKey, new_key, parse_keys
from bridge.domain.errors import DatabaseRefused
from bridge.store.sqlite import partial_file

NAME = "secrets.key"
_HEAD = """\
# Opens the signing secrets in the runbridge database beside this file. A backup of the database does not hold it:
# keep a copy, but elsewhere. The first line encrypts; further ones decrypt what was stored before `runbridge db rotate-key`.
"""


def path_beside(database: Path) -> Path:
    """The key file of this database."""
    return database.absolute().with_name(NAME)


def read_or_create(path: Path) -> list[EncryptionKey]:
    """The keys in the file; create it if there is none. DatabaseRefused if that fails."""
    with _refusing(path):
        partial_file.delete_abandoned(path.parent, path.name)
        if not path.exists():
            _create(path)
        return _read(path)


def add_new_key(path: Path) -> list[EncryptionKey]:
    """Add a new key before the present ones, which still decrypt values that are not encrypted again yet."""
    read_or_create(path)
    with _refusing(path):
        present = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        _write_beside(path, [new_key(), *present]).replace(path)
        partial_file.sync_folder(path.parent)
        return _read(path)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """DatabaseRefused for an error of the file system."""
    try:
        yield
    except OSError as error:
        said = f"{error.strerror or error}; only the daemon's user may read and write it and its folder"
        raise _refused(path, said) from None


def _read(path: Path) -> list[EncryptionKey]:
    try:
        keys = parse_keys(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _refused(path, str(error)) from None
    if not keys:
        raise _refused(path, "it holds no key")
    return keys


def _create(path: Path) -> None:
    partial = _write_beside(path, [new_key()])
    try:
        os.link(partial, path)  # another daemon in this folder may have created it first; then that one counts
    except FileExistsError:
        pass
    finally:
        partial.unlink()
    partial_file.sync_folder(path.parent)


def _write_beside(path: Path, lines: list[str]) -> Path:
    """Write a key file under a temporary name in the same folder."""
    partial = partial_file.path_for(path)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:  # run by root: the file belongs to the daemon's user, who owns the folder
        folder = path.parent.stat()
        os.fchown(descriptor, folder.st_uid, folder.st_gid)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(_HEAD + "".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    return partial


def _refused(path: Path, why: str) -> DatabaseRefused:
    return DatabaseRefused(f"cannot use the key of the secrets in the database, {path}: {why}")
