"""Parts of the manual (the README and docs/): pages, fenced blocks by name, sections, code spans."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
_FENCED = re.compile(r"^```(\w*) ?([\w-]*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: "```toml quickstart-config" has the language toml and the name quickstart-config."""

    page: str
    language: str
    name: str
    text: str

    @property
    def title(self) -> str:
        """The name of its test."""
        return f"{self.page}: {self.name or self.text.split(chr(10))[0]}"


def read(page: Path) -> str:
    """The whole text of a page."""
    return page.read_text(encoding="utf-8")


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of every page, all or those in these languages."""
    found = [Block(page.stem, *match.groups()) for page in PAGES for match in _FENCED.finditer(read(page))]
    return [block for block in found if not languages or block.language in languages]


def block(name: str) -> str:
    """The text of the one block of this name."""
    (found,) = (block.text for block in blocks() if block.name == name)
    return found


def prose(page: str) -> str:
    """The page `docs/PAGE.md` without fenced blocks."""
    return _FENCED.sub("", read(ROOT / "docs" / f"{page}.md"))


def spans(text: str) -> list[str]:
    """The code spans of `text`; the bars that a table escapes are unescaped."""
    return [span.replace("\\|", "|") for span in _SPAN.findall(_FENCED.sub("", text))]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, headings left out."""
    lines = [line.strip("| ") for line in text.splitlines() if line.startswith("|") and "|---" not in line]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines if "`" in line]
