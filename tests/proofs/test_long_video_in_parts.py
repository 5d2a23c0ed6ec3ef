"""A video of ten minutes, asked in parts since the model looks at 25 frames at a time; the answers are merged."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from hf_frameseg import MomentRetriever, evaluate_submission, headline, merge_parts, qualitative_figure, temporal_iou
from hf_frameseg.datasets.synthetic import Scene, SyntheticVideo, annotate, write_video

SECONDS, PART_SECONDS = 600, 150
SCENES = [  # second clips: a red circle over the seam at 300 s, and one more in the last part
    (0, 70, "blue", "square"), (70, 138, "green", "circle"), (138, 162, "red", "circle"), (162, 240, "blue", "square"),
    (240, 270, "red", "circle"), (270, 300, "green", "square"),
]  # fmt: skip


def long_video(path: Path) -> dict:
    """Write the video; return the annotation of "a red circle"."""
    scenes = tuple(
        Scene(start, end, color, shape, start + end, 2.0 * (end - start), (0.4, 0.5, 0.6, 0.5), (110.0, 100.0, 90.0))
        for start, end, color, shape in SCENES
    )
    video = SyntheticVideo(path.stem, SECONDS, scenes)
    write_video(path, video, size=32, fps=1, rng=np.random.default_rng(0))
    return annotate(video, "red", "circle", qid=1, rng=np.random.default_rng(0))


def test_a_video_of_ten_minutes_is_asked_in_parts(tmp_path: Path) -> None:
    annotation = long_video(tmp_path / "long.mp4")
    retriever = MomentRetriever.from_pretrained()
    pattern = retriever.config.frames.grid(PART_SECONDS)
    answers = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a part has the pattern of the training
        for start in range(0, SECONDS, PART_SECONDS):
            frames = retriever.read(tmp_path / "long.mp4", pattern.part(start, start + PART_SECONDS))
            assert start <= frames.times_seconds[0] < frames.times_seconds[-1] < start + PART_SECONDS
            answers += retriever.predict(frames, [annotation["query"]], vid="long")
    assert all(answer.grid.start_seconds <= m.start < m.end for answer in answers for m in answer.moments)

    merged = replace(merge_parts(answers), qid=1)
    assert (merged.grid.num_frames, merged.grid.start_seconds, merged.grid.end_seconds) == (100, 0.0, 600.0)
    assert len(merged.saliency) == SECONDS / 2
    truth = np.array(annotation["relevant_windows"], dtype=float)
    found = np.array([[moment.start, moment.end] for moment in merged.moments])
    assert temporal_iou(truth, found).max(axis=1).min() > 0.8  # both are there, the one over the seam in one piece
    scores = headline(evaluate_submission([merged.to_submission()], [annotation]))
    assert scores["R1@0.7"] == 100
    assert scores["HIT@1"] == 100
    assert qualitative_figure(merged).axes
    assert qualitative_figure(answers[2]).axes[-1].get_xlim() == (300.0, 450.0)
