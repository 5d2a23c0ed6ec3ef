"""The world in which the pages are rehearsed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # with importlib mode a test cannot import its neighbours otherwise
from stage import QWEN, XGENMM, Stage, World, commands, save_model, surroundings, write_data  # noqa: E402

from hub_server import TOKEN, serve  # noqa: E402


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Any,
    tiny_processor: Any,
    tiny_qwen_model: Any,
    tiny_qwen_processor: Any,
) -> Iterator[World]:
    """The commands, a Hub on loopback with tiny models under the names of the pages, and a data set."""
    folder = tmp_path_factory.mktemp("docs")
    write_data(folder / "data")
    save_model(folder / "qwen", tiny_qwen_model, tiny_qwen_processor)
    save_model(folder / "xgenmm", tiny_model, tiny_processor)
    with serve() as hub:
        for repo, name in {QWEN: "qwen", XGENMM: "xgenmm"}.items():
            hub.repos[repo] = [{path.name: path.read_bytes() for path in (folder / name).iterdir()}]
        environment = surroundings(folder, hub.url, TOKEN)
        with commands(folder, environment):
            yield World(folder, environment)


@pytest.fixture
def stage(world: World, tmp_path: Path) -> Stage:
    """An empty folder to give the commands of a page in."""
    return Stage(tmp_path, world)
