"""The key of the secrets at rest where the operator names none: `secrets.key` beside the SQLite file.

Made at the first start, for its owner only, and durable before anything is sealed with it. Each line is a key,
the newest first; older ones open what was sealed before a rotation, in old backups as well.
"""

from __future__ import annotations

import os
from pathlib import Path

from bridge.domain.encryption import EncryptionKey, new_key, parse_keys
from bridge.domain.errors import DatabaseRefused

NAME = "secrets.key"
_HEAD = """\
# Opens the signing secrets in the runbridge database beside this file. A backup of the database does not hold it:
# keep a copy, but elsewhere. The first line seals; further ones open what was sealed before `runbridge db rotate-key`.
"""


def path_beside(database: Path) -> Path:
    """Where the key of this database is kept."""
    return database.absolute().with_name(NAME)


def read_or_create(path: Path) -> list[EncryptionKey]:
    """The keys in the file, which is made where there is none; DatabaseRefused where neither can be done."""
    try:
        if not path.exists():
            _make(path)
        return _read(path)
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from None


def add_new_key(path: Path) -> list[EncryptionKey]:
    """A fresh key before the present ones; what they sealed can still be opened if the sealing anew is interrupted."""
    read_or_create(path)
    try:
        present = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        _write(partial, [new_key(), *present])
        partial.replace(path)
        _sync_folder(path.parent)
        return _read(path)
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from None


def _read(path: Path) -> list[EncryptionKey]:
    try:
        keys = parse_keys(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _refused(path, str(error)) from None
    if not keys:
        raise _refused(path, "it holds no key")
    return keys


def _make(path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    _write(partial, [new_key()])
    try:
        os.link(partial, path)  # another daemon in this folder may have made it meanwhile; then that one counts
    except FileExistsError:
        pass
    finally:
        partial.unlink()
    _sync_folder(path.parent)


def _write(path: Path, lines: list[str]) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:  # a person's shell; the daemon is somebody else, whose folder it is
        folder = path.parent.stat()
        os.fchown(descriptor, folder.st_uid, folder.st_gid)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(_HEAD + "".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(path: Path, why: str) -> DatabaseRefused:
    return DatabaseRefused(f"cannot use the key of the secrets in the database, {path}: {why}")
