"""Recorded official results and the slow reference."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def metric_data() -> Path:
    """Folder of the recorded cases that need no data set."""
    return Path(__file__).resolve().parent / "data" / "metric"


@pytest.fixture(scope="session")
def read_rows() -> Callable[[Path], list[dict[str, Any]]]:
    """Reader of gzipped JSON lines."""

    def read(path: Path) -> list[dict[str, Any]]:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    return read


@pytest.fixture(scope="session")
def slow_reference() -> ModuleType:
    """The evaluator once more, as plain loops."""
    spec = importlib.util.spec_from_file_location(
        "slow_reference", Path(__file__).parent / "metrics" / "slow_reference.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
