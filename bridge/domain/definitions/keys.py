"""The keys of a provider definition, schema 1: what may stand in a file, for the checks and for editors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from bridge.domain.definitions.expressions import check_expression
from bridge.domain.definitions.kinds import (
    Anything,
    Day,
    Either,
    Fault,
    Items,
    Kind,
    Named,
    Path,
    Table,
    Text,
    Whole,
    YesNo,
    faults_of,
)
from bridge.domain.run import RunStatus

STATUSES: Final = ("queued", "running", "waiting", "succeeded", "partial", "failed", "cancelled")
CANONICAL: Final = tuple(status.value for status in RunStatus if status.value not in {"expired", "lost"})
MEANINGS: Final = ("ok", "unchanged", "retry", "throttled", "refused", "not-found", "gone")
ID_KINDS: Final = ("slug", "uuid", "int", "path")
TIMES: Final = ("iso", "s", "ms", "us", "ns", "rfc822")
NAME: Final = r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?"
_VARIABLE: Final = r"[A-Za-z_][A-Za-z0-9_]*"
_HEADER: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_CODE: Final = r"[1-5]xx"
_LINE_CHARS: Final = 120


def _check_address(text: str) -> None:
    if not text.startswith(("/", "https://", "http://")) or any(char.isspace() for char in text):
        raise ValueError("allowed: a path that begins with `/`, or an address that begins with https://")
    if "#" in text:
        raise ValueError("an address for requests has no fragment (`#`)")


def _check_base(text: str) -> None:
    if not text.startswith(("https://", "http://")) or "?" in text or "@" in text:
        raise ValueError("allowed: an address that begins with https://, without a query or a user")


def _check_exchange(text: str) -> None:
    method, _, address = text.partition(" ")
    if method not in {"POST", "GET", "PUT"}:
        raise ValueError('allowed: a method and an address, as in "POST /auth/token"')
    _check_address(address)


def _expression(about: str) -> Text:
    return Text(about, check=check_expression, names="a JMESPath expression")


def _header(about: str) -> Text:
    return Text(about, pattern=_HEADER, form="the name of an HTTP header", names="the name of a header")


ADDRESS: Final = Text("Path below base_url.", check=_check_address, names="an address")
EXPRESSION: Final = _expression("JMESPath.")
PATHS: Final = Either(
    (EXPRESSION, Items(EXPRESSION)), "JMESPath into the answer; of a list the first that is not null."
)
PARTS: Final = Table({"path": PATHS, "decode": Text(choices=("json",))}, required=("path",))
TIME: Final = Text("How the time is written.", choices=TIMES)
READING: Final = Either(
    (EXPRESSION, Items(EXPRESSION), PARTS), "Where it stands: a path, paths in order, or text that holds JSON."
)
INSTANT: Final = Either(
    (EXPRESSION, Items(EXPRESSION), Table({"path": PATHS, "time": TIME}, required=("path",))),
    "When; ISO 8601 unless `time` says otherwise.",
)
STATUS_READING: Final = Either(
    (
        EXPRESSION,
        Items(EXPRESSION),
        Table({**PARTS.keys, "as": Text("Only text counts; anything else is no word.", choices=("text",))}, ("path",)),
    ),
    "Where the word stands.",
)
AFTER: Final = Items(Text(choices=CANONICAL), "With these statuses only.")
ERROR: Final = Either(
    (
        EXPRESSION,
        Items(EXPRESSION),
        Table(
            {
                "message": PATHS,
                "code": PATHS,
                "step": PATHS,
                "path": PATHS,
                "decode": PARTS.keys["decode"],
                "when": AFTER,
            },
            one_of=(("message", "path"),),
        ),
    ),
    "What went wrong.",
)
PROGRESS: Final = Table(
    {
        "completed": PATHS,
        "total": PATHS,
        "path": PATHS,
        "as": Text("Of one value: 40, 0.4 or 2/5.", choices=("percent", "fraction", "ratio")),
    },
    one_of=(("completed", "path"),),
    about="How far it is.",
)
TEXTS: Final = Named(Text(), "Texts by name; {name} is replaced.")
QUERY: Final = Named(Either((Text(), Whole(-(2**53), 2**53), YesNo())), "Query parameters; {name} is replaced.")
BODY: Final = Anything('JSON to send; {name} is replaced, and a value that is exactly "{inputs}" becomes that JSON.')
CODES: Final = Items(Whole(100, 599), "HTTP codes that mean success.")
SIZE: Final = Whole(1, 100_000, "Items of a page.")
NEXT: Final = Either(
    (
        Text(choices=("link-header",)),
        Table(
            {
                "url": PATHS,
                "cursor": PATHS,
                "last": _expression("The path, in the last item, of the value that the next page begins after."),
                "page": Text("The parameter that counts pages from 1."),
                "offset": Text("The parameter that counts items from 0."),
                "query": Text("The parameter that takes the cursor."),
                "while": _expression("Whether there are more pages."),
                "step": Either((SIZE, Items(SIZE)), "Items of a full page; of a list the sizes that one may have."),
            },
            one_of=(("url", "cursor", "last", "page", "offset"),),
        ),
    ),
    "Where the next page is.",
)
PAUSE: Final = Table(
    {"header": _header("Its name."), "path": EXPRESSION, "time": TIME},
    one_of=(("header", "path"),),
    about="A pause or an instant in a header or in the answer.",
)
ID_PARTS: Final = Either(
    (EXPRESSION, Named(EXPRESSION)), "The path of the run's id; of several parts each path, the others from vars."
)


class HeaderOrParts(Named):
    """`{ header = "Operation-Location" }`, `{ url = "status_url" }`, or the path of each part of an id."""

    def faults(self, value: dict[str, Any], at: Path) -> Iterator[Fault]:
        """Those of a header's name, or of the paths."""
        if value.keys() == {"header"}:
            return faults_of(_header(""), value["header"], (*at, "header"))
        return super().faults(value, at)


def _request(*methods: str, about: str, required: tuple[str, ...] = (), **more: Kind) -> Table:
    """A table that makes one request by one of the methods."""
    keys: dict[str, Kind] = dict.fromkeys(methods, ADDRESS)
    if set(methods) & {"post", "put", "patch"}:
        keys["body"] = BODY
    return Table({**keys, "query": QUERY, **more}, required, one_of=(methods,) if len(methods) > 1 else (), about=about)


AUTH: Final = Either(
    (
        Text(choices=("bearer", "basic", "none")),
        Table(
            {
                "header": _header("The header that holds the key."),
                "scheme": Text("The word before the key.", pattern=r"[!-~]+", form="one word"),
                "query": Text("The query parameter that holds the key.", pattern=r"[!-~]+", form="one word"),
                "exchange": Text('"POST /path" of a request that answers with a token.', check=_check_exchange),
                "body": BODY,
                "token": PATHS,
                "expires": PATHS,
                "send": Table({"header": _header("Its name."), "scheme": Text("The word before it.")}, ("header",)),
            },
            one_of=(("header", "query", "exchange"),),
        ),
    ),
    "How the key is sent; bearer unless told.",
)

RUN: Final = _request(
    "get",
    "post",
    about="One poll.",
    id=Either(
        (Text(choices=ID_KINDS), Named(Text(choices=ID_KINDS))), "The kind of a run's id, or its parts in this order."
    ),
    conditional=YesNo("Send ETag and Last-Modified back."),
)
READ: Final = Table(
    {
        "status": STATUS_READING,
        "id": READING,
        "workflow": READING,
        "output": READING,
        "error": ERROR,
        "progress": PROGRESS,
        "created_at": INSTANT,
        "started_at": INSTANT,
        "finished_at": INSTANT,
        "generation": READING,
        "link": READING,
    },
    required=("status",),
    about="Where in the answer what stands.",
)
WORDS: Final = Items(Either((Text(), YesNo(), Whole(-(2**53), 2**53))), "Their words.", is_empty_allowed=True)
WHEN: Final = Table(
    {"if": EXPRESSION, "is": Text(choices=CANONICAL), "raw": _expression("What provider_status shows.")},
    required=("if", "is"),
)
STATUS: Final = Table(
    {
        "case": Text("Whether capitals matter in words.", choices=("exact", "ignore")),
        **dict.fromkeys(STATUSES, WORDS),
        "absent": Text("What a missing status means.", choices=(*CANONICAL, "unusable")),
        "when": Items(WHEN, "Rules before the words; the first that is true decides."),
    },
    about="What their words mean.",
)
ANSWER: Final = Table(
    {
        "http": Either((Whole(100, 599), Text(pattern=_CODE, form='a code such as 404 without quotes, or "4xx"'), Items(
            Either((Whole(100, 599), Text(pattern=_CODE, form='a code, or a class such as "4xx"'))))), "HTTP codes."),
        "header": Named(Text(), "Headers and their values."),
        "if": EXPRESSION,
        "means": Text(choices=(*MEANINGS, *CANONICAL, "lost")),
        "until": PAUSE,
        "after": PAUSE,
    },
    required=("means",),
)  # fmt: skip

DEFINITION: Final = Table(
    {
        "schema": Whole(1, 1, "The language: 1."),
        "name": Text("The provider's name.", pattern=NAME, form="a-z, 0-9 and -"),
        "version": Text("Version of this file.", pattern=r"\d+\.\d+\.\d+(-[\w.]+)?", form="three numbers, as 1.0.0"),
        "checked": Day("When it was last tried live."),
        "docs": Text("Address of the API's documentation."),
        "base": Text("Another definition to start from.", pattern=NAME, form="the name of a definition"),
        "replaces": Text("A definition farther away that this one replaces.", pattern=NAME, form="the name of one"),
        "base_url": Text("What paths are appended to.", check=_check_base),
        "hosts": Items(Text(pattern=r"[a-z0-9.-]+(:\d+)?", form="a host name"), "Further hosts that may see the key."),
        "auth": AUTH,
        "headers": TEXTS,
        "vars": Named(
            Table({"required": YesNo(), "default": Text(), "about": Text()}), "What a connection gives beside its key."
        ),
        "run": RUN,
        "read": READ,
        "status": STATUS,
        "answer": Items(ANSWER, "What an HTTP answer means, before the defaults."),
        "output": _request(
            "get",
            "post",
            about="A second request, after success.",
            read=PATHS,
            when=AFTER,
            next=NEXT,
            join=Text("The list, by name, whose items of all pages are joined."),
            id=PATHS,
        ),
        "list": _request(
            "get",
            "post",
            about="A request that shows many runs.",
            required=("items",),
            items=_expression('The path of the list; "@" for a bare one.'),
            items_as=Text(choices=("list", "map")),
            id=ID_PARTS,
            next=NEXT,
            whole=Either((YesNo(), Items(Text())), "Whether items carry all that [read] needs, or what is then in them."),
            newest_first=YesNo(),
            since=Table({"query": Text(), "time": TIME}, required=("query",)),
        ),
        "trigger": _request(
            "post",
            "put",
            about="Start a run.",
            required=("run_from",),
            ok=CODES,
            workflow=Text("Whether slashes are kept in {workflow}.", choices=("slug", "path")),
            inputs=Table({"merge": YesNo("Their members become those of the body."), "about": Text("What they are.")}),
            run_from=Either((EXPRESSION, Items(EXPRESSION), HeaderOrParts(EXPRESSION)), "The id: a path, its parts, or where an address stands."),
        ),
        "cancel": _request("post", "put", "patch", "delete", "get", about="Ask for the end of a run.", ok=CODES),
        "check": _request(
            "get",
            "post",
            about="The one call of `connections check`.",
            ok=CODES,
            required=(),
            wrong_key=YesNo("Ask again with a wrong key, which must be refused."),
            **{"if": _expression("What must be true of the answer.")},
        ),
        "pace": Table({
            "hint": Items(Either((_header("A header with seconds."), PAUSE)), "Pauses that are believed on success too.")
        }),
    },
    required=("schema", "name", "run", "read", "status"),
    moved={
        "status": "[read]", "get": "[run]", "id": "[run] or [read]", "hint": "[pace]", "query": "[run]",
        "output": "[read]", "error": "[read]", "progress": "[read]", "items": "[list]", "key": "the connection",
        "api_key": "the connection", "interval": "nothing: the pace is learned", "timeout": "the connection",
    },
)  # fmt: skip


_SHARED: Final[dict[str, Kind]] = {
    "address": ADDRESS,
    "paths": PATHS,
    "reading": READING,
    "instant": INSTANT,
    "time": TIME,
    "texts": TEXTS,
    "query": QUERY,
    "next": NEXT,
    "pause": PAUSE,
    "words": WORDS,
    "codes": CODES,
    "canonical": Text(choices=CANONICAL),
    "expression": EXPRESSION,
    "header": _header(""),
}


def schema_text(value: Any = None, indent: int = 0) -> str:
    """The schema as JSON text; what fits in a line stands on one."""
    value = json_schema() if value is None else value
    short = json.dumps(value)
    if len(short) + indent <= _LINE_CHARS or not isinstance(value, dict | list):
        return short
    margin = " " * (indent + 1)
    if isinstance(value, dict):
        inner = [f"{json.dumps(key)}: {schema_text(each, indent + 1)}" for key, each in value.items()]
        return "{\n" + ",\n".join(margin + each for each in inner) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(margin + schema_text(each, indent + 1) for each in value) + "\n" + " " * indent + "]"


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 7) of a definition, for completion in editors."""
    shared = {name: kind.schema() for name, kind in _SHARED.items()}

    def with_references(value: Any, own: str = "") -> Any:
        for name, schema in shared.items():
            if value == schema and name != own:
                return {"$ref": f"#/definitions/{name}"}
        match value:
            case dict():
                return {key: with_references(inner) for key, inner in value.items()}
            case list():
                return [with_references(inner) for inner in value]
        return value

    whole = with_references(DEFINITION.schema())
    tables = whole["properties"].items()
    needs = {name: {"required": table.pop("required")} for name, table in tables if "required" in table}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "runbridge provider definition",
        **whole,
        "required": ["schema", "name"],
        "if": {"required": ["base"]},  # gives the keys that the file leaves out
        "else": {"required": ["run", "read", "status"], "properties": needs},
        "definitions": {
            name: {key: with_references(inner) for key, inner in schema.items()} for name, schema in shared.items()
        },
    }
