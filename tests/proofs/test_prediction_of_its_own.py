"""Proof: a kind of prediction of its own, a box in every frame, from the sample to the figure."""

from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch

from hf_frameseg import READOUTS, Objective, Sample
from hf_frameseg.digits import states_at_digits


class Boxes(Objective):
    targets = {"boxes": lambda sample: np.asarray(sample.other["boxes"], dtype=np.float32)}  # (F, 4) corners in [0, 1]
    needs_hidden_states = True

    def build(self, hidden_size):
        self.linear = torch.nn.Linear(hidden_size, 4)

    def forward(self, answer, targets):
        error = (self.linear(answer.hidden_states).sigmoid() - targets["boxes"]).abs().mean(2) * answer.frame_valid
        return error.sum(1) / answer.frame_valid.sum(1)


def with_boxes(model, inputs, labels, num_frames, **options):
    """Decode the digits, and read the boxes off the states that predict them."""
    decoded = READOUTS["beam"](model, inputs, labels, num_frames, **options)
    added = {"input_ids": torch.tensor(labels.digit_ids)[decoded.mask.long()], "attention_mask": decoded.mask | True}
    inputs = inputs | {name: torch.cat([inputs[name], value], 1) for name, value in added.items()}
    states = model(**inputs, output_hidden_states=True).hidden_states[-1]
    states = states_at_digits(states, [states.shape[1] - num_frames] * len(states), num_frames)
    return replace(decoded, further={"boxes": model.frameseg_heads["boxes"].linear(states).sigmoid()})


@dataclass(frozen=True)
class BoxPrediction:
    qid: int
    boxes: np.ndarray

    def iou(self, truth):
        both = np.stack([self.boxes, truth])
        area = (both[..., 2:] - both[..., :2]).clip(0).prod(-1)
        common = (both[..., 2:].min(0) - both[..., :2].max(0)).clip(0).prod(-1)
        return float((common / (area.sum(0) - common)).mean())

    def figure(self, pictures):
        figure, axes = plt.subplots(1, len(pictures))
        for panel, picture, (left, top, right, bottom) in zip(axes, pictures, self.boxes * 32, strict=True):
            panel.imshow(picture)
            panel.add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False))
        return figure


@dataclass
class BoxMetrics:
    samples: list
    for_rows = classmethod(lambda cls, samples: cls(samples))

    def __call__(self, decoded):
        _, _, qids, further = decoded.predictions
        found = map(BoxPrediction, qids.tolist(), further["boxes"])
        return {"iou": np.mean([*map(BoxPrediction.iou, found, (sample.other["boxes"] for sample in self.samples))])}


def test_boxes_from_the_sample_to_the_figure(make_trainer, make_row, monkeypatch):
    monkeypatch.setitem(READOUTS, "boxes", with_boxes)
    boxes = [[0.2, 0.1 + 0.1 * frame, 0.4, 0.5 + 0.1 * frame] for frame in range(5)]
    rows = [make_row(qid) | {"boxes": boxes} for qid in range(4)]
    options = {"loss_weights": {"lm": 0.1, "boxes": 0.9}, "objectives": {"boxes": Boxes}, "readout": "boxes"}
    options |= {"max_steps": 60, "optim": "adamw_torch", "learning_rate": 0.03, "compute_metrics": BoxMetrics([])}
    trainer = make_trainer(rows, **options)
    assert trainer.evaluate(rows)["eval_iou"] < 0.3
    trainer.train()
    assert trainer.evaluate(rows)["eval_iou"] > 0.6
    prediction = BoxPrediction(0, trainer.predict(rows).predictions[3]["boxes"][0])
    patches = [panel.patches[0] for panel in prediction.figure(Sample.of(rows[0]).pictures()).axes]
    np.testing.assert_allclose([patch.get_x() for patch in patches], prediction.boxes[:, 0] * 32, rtol=1e-5)
    plt.close("all")
