"""Prepared rows of random frames, and a folder of their shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets import Dataset, Features, Image, List, Value
from hf_frameseg.prepared.frame_columns import encode_frames
from hf_frameseg.shards.files import save_shards

NUM_ROWS = 23


@pytest.fixture(scope="module")
def make_dataset(make_row: Callable[..., dict[str, Any]]) -> Callable[..., Dataset]:
    """Builder of prepared rows in the columns and types of the data set; `vids` names the video of each row."""

    def build(frame_format: str = "raw", num_rows: int = NUM_ROWS, vids: str = "") -> Dataset:
        rows = []
        for qid in range(num_rows):
            row = make_row(qid, [] if qid % 4 == 3 else [[2.0, 6.0]], query="a red circle"[: 3 + qid % 9], size=16)
            if vids:
                row |= {"vid": vids[qid], "frames": make_row(vids.index(vids[qid]), size=16)["frames"]}
            frames = np.frombuffer(row["frames"], dtype=np.uint8).reshape(row["frame_shape"])
            rows.append(row | encode_frames(frames, frame_format))
        integers, floats = Value("int64"), Value("float64")
        features = {
            "qid": integers,
            "query": Value("string"),
            "vid": Value("string"),
            "duration_seconds": floats,
            "frames": Value("large_binary") if frame_format == "raw" else List(Image(decode=False)),
            "frame_shape": List(integers),
            "frame_times_seconds": List(List(floats)),
            "relevant_windows": List(List(floats)),
            "relevant_clip_ids": List(integers),
            "saliency_scores": List(List(integers)),
        }
        return Dataset.from_list(rows, features=Features(features), split="train")

    return build


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Dataset]) -> Dataset:
    return make_dataset()


@pytest.fixture(scope="module")
def folder(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards."""
    folder = tmp_path_factory.mktemp("shards")
    save_shards(dataset, folder, shard_bytes=dataset.data.nbytes // 3 + 1)
    return folder
