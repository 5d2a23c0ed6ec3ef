"""The pages: links lead to files and headings, the index has every page, the limits are those of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def links(page: Path) -> list[str]:
    """Return the targets of a page's links that are not addresses."""
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    return [target for target in targets if "://" not in target and not target.startswith("mailto:")]


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_headings(page: Path) -> None:
    found = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    inside = [(page.parent / target if target else page, name) for target, name in found if "://" not in target]
    assert [name for target, name in inside if name not in anchors(target)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


def test_every_page_is_linked_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in links(index)}
    assert [page.name for page in ROOT.glob("docs/**/*.md") if page != index and page.resolve() not in linked] == []


# The limits of docs/security.md

UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "h": 3600}


def constants() -> dict[str, float]:
    """Return the numbers that the modules name in capitals, by `room.module.NAME`."""
    source, found = ROOT / "src" / "hf_frameseg", {}
    for path in source.rglob("*.py"):
        module = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(target, ast.Name) and target.id.isupper() and not target.id.startswith("_"):
                arithmetic = ast.Constant | ast.BinOp | ast.operator
                if all(isinstance(part, arithmetic) for part in ast.walk(node.value)):
                    found[f"{module}.{target.id}"] = eval(ast.unparse(node.value))
    return found


def listed() -> dict[str, float]:
    """Return the numbers of the table."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    found = {}
    for value, names in re.findall(r"^\| [^|]+ \| ([\d,.]+ ?\w*) \| ([^|]+) \|$", page, re.MULTILINE):
        number, _, unit = value.partition(" ")
        found |= dict.fromkeys(re.findall(r"`([\w.]+)`", names), float(number.replace(",", "")) * UNITS.get(unit, 1))
    return found


def test_the_table_of_limits_is_that_of_the_code() -> None:
    known = constants()
    limits = {name for name in known if name.rpartition(".")[2].startswith("MAX_")}
    missing = sorted(limits - listed().keys())
    assert missing == [], "add a row for each of these limits to docs/security.md"
    assert {name: value for name, value in listed().items() if known.get(name) != value} == {}
