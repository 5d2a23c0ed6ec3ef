"""Saved settings of a trained model: round trip and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg.config import CONFIG_NAME, TINY_BASE, TINY_MODEL, FrameSegmentationConfig
from hf_frameseg.data.prompts import PROMPTS, get_prompt


@pytest.mark.parametrize(
    "config",
    [
        FrameSegmentationConfig(),
        FrameSegmentationConfig(
            num_frames=10,
            prompt=PROMPTS["compact"].to_dict(),
            label_rule="saliency>0.5",
            num_beams=4,
            frame_size=(24, 32),
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
    assert (config.num_frames, config.prompt, config.label_rule, config.num_beams) == (25, "paper", "window", 2)


@pytest.mark.parametrize("change", [{"num_frames": 0}, {"num_beams": -1}, {"num_frames": 2.5}])
def test_counts_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"expected {next(iter(change))} to be a whole number of at least 1"):
        FrameSegmentationConfig(**change)


@pytest.mark.parametrize("model", [TINY_BASE, TINY_MODEL])
def test_the_models_of_the_package_hold_no_other_fields(model: Path) -> None:
    assert FrameSegmentationConfig.load(model).num_frames == 25


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no frameseg_config.json in .*save"):
        FrameSegmentationConfig.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        (json.dumps({"num_frames": 3, "beams": 2}), "to hold some of"),
        (json.dumps({"max_moments": 10}), "to hold some of"),  # how answers become moments is no part of it
        (json.dumps(["num_frames"]), "to hold some of"),
    ],
)
def test_unreadable_file_is_refused_with_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / CONFIG_NAME).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        FrameSegmentationConfig.load(tmp_path)
    assert "\n" not in str(caught.value)
