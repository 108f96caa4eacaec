"""Hooks of `make docs`: pages made from the code, and links and names that only the repository needs.

`api-reference.md` is made from the OpenAPI document and `cli-reference.md` from the commands. A link to a file of the
repository leads to a copy of it where people use the file, and becomes plain text otherwise.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from bridge import __version__
from bridge.api.openapi import build_document

ROOT = Path(__file__).parents[1]
COPIED = {".toml", ".yaml", ".yml", ".json", ".service", ".conf", ""}
CLI_REFERENCE = """# Every command

::: mkdocs-click
    :module: bridge.cli.commands
    :command: runbridge
    :prog_name: runbridge
    :depth: 1
    :style: table
"""
SHIM = "assets/iframe-worker.js"  # the search of a site that is opened from a folder; the theme would fetch it
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(?:#[^)]*)?\)")
_FENCE_NAME = re.compile(r"^```(\w+) [^\n]+$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and the files that pages link to."""
    files.append(File.generated(config, "api-reference.md", content=api_reference()))
    files.append(File.generated(config, "cli-reference.md", content=CLI_REFERENCE))
    files.append(File.generated(config, SHIM, content=(ROOT / "deploy/docs_iframe_worker.js").read_bytes()))
    linked = {path for file in files.documentation_pages() for _, path in _OUTSIDE.findall(file.content_string)}
    for path in sorted(path for path in linked if is_copied(path)):
        files.append(File.generated(config, f"files/{path}", content=(ROOT / path).read_bytes()))
    return files


def is_copied(path: str) -> bool:
    """Whether people need the file itself, such as a unit or a configuration."""
    return (ROOT / path).is_file() and Path(path).suffix in COPIED


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Take away the names of code blocks, which the tests need, and turn links that leave the manual."""
    markdown = _FENCE_NAME.sub(r"```\1", markdown)
    return _OUTSIDE.sub(lambda link: f"[{link[1]}](files/{link[2]})" if is_copied(link[2]) else link[1], markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Let the page fetch nothing from elsewhere."""
    return output.replace("https://unpkg.com/iframe-worker/shim", SHIM)


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """The same for the page that says that there is none."""
    return output_content.replace("https://unpkg.com/iframe-worker/shim", f"/{SHIM}")


def api_reference() -> str:
    """The OpenAPI document as a page: calls by tag, then what receivers get, then every schema."""
    document = build_document(__version__)
    by_tag: dict[str, list[str]] = defaultdict(list)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            by_tag[operation["tags"][0]].append(_operation(f"{method.upper()} {path}", operation))
    for event_type, operations in document["webhooks"].items():
        by_tag["webhooks"].append(_operation(event_type, operations["post"]))
    parts = ["# Every call and field\n\nMade from `/openapi.json` of this version.\n"]
    for tag in document["tags"]:
        parts += [f"## {tag['name'].capitalize()}\n\n{tag['description']}\n", *by_tag[tag["name"]]]
    parts.append("## Schemas\n")
    parts += [_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return "\n".join(parts)


def _operation(title: str, operation: dict[str, Any]) -> str:
    lines = [f"### {title}\n", f"{operation['summary']}.\n"]
    if "description" in operation:
        lines.append(" ".join(operation["description"].split()) + "\n")
    if operation["parameters"]:
        lines += ["| parameter | in | type | |", "|---|---|---|---|"]
        lines += [
            f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {one['description']} |"
            for one in operation["parameters"]
        ]
        lines.append("")
    for content_type, content in operation.get("requestBody", {}).get("content", {}).items():
        lines.append(f"Body, `{content_type}`: {_type(content.get('schema', {}))}\n")
    lines += ["| answer | body | |", "|---|---|---|"]
    for status, response in operation["responses"].items():
        bodies = ", ".join(_type(content.get("schema", {})) for content in response.get("content", {}).values())
        lines.append(f"| {status} | {bodies} | {response['description']} |")
    return "\n".join([*lines, ""])


def _schema(name: str, schema: dict[str, Any]) -> str:
    lines = [f"### {name}\n", " ".join(schema.get("description", "").split()) + "\n"]
    if "enum" in schema:
        lines.append(", ".join(f"`{value}`" for value in schema["enum"]) + "\n")
    if schema.get("properties"):
        required = schema.get("required", [])
        lines += ["| field | type | |", "|---|---|---|"]
        lines += [
            f"| `{field}`{' (required)' if field in required else ''} | {_type(part)} | {part['description']} |"
            for field, part in schema["properties"].items()
        ]
        lines.append("")
    for example in schema.get("examples", []):
        shown = json.dumps(example, indent=2, ensure_ascii=False)
        indented = "\n".join(f"    {line}" for line in ["```json", *shown.splitlines(), "```"])
        lines += ['??? example "Example"', "", indented, ""]
    return "\n".join(lines)


def _type(schema: dict[str, Any]) -> str:
    return " or ".join(dict.fromkeys(_types(schema))) or "any"


def _types(schema: dict[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield f"[{name}](#{name.lower()})"
    elif "enum" in schema:
        yield ", ".join(f"`{value}`" for value in schema["enum"])
    elif "const" in schema:
        yield f"`{schema['const']}`"
    elif "anyOf" in schema:
        for choice in schema["anyOf"]:
            yield from _types(choice)
    elif schema.get("type") == "array":
        yield f"list of {_type(schema.get('items', {}))}"
    elif "type" in schema:
        yield schema.get("format", schema["type"])
