"""The facade: every public name resolves, and importing the package imports nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import hf_frameseg
from hf_frameseg import metrics
from hf_frameseg._imports import require

HEAVY = ("torch", "torchvision", "transformers", "datasets", "evaluate", "accelerate", "peft", "matplotlib")
PROBE = """
import json, sys
loaded = {}
for name in sys.argv[2:]:
    __import__(name)
    loaded[name] = sorted(set(sys.argv[1].split(",")) & set(sys.modules))
print(json.dumps(loaded))
"""


def test_importing_the_package_imports_nothing_heavy() -> None:
    """One process, lightest first: what a module pulled in shows up from its line on."""
    light = ["hf_frameseg", "hf_frameseg.cli", "hf_frameseg._imports", "hf_frameseg.moments"]
    light += [f"hf_frameseg.metrics.{module}" for module in sorted(set(metrics._MODULE_OF.values()))]
    light += [
        "hf_frameseg.proposals.prediction",
        "hf_frameseg.proposals.frames_file",
        "hf_frameseg.annotations.download",
        "hf_frameseg.annotations.forms",
        "hf_frameseg.audit.report",
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, ",".join(HEAVY), *light], check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == {name: [] for name in light}


@pytest.mark.parametrize("name", sorted(hf_frameseg._MODULE_OF))
def test_every_public_name_is_its_modules_own(name: str) -> None:
    module = import_module(f"hf_frameseg.{hf_frameseg._MODULE_OF[name]}")
    assert getattr(hf_frameseg, name) is getattr(module, name)


def test_facade_lists_its_names_and_refuses_others() -> None:
    assert set(hf_frameseg._MODULE_OF) <= set(dir(hf_frameseg))
    with pytest.raises(AttributeError, match="no attribute 'moment_retriever'"):
        getattr(hf_frameseg, "moment_retriever")  # noqa: B009 - an attribute access alone is a useless expression


def test_require_names_the_extra() -> None:
    with pytest.raises(ImportError, match=r"no_such_package is needed .* pip install 'hf_frameseg\[viz\]'"):
        require("no_such_package.part", extra="viz")


def test_require_does_not_hide_what_a_dependency_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("import its_missing_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="its_missing_dependency"):
        require("half_installed", extra="viz")
