"""Imports go down only (docs/architecture.md): read from the source, so that a hidden or lazy import counts too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "hf_frameseg"
SOURCE = Path(__file__).resolve().parents[1] / "src" / PACKAGE

# A room is a top-level module or folder of the package. It imports from lower levels; never from its own level.
LEVELS = {
    "_imports": 0,
    "_files": 0,
    "_options": 0,
    "_text": 0,
    "_text_file": 0,
    "_numbers": 0,
    "moments": 1,
    "records": 1,
    "models": 1,
    "intervals": 2,
    "masks": 2,
    "digits": 2,
    "video": 2,
    "objectives": 2,
    "predictions": 3,
    "targets": 3,
    "readout": 3,
    "annotations": 4,
    "metrics": 4,
    "proposals": 4,
    "prepared": 5,
    "audit": 5,
    "visualization": 5,
    "sample": 6,
    "batches": 7,
    "shards": 7,
    "datasets": 7,
    "sharing": 8,
    "training": 9,
    "inference": 9,
    "cli": 10,
}
ALONE = {"models", "objectives"}  # import nothing of ours: usable, and movable, without the rest
FACADE_NAMES = {"__version__"}  # all that the inside may take from the facade

# What the models of transformers themselves import.
MODEL_LIBRARIES = {"torch", "torchvision", "transformers", "huggingface_hub", "numpy", "PIL"}
# The longest matching path decides. Rooms that are not listed may import any dependency of the package but `evaluate`.
THIRD_PARTY = {
    "_numbers": {"numpy"},
    "moments": {"numpy"},
    "intervals": {"numpy"},
    "masks": {"numpy"},
    "predictions": {"numpy"},
    "targets": {"numpy"},
    "sample": {"numpy", "datasets"},
    "objectives": {"torch"},
    "models": MODEL_LIBRARIES,
    "metrics": {"numpy"},
    "audit": {"numpy"},
    "proposals": {"numpy"},
    "metrics.qvhighlights": {"numpy", "evaluate", "datasets"},
}
ONLY_IMPORTER = {"evaluate": "metrics.qvhighlights"}


def violations(source: Path) -> list[str]:
    """Return one line for each import in this package folder that breaks a rule."""
    found = []
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        for line, target in imported_modules(ast.parse(path.read_text(encoding="utf-8")), module, is_package):
            problem = check(module, target)
            if problem:
                found.append(f"{path.relative_to(source)}:{line}: {problem}")
    return found


def imported_modules(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all that a module imports, wherever in it; relative imports are made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                own = [PACKAGE, *filter(None, module.split("."))]
                up = node.level - is_package
                base = ".".join([*own[: len(own) - up], *filter(None, [node.module])])
            if base == PACKAGE:
                yield from ((node.lineno, f"{PACKAGE}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, base
        elif isinstance(node, ast.Call) and _is_import_call(node):
            yield node.lineno, node.args[0].value


def _is_import_call(node: ast.Call) -> bool:
    """Tell whether a call is `import_module("literal")`, `__import__("literal")` or `require("literal")`."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    literal = bool(node.args) and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    return name in {"import_module", "__import__", "require"} and literal


def check(module: str, target: str) -> str | None:
    """Return what is wrong with `module` (dotted, without the package) importing `target`, if anything."""
    top = target.split(".")[0]
    if top != PACKAGE:
        return check_third_party(module, top)
    target_module = target.removeprefix(PACKAGE).removeprefix(".")
    if target_module in FACADE_NAMES:
        return None
    room, target_room = room_of(module), room_of(target_module)
    if not room and target_room != "_imports":
        return f"the facade imports {target} by name; list it in the dict instead"
    if room and room not in LEVELS:
        return f"room {room!r} has no level; give it one here and in docs/architecture.md"
    if target_room not in LEVELS:
        return f"{target} is not a room; import from the module that owns the name, not from the facade"
    if not room or room == target_room or LEVELS[target_room] == 0:
        return None
    if room in ALONE:
        return f"{room} imports nothing of ours, but imports {target_room}"
    if LEVELS[target_room] >= LEVELS[room]:
        return f"{room} (level {LEVELS[room]}) imports {target_room} (level {LEVELS[target_room]}); arrows go down only"
    return None


def check_third_party(module: str, library: str) -> str | None:
    """Return what is wrong with `module` importing this library, if anything."""
    if library in sys.stdlib_module_names:
        return None
    owner = ONLY_IMPORTER.get(library)
    if owner and not within(module, owner):
        return f"only {owner} imports {library}"
    rules = [path for path in THIRD_PARTY if within(module, path)]
    if rules and library not in THIRD_PARTY[max(rules, key=len)]:
        return f"{max(rules, key=len)} must not import {library}"
    return None


def within(module: str, path: str) -> bool:
    """Tell whether a module is the one at `path` or below it."""
    return module == path or module.startswith(f"{path}.")


def room_of(module: str) -> str:
    """Return the room that a module (dotted, without the package) stands in."""
    return module.split(".")[0]


def test_imports_go_down_only() -> None:
    assert violations(SOURCE) == []


# Columns of a prepared row that no file of others has. Who writes rows knows them, and `sample`, which reads them.
ROW_COLUMNS = {"frame_shape", "frame_times_seconds", "frames_missing"}
ROW_ROOMS = {"prepared", "shards", "sample"}


def test_columns_of_rows_are_named_where_rows_are_written_and_in_sample() -> None:
    named = {}
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in ROW_COLUMNS:
                named.setdefault(room, set()).add(f"{path.name}:{node.lineno}")
    assert named.keys() >= {"prepared", "sample"}
    assert {room: places for room, places in named.items() if room not in ROW_ROOMS} == {}


def test_every_module_has_a_level() -> None:
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" and path.stem != "__init__"}
    rooms |= {path.name for path in SOURCE.iterdir() if any(path.rglob("*.py"))}
    assert {room_of(room) for room in rooms} <= LEVELS.keys()


@pytest.mark.parametrize(
    ("path", "line", "problem"),
    [
        ("moments.py", "from hf_frameseg.digits import BinaryLabels", "arrows go down only"),
        ("moments.py", "import torch", "must not import torch"),
        ("moments.py", "import torch.nn.functional as F", "must not import torch"),
        ("batches/collator.py", "from hf_frameseg.training import trainer", "arrows go down only"),
        ("batches/collator.py", "from ..shards import stream", "arrows go down only"),
        ("batches/collator.py", "from .. import training", "arrows go down only"),
        ("batches/__init__.py", "from ..shards import stream", "arrows go down only"),
        ("batches/collator.py", "def late():\n    from hf_frameseg import inference", "arrows go down only"),
        ("batches/collator.py", "from hf_frameseg import Moment", "not from the facade"),
        ("sample.py", "from hf_frameseg.batches import collator", "arrows go down only"),
        ("sample.py", "import torch", "must not import torch"),
        ("batches/collator.py", "import evaluate", "only metrics.qvhighlights imports evaluate"),
        ("annotations/forms.py", "from hf_frameseg.prepared.config import X", "arrows go down only"),
        ("inference.py", "from hf_frameseg.training.arguments import X", "arrows go down only"),
        ("training/evaluation.py", "import hf_frameseg.inference", "arrows go down only"),
        ("sharing/adapter_folder.py", 'import_module("hf_frameseg.cli")', "arrows go down only"),
        ("sharing/model_card.py", "from hf_frameseg.inference import MomentRetriever", "arrows go down only"),
        ("objectives/modules.py", "from hf_frameseg.moments import Moment", "imports nothing of ours"),
        ("objectives/modules.py", "import numpy", "must not import numpy"),
        ("models/xgenmm/modeling_xgenmm.py", "from ...digits import BinaryLabels", "imports nothing of ours"),
        ("metrics/retrieval.py", "import torch", "must not import torch"),
        ("metrics/retrieval.py", "import evaluate", "only metrics.qvhighlights imports evaluate"),
        ("metrics/qvhighlights/qvhighlights.py", "import torch", "must not import torch"),
        ("cellar.py", "import hf_frameseg.moments", "has no level"),
        ("__init__.py", "from hf_frameseg.moments import Moment", "the facade imports"),
    ],
)
def test_a_planted_violation_is_found(path: str, line: str, problem: str, tmp_path: Path) -> None:
    planted = tmp_path / path
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(f'"""A module."""\n\n{line}\n', encoding="utf-8")
    assert [problem in text for text in violations(tmp_path)] == [True]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("digits.py", "from hf_frameseg.moments import FrameGrid"),
        ("digits.py", "from .moments import FrameGrid"),
        ("digits.py", "import json, torch"),
        ("readout/beam_search.py", "from .logits_process import BinaryMaskLogitsProcessor"),
        ("readout/__init__.py", "from .beam_search import DecodedFrames"),
        ("objectives/schedule.py", "from hf_frameseg.objectives.functional import tversky"),
        ("training/trainer.py", "from hf_frameseg.training.arguments import X"),
        ("training/arguments.py", "from hf_frameseg.objectives import OBJECTIVES"),
        ("visualization/report.py", "from hf_frameseg._imports import require"),
        ("metrics/qvhighlights/qvhighlights.py", "import evaluate\nfrom hf_frameseg.metrics import retrieval"),
        ("cli/__init__.py", "from hf_frameseg import __version__"),
        ("cli/predict.py", "from hf_frameseg.inference import MomentRetriever"),
        ("__init__.py", "from hf_frameseg._imports import lazy"),
    ],
)
def test_what_is_allowed_is_let_through(path: str, line: str, tmp_path: Path) -> None:
    planted = tmp_path / path
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(f"{line}\n", encoding="utf-8")
    assert violations(tmp_path) == []
