"""Saved settings of a trained model: round trip and refusals."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg.batches.prompts import PROMPTS, get_prompt
from hf_frameseg.sharing.config import CONFIG_NAME, TINY_BASE, TINY_MODEL, FrameSegmentationConfig
from hf_frameseg.video.settings import FrameSettings


@pytest.mark.parametrize(
    "config",
    [
        FrameSegmentationConfig(),
        FrameSegmentationConfig(
            FrameSettings(
                num_frames=10, frame_size=(24, 32), grid_phase=0.25, variant_offset_frames=3, variant_offset_seconds=0.5
            ),
            prompt=PROMPTS["compact"].to_dict(),
            label_rule="saliency>0.5",
            num_beams=4,
        ),
    ],
    ids=["defaults", "all different"],
)
def test_round_trip(tmp_path: Path, config: FrameSegmentationConfig) -> None:
    path = config.save(tmp_path / "new" / "folder")
    assert path.name == "frameseg_config.json"
    assert FrameSegmentationConfig.load(path.parent) == config


def test_prompt_survives_as_fields(tmp_path: Path) -> None:
    FrameSegmentationConfig(prompt=PROMPTS["paper"].to_dict()).save(tmp_path)
    assert get_prompt(FrameSegmentationConfig.load(tmp_path).prompt) == PROMPTS["paper"]


def test_defaults_are_the_papers() -> None:
    config = FrameSegmentationConfig()
    assert (config.frames.num_frames, config.prompt, config.label_rule, config.num_beams) == (25, "paper", "window", 2)


@pytest.mark.parametrize("name", ["num_frames", "num_beams"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, None, "3", [3], 10**6, 10**4000])
def test_counts_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"expected {name} to be a whole number of at least 1 and at most"):
        FrameSegmentationConfig().changed(**{name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"readout": "oracle"}, "readout to be one of beam.*, got 'oracle': put a new one into readout.READOUTS first"),
        ({"readout": None}, "readout to be one of beam.*, got None"),
        ({"readout": ["beam"]}, "readout to be one of beam.*, got"),
        ({"prompt": ["paper"]}, r"prompt to be the name of one or its fields, got \['paper'\]"),
        ({"prompt": None}, "prompt to be the name of one"),
        ({"prompt": {1: "x"}}, "prompt to be the name of one"),
        ({"prompt": "a" * 1001}, "prompt to be the name of one"),
        ({"label_rule": None}, "label_rule to be a text"),
        ({"label_rule": 3}, "label_rule to be a text"),
        ({"label_rule": " "}, "label_rule to be a text"),
        (
            {"frame_size": 0},
            r"frame_size to be None, a whole number or \(height, width\) in pixels, from 1 to 8192, got 0",
        ),
        ({"frame_size": -3}, "frame_size to be"),
        ({"frame_size": 10**9}, "frame_size to be"),
        ({"frame_size": True}, "frame_size to be"),
        ({"frame_size": "32"}, "frame_size to be"),
        ({"frame_size": [32]}, "frame_size to be"),
        ({"frame_size": [32, 32, 3]}, "frame_size to be"),
        ({"frame_size": [32, None]}, "frame_size to be"),
        ({"frame_size": {}}, "frame_size to be"),
        ({"grid_kind": "diagonal"}, "kind to be one of"),
        ({"grid_kind": None}, "grid_kind to be one of"),
        ({"grid_phase": "0"}, "grid_phase to be a number above -0.5 and below 0.5, got '0'"),
        ({"grid_phase": float("nan")}, "grid_phase to be a number above -0.5 and below 0.5"),
        ({"grid_phase": 10**400}, "grid_phase to be a number above -0.5 and below 0.5"),
        ({"grid_phase": 0.7}, "grid_phase to be a number above -0.5 and below 0.5"),
        ({"grid_phase": None}, "grid_phase to be a number above -0.5 and below 0.5, got None"),
        ({"grid_kind": "uniform", "grid_phase": 0.1}, "grid_phase 0 with grid_kind 'uniform', got 0.1"),
        ({"num_frames": 2000, "frame_size": 600}, "expected at most 4294967296 bytes of frames"),
        ({"frame_size": [6001, 6000]}, r"frame_size of at most 36000000 pixels in all, got \(6001, 6000\)"),
        ({"short_side": 0}, "short_side to be None, a whole number in pixels, from 1 to 8192, got 0"),
        ({"short_side": [3, 4]}, r"short_side to be None, a whole number in pixels, from 1 to 8192, got \[3, 4\]"),
        ({"short_side": 8000}, "short_side of at most 36000000 pixels in all, got 8000"),
        ({"frame_size": 8, "short_side": 8}, "frame_size or short_side, got both"),
        ({"variant_offset_frames": -1}, "variant_offset_frames to be a whole number >= 0, at most 1000000, got -1"),
        ({"variant_offset_frames": 2.0}, "variant_offset_frames to be a whole number"),
        ({"variant_offset_frames": 10**4000}, "variant_offset_frames to be a whole number"),
        ({"variant_offset_frames": "3"}, "variant_offset_frames to be a whole number"),
        ({"variant_offset_seconds": "3"}, "variant_offset_seconds to be a number or None, got '3'"),
        ({"variant_offset_seconds": -1}, "variant_offset_seconds of at least 0"),
        ({"variant_offset_seconds": float("nan")}, "variant_offset_seconds to be a number or None, got nan"),
        ({"variant_offset_seconds": 1, "variant_offset_frames": 1}, "expected one offset"),
        ({"base_model": 3}, "base_model to be a text"),
        ({"base_model": ""}, "base_model to be a text"),
        ({"dtype": "int8"}, "dtype to be one of float64, float32, bfloat16, float16 or null, got 'int8'"),
        ({"dtype": "auto\x1b[2J"}, r"got 'auto\\x1b\[2J'"),
        ({"autocast": "float32"}, "autocast to be one of bfloat16, float16 or null, got 'float32'"),
        ({"autocast": True}, "autocast to be a text"),
    ],
)
def test_wrong_types_and_values_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        FrameSegmentationConfig().changed(**change)
    assert len(str(caught.value)) < 250
    name, value = next(iter(change.items()))
    if name == "frame_size" or not isinstance(value, dict):
        is_frames = name in FrameSettings().to_dict()
        (tmp_path / CONFIG_NAME).write_text(json.dumps({"frames": change} if is_frames else change))
        with pytest.raises(ValueError, match=f"^{tmp_path / CONFIG_NAME}: .*{message}|is not valid JSON"):
            FrameSegmentationConfig.load(tmp_path)


def test_mutated_files_are_read_or_refused_never_more(tmp_path: Path) -> None:
    rng = random.Random(0)
    config = FrameSegmentationConfig(
        FrameSettings(frame_size=(24, 32)), prompt=PROMPTS["timestamps"].to_dict(), autocast="bfloat16"
    )
    original, refused = config.save(tmp_path).read_bytes(), []
    odd = [b"null", b"[]", b"{}", b"-1", b"1e999", b"99999999999", b"true", b'""', b"NaN", b"[" * 5000, b"\xff"]
    for _ in range(500):
        data = bytearray(original)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(data))
            data[place : place + rng.randint(0, 5)] = rng.choice([*odd, bytes([rng.randrange(256)])])
        (tmp_path / CONFIG_NAME).write_bytes(data)
        try:
            get_prompt(FrameSegmentationConfig.load(tmp_path).prompt)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 300
    assert all(message.isprintable() and len(message) < 500 for message in refused)


@pytest.mark.parametrize("model", [TINY_BASE, TINY_MODEL])
def test_the_models_of_the_package_hold_no_other_fields(model: Path) -> None:
    assert FrameSegmentationConfig.load(model).frames == FrameSettings(frame_size=32)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no frameseg_config.json in .*save"):
        FrameSegmentationConfig.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        (json.dumps({"num_frames": 3, "beams": 2}), '"frames": {"num_frames": 3} in their place'),
        (json.dumps({"beams": 2}), "to hold some of"),
        (
            json.dumps({"frame_size": 32, "num_frames": 25, "prompt": "compact", "reader": "pyav"}),
            'has frame_size, num_frames, reader at its top.*: put "frames": {"frame_size": 32, "num_frames": 25} in',
        ),
        (json.dumps({"grid_kind": "x" * 10_000}), "an earlier version"),
        (json.dumps({"max_moments": 10}), "to hold some of"),  # how answers become moments is no part of it
        (json.dumps(["num_frames"]), "to hold some of"),
        (json.dumps([{}, [], None]), "to hold some of"),
        ("null", "to hold some of"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"num_frames": ' + "9" * 5000 + "}", "is not valid JSON"),
        ('"' + "a" * 1_000_000 + '"', "is larger than 1000000 bytes"),
    ],
)
def test_unreadable_file_is_refused_with_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / CONFIG_NAME).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        FrameSegmentationConfig.load(tmp_path)
    assert "\n" not in str(caught.value)
