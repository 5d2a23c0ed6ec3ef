"""The pages of the documentation and their fenced blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")))
FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<language>[^`]*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, in which language, and what it says."""

    page: str
    line: int  # of its first line, from 1
    section: str  # heading above it
    language: str
    code: str

    @property
    def is_doctest(self) -> bool:
        """Tell whether pytest runs it where it stands."""
        return self.language == "python" and self.code.startswith(">>>")

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.language or 'no language'})"


def read_blocks(page: str, text: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = (ROOT / page).read_text("utf-8") if text is None else text
    return list(_blocks(page, text.splitlines()))


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    section, fence, start = "", None, 0
    for number, line in enumerate(lines, start=1):
        if fence is None:
            fence, start = FENCE.match(line), number
            if line.startswith("#"):
                section = line.lstrip("# ")
        elif line.strip() == fence["ticks"]:
            indent = len(fence["indent"])
            code = "".join(f"{body[indent:]}\n" for body in lines[start : number - 1])
            yield Block(page, start + 1, section, fence["language"].strip(), code)
            fence = None
    if fence is not None:
        raise ValueError(f"{page}:{start}: the block has no end")


def section_of(page: str, title: str) -> str:
    """Return the text below a heading, up to the next heading."""
    parts = re.split(r"^#+ ", (ROOT / page).read_text("utf-8"), flags=re.MULTILINE)
    return next((part for part in parts if part.splitlines()[:1] == [title]), parts[0])
