"""Find and read provider definitions: beside the configuration, in installed packages, and the built-in ones.

    nearest      providers/ beside the configuration, or the folder of `[providers] folder`
                 packages with the entry-point group `runbridge.providers` (their files are read, nothing is imported)
    farthest     bridge/providers/definitions

A name in two places is a mistake unless the nearer file says `replaces`. Built-in files are read when they are used.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from bridge.definitions.check import faults_in
from bridge.definitions.remedies import remedy_for_text
from bridge.definitions.schema import NAME, At
from bridge.domain.definition import METHODS, Definition, DefinitionInvalid, Mistake
from bridge.domain.suggestions import dotted, unknown

BUILT_IN: Final = Path(__file__).resolve().parents[1] / "providers" / "definitions"
ENTRY_POINTS: Final = "runbridge.providers"
FILE_BYTES_MAX: Final = 256 * 1024
IN_CODE: Final = ("dify", "retab")  # providers that are not definitions; one is replaced only by a file that says so
_OWN: Final = ("schema", "name", "version", "checked", "docs", "base", "replaces")  # not taken from a base
_PARSED_CHARS_MAX: Final = 4 * 1024 * 1024  # to find the lines of a file: a value of many lines is parsed once for each
_AT: Final = re.compile(r" \(at line (\d+), column \d+\)")


@dataclass(frozen=True)
class _File:
    path: Path
    origin: str

    @property
    def name(self) -> str:
        return self.path.parent.name if self.path.name == "definition.toml" else self.path.stem

    @cached_property
    def data(self) -> bytes:
        return self.path.read_bytes()

    @cached_property
    def text(self) -> str:
        if len(self.data) > FILE_BYTES_MAX:
            raise ValueError(f"the file has more than {FILE_BYTES_MAX} bytes")
        return self.data.decode("utf-8-sig")

    @cached_property
    def tables(self) -> dict[str, Any]:
        """Raises OSError and ValueError."""
        return tomllib.loads(self.text)

    @cached_property
    def lines(self) -> dict[At, int]:
        return lines_of(self.text)

    def problem(self) -> Mistake | None:
        """Why the file cannot be read; None if it can."""
        line, said = None, ""
        try:
            self.tables  # noqa: B018 - read and parsed here
        except OSError as error:
            said = f"cannot be read: {error.strerror}"
        except UnicodeDecodeError:
            said = "is not UTF-8"
        except (ValueError, RecursionError) as error:
            found = _AT.search(str(error))
            line = int(found[1]) if found else None
            written = self.text.splitlines()[line - 1 : line] if line else []
            said = f"is not TOML: {_AT.sub('', str(error))}{remedy_for_text('toml', ''.join(written))}"
        return Mistake(str(self.path), line, "", said) if said else None


class Definitions:
    """All definitions that can be found: in `folder`, in packages and built in. Each is read when it is wanted."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._ready: dict[str, Definition] = {}
        self._conflicts: list[Mistake] = []

    @cached_property
    def files(self) -> Mapping[str, _File]:
        """The files by name; of several with a name the nearest."""
        own = _files_in(self._folder, f"folder {self._folder}") if self._folder else ()
        files: dict[str, _File] = {}
        for file in (*own, *_packaged(), *_files_in(BUILT_IN, "built in")):
            nearer = files.setdefault(file.name, file)
            if nearer is not file:
                self._note_conflict(nearer, f"a definition {file.name} in {file.path}")
        for name in sorted(files.keys() & set(IN_CODE)):
            self._note_conflict(files[name], f"a built-in provider {name}")
        return files

    def _note_conflict(self, file: _File, other: str) -> None:
        if file.problem() is None and file.tables.get("replaces") != file.name:
            message = f'there is {other}, too; say replaces = "{file.name}" if yours is meant'
            self._conflicts.append(Mistake(str(file.path), None, "name", message))

    @cached_property
    def mistakes(self) -> list[Mistake]:
        """Names that two files have, and every mistake in a file of the folder, used or not."""
        mistakes = []
        for name, file in self.files.items():
            if self._folder is not None and file.path.is_relative_to(self._folder):
                try:
                    self.get(name)
                except DefinitionInvalid as invalid:
                    mistakes += invalid.mistakes
        return self._conflicts + mistakes

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all, in order."""
        return tuple(sorted(self.files))

    def get(self, name: str) -> Definition:
        """The definition of that name. Raises DefinitionInvalid with every mistake in it, KeyError for an unknown name."""
        if name not in self._ready:
            self._ready[name] = self._read(self.files[name])
        return self._ready[name]

    def read(self, path: Path, origin: str) -> Definition:
        """The definition in a file. Raises DefinitionInvalid with every mistake in it."""
        return self._read(_File(path, origin))

    def _read(self, file: _File) -> Definition:
        chain = self._chain(file)
        tables: dict[str, Any] = {}
        for each in reversed(chain):
            inherited = {key: value for key, value in tables.items() if key not in _OWN}
            tables = _merged(inherited, each.tables)
        faults = faults_in(tables)
        what = "folder" if file.path.name == "definition.toml" else "file"
        for key in ("name", "replaces"):
            given = tables.get(key, file.name)
            if given != file.name and isinstance(given, str) and re.fullmatch(NAME, given):
                faults.append(((key,), f"found {given!r}; the {what} is called {file.name!r}"))
        if faults:
            raise DefinitionInvalid([Mistake(*_place(chain, at), dotted(at), message) for at, message in faults])
        digests = "".join(hashlib.sha256(each.data).hexdigest() for each in chain)
        digest = hashlib.sha256(digests.encode()).hexdigest()[:16]
        return Definition(file.name, tables.get("version", "0.0.0"), file.origin, digest, tables)

    def _chain(self, file: _File) -> list[_File]:
        """The file and its bases, nearest first. Raises DefinitionInvalid if one cannot be read."""
        chain: list[_File] = []
        while True:
            if problem := file.problem():
                raise DefinitionInvalid([problem])
            chain.append(file)
            base = file.tables.get("base")
            if not isinstance(base, str):
                return chain
            place, said = _place([file], ("base",)), unknown("definition", base, self.names)
            if base in self.files:
                file = self.files[base]
                if file.path not in {one.path for one in chain}:
                    continue
                said = "the definitions start from each other in a circle"
            raise DefinitionInvalid([Mistake(*place, "base", said)])


def built_in(name: str) -> Definition:
    """A definition that comes with runbridge."""
    return Definitions().read(BUILT_IN / name / "definition.toml", "built in")


def definitions_folder(config: Path | None) -> Path | None:
    """The folder of definitions that the configuration file names, without checking the rest of that file."""
    if config is None:
        return None
    try:
        named = tomllib.loads(config.read_text(encoding="utf-8-sig")).get("providers")
    except (OSError, ValueError):
        named = None
    folder = named.get("folder") if isinstance(named, dict) else None
    return config.parent / (folder if isinstance(folder, str) else "providers")


def _files_in(folder: Path, origin: str) -> list[_File]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    places = [entry if entry.suffix == ".toml" else entry / "definition.toml" for entry in entries]
    return [_File(place, origin) for place in places if place.is_file()]


def _packaged() -> Iterator[_File]:
    """The TOML files of distributions with our entry-point group; the entry points are never loaded."""
    from importlib import metadata  # takes 10 ms to import, and longer to look through

    for distribution in metadata.distributions():
        if f"[{ENTRY_POINTS}]" in (distribution.read_text("entry_points.txt") or ""):
            origin = f"package {distribution.name} {distribution.version}"
            for file in distribution.files or ():
                place = Path(str(distribution.locate_file(file)))
                if file.suffix == ".toml" and ("providers" in file.parts or file.name == "definition.toml"):
                    yield _File(place, origin)


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The tables of `base` with the keys of `own`; tables are merged, everything else is replaced.

    A request keeps one method: where the own table names one, that of the base goes.
    """
    has_method = any(method in own for method in METHODS)
    merged = {key: value for key, value in base.items() if not (has_method and key in METHODS)}
    for key, value in own.items():
        before = merged.get(key)
        merged[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _place(chain: list[_File], at: At) -> tuple[str, int | None]:
    """The file and line of a key: in the nearest file that has it, otherwise those of the table around it."""
    while at:
        for file in chain:
            if at in file.lines:
                return str(file.path), file.lines[at]
        at = at[:-1]
    return str(chain[0].path), 1  # of something that is nowhere in the file


def lines_of(text: str) -> dict[At, int]:
    """The line, from 1, of each table and key, which the parser does not tell: it is given one statement at a time."""
    found: dict[At, int] = {}
    table: At = ()
    counts: dict[At, int] = {}
    statement, begun, room = "", 1, _PARSED_CHARS_MAX
    for number, line in enumerate(text.split("\n"), 1):
        statement += f"{line}\n"
        room -= len(statement)
        try:
            parsed = tomllib.loads(statement) if room > 0 else {}
        except ValueError:
            continue  # it goes on in the next line
        if line.lstrip().startswith("[") and begun == number:
            table = _resolved(parsed, counts)
            for at in (table, table[:-1]) if isinstance(table[-1], int) else (table,):
                found.setdefault(at, number)
        else:
            for at in _paths_in(parsed, table):
                found.setdefault(at, begun)
        statement, begun = "", number + 1
    return found


def _resolved(header: dict[str, Any], counts: dict[At, int]) -> At:
    """The path that a table header names; for a list of tables, that of its last item."""
    at: At = ()
    inner: Any = header
    while inner:
        [(name, inner)] = inner.items()
        at = (*at, name)
        if isinstance(inner, list):
            counts[at] = counts.get(at, 0) + 1
            [inner] = inner
        if at in counts:
            at = (*at, counts[at] - 1)
    return at


def _paths_in(value: Any, at: At) -> Iterator[At]:
    """The path of every member of a value, at any depth."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in inside:
        yield (*at, name)
        yield from _paths_in(inner, (*at, name))
