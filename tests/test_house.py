"""Rules of this code base that a program can check: import directions, private attributes, sleeps."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Container, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BRIDGE = ROOT / "bridge"

EVERY_ROOM = frozenset(
    ("domain", "definitions", "runtime", "store", "providers", "config", "cluster", "polling", "delivery")
) | {"maintenance", "api"}
MAY_IMPORT: dict[str, frozenset[str]] = {
    "domain": frozenset(),
    "runtime": frozenset({"domain"}),
    "store": frozenset({"domain"}),
    "definitions": frozenset({"domain"}),  # finds and reads the files
    "providers": frozenset({"domain", "definitions", "runtime"}),
    "config": frozenset({"domain", "definitions"}),
    "cluster": frozenset({"domain", "runtime", "store"}),
    "delivery": frozenset({"domain", "runtime", "store", "cluster"}),
    "polling": frozenset({"domain", "runtime", "store", "cluster", "providers"}),
    "api": frozenset({"domain", "store"}),
    "maintenance": frozenset({"domain", "runtime", "store", "cluster", "polling", "delivery"}),
    # What the API may ask of the running workers; part of the composition root.
    "daemon_control": EVERY_ROOM - {"config", "definitions"},
    "wiring": frozenset({"config", "domain", "delivery", "maintenance", "runtime"}),
    "daemon": EVERY_ROOM | {"wiring", "daemon_control"},
    "process": frozenset({"config", "daemon", "domain", "runtime"}),
    "sandbox": (EVERY_ROOM - {"config"}),
    "cli": EVERY_ROOM | {"sandbox", "process", "wiring"},
    "__main__": frozenset({"cli"}),
}
# Packages that come with a declared one and belong to its interface.
COMPANIONS = {
    "multidict": "aiohttp",
    "yarl": "aiohttp",
    "pydantic_core": "pydantic",
    **dict.fromkeys(("opentelemetry", "requests"), "opentelemetry_sdk"),
}
OUTSIDE_WORLD = {"aiohttp", "alembic", "asyncio", "asyncpg", "pathlib", "socket", "sqlalchemy", "subprocess"}
READ_THE_TIME = {"clock.py", "ids.py"}  # an id begins with the time, so that ids sort by age; no rule reads it
OWNERS = {  # a package that only some rooms may use
    "sqlalchemy": {"store", "cli"},  # cli: the errors of `db check` and `doctor`
    "alembic": {"store"},
    "apscheduler": {"maintenance", "config"},  # config: whether a cron line is one
    "click": {"cli"},
    "opentelemetry": {"runtime"},
    "requests": {"runtime"},  # the session that the exporter sends with
    "rich": {"cli", "sandbox"},
}
LINES_MAX = 450
DEF = re.compile(r"^( *)(?:async )?def ", re.MULTILINE)
FUNCTION_LINES_MAX = 50  # from `def` to the last line, with the docstring
# Parsing every file and walking through it takes five seconds; a text without any of these need not be parsed.
PRIVATE_ATTRIBUTE = re.compile(r"(?<!\bself)(?<!\bcls)\s*\.(_[a-zA-Z]\w*)")
MAY_TAKE_PRIVATE = re.compile(
    r"^\s*(?:from|import)\b.*\b_(?!_)|import \([^)]*\b_(?!_)|attr\([^)]*[\"'][\w.]*\b_(?!_)", re.MULTILINE
)
# The whole statement, also over several lines: parsing it alone takes a tenth of the time of parsing its file.
IMPORT = re.compile(r"^[ \t]*((?:from [\w.]+ import (?:\([^)]*\)|[^\n(]+)|import [^\n]+))", re.MULTILINE)
MAY_READ = re.compile(r"\.(?:json|text)\(|\.(?:read|readany)\(\s*\)")
MAY_SLEEP = re.compile(r"\bsleep\((?!0\))")
# Private names of other objects that may be used, with the file that may use them.
PRIVATE_ALLOWED = {
    # aiohttp has no public switch for it: a GET on a broken kept-alive connection would be sent again at once.
    ("bridge/runtime/aiohttp_internals.py", "_retry_connection"),
    # `secrets` takes its bytes from there, and a simulated life must be the same each time.
    ("tests/simulation/virtual_clock.py", "_urandom"),
}
# Public interface in spite of the underscore: SQLAlchemy's row by name, a named tuple's fields, what asyncio offers to
# event loops, and `os._exit`.
PUBLIC_UNDERSCORE = {"_mapping", "_fields", "_asdict", "_replace", "_get_running_loop", "_set_running_loop", "_exit"}


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def files_with(pattern: re.Pattern[str], folder: Path) -> list[Path]:
    return [path for path in python_files(folder) if pattern.search(text_of(path))]


def room_of(path: Path) -> str:
    """`store` for bridge/store/tables.py, `daemon` for bridge/daemon.py, `` for bridge/__init__.py."""
    if path.name == "__main__.py":
        return "__main__"
    first = path.relative_to(BRIDGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def imported(path: Path) -> list[tuple[str, int]]:
    """Every name that the file imports, at any depth of the file, in full, with the line."""
    found: list[tuple[str, int]] = []
    for statement in IMPORT.finditer(text_of(path)):
        line = text_of(path).count("\n", 0, statement.start(1)) + 1
        for node in ast.parse(statement[1]).body:
            if isinstance(node, ast.Import):
                found += ((alias.name, line) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{line}: write imports in full, so that this test sees them"
                found += ((f"{node.module}.{alias.name}", line) for alias in node.names)
    return found


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """The statements and expressions of the file."""
    return list(ast.walk(tree_of(path)))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path))


def rooms_imported(path: Path) -> Iterator[tuple[str, int]]:
    for name, line in imported(path):
        parts = name.split(".")
        if parts[0] == "bridge" and len(parts) > 1 and parts[1] != "__version__":
            yield parts[1], line


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_no_two_files_import_each_other_directly_or_in_a_circle() -> None:
    """Either file could not be read, moved or tested without the other."""
    try:
        TopologicalSorter(import_graph()).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def import_graph() -> dict[str, set[str]]:
    """Module name → the modules of ours that it imports anywhere in its file; a package stands for its `__init__`."""
    folders = (BRIDGE, ROOT / "benchmarks", ROOT / "tests" / "support", ROOT / "tests" / "acceptance")
    files = {module_name(path): path for folder in folders for path in python_files(folder)}
    return {
        name: {module for imports, _ in imported(path) if (module := module_of(imports, files))} - {name}
        for name, path in files.items()
    }


def module_of(name: str, files: Container[str]) -> str | None:
    """`bridge.store.events` for itself and for `bridge.store.events.record`; None for a module that is not ours."""
    return next((module for module in (name, name.rpartition(".")[0]) if module in files), None)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_file_is_too_long_to_be_read_in_one_sitting() -> None:
    files = [path for folder in (BRIDGE, ROOT / "benchmarks", ROOT / "tests") for path in python_files(folder)]
    lengths = {path: len(text_of(path).splitlines()) for path in files}
    assert {str(path): lines for path, lines in lengths.items() if lines > LINES_MAX} == {}


def test_no_function_is_too_long_to_be_understood_at_one_reading() -> None:
    assert [where for path in python_files(BRIDGE) for where in long_functions(path, text_of(path))] == []


def long_functions(path: Path, text: str) -> Iterator[str]:
    """The functions that are too long; the file is parsed only if the next function begins so far below one."""
    starts = [(len(found[1]), text.count("\n", 0, found.start())) for found in DEF.finditer(text)]
    ends = (
        next((line for indent, line in starts[number + 1 :] if indent <= own), text.count("\n"))
        for number, (own, _) in enumerate(starts)
    )
    if all(end - start <= FUNCTION_LINES_MAX for (_, start), end in zip(starts, ends, strict=True)):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{place(path, node.lineno)}: {node.name} has {lines} lines"


@pytest.mark.parametrize(("lines", "found"), [(50, 0), (51, 1)])
def test_the_search_for_long_functions_finds_them(lines: int, found: int) -> None:
    inner = "    async def inner():\n        pass\n"
    text = f"class A:\n    pass\ndef long():\n{inner}" + "    x = 1\n" * (lines - 3)
    assert len(list(long_functions(BRIDGE / "x.py", text))) == found


def test_a_room_imports_only_the_rooms_that_it_may() -> None:
    wrong = [
        f"{place(path, line)}: {room_of(path)} may not import {target}"
        for path in python_files(BRIDGE)
        for target, line in rooms_imported(path)
        if target not in MAY_IMPORT.get(room_of(path), frozenset()) | {room_of(path)}
    ]
    assert wrong == []


def test_every_room_has_its_place_in_the_import_directions() -> None:
    rooms = {room_of(path) for path in python_files(BRIDGE)} - {""}
    assert rooms <= set(MAY_IMPORT), "a new room: say in MAY_IMPORT what it may import"


def test_only_the_daemon_and_the_command_line_import_the_configuration() -> None:
    """Rooms are handed plain values; a room that reads settings cannot be built twice in one test."""
    importers = {
        room_of(path) for path in python_files(BRIDGE) for target, _ in rooms_imported(path) if target == "config"
    }
    assert importers - {"config"} <= {"process", "daemon", "wiring", "cli"}  # the composition root, and the commands


def test_the_domain_touches_nothing_outside_and_reads_no_clock() -> None:
    wrong = [
        f"{place(path, line)}: {name}"
        for path in python_files(BRIDGE / "domain")
        for name, line in imported(path)
        if name.split(".")[0] in OUTSIDE_WORLD or (name.split(".")[0] == "time" and path.name not in READ_THE_TIME)
    ]
    assert wrong == []


def test_a_technology_stays_in_its_room() -> None:
    wrong = [
        f"{place(path, line)}: {name}"
        for path in python_files(BRIDGE)
        for name, line in imported(path)
        if room_of(path) not in OWNERS.get(name.split(".")[0], {room_of(path)})
    ]
    assert wrong == []


def test_the_product_imports_only_what_it_declares_as_its_dependencies() -> None:
    """pytest and friends are there while we develop, and missing where the daemon is installed."""
    project = pyproject()["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    declared = {re.split(r"[\[<>=! ]", line)[0].replace("-", "_") for line in lines}
    known = declared | {name for name, parent in COMPANIONS.items() if parent in declared} | {"bridge"}
    wrong = [
        f"{place(path, line)}: {name}"
        for path in python_files(BRIDGE)
        for name, line in imported(path)
        if name.split(".")[0] not in known | sys.stdlib_module_names
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ["polling", "delivery", "cluster", "maintenance", "runtime", "providers"])
def test_a_foreign_answer_is_never_read_without_a_bound(room: str) -> None:
    """521 KB of gzip became 512 MiB in memory through one `.read()`; the capped reader is the only way in."""
    wrong = [
        place(path, node.lineno)
        for path in files_with(MAY_READ, BRIDGE / room)
        for node in nodes_of(path)
        if isinstance(node, ast.Await) and is_unbounded_read(node.value)
    ]
    assert wrong == []


def is_unbounded_read(call: ast.expr) -> bool:
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
        return False
    # `read(work)` is the store's, `read(n)` a stream's; without an argument it is everything there is.
    return call.func.attr in {"json", "text"} or (call.func.attr in {"read", "readany"} and not call.args)


@pytest.mark.parametrize("source", ["response.json()", "response.text('utf-8')", "response.read()"])
def test_the_search_for_unbounded_reads_finds_them(source: str) -> None:
    assert MAY_READ.search(source)
    assert is_unbounded_read(ast.parse(source, mode="eval").body)


@pytest.mark.parametrize("folder", ["bridge", "benchmarks", "tests"])
def test_a_file_uses_no_private_name_of_another(folder: str) -> None:
    """Private names of another class or a library change without notice; ask for a public one instead."""
    assert list(private_names_used(ROOT / folder)) == []


def private_names_used(folder: Path) -> Iterator[str]:
    for path in python_files(folder):
        if not may_use_private(text_of(path)):
            continue
        own = names_defined(path)
        for node in nodes_of(path):
            for name in foreign_names(node):
                is_allowed = name in own or (str(path.relative_to(ROOT)), name) in PRIVATE_ALLOWED
                if re.match(r"_(?!_.*__$)", name) and name not in PUBLIC_UNDERSCORE and not is_allowed:
                    yield f"{place(path, node.lineno)}: {name}"


def may_use_private(text: str) -> bool:
    """Whether the text takes a private name from something that is not `self`, and does not define it itself."""
    if MAY_TAKE_PRIVATE.search(text):
        return True
    taken = set(PRIVATE_ATTRIBUTE.findall(text)) - PUBLIC_UNDERSCORE
    return any(
        not re.search(rf"\bdef {name}\b|\b(?:self|cls)\.{name}\b[^=\n]*=|^ *{name}\b[^=\n]*=", text, re.MULTILINE)
        for name in taken
    )


def foreign_names(node: ast.AST) -> list[str]:
    """Names that this node takes from something that is not `self`: attributes, imports, `getattr` and its kin."""
    match node:
        case ast.Attribute(value=ast.Name(id="self" | "cls")):
            return []
        case ast.Attribute(attr=name):
            return [name]
        case ast.ImportFrom(module=str(module), names=names):
            return [*module.split("."), *(alias.name for alias in names)]
        case ast.Call(args=[*_, ast.Constant(value=str(name))]) | ast.Call(args=[_, ast.Constant(value=str(name)), *_]):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            return name.split(".") if function in {"getattr", "hasattr", "setattr", "delattr"} else []
    return []


def names_defined(path: Path) -> set[str]:
    """Attributes and methods of the module's own classes, and its own functions and constants."""
    return {name for node in nodes_of(path) if (name := name_defined(node))}


def name_defined(node: ast.AST) -> str | None:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
            return name
        case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
            return name
    return None


@pytest.mark.parametrize(
    "source",
    [
        "other._x",
        "self.other._x",
        "from a import _x",
        "from a import (\n    b,\n    _x,\n)",
        "from a._x import y",
        "getattr(other, '_x')",
        "setattr(\n    other, 'b._x', 1)",
    ],
)
def test_the_search_for_private_names_finds_them(source: str) -> None:
    assert may_use_private(source)
    assert "_x" in [name for node in ast.walk(ast.parse(source)) for name in foreign_names(node)]


def test_no_test_sleeps_for_a_fixed_time() -> None:
    """A sleep is too short on a busy machine and too long on any other; wait for a condition (`support/waiting`).

    Inside `while` a sleep is the interval of such a wait, or of a server that drips.
    """
    wrong = [
        place(path, call.lineno)
        for path in files_with(MAY_SLEEP, ROOT / "tests")
        if path.parent.name != "simulation"  # its time is virtual
        for call in calls_outside_while(tree_of(path))
        if ast.unparse(call.func) in {"asyncio.sleep", "time.sleep"} and ast.unparse(call.args[0]) != "0"
    ]
    assert wrong == []


def calls_outside_while(node: ast.AST) -> Iterator[ast.Call]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child
        if not isinstance(child, ast.While):
            yield from calls_outside_while(child)


def test_no_test_measures_memory_object_by_object() -> None:
    """`sys.getsizeof` sees one object and not what it holds; measure the process, or count what is kept."""
    named = [path for path in python_files(ROOT / "tests") if "getsizeof" in text_of(path)]
    assert [str(path) for path in named if "getsizeof" in names_used(path)] == []


def names_used(path: Path) -> set[str]:
    return {getattr(node, "attr", getattr(node, "id", "")) for node in nodes_of(path)}


def test_no_file_has_a_name_that_says_nothing() -> None:
    nothing = {"utils", "util", "helpers", "helper", "models", "common", "misc"}
    named = [path for folder in (BRIDGE, ROOT / "tests") for path in python_files(folder)]
    assert [str(path) for path in named if {path.stem, path.parent.name} & nothing] == []


def test_every_dependency_and_every_switched_off_check_says_why() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    lists = ("dependencies = [", "otel = [", "ignore = [", '"tests/', '"benchmarks/', '"bridge/')
    inside, checked, silent = False, 0, []
    for line in lines:
        if line.strip().startswith(lists):
            inside = True
        elif line.strip() == "]":
            inside = False
        elif inside:
            checked += 1
            silent += [line] if not re.search(r"#\s*\S", line) else []
    assert silent == []
    assert checked > 40  # the lists were found


def test_every_inline_exception_names_its_check() -> None:
    """A bare `noqa` or `type: ignore` hides later mistakes, too."""
    bare = re.compile(r"#\s*(noqa|type:\s*ignore)(?!\s*[:\[])")
    wrong = [
        place(path, number)
        for folder in (BRIDGE, ROOT / "tests")
        for path in python_files(folder)
        if path != Path(__file__).resolve()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if bare.search(line)
    ]
    assert wrong == []


def pyproject() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
