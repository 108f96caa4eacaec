"""Write docs/catalogue.md from the built-in definitions: `.venv/bin/python deploy/catalogue.py`.

Each definition describes itself in the comments at its top: how it was checked and what it does not say, as
`# Checked: …` and `# Not said: …`; everything else is read from its tables.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bridge.definitions.check import hosts_of
from bridge.definitions.files import BUILT_IN, Definitions
from bridge.domain.definition import Definition, id_parts
from bridge.providers.fixtures import fixtures_beside

PAGE = Path(__file__).resolve().parents[1] / "docs" / "catalogue.md"
HEAD = """\
# Catalogue of definitions

These APIs are watched without code: `[connections.X] provider = "NAME"`. `runbridge providers show NAME` prints the
lines for the configuration. A definition that does not suit is replaced by a file of yours with `replaces = "NAME"`.

Every word, rule and answer of a definition has a recorded answer, which the tests read with the code that polls.
This page is written by `deploy/catalogue.py` from the definitions.

| name | starts | cancels | lists | output | checked |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The text of the page."""
    found = Definitions()
    files = {name: file.path for name, file in found.files.items() if file.path.is_relative_to(BUILT_IN)}
    definitions = {name: found.get(name) for name in sorted(files)}
    rows = (_row(definition, _comments(files[name])) for name, definition in definitions.items())
    parts = (_section(definition, files[name]) for name, definition in definitions.items())
    return HEAD + "\n".join(rows) + "\n\n" + "\n\n".join(parts) + "\n"


def _comments(path: Path) -> dict[str, str]:
    """The comments at the top: `what` it is, `Checked` and `Not said`."""
    found, key = {"what": "", "Checked": "", "Not said": ""}, "what"
    for line in path.read_text().splitlines():
        if not line.startswith("# "):
            break
        text = line.removeprefix("# ")
        for name in ("Checked", "Not said"):
            if text.startswith(f"{name}: "):
                key, text = name, text.removeprefix(f"{name}: ")
        found[key] = f"{found[key]} {text}".strip()
    return found


def _row(definition: Definition, comments: dict[str, str]) -> str:
    tables = definition.tables
    whole = "yes" if tables.get("list", {}).get("whole") else "changes, then one poll each"
    output = "with the run" if "output" in tables["read"] else "second request" if "output" in tables else "-"
    live = "server" if comments["Checked"].startswith("against a server") else "documentation"
    return (
        f"| [{definition.name}](#{definition.name}) | {_yes('trigger' in tables)} | {_yes('cancel' in tables)} "
        f"| {whole if 'list' in tables else '-'} | {output} | {live}, {tables['checked']} |"
    )


def _yes(has: bool) -> str:
    return "yes" if has else "-"


def _section(definition: Definition, path: Path) -> str:
    tables, comments, kinds = definition.tables, _comments(path), id_parts(definition.tables["run"])
    words = {name: tables["status"].get(name, []) for name in ("queued", "running", "waiting", "succeeded", "partial")}
    words |= {name: tables["status"].get(name, []) for name in ("failed", "cancelled")}
    rules = len(tables["status"].get("when", ()))
    statuses = "; ".join(
        f"{name}: {', '.join(f'`{word}`' for word in given)}" for name, given in words.items() if given
    )
    lines = [
        f"## {definition.name}",
        "",
        comments["what"],
        "",
        f"- version {definition.version}, [documentation]({tables['docs']}), {len(fixtures_beside(path))} fixtures",
        f"- run id: {'/'.join(f'`{part}` ({kind})' for part, kind in kinds.items())}",
        f"- the key goes to: {', '.join(sorted(hosts_of(tables))) or 'the base_url of the connection'}",
        f"- status: {statuses or 'by rules alone'}{f'; {rules} rules come first' if rules and statuses else ''}",
    ]
    for name, spec in definition.variables.items():
        must = (
            "required"
            if spec.get("required")
            else f"`{spec['default']}` unless set"
            if "default" in spec
            else "optional"
        )
        lines.append(f"- variable `{name}` ({must}): {spec.get('about', '')}")
    lines += [f"- checked: {comments['Checked']}", f"- not said: {comments['Not said']}"]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE}\n")
