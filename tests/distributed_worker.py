"""What every process of `test_distributed.py` does; `accelerate launch` runs this file, the test calls `run`."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from hf_frameseg.data.collator import FrameSegmentationCollator
from hf_frameseg.evaluation import MomentRetrievalMetrics, write_submission
from hf_frameseg.labels import BinaryLabels
from hf_frameseg.models.xgenmm import XGenMMForConditionalGeneration, XGenMMProcessor
from hf_frameseg.trainer import SegmentationSeq2SeqTrainer
from hf_frameseg.training_args import SegmentationSeq2SeqTrainingArguments


class Gradients(TrainerCallback):
    """Keep the gradients of the optimiser step."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.found = {name: p.grad.clone() for name, p in model.named_parameters()}


def make_trainer(folder: Path, out: Path, **options: Any) -> SegmentationSeq2SeqTrainer:
    """Set up one SGD step on the rows of the folder; frames and digits are drawn at random."""
    processor = XGenMMProcessor.from_pretrained(folder / "model")
    labels = BinaryLabels.from_tokenizer(processor.tokenizer)
    rows = pickle.loads((folder / "rows.pickle").read_bytes())
    defaults = {
        "output_dir": str(out / "trainer"),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "max_steps": 1,
        "train_sampling_strategy": "sequential",
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    return SegmentationSeq2SeqTrainer(
        model=XGenMMForConditionalGeneration.from_pretrained(folder / "model"),
        args=SegmentationSeq2SeqTrainingArguments(**(defaults | options)),
        data_collator=FrameSegmentationCollator(
            processor=processor, labels=labels, prompt="compact", prefix_corruption=0.5
        ),
        train_dataset=rows,
    )


def train(folder: Path, out: Path, name: str, batch_size: int, accumulation: int) -> None:
    """Take the step; write its log line, gradients and weights, from every process."""
    trainer = make_trainer(
        folder, out, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation
    )
    watch = Gradients()
    trainer.add_callback(watch)
    trainer.train()
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    result = {
        "world_size": (trainer.args.world_size, trainer.accelerator.num_processes, world),
        "log": trainer.state.log_history[0],
        "gradients": watch.found,
        "weights": {key: value.detach().clone() for key, value in trainer.model.named_parameters()},
    }
    torch.save(result, out / f"{name}_{trainer.args.process_index}.pt")


def evaluate(folder: Path, out: Path, name: str, batch_size: int) -> None:
    """Decode seven rows; the main process writes metrics and submission."""
    trainer = make_trainer(folder, out, per_device_eval_batch_size=batch_size)
    rows = trainer.train_dataset[:7]
    metrics = MomentRetrievalMetrics(rows)
    output = trainer.predict(rows)
    predictions = metrics.predictions(*output.predictions)
    if trainer.is_world_process_zero():
        (out / f"{name}.json").write_text(json.dumps(metrics.score(predictions), indent=2))
        write_submission(out / f"{name}.jsonl", predictions)
        losses = {key: value for key, value in output.metrics.items() if "loss" in key}
        (out / f"{name}_losses.json").write_text(json.dumps(losses))


def run(folder: Path, out: Path, batch_size: int) -> None:
    """Train with and without accumulation and evaluate.

    Args:
        folder: With `model` and `rows.pickle`.
        out: Where the results go.
        batch_size: Rows per process of the step without accumulation.
    """
    out.mkdir(exist_ok=True)
    train(folder, out, "step", batch_size, 1)
    train(folder, out, "accumulated", batch_size // 2, 2)
    evaluate(folder, out, "one_by_one", 1)
    evaluate(folder, out, "batches", 2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    # Threads of gloo that outlive the interpreter end the process with "terminate called", now and then.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
