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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from bridge.definitions.check import faults_in
from bridge.definitions.lines import line_at, lines_of
from bridge.domain.definition import Definition, DefinitionInvalid, Mistake
from bridge.domain.suggestions import dotted, unknown

BUILT_IN: Final = Path(__file__).resolve().parents[1] / "providers" / "definitions"
ENTRY_POINTS: Final = "runbridge.providers"
FILE_BYTES_MAX: Final = 256 * 1024
IN_CODE: Final = ("dify", "retab")  # providers that are no definition; one is replaced only by a file that says so
_BASES_MAX: Final = 8
_OWN: Final = ("schema", "name", "version", "checked", "docs", "base", "replaces")  # not taken from a base
_AT: Final = re.compile(r" \(at line (\d+), column \d+\)")


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    origin: str

    @property
    def name(self) -> str:
        return self.path.parent.name if self.path.name == "definition.toml" else self.path.stem


@dataclass(slots=True)
class _Parsed:
    tables: dict[str, Any]
    lines: dict[tuple[str | int, ...], int]
    digest: str


class Definitions:
    """All definitions that can be found: in `folder`, in packages and built in. Each is read when it is wanted."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._parsed: dict[Path, _Parsed | None] = {}
        self._ready: dict[str, Definition] = {}
        self._conflicts: list[Mistake] = []

    @cached_property
    def files(self) -> Mapping[str, _File]:
        """The files by name; of several with a name the nearest."""
        own = _files_in(self._folder, f"folder {self._folder}") if self._folder else ()
        files: dict[str, _File] = {}
        for file in (*own, *_packaged(), *_files_in(BUILT_IN, "built in")):
            nearer = files.setdefault(file.name, file)
            if nearer is not file and _replaces(nearer.path) != file.name:
                self._note_conflict(nearer, f"a definition {file.name} in {file.path}")
        for name in sorted(files.keys() & set(IN_CODE)):
            if _replaces(files[name].path) != name:
                self._note_conflict(files[name], f"a built-in provider {name}")
        return files

    def _note_conflict(self, file: _File, other: str) -> None:
        message = f'there is {other}, too; say replaces = "{file.name}" if yours is meant'
        self._conflicts.append(Mistake(str(file.path), None, "name", message))

    @cached_property
    def mistakes(self) -> list[Mistake]:
        """Names that stand in two places, and every mistake in a file of the folder, used or not."""
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
            file = self.files[name]
            self._ready[name] = self.read(file.path, file.origin)
        return self._ready[name]

    def read(self, path: Path, origin: str) -> Definition:
        """The definition in a file. Raises DefinitionInvalid with every mistake in it."""
        mistakes: list[Mistake] = []
        chain = self._chain(path, mistakes)
        if not chain:
            raise DefinitionInvalid(mistakes)
        tables: dict[str, Any] = {}
        for _, parsed in reversed(chain):
            inherited = {key: value for key, value in tables.items() if key not in _OWN}
            tables = _merged(inherited, parsed.tables)
        for at, message in faults_in(tables):
            file, line = _place(chain, at)
            mistakes.append(Mistake(str(file), line, dotted(at), message))
        name = _File(path, origin).name
        if (given := tables.get("name")) != name and isinstance(given, str):
            what = "folder" if path.name == "definition.toml" else "file"
            said = f"found {given!r}; the {what} is called {name!r}"
            mistakes.append(Mistake(str(path), chain[0][1].lines.get(("name",)), "name", said))
        if mistakes:
            raise DefinitionInvalid(mistakes)
        digest = hashlib.sha256("".join(parsed.digest for _, parsed in chain).encode()).hexdigest()[:16]
        return Definition(name, tables.get("version", "0.0.0"), origin, digest, tables)

    def _chain(self, path: Path, mistakes: list[Mistake]) -> list[tuple[Path, _Parsed]]:
        """The file and those that it starts from, nearest first."""
        chain: list[tuple[Path, _Parsed]] = []
        while True:
            parsed = self._parse(path, mistakes)
            if parsed is None:
                return []
            chain.append((path, parsed))
            base = parsed.tables.get("base")
            if not isinstance(base, str):
                return chain
            line = parsed.lines.get(("base",))
            if base not in self.files:
                mistakes.append(Mistake(str(path), line, "base", unknown("definition", base, self.names)))
                return []
            path = self.files[base].path
            if len(chain) > _BASES_MAX or path in {one for one, _ in chain}:
                mistakes.append(
                    Mistake(str(chain[-1][0]), line, "base", "the definitions start from each other in a circle")
                )
                return []

    def _parse(self, path: Path, mistakes: list[Mistake]) -> _Parsed | None:
        try:
            data = path.read_bytes()
            if len(data) > FILE_BYTES_MAX:
                raise ValueError(f"the file has more than {FILE_BYTES_MAX} bytes")
            text = data.decode("utf-8-sig")
            tables = tomllib.loads(text)
        except OSError as error:
            mistakes.append(Mistake(str(path), None, "", f"cannot be read: {error.strerror}"))
        except UnicodeDecodeError:
            mistakes.append(Mistake(str(path), None, "", "is not UTF-8"))
        except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
            found = _AT.search(str(error))
            mistakes.append(
                Mistake(str(path), int(found[1]) if found else None, "", f"is no TOML: {_AT.sub('', str(error))}")
            )
        else:
            return _Parsed(tables, lines_of(text), hashlib.sha256(data).hexdigest())
        return None


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
    found = []
    for entry in entries:
        inner = entry / "definition.toml"
        if entry.suffix == ".toml" and entry.is_file():
            found.append(_File(entry, origin))
        elif inner.is_file():
            found.append(_File(inner, origin))
    return found


def _packaged() -> Iterator[_File]:
    """The TOML files of distributions with our entry-point group; the entry points are never loaded."""
    from importlib import metadata  # takes 10 ms to import, and longer to look through

    for distribution in metadata.distributions():
        if any(point.group == ENTRY_POINTS for point in distribution.entry_points):
            origin = f"package {distribution.name} {distribution.version}"
            for file in distribution.files or ():
                place = Path(str(distribution.locate_file(file)))
                if file.suffix == ".toml" and ("providers" in file.parts or file.name == "definition.toml"):
                    yield _File(place, origin)


def _replaces(path: Path) -> str | None:
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("replaces")
    except (OSError, ValueError):
        return None
    return said if isinstance(said, str) else None


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The tables of `base` with the keys of `own`; tables are merged, everything else is replaced.

    A request keeps one method: where the own table names one, that of the base goes.
    """
    merged = dict(base)
    methods = {"get", "post", "put", "delete"}
    if methods & own.keys():
        merged = {key: value for key, value in merged.items() if key not in methods}
    for key, value in own.items():
        before = merged.get(key)
        merged[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _place(chain: Iterable[tuple[Path, _Parsed]], at: tuple[str | int, ...]) -> tuple[Path, int | None]:
    """The file and line of a key: in the nearest file that has it, else of what is around it in the file itself."""
    chain = list(chain)
    for path, parsed in chain:
        if at in parsed.lines:
            return path, parsed.lines[at]
    for path, parsed in chain:
        if at and (line := line_at(parsed.lines, at)):
            return path, line
    return chain[0][0], 1  # of something that is nowhere in the file
