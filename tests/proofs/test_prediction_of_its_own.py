"""Proof: a kind of prediction of its own, a box in every frame, from the sample to the figure."""

from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from hf_frameseg import READOUTS, Objective, Sample
from hf_frameseg.digits import states_at_digits


class Boxes(Objective):
    """Learn centre and size of the box in every frame, as shares of the picture."""

    targets = {"boxes": lambda sample: np.asarray(sample.other["boxes"], dtype=np.float32)}  # (F, 4)
    needs_hidden_states = True

    def build(self, hidden_size):
        self.linear = torch.nn.Linear(hidden_size, 4)

    def forward(self, answer, targets):
        error = (self.linear(answer.hidden_states).sigmoid() - targets["boxes"]).abs().mean(2) * answer.frame_valid
        return error.sum(1) / answer.frame_valid.sum(1)


def with_boxes(model, inputs, labels, num_frames, **options):
    """Decode the digits, and read the boxes off the states that predicted them."""
    decoded = READOUTS["beam"](model, inputs, labels, num_frames, **options)
    digits = torch.tensor(labels.digit_ids)[decoded.mask.long()]
    ids, length = torch.cat([inputs["input_ids"], digits], 1), inputs["input_ids"].shape[1]
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(digits)], 1)
    states = model(**{**inputs, "input_ids": ids, "attention_mask": mask}, output_hidden_states=True).hidden_states[-1]
    states = states_at_digits(states, [length] * len(ids), num_frames)
    return replace(decoded, further={"boxes": model.frameseg_heads["boxes"].linear(states).sigmoid()})


@dataclass(frozen=True)
class Tube:
    qid: int
    boxes: np.ndarray

    def iou(self, truth):
        (low, high), (start, end) = (((b[:, :2] - b[:, 2:] / 2), b[:, :2] + b[:, 2:] / 2) for b in (self.boxes, truth))
        common = np.clip(np.minimum(high, end) - np.maximum(low, start), 0, None).prod(1)
        return float((common / ((high - low).prod(1) + (end - start).prod(1) - common)).mean())

    def figure(self, pictures):
        figure, axes = plt.subplots(1, len(pictures))
        for panel, picture, (x, y, width, height) in zip(axes, pictures, self.boxes * pictures.shape[1], strict=True):
            panel.imshow(picture)
            panel.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, fill=False))
        return figure


@dataclass
class TubeMetrics:
    samples: list

    def for_rows(self, samples):
        return TubeMetrics(samples)

    def __call__(self, decoded):
        _, _, qids, further = decoded.predictions
        self.tubes = [Tube(qid, boxes) for qid, boxes in zip(qids.tolist(), further["boxes"], strict=True)]
        pairs = zip(self.tubes, self.samples, strict=True)
        return {"tube_iou": np.mean([tube.iou(np.asarray(sample.other["boxes"])) for tube, sample in pairs])}


def test_boxes_from_the_sample_to_the_figure(make_trainer, make_row, monkeypatch):
    monkeypatch.setitem(READOUTS, "boxes", with_boxes)
    rows = [make_row(qid) | {"boxes": [[0.3, 0.4 + 0.05 * frame, 0.2, 0.3] for frame in range(5)]} for qid in range(4)]
    weights = {"loss_weights": {"lm": 0.1, "boxes": 0.9}, "objectives": {"boxes": Boxes}, "readout": "boxes"}
    options = {"max_steps": 60, "optim": "adamw_torch", "learning_rate": 0.03, "logging_steps": 60}
    trainer = make_trainer(rows, **weights, **options, compute_metrics=TubeMetrics(rows))
    before = trainer.evaluate(rows)
    trainer.train()
    after = trainer.evaluate(rows)
    assert before["eval_tube_iou"] < 0.3 < 0.6 < after["eval_tube_iou"]
    assert after["eval_loss_boxes"] < before["eval_loss_boxes"] / 2
    boxes = trainer.predict(rows).predictions[3]["boxes"]
    tube = Tube(0, boxes[0])
    assert tube.iou(np.asarray(rows[0]["boxes"])) == pytest.approx(after["eval_tube_iou"], abs=0.2)
    patches = [panel.patches[0] for panel in tube.figure(Sample.of(rows[0]).pictures()).axes]
    assert [patch.get_width() for patch in patches] == pytest.approx(boxes[0][:, 2] * 32)
    plt.close("all")
