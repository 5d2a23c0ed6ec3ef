"""The settings of frames: one place for every field, refusals that name it, and what tells caches apart."""

from __future__ import annotations

import ast
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_frameseg import MomentRetriever, load_rows
from hf_frameseg.cli import build_parser
from hf_frameseg.datasets.qvhighlights import QVHighlightsConfig
from hf_frameseg.sharing.config import FrameSegmentationConfig
from hf_frameseg.video.settings import OF_THIS_MACHINE, FrameSettings

ROOT = Path(__file__).resolve().parents[2]
NAMES = [one.name for one in fields(FrameSettings)]
OTHER: dict[str, Any] = {
    "num_frames": 7,
    "grid_kind": "uniform",
    "grid_phase": 0.25,
    "frame_size": (24, 32),
    "short_side": 24,
    "variant_offset_frames": 1,
    "variant_offset_seconds": 0.5,
    "reader": "pyav",
    "duration_tolerance_seconds": 1.0,
    "timeout_seconds": 7.0,
    "damaged": "keep",
}


def declared(path: Path) -> list[tuple[str, set[str]]]:
    """Return what a file's classes, functions and dicts say of the fields: where, and which."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            names = {one.target.id for one in node.body if isinstance(one, ast.AnnAssign)}
        elif isinstance(node, ast.FunctionDef):
            names = {one.arg for one in [*node.args.args, *node.args.kwonlyargs]}
        elif isinstance(node, ast.Dict):
            names = {key.value for key in node.keys if isinstance(key, ast.Constant)}
        else:
            continue
        found.append((f"{path.relative_to(ROOT)}:{node.lineno}", names & set(NAMES)))
    return found


def test_each_field_stands_in_one_place() -> None:
    """No other class, function or dict of the package or its examples lists the fields once more."""
    paths = [path for folder in ("src", "examples", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
    lists = {place: names for path in paths for place, names in declared(path) if len(names) > 2}
    alone = [names for place, names in lists.items() if len(names) == len(NAMES)]
    assert alone == [set(NAMES)]
    pairs = [place for place, names in lists.items() if len(names) < len(NAMES)]
    assert [place.partition(":")[0] for place in pairs] == ["src/hf_frameseg/video/settings.py"]  # what excludes what


def test_the_command_line_is_made_of_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["prepare", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert [one.name for one in fields(FrameSettings) if f"--{one.name.replace('_', '-')} " not in shown] == []
    assert [one.name for one in fields(FrameSettings) if one.metadata["help"] not in shown] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_one_of_the_configs(name: str) -> None:
    """What is given to a loader, a retriever or a config by name lands in the one field `frames`."""
    frames = FrameSettings().changed(**{name: OTHER[name]})
    assert getattr(frames, name) == OTHER[name] != getattr(FrameSettings(), name)
    assert FrameSegmentationConfig().changed(**{name: OTHER[name]}).frames == frames


@pytest.mark.parametrize("name", NAMES)
def test_a_model_remembers_which_frames_and_not_how_they_are_read(name: str, tmp_path: Path) -> None:
    config = FrameSegmentationConfig().changed(**{name: OTHER[name]})
    saved = json.loads(config.save(tmp_path).read_text())["frames"]
    assert (name in saved) == (name not in OF_THIS_MACHINE)
    assert FrameSegmentationConfig.load(tmp_path) == (FrameSegmentationConfig() if name in OF_THIS_MACHINE else config)
    saved[name] = OTHER[name]
    if name in OF_THIS_MACHINE:
        with pytest.raises(ValueError, match=rf"expected frames to hold some of .*, got \['{name}'\]: remove"):
            FrameSettings.from_dict(saved)


@pytest.mark.parametrize("name", NAMES)
def test_what_tells_caches_apart(name: str, tmp_path: Path) -> None:
    """All fields do, as the digest says; the readable part shows the grid and the size."""

    def identity(frames: FrameSettings) -> str:
        config = QVHighlightsConfig(data_dir=str(tmp_path), splits=(), frames=frames, video_dir=str(tmp_path))
        return config.create_config_id({})

    changed = identity(FrameSettings().changed(**{name: OTHER[name]}))
    assert changed != identity(FrameSettings())
    readable = {"num_frames": "7f-native", "grid_kind": "25f-uniform-native", "frame_size": "25f-24x32px"}
    readable |= {"short_side": "25f-short24px"}
    assert changed.startswith(f"-{readable.get(name, '25f-native')}-jpeg-")


@pytest.mark.parametrize(
    ("name", "value"),
    [("grid_phase", 0), ("variant_offset_seconds", 2), ("duration_tolerance_seconds", 2), ("timeout_seconds", 120)],
)
def test_numbers_of_one_value_have_one_cache(name: str, value: int, tmp_path: Path) -> None:
    """A command line makes 2.0 of "2"."""
    names = set()
    for number in (value, float(value), np.float32(value)):
        frames = FrameSettings(**{name: number})
        config = QVHighlightsConfig(data_dir=str(tmp_path), frames=frames, splits=())
        (tmp_path / "videos").mkdir(exist_ok=True)
        names.add(config.create_config_id({}))
    assert len(names) == 1


def test_of_two_that_exclude_each_other_the_given_one_holds() -> None:
    base = FrameSettings(frame_size=32, variant_offset_seconds=0.5)
    assert base.changed(short_side=24) == FrameSettings(short_side=24, variant_offset_seconds=0.5)
    assert base.changed(variant_offset_frames=1) == FrameSettings(frame_size=32, variant_offset_frames=1)
    assert base.changed(frame_size=None) == FrameSettings(variant_offset_seconds=0.5)
    with pytest.raises(ValueError, match=r"frame_size or short_side, got both \(16 and 24\); leave one out"):
        base.changed(frame_size=16, short_side=24)


@pytest.mark.parametrize(
    ("frames", "known", "of_48_by_64"),
    [
        ({}, None, (48, 64)),
        ({"frame_size": 16}, (16, 16), (16, 16)),
        ({"frame_size": (24, 32)}, (24, 32), (24, 32)),
        ({"frame_size": [24, 32]}, (24, 32), (24, 32)),
        ({"short_side": 24}, (24, 24), (24, 32)),
        ({"short_side": 1}, (1, 1), (1, 1)),
    ],
)
def test_sizes(frames: dict[str, Any], known: Any, of_48_by_64: tuple[int, int]) -> None:
    settings = FrameSettings(**frames)
    assert (settings.known_size, settings.size_of(48, 64)) == (known, of_48_by_64)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "value", [-1, 10**400, 10**5000, float("nan"), "\x1b[2J", "x" * 10_000, {}, [[]], True], ids=list("abcdefghi")
)
def test_wrong_values_are_one_line_that_names_the_field(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        FrameSettings(**{name: value})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("call", [FrameSettings, FrameSettings().changed])
def test_an_unknown_field_is_refused(call: Any) -> None:
    with pytest.raises(TypeError, match="frame_rate"):
        call(frame_rate=2)


def test_settings_are_passed_as_one_value(tiny_model: Any, tiny_processor: Any, tmp_path: Path) -> None:
    retriever = MomentRetriever(tiny_model, tiny_processor, prompt="compact", num_frames=4, reader="pyav")
    assert retriever.config.frames == FrameSettings(num_frames=4, reader="pyav")
    changed = retriever.config.changed(frames=FrameSettings(frame_size=32), num_frames=5)
    assert changed.frames == FrameSettings(num_frames=5, frame_size=32)
    with pytest.raises(ValueError, match="expected frames to be FrameSettings"):
        FrameSegmentationConfig(frames=4)
    with pytest.raises(ValueError, match="expected frames to be FrameSettings"):
        QVHighlightsConfig(data_dir=str(tmp_path), frames={"num_frames": 4})
    with pytest.raises(ValueError, match="num_frames to be a whole number"):
        load_rows("qvhighlights", tmp_path, "val", num_frames=0)
