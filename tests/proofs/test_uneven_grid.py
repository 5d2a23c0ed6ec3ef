"""A grid from uneven times, from prompt to score: nothing in the package asks for equal windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_frameseg import FrameGrid, FrameSegmentationCollator, MomentRetrievalMetrics, MomentRetriever, headline
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.prepared.frame_columns import grid_columns
from hf_frameseg.proposals import PAPER_PROPOSALS, read_frames_file, write_frames_file
from hf_frameseg.sample import Sample
from hf_frameseg.video.read import VideoFrames

GRID = FrameGrid.from_times([0.5, 1.5, 2.0, 6.0, 9.0], duration_seconds=10)  # edges 0, 1, 1.75, 4, 7.5, 10
WINDOWS = {1: [[0, 2]], 2: [[1.75, 7.5]], 3: [[8, 10]], 4: [[0, 1], [4, 7.5]]}
MASKS = {1: "11000", 2: "00110", 3: "00001", 4: "10010"}  # by the times, not by fifths of the video
MOMENTS = {1: [(0, 1.75)], 2: [(1.75, 7.5)], 3: [(7.5, 10)], 4: [(0, 1), (4, 7.5)]}


@pytest.fixture
def rows(make_row: Any) -> list[dict[str, Any]]:
    made = [make_row(qid, windows) | grid_columns(GRID) for qid, windows in WINDOWS.items()]
    return [{name: value for name, value in row.items() if name != "frame_times_seconds"} for row in made]


def test_from_prompt_to_score(rows: list[dict], make_trainer: Any, tiny_processor: Any, tmp_path: Path) -> None:
    labels = BinaryLabels.from_tokenizer(tiny_processor.tokenizer)
    collator = FrameSegmentationCollator(processor=tiny_processor, labels=labels, prompt="timestamps")
    batch = collator(rows)
    text = tiny_processor.tokenizer.decode(batch["input_ids"][0])
    assert all(f"Frame {frame} at {seconds:.1f} s: " in text for frame, seconds in enumerate(GRID.times))
    masks = np.array([[int(digit) for digit in mask] for mask in MASKS.values()])
    assert batch["targets"]["frame_targets"].tolist() == masks.tolist()

    metrics = MomentRetrievalMetrics(rows, PAPER_PROPOSALS)
    trainer = make_trainer(rows, data_collator=collator, compute_metrics=metrics)
    trainer.train()
    assert "eval_mAP" in trainer.evaluate(rows)
    decoded = metrics.predictions(*trainer.predict(rows).predictions[:3])
    perfect = metrics.predictions(masks, np.eye(2)[masks], np.array(list(WINDOWS)))
    assert {one.qid: sorted((m.start, m.end) for m in one.moments) for one in perfect} == MOMENTS
    scores = headline(metrics.score(perfect))
    assert (scores["R1@0.5"], scores["R1@0.7"]) == (100, 100)  # IoU 0.875, 1, 0.8, 1

    retriever = MomentRetriever(trainer.model, tiny_processor, num_frames=5, prompt="timestamps")
    videos = [VideoFrames(one.pictures(), one.times(), 10.0, one.grid, "none") for one in map(Sample.of, rows)]
    with pytest.warns(UserWarning, match="do not lie where those of the training videos did"):
        answers = [retriever.predict(video, ["a red circle"])[0] for video in videos]
    for answer, same in zip(answers, decoded, strict=True):
        assert (answer.grid, answer.mask.tolist()) == (GRID, same.mask.tolist())
        assert [(m.start, m.end) for m in answer.moments] == [(m.start, m.end) for m in same.moments]
        assert answer.saliency == pytest.approx(np.interp([1, 3, 5, 7, 9], GRID.times, same.probs), abs=1e-6)
    write_frames_file(tmp_path / "frames.jsonl", decoded)
    assert [one.moments for one in read_frames_file(tmp_path / "frames.jsonl")] == [one.moments for one in decoded]
