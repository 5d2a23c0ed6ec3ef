"""What every process of `test_distributed.py` does; `accelerate launch` runs this file, the test calls `run`."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from transformers import TrainerCallback

from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.models.xgenmm import XGenMMForConditionalGeneration, XGenMMProcessor
from hf_frameseg.shards.files import find_shards
from hf_frameseg.shards.stream import FrameStream
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
from hf_frameseg.training.evaluation import MomentRetrievalMetrics, write_submission
from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer


class Gradients(TrainerCallback):
    """Keep the gradients of every optimiser step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters()})


class PenaltyTrainer(SegmentationSeq2SeqTrainer):
    """The usual override of `compute_loss`: it adds to the mean of the batch and knows nothing of other batches."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        loss = loss + 0.1 * outputs["bce"].square().mean()
        return (loss, outputs) if return_outputs else loss


def make_trainer(
    folder: Path, out: Path, kind: type[SegmentationSeq2SeqTrainer] = SegmentationSeq2SeqTrainer, **options: Any
) -> SegmentationSeq2SeqTrainer:
    """Set up one SGD step on the rows of the folder; frames and digits are drawn at random."""
    processor = XGenMMProcessor.from_pretrained(folder / "model")
    labels = BinaryLabels.from_tokenizer(processor.tokenizer)
    rows = pickle.loads((folder / "rows.pickle").read_bytes())[: options.pop("num_rows", 8)]
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
    return kind(
        model=XGenMMForConditionalGeneration.from_pretrained(folder / "model"),
        args=SegmentationSeq2SeqTrainingArguments(**(defaults | options)),
        data_collator=FrameSegmentationCollator(
            processor=processor, labels=labels, prompt="compact", prefix_corruption=0.5
        ),
        train_dataset=rows,
    )


def train(folder: Path, out: Path, name: str, batch_size: int, accumulation: int, **options: Any) -> None:
    """Take the steps; write log lines, gradients and weights, from every process."""
    options |= {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    trainer = make_trainer(folder, out, **options)
    watch = Gradients()
    trainer.add_callback(watch)
    trainer.train()
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    result = {
        "world_size": (trainer.args.world_size, trainer.accelerator.num_processes, world),
        "log": [line for line in trainer.state.log_history if "loss" in line],
        "gradients": watch.steps,
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
    losses = {key: value for key, value in trainer.evaluate(rows).items() if "loss" in key}
    if trainer.is_world_process_zero():
        (out / f"{name}.json").write_text(json.dumps(metrics.score(predictions), indent=2))
        write_submission(out / f"{name}.jsonl", predictions)
        (out / f"{name}_losses.json").write_text(json.dumps(losses))


def evaluate_streams(folder: Path, out: Path) -> None:
    """Decode 23 rows with text qids from a stream, with and without workers; write what every process gets."""
    for workers in (0, 2):
        trainer = make_trainer(folder, out, per_device_eval_batch_size=4, dataloader_num_workers=workers)
        stream = FrameStream(find_shards(folder / "stream", "val"))
        output = trainer.predict(stream)
        found = {"qids": output.predictions[2].tolist(), "logits": output.predictions[1]}
        found["metrics"] = trainer.evaluate(stream)
        torch.save(found, out / f"stream_{workers}_{trainer.args.process_index}.pt")


def evaluate_sharded(folder: Path, out: Path) -> None:
    """Decode with parameters that FSDP 1 spreads over the processes; write what the main process gets."""
    trainer = make_trainer(folder, out, per_device_eval_batch_size=2)
    if trainer.args.world_size > 1:
        layers = {type(module) for name, module in trainer.model.named_modules() if name.endswith("layers.0")}
        trainer.model = trainer.model_wrapped = FullyShardedDataParallel(
            trainer.model,
            device_id=torch.device("cpu"),
            auto_wrap_policy=ModuleWrapPolicy(layers),
            use_orig_params=True,
        )
        trainer.accelerator._models.append(trainer.model)  # as after `accelerator.prepare`
    output = trainer.predict(trainer.train_dataset[:7])
    sizes = [parameter.numel() for parameter in trainer.model.parameters()]
    metrics = trainer.evaluate(trainer.train_dataset[:7])
    found = {"logits": output.predictions[1], "metrics": metrics, "weights": sum(sizes)}
    torch.save(found, out / f"sharded_{trainer.args.process_index}.pt")


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
    train(folder, out, "penalty", batch_size // 4, 4, kind=PenaltyTrainer)
    # 13 rows in steps of 8 and of 5; then in steps of 4, of which the last has one row and none for the second process.
    train(folder, out, "ragged", batch_size, 1, num_rows=13, max_steps=4)
    train(folder, out, "ragged_accumulated", batch_size // 4, 2, num_rows=13, max_steps=8)
    evaluate_streams(folder, out)
    evaluate_sharded(folder, out)
    evaluate(folder, out, "one_by_one", 1)
    evaluate(folder, out, "batches", 2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    # Threads of gloo that outlive the interpreter end the process with "terminate called", now and then.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
