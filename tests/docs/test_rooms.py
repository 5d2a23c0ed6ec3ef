"""The table of rooms in docs/architecture.md: a row for each room, and every library that the room imports."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("test_architecture", ROOT / "tests" / "test_architecture.py")
RULES = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(RULES)
NAMES = {"PIL": "pillow"}
SAID_ONCE = {"numpy", *RULES.MODEL_LIBRARIES}  # numpy in the head of the table; the others of models/ as a whole


def table() -> dict[str, str]:
    """Return the last cell of the row that names a room or a module."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    lines = page.partition("| room | owns |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    named = [(re.findall(r"`([\w/.]+)`", row[0]), row[-1]) for row in rows]
    return {name.removesuffix(".py").rstrip("/"): cell for names, cell in named for name in names}


def libraries() -> dict[str, set[str]]:
    """Return what the modules of each room import from others, wherever in them."""
    found: dict[str, set[str]] = {}
    for path in RULES.SOURCE.rglob("*.py"):
        parts = path.relative_to(RULES.SOURCE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        names = RULES.imported_modules(ast.parse(path.read_text("utf-8")), module, is_package)
        tops = {name.split(".")[0] for _, name in names} - {RULES.PACKAGE} - set(sys.stdlib_module_names)
        found.setdefault(RULES.room_of(module), set()).update(tops)
    return found


def test_every_room_and_module_has_a_row() -> None:
    assert RULES.LEVELS.keys() - table().keys() == set()
    known = RULES.LEVELS.keys() | {"__init__"}
    assert table().keys() - known == set()


def test_every_library_is_named() -> None:
    rows: dict[str, str] = {}
    for name, cell in table().items():
        room = RULES.room_of(name) if name != "__init__" else ""
        rows[room] = f"{rows.get(room, '')} {cell}"
    missing = {
        f"{room}: {library}"
        for room, used in libraries().items()
        for library in used - (SAID_ONCE if room == "models" else {"numpy"})
        if not re.search(rf"\b{NAMES.get(library, library)}\b", rows[room])
    }
    assert missing == set()
