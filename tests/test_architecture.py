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
    "_text": 0,
    "moments": 1,
    "records": 1,
    "labels": 2,
    "losses": 2,
    "models": 2,
    "recipes": 2,
    "adapters": 2,
    "checkpoints": 2,
    "config": 2,
    "data": 3,
    "decoding": 3,
    "loading": 3,
    "metrics": 3,
    "visualization": 3,
    "trainer": 4,
    "evaluation": 4,
    "inference": 4,
    "hub": 4,
    "hub_frames": 4,
    "cli": 5,
}
ONE_ROOM = {
    "training_args": "trainer",
    "trainer_checks": "trainer",
    "row_loaders": "trainer",
    "evaluated_rows": "trainer",
    "adapter_check": "hub",
    "model_card": "hub",
} | dict.fromkeys(("adapter_loading", "model_folder", "model_trial", "trial"), "loading")
ALONE = {"losses", "models", "adapters", "checkpoints"}  # import nothing of ours: usable, and movable, without the rest
FACADE_NAMES = {"__version__"}  # all that the inside may take from the facade

# What the models of transformers themselves import.
MODEL_LIBRARIES = {"torch", "torchvision", "transformers", "huggingface_hub", "numpy", "PIL"}
# The longest matching path decides. Rooms that are not listed may import any dependency of the package but `evaluate`.
THIRD_PARTY = {
    "moments": {"numpy"},
    "losses": {"torch"},
    "models": MODEL_LIBRARIES,
    "metrics": {"numpy"},
    "decoding.settings": set(),
    "decoding.windows": {"numpy"},
    "decoding.saliency": {"numpy"},
    "decoding.proposals": {"numpy"},
    "decoding.frames_file": {"numpy"},
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
    if not room:
        return f"the facade imports {target} by name; list it in the dict instead"
    if room not in LEVELS:
        return f"room {room!r} has no level; give it one here and in docs/architecture.md"
    if target_room not in LEVELS:
        return f"{target} is not a room; import from the module that owns the name, not from the facade"
    if room == target_room or LEVELS[target_room] == 0:
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
    first = module.split(".")[0]
    return ONE_ROOM.get(first, first)


def test_imports_go_down_only() -> None:
    assert violations(SOURCE) == []


def test_every_module_has_a_level() -> None:
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" and path.stem != "__init__"}
    rooms |= {path.name for path in SOURCE.iterdir() if any(path.rglob("*.py"))}
    assert {room_of(room) for room in rooms} <= LEVELS.keys()


@pytest.mark.parametrize(
    ("path", "line", "problem"),
    [
        ("moments.py", "from hf_frameseg.labels import BinaryLabels", "arrows go down only"),
        ("moments.py", "import torch", "must not import torch"),
        ("moments.py", "import torch.nn.functional as F", "must not import torch"),
        ("data/collator.py", "from hf_frameseg.decoding import proposals", "arrows go down only"),
        ("data/collator.py", "from ..decoding import proposals", "arrows go down only"),
        ("data/collator.py", "from .. import trainer", "arrows go down only"),
        ("data/__init__.py", "from ..decoding import proposals", "arrows go down only"),
        ("data/collator.py", "def late():\n    from hf_frameseg import inference", "arrows go down only"),
        ("data/collator.py", "from hf_frameseg import Moment", "not from the facade"),
        ("data/collator.py", "import evaluate", "only metrics.qvhighlights imports evaluate"),
        ("inference.py", "from hf_frameseg.training_args import X", "arrows go down only"),
        ("evaluation.py", "import hf_frameseg.trainer", "arrows go down only"),
        ("hub.py", 'import_module("hf_frameseg.cli")', "arrows go down only"),
        ("model_card.py", "from hf_frameseg.inference import MomentRetriever", "arrows go down only"),
        ("adapters.py", "from hf_frameseg.config import TINY_BASE", "imports nothing of ours"),
        ("losses/modules.py", "from hf_frameseg.moments import Moment", "imports nothing of ours"),
        ("losses/modules.py", "import numpy", "must not import numpy"),
        ("models/xgenmm/modeling_xgenmm.py", "from ...labels import BinaryLabels", "imports nothing of ours"),
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
        ("labels.py", "from hf_frameseg.moments import FrameGrid"),
        ("labels.py", "from .moments import FrameGrid"),
        ("labels.py", "import json, torch"),
        ("decoding/proposals.py", "from .beam_search import DecodedFrames"),
        ("decoding/__init__.py", "from .beam_search import DecodedFrames"),
        ("losses/schedule.py", "from hf_frameseg.losses.functional import tversky"),
        ("trainer.py", "from hf_frameseg.training_args import X"),
        ("training_args.py", "from hf_frameseg.losses import LOSSES"),
        ("visualization/report.py", "from hf_frameseg._imports import require"),
        ("metrics/qvhighlights/qvhighlights.py", "import evaluate\nfrom hf_frameseg.metrics import retrieval"),
        ("cli/__init__.py", "from hf_frameseg import __version__"),
        ("cli/predict.py", "from hf_frameseg.inference import MomentRetriever"),
    ],
)
def test_what_is_allowed_is_let_through(path: str, line: str, tmp_path: Path) -> None:
    planted = tmp_path / path
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(f"{line}\n", encoding="utf-8")
    assert violations(tmp_path) == []
