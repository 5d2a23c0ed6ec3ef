"""Compare the losses on one base, one data set and one budget, over several seeds.

    python examples/compare_losses.py --data_dir runs/demo/data --output_dir runs/compare_losses --seeds 0 1 2

Every run is scored twice: *free-running* (constrained beam search, what a user gets) and *teacher-forced* (the digit at
each position given the true digits before it). The second is what a training loss sees; a model that copies the
previous digit already looks good in it. Finished runs are kept in `runs.jsonl`: an interrupted comparison goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets import Dataset
from hf_frameseg._files import atomic_write
from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.batches.encoding import model_inputs
from hf_frameseg.datasets.load import load_rows
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.metrics import headline
from hf_frameseg.objectives import PAPER_WEIGHTS, PAPER_WEIGHTS_START
from hf_frameseg.proposals.settings import PAPER_PROPOSALS
from hf_frameseg.readout.evaluation_mode import evaluating
from hf_frameseg.records import write_json_lines
from hf_frameseg.sharing.config import TINY_BASE, FrameSegmentationConfig
from hf_frameseg.sharing.loading import load_base, load_processor
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
from hf_frameseg.training.controls import decode_rows
from hf_frameseg.training.evaluation import MomentRetrievalMetrics
from hf_frameseg.training.trainable import vision_tower
from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer
from hf_frameseg.video.worker import start_pool_process

THIRD = 1 / 3
PAPER_WARMUP = 6 / 11  # of all steps

# 1. What is compared: arguments of the trainer, and of the collator ---------------------------------------------------
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "LM only": ({"loss_weights": {"lm": 1.0}}, {}),
    "LM + BCE": ({"loss_weights": {"lm": 0.5, "bce": 0.5}}, {}),
    "paper's mix, LM-only warm-up": (
        {"loss_weights": PAPER_WEIGHTS, "loss_weights_start": PAPER_WEIGHTS_START, "loss_warmup_steps": PAPER_WARMUP},
        {},
    ),
    "paper's mix from the first step": ({"loss_weights": PAPER_WEIGHTS}, {}),
    "segmentation losses only": ({"loss_weights": {"bce": THIRD, "tversky": THIRD, "generalized_dice": THIRD}}, {}),
    "mix, graded targets": ({"loss_weights": PAPER_WEIGHTS}, {"graded_targets": True}),
    "LM only, prefix corruption": ({"loss_weights": {"lm": 1.0}}, {"prefix_corruption": 0.3}),
    "mix, prefix corruption (default)": ({"loss_weights": PAPER_WEIGHTS}, {"prefix_corruption": 0.3}),
}
METRICS = ("R1@0.5", "R1@0.7", "mAP", "HL-mAP", "HIT@1")


# 2. One run -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def teacher_forced(trainer: SegmentationSeq2SeqTrainer, metrics: MomentRetrievalMetrics) -> dict[str, float]:
    """Return the headline numbers of the masks that the model gives when it is fed the true digits."""
    masks, logits, qids = [], [], []
    with evaluating(trainer.model):
        for batch in trainer.get_eval_dataloader():
            output, targets = trainer.model(**model_inputs(batch), use_cache=False), batch["targets"]
            num_frames = targets["frame_valid"].shape[1]
            frame_logits = trainer.binary_labels.frame_logits(output.logits, targets["answer_start"], num_frames)
            logits.append(frame_logits.numpy())
            masks.append(frame_logits.argmax(-1).numpy())
            qids.append(targets["qid"].numpy())
    return headline(metrics.score(metrics.predictions(*(np.concatenate(parts) for parts in (masks, logits, qids)))))


def cached_rows(options: argparse.Namespace, task: FrameSegmentationConfig, split: str) -> Dataset:
    """Return a split; its videos are decoded the first time only."""
    return load_rows("qvhighlights", options.data_dir, split, task.frames, frame_format="raw")


def training_arguments(options: argparse.Namespace, variant: str, seed: int) -> SegmentationSeq2SeqTrainingArguments:
    """Return the budget, which all variants share, and the losses of one."""
    return SegmentationSeq2SeqTrainingArguments(
        output_dir=str(Path(options.output_dir) / "scratch"),
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=options.max_steps // 10,
        seed=seed,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        loss_options={"bce": {"pos_weight": 1.0}},  # as in docs/results.md
        **VARIANTS[variant][0],
    )


def run(options: argparse.Namespace, variant: str, seed: int) -> dict[str, Any]:
    """Train one variant with one seed (order of the samples, frame variants, corrupted digits) and score it."""
    torch.set_num_threads(1)
    base = options.model_name_or_path or TINY_BASE
    task = FrameSegmentationConfig.load_or_default(base)
    train_rows, eval_rows = (cached_rows(options, task, split) for split in ("train", "val"))
    processor = load_processor(base)
    metrics = MomentRetrievalMetrics(eval_rows, PAPER_PROPOSALS)
    model = load_base(base, dtype=torch.float32, attn_implementation="sdpa")
    vision_tower(model).requires_grad_(False)
    trainer = SegmentationSeq2SeqTrainer(
        model=model,
        args=training_arguments(options, variant, seed),
        data_collator=FrameSegmentationCollator(
            processor=processor,
            labels=BinaryLabels.from_tokenizer(processor.tokenizer),
            prompt=task.prompt,
            num_frames=task.frames.num_frames,
            seed=seed,
            **VARIANTS[variant][1],
        ),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=processor,
    )
    trainer.train()
    free_running = headline(metrics.score(decode_rows(trainer, eval_rows, metrics)))
    forced = teacher_forced(trainer, metrics)
    return {"variant": variant, "seed": seed, "free_running": free_running, "teacher_forced": forced}


# 3. All runs, and the table -------------------------------------------------------------------------------------------


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all runs share."""
    names = ("data_dir", "model_name_or_path", "max_steps", "batch_size", "learning_rate")
    return {name: getattr(options, name) for name in names}


def read_log(log: Path) -> list[dict[str, Any]]:
    """Return the finished runs; half a last line, of a process that was killed while it wrote, is cut off."""
    if not log.exists():
        return []
    *lines, rest = log.read_text(encoding="utf-8").split("\n")
    if rest:
        atomic_write(log, "".join(line + "\n" for line in lines))
    try:
        done = [json.loads(line) for line in lines]
        complete = all(
            {"settings", "variant", "seed", "free_running", "teacher_forced"} <= entry.keys() for entry in done
        )
    except (ValueError, AttributeError):
        complete = False
    if not complete:
        raise SystemExit(f"{log} holds a line that is no finished run; mend it, or choose another --output_dir.")
    return done


def check(options: argparse.Namespace) -> None:
    """Refuse numbers with which every run would fail, or learn nothing."""
    for name in ("max_steps", "batch_size", "workers"):
        if getattr(options, name) < 1:
            raise SystemExit(f"expected --{name} of at least 1, got {getattr(options, name)}.")
    if not 0 < options.learning_rate < math.inf:
        raise SystemExit(f"expected --learning_rate to be a number above 0, got {options.learning_rate}.")
    if min(options.seeds) < 0 or len(set(options.seeds)) < len(options.seeds):
        raise SystemExit(f"expected different --seeds of at least 0, got {options.seeds}.")


def table(runs: list[dict[str, Any]]) -> str:
    """Return mean and standard deviation over the seeds as a Markdown table."""
    columns = [f"{metric}" for metric in METRICS]
    lines = ["| losses | seeds | decode | " + " | ".join(columns) + " |", "|---|---|---|" + "---|" * len(columns)]
    for variant in VARIANTS:
        mine = [run for run in runs if run["variant"] == variant]
        for mode, name in (("free_running", "free-running"), ("teacher_forced", "teacher-forced")):
            if not mine:
                continue
            values = ([run[mode][metric] for run in mine] for metric in METRICS)
            cells = (f"{statistics.mean(v):.1f} ± {statistics.stdev(v) if len(v) > 1 else 0:.1f}" for v in values)
            lines.append(f"| {variant} | {len(mine)} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="data set with train and val")
    parser.add_argument("--output_dir", required=True, help="folder for runs.jsonl and table.md")
    parser.add_argument("--model_name_or_path", help="base; default: the tiny base of the package")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max_steps", type=int, default=150)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time, one thread each")
    options = parser.parse_args(argv)
    check(options)
    return options


def main(argv: list[str] | None = None) -> str:
    """Run what is missing and print the table."""
    options = parse(argv)
    output = Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    log = output / "runs.jsonl"
    shared = settings_of(options)
    done = read_log(log)
    if any(entry["settings"] != shared for entry in done):
        raise SystemExit(f"{log} holds runs with other settings; choose another --output_dir.")
    finished = {(entry["variant"], entry["seed"]) for entry in done}
    missing = [(name, seed) for seed in options.seeds for name in options.variants if (name, seed) not in finished]
    for split in ("train", "val"):  # decode once, before the workers need it
        task = FrameSegmentationConfig.load_or_default(options.model_name_or_path or TINY_BASE)
        cached_rows(options, task, split)
    spawn = multiprocessing.get_context("spawn")
    pool_size = min(options.workers, max(len(missing), 1))
    ending = {"initializer": start_pool_process, "initargs": (os.getpid(),)}  # none trains on when this one is killed
    with ProcessPoolExecutor(pool_size, mp_context=spawn, **ending) as pool:
        jobs = [pool.submit(run, options, name, seed) for name, seed in missing]
        failures: list[BaseException] = []
        for job in as_completed(jobs):  # each result is kept as soon as it is there
            if error := job.exception():
                failures.append(error)
                continue
            entry = {"settings": shared, **job.result()}
            done.append(entry)
            write_json_lines(log, done)
            print(f"{entry['variant']}, seed {entry['seed']}: {entry['free_running']}", flush=True)
    if failures:
        raise failures[0]
    text = table(done)
    atomic_write(output / "table.md", text + "\n")
    print(text)
    return text


if __name__ == "__main__":
    main()
