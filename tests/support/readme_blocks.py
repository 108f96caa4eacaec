"""Parts of the README: fenced blocks by name, sections, code spans."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
_FENCED = re.compile(r"^```(\w*) ?([\w-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: "```toml quickstart-config" has the language toml and the name quickstart-config."""

    language: str
    name: str
    text: str


def readme() -> str:
    """The whole text."""
    return README.read_text(encoding="utf-8")


def blocks(language: str | None = None) -> list[Block]:
    """The fenced blocks, all or those in one language."""
    found = [Block(*match.groups()) for match in _FENCED.finditer(readme())]
    return [block for block in found if language in (None, block.language)]


def block(name: str) -> str:
    """The text of the one block of this name."""
    (found,) = (block.text for block in blocks() if block.name == name)
    return found


def section(title: str) -> str:
    """The text under `## title`, without fenced blocks."""
    parts = re.split(r"^## (.+)$", _FENCED.sub("", readme()), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def spans(text: str) -> list[str]:
    """The code spans of `text`; the bars that a table escapes are unescaped."""
    return [span.replace("\\|", "|") for span in _SPAN.findall(_FENCED.sub("", text))]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, headings left out."""
    lines = [line.strip("| ") for line in text.splitlines() if line.startswith("|") and "|---" not in line]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines if "`" in line]
