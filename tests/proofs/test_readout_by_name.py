"""A readout by name: one forward pass a question, recorded in the settings, used by the trainer and the retriever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_frameseg import READOUTS, DecodedFrames, FrameSegmentationConfig, MomentRetrievalMetrics, MomentRetriever
from hf_frameseg.sample import Sample
from hf_frameseg.sharing.model_card import model_card
from hf_frameseg.video.read import VideoFrames

NUM_FRAMES = 5


def yes_or_no(model: Any, inputs: Any, labels: Any, num_frames: int, **options: Any) -> DecodedFrames:
    """Give every frame the scores of the first digit, from one forward pass without a search."""
    with torch.no_grad():
        first = model(**inputs).logits[:, -1, list(labels.digit_ids)].float()
    frame_logits = first[:, None].repeat(1, num_frames, 1)
    return DecodedFrames(mask=frame_logits[..., 1] > frame_logits[..., 0], frame_logits=frame_logits)


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(READOUTS, "yes_or_no", yes_or_no)
    return "yes_or_no"


def test_evaluation_and_retriever_read_out_by_name(
    named: str, make_trainer: Any, eight_rows: list[dict], tiny_processor: Any, tmp_path: Path
) -> None:
    rows = eight_rows[:4]
    trainer = make_trainer(compute_metrics=MomentRetrievalMetrics(rows), readout=named)
    frame_logits = trainer.predict(rows).predictions[1]
    assert (frame_logits == frame_logits[:, :1]).all()  # no digit depends on another
    assert len({*frame_logits[:, 0, 1].tolist()}) == len(rows)
    assert "eval_mAP" in trainer.evaluate(rows)
    assert not np.allclose(make_trainer().predict(rows).predictions[1], frame_logits)

    FrameSegmentationConfig().changed(num_frames=NUM_FRAMES, prompt="compact", readout=named).save(tmp_path)
    config = FrameSegmentationConfig.load(tmp_path)
    assert f'"readout": "{named}"' in model_card(config)
    retriever = MomentRetriever(trainer.model, tiny_processor, config)
    for row, logits in zip(rows, frame_logits, strict=True):
        sample = Sample.of(row)
        video = VideoFrames(sample.pictures(), sample.times(), sample.duration_seconds, sample.grid, "pyav")
        (prediction,) = retriever.predict(video, [row["query"]])
        assert prediction.log_odds == pytest.approx(logits[:, 1] - logits[:, 0], abs=1e-5)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (torch.zeros(2, NUM_FRAMES), "expected the readout 'odd' to return DecodedFrames, got Tensor"),
        (
            DecodedFrames(torch.zeros(1, NUM_FRAMES), torch.zeros(1, NUM_FRAMES, 2)),
            r"mask of shape \(2, 5\), got \(1, 5\)",
        ),
        (DecodedFrames(torch.zeros(2, NUM_FRAMES), torch.zeros(2, NUM_FRAMES)), r"frame_logits of shape \(2, 5, 2\)"),
    ],
)
def test_a_readout_that_answers_something_else_is_refused(
    found: Any, message: str, make_trainer: Any, eight_rows: list[dict], tiny_processor: Any, monkeypatch: Any
) -> None:
    monkeypatch.setitem(READOUTS, "odd", lambda *args, **options: found)
    trainer = make_trainer(readout="odd")
    with pytest.raises(ValueError, match=message):
        trainer.predict(eight_rows[:2])
    config = FrameSegmentationConfig().changed(num_frames=NUM_FRAMES, prompt="compact", readout="odd")
    sample = Sample.of(eight_rows[0])
    video = VideoFrames(sample.pictures(), sample.times(), sample.duration_seconds, sample.grid, "pyav")
    with pytest.raises(ValueError, match=message):
        MomentRetriever(trainer.model, tiny_processor, config).predict(video, ["a dog", "a cat"])
