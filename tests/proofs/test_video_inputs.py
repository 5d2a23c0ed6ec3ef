"""A model whose frames go in as videos, of which it merges two pictures a window: one step, scores, the retriever."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import hf_frameseg as fs
from hf_frameseg.sample import Sample

NUM_FRAMES, NUM_PICTURES = 5, 10
EACH = {"before": "{query}\n", "frame_line": "{seconds:.1f} s: {video}\n", "after": "{num_frames} digits"}
AT_ONCE = {"before": "{query}\n{video}\n", "frame_line": "", "after": "{num_frames} digits"}


@pytest.mark.parametrize(("texts", "videos"), [(EACH, NUM_FRAMES), (AT_ONCE, 1)], ids=["one each", "one for all"])
def test_frames_go_in_as_videos(
    texts: dict[str, str], videos: int, make_trainer: Any, make_row: Any, tiny_qwen_processor: Any, tiny_qwen_model: Any
) -> None:
    windows = [[[2.0, 6.0]], [[0.0, 2.0], [8.0, 10.0]]]
    rows = [make_row(qid, one, num_frames=NUM_PICTURES, size=16) for qid, one in enumerate(windows)]
    prompt = fs.PromptTemplate(name="video", **texts, pictures_per_window=NUM_PICTURES // NUM_FRAMES)
    labels = fs.BinaryLabels.from_tokenizer(tiny_qwen_processor.tokenizer)
    collator = fs.FrameSegmentationCollator(processor=tiny_qwen_processor, labels=labels, prompt=prompt)
    model = copy.deepcopy(tiny_qwen_model)
    trainer = make_trainer(rows, model, data_collator=collator, compute_metrics=fs.MomentRetrievalMetrics(rows))

    batch = trainer.eval_data_collator(rows)
    assert batch["video_grid_thw"][:, 0].tolist() == [NUM_FRAMES // videos] * videos * len(rows)  # two pictures a step
    assert batch["targets"]["frame_targets"].tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]  # on the merged windows
    shown = tiny_qwen_processor.tokenizer.decode(batch["input_ids"][0])
    assert ("5 digits" in shown, "3.0 s" in shown) == (True, texts is EACH)  # one time a window

    before = {name: weight.clone() for name, weight in model.named_parameters()}
    trainer.train()
    assert [name for name, weight in model.named_parameters() if torch.equal(weight, before[name])] == []
    found = trainer.predict(rows)
    assert (found.predictions[0].shape, found.label_ids.shape) == ((2, NUM_FRAMES), (2, NUM_FRAMES))
    assert "test_mAP" in found.metrics

    frames = fs.FrameSettings(num_frames=NUM_PICTURES)
    retriever = fs.MomentRetriever(
        model, tiny_qwen_processor, fs.FrameSegmentationConfig(frames, prompt=prompt.to_dict())
    )
    for row, logits in zip(map(Sample.of, rows), found.predictions[1], strict=True):
        (prediction,) = retriever.predict(fs.VideoFrames(row.pictures(), row.times(), 10.0, row.grid, "-"), [row.query])
        assert prediction.log_odds == pytest.approx(logits[:, 1] - logits[:, 0], abs=1e-4)
        assert np.allclose(prediction.grid.edges, [0, 2, 4, 6, 8, 10])
