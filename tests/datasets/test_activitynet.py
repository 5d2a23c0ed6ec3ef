"""ActivityNet Captions from its files to rows with frames. All annotations here are made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hf_frameseg.datasets.load import load_rows

VIDEO = {"duration": 12.5, "timestamps": [[0, 4.2], [3.1, 12.5]], "sentences": ["A dog runs.", " It sleeps. "]}


@pytest.mark.parametrize(("split", "name"), [("val", "val_1.json"), ("test", "val_2.json")])
def test_loading_a_split(tmp_path: Path, write_video: Callable[..., Path], split: str, name: str) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "v_abc.mp4", np.arange(125) * 100)
    (tmp_path / name).write_text(json.dumps({"v_abc": VIDEO}))
    rows = load_rows("activitynet", tmp_path, split, num_frames=5, frame_size=32, cache_dir=tmp_path / "cache")
    assert rows["query"] == ["A dog runs.", "It sleeps."]
    assert rows["duration_seconds"] == [12.5, 12.5]
    assert rows["relevant_windows"] == [[[0.0, 4.2]], [[3.1, 12.5]]]
    assert rows["saliency_source"] == ["window", "window"]
    assert rows[0]["frame_shape"] == [5, 3, 32, 32, 3]
    with pytest.raises(FileNotFoundError, match="no annotations for train in .*; expected train.json"):
        load_rows("activitynet", tmp_path, "train", cache_dir=tmp_path / "cache")
