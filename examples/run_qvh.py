"""Fine-tune a multimodal LLM for moment retrieval and highlight detection, and score it next to its controls.

The demo's synthetic data and the real QVHighlights run through the same steps:

    accelerate launch examples/run_qvh.py --recipe default --data_dir DATA --output_dir runs/mine \
        --model_name_or_path Salesforce/xgen-mm-phi3-mini-instruct-interleave-r-v1.5

`--recipe` names a file in `examples/recipes/` (or any YAML file); the command line overrides its values.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    HfArgumentParser,
    PreTrainedModel,
    ProgressCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from hf_frameseg import __version__
from hf_frameseg.adapters import SNAPSHOT_NAME, changes_base, lora_config_of, restore_adapter, snapshot_adapter
from hf_frameseg.config import TINY_BASE, FrameSegmentationConfig
from hf_frameseg.data.collator import FrameSegmentationCollator
from hf_frameseg.data.qvhighlights import VideoReadError, load_qvhighlights, row_frames
from hf_frameseg.decoding.frames_file import write_frames_file
from hf_frameseg.decoding.proposals import redecode
from hf_frameseg.decoding.settings import PAPER_PROPOSALS, ProposalSettings
from hf_frameseg.evaluation import MomentRetrievalMetrics, shuffle_queries, with_blank_frames, write_submission
from hf_frameseg.hub import save_adapter
from hf_frameseg.labels import BinaryLabels, clip_saliency_targets
from hf_frameseg.loading import load_base, load_processor
from hf_frameseg.metrics import HEADLINE_COLUMNS, headline
from hf_frameseg.moments import FramePrediction, moments_from_windows, num_clips
from hf_frameseg.trainer import SegmentationSeq2SeqTrainer
from hf_frameseg.training_args import SegmentationSeq2SeqTrainingArguments
from hf_frameseg.visualization import comparison_figure, qualitative_figure, training_curves_figure

RECIPES = Path(__file__).parent / "recipes"
PAPER_ROW, WHOLE_VIDEO = "model, windows by runs", "whole video"


@dataclass
class ModelArguments:
    """Which model, and which part of it learns."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of the base; default: the tiny base that comes with the package."},
    )
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa, eager or flash_attention_2."})
    freeze_vision: bool = field(default=True, metadata={"help": "Keep the vision tower as it is."})
    lora_r: int = field(default=0, metadata={"help": "Rank of LoRA on the language model; 0 trains all its weights."})
    lora_alpha: int = field(default=16, metadata={"help": "LoRA alpha."})
    lora_dropout: float = field(default=0.0, metadata={"help": "LoRA dropout."})
    lora_rslora: bool = field(default=False, metadata={"help": "Scale by alpha / sqrt(r) instead of alpha / r."})
    lora_init: str = field(default="true", metadata={"help": "PEFT's init_lora_weights: true, pissa_niter_4, ..."})
    lora_modules_to_save: list[str] = field(
        default_factory=list, metadata={"help": "Modules trained in full beside LoRA, e.g. resampler."}
    )


@dataclass
class DataArguments:
    """Which data, and how a row becomes a question with an answer."""

    data_dir: str = field(metadata={"help": "Folder with highlight_{train,val,test}_release.jsonl and videos/."})
    eval_split: str = field(default="val", metadata={"help": "Split that is scored: val or test."})
    num_frames: int | None = field(default=None, metadata={"help": "Frames per video; default: the base's, else 25."})
    frame_size: int | None = field(
        default=None, metadata={"help": "Side in pixels at which frames are cached; default: the base's, else native."}
    )
    frame_format: str = field(default="jpeg", metadata={"help": "Cache frames as jpeg, or raw (small frames only)."})
    grid_kind: str | None = field(
        default=None, metadata={"help": "Frame grid, middle or uniform; default: the base's, else middle."}
    )
    grid_phase: float | None = field(
        default=None, metadata={"help": "Shift of the frames in windows, -0.5 to 0.5; default: the base's, else 0."}
    )
    prompt: str | None = field(default=None, metadata={"help": "Prompt name; default: the base's, else paper."})
    label_rule: str = field(default="window", metadata={"help": "window (frame centre in a window) or saliency>TAU."})
    graded_targets: bool = field(
        default=False, metadata={"help": "Segmentation losses learn the annotators' mean score / 4 instead of 0 and 1."}
    )
    prefix_corruption: float = field(
        default=0.0,
        metadata={"help": "Share of teacher-forced input digits replaced by random ones; targets unchanged."},
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Frame cache; default: that of datasets."})
    num_proc: int | None = field(default=None, metadata={"help": "Processes that decode videos."})
    on_error: str = field(
        default="raise",
        metadata={"help": "Unreadable video: raise; skip its queries, or give them blank frames in the evaluation."},
    )
    video_dir: str | None = field(
        default=None, metadata={"help": "Folder or tar archive of the videos; default: videos/ in data_dir."}
    )
    allow_links: bool = field(default=False, metadata={"help": "Follow links that lead out of the video folder."})


@dataclass
class RunArguments:
    """What happens around the training."""

    recipe: str = field(default="default", metadata={"help": "Name of a file in examples/recipes, or a YAML file."})
    decoder: str = field(
        default="runs+fill",
        metadata={
            "help": "How frames become windows: runs, runs+fill, threshold-ladder or soft-iou (docs/decoders.md)."
        },
    )
    controls: bool = field(default=True, metadata={"help": "Also score the base, blank frames and shuffled queries."})
    num_figures: int = field(default=4, metadata={"help": "Pictures of single predictions to draw."})


# 1. Arguments: recipe below command line ------------------------------------------------------------------------------


def parse(
    argv: list[str] | None,
) -> tuple[ModelArguments, DataArguments, RunArguments, SegmentationSeq2SeqTrainingArguments]:
    """Parse the command line over the values of the recipe."""
    parser = HfArgumentParser((ModelArguments, DataArguments, RunArguments, SegmentationSeq2SeqTrainingArguments))
    name = parser.parse_known_args(argv)[0].recipe if argv or sys.argv[1:] else "default"
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        parser.error(f"no recipe {name!r}: use one of {known}, or the path of a YAML file.")
    recipe = yaml.safe_load(path.read_text())
    known = {action.dest for action in parser._actions}
    if unknown := sorted(recipe.keys() - known):
        parser.error(f"{path} sets unknown argument(s): {', '.join(unknown)}.")
    parser.set_defaults(**recipe)
    return parser.parse_args_into_dataclasses(argv)


# 2. Model -------------------------------------------------------------------------------------------------------------


def load_model(args: ModelArguments, dtype: torch.dtype) -> PreTrainedModel:
    """Load the base and freeze what shall not learn."""
    name = args.model_name_or_path or TINY_BASE
    model = load_base(name, dtype=dtype, attn_implementation=args.attn_implementation)
    if args.freeze_vision:
        tower = getattr(model.model, "vision_tower", None) or getattr(model.model, "visual", None)
        if tower is None:
            raise ValueError(
                f"{type(model).__name__} has no vision_tower or visual to freeze; use --freeze_vision false."
            )
        tower.requires_grad_(False)
    return model


def lora_config(args: ModelArguments, model: PreTrainedModel) -> LoraConfig | None:
    """Return LoRA on every linear layer of the language model, or None."""
    if args.lora_r == 0:
        return None
    prefix = "model.language_model."
    present = {part for name, _ in model.named_modules() for part in name.split(".")}
    if missing := [name for name in args.lora_modules_to_save if name not in present]:
        raise ValueError(
            f"{type(model).__name__} has no module {missing[0]!r}: name another in --lora_modules_to_save."
        )
    linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        use_rslora=args.lora_rslora,
        init_lora_weights=True if args.lora_init == "true" else args.lora_init,
        target_modules=sorted(name for name in linears if name.startswith(prefix)),
        modules_to_save=args.lora_modules_to_save or None,
        task_type="CAUSAL_LM",
    )


def task_config(
    model: ModelArguments, data: DataArguments, training: SegmentationSeq2SeqTrainingArguments
) -> FrameSegmentationConfig:
    """Return how questions are asked: the command line over what the base was saved with."""
    name = model.model_name_or_path or TINY_BASE
    base = FrameSegmentationConfig.load_or_default(name)
    given = {
        "num_frames": data.num_frames,
        "grid_kind": data.grid_kind,
        "grid_phase": data.grid_phase,
        "prompt": data.prompt,
        "frame_size": data.frame_size,
        "label_rule": data.label_rule,
        "num_beams": training.generation_num_beams,
    }
    return replace(base, **{name: value for name, value in given.items() if value is not None})


# 3. What a terminal shows ---------------------------------------------------------------------------------------------


def say(args: TrainingArguments, text: str) -> None:
    """Print a line once, not once per process."""
    if args.process_index == 0:
        print(f"[run_qvh] {text}", flush=True)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End with one line when the input is at fault; what goes wrong later keeps its traceback."""
    try:
        yield
    except (ValueError, OSError, VideoReadError) as error:
        raise SystemExit(f"run_qvh.py: error: {error}") from error


class LossInBar(ProgressCallback):
    """Show the loss in the progress bar; the stock callback prints every logged number on a line of its own."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put the newest loss behind the bar."""
        if state.is_world_process_zero and self.training_bar is not None and "loss" in (logs or {}):
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)


# 4. Scores ------------------------------------------------------------------------------------------------------------


def decode(
    trainer: SegmentationSeq2SeqTrainer, rows: Dataset, metrics: MomentRetrievalMetrics, name: str = "model"
) -> list[FramePrediction]:
    """Decode a split on all processes."""
    say(trainer.args, f"decoding {len(rows)} queries: {name}")
    return metrics.predictions(*trainer.predict(rows).predictions)


def decode_controls(
    trainer: SegmentationSeq2SeqTrainer, rows: Dataset, shuffled: Dataset, metrics: MomentRetrievalMetrics
) -> dict[str, list[FramePrediction]]:
    """Decode without the frames, and with the queries of other videos."""
    collator = trainer.eval_data_collator
    trainer.eval_data_collator = with_blank_frames(collator)
    blank = decode(trainer, rows, metrics, "blank frames")
    trainer.eval_data_collator = collator
    return {
        "blank frames": blank,
        "queries shuffled between videos": decode(trainer, shuffled, metrics, "queries shuffled between videos"),
        WHOLE_VIDEO: metrics.whole_video(),
    }


def score_rows(
    decoded: dict[str, list[FramePrediction]], metrics: MomentRetrievalMetrics, num_beams: int
) -> dict[str, dict[str, Any]]:
    """Return the official dictionary of each row and how it came about; the model also with the paper's windows."""
    rows = {name: (predictions, metrics.proposals) for name, predictions in decoded.items()}
    if metrics.proposals != PAPER_PROPOSALS:
        paper = [redecode(prediction, PAPER_PROPOSALS) for prediction in decoded["model"]]
        rows = {"model": rows["model"], PAPER_ROW: (paper, PAPER_PROPOSALS), **rows}
    results = {}
    for name, (predictions, proposals) in rows.items():
        made_by = {
            "version": __version__,
            "num_frames": predictions[0].grid.num_frames,
            "num_beams": None if name == WHOLE_VIDEO else num_beams,
            "proposals": proposals.to_dict(),
        }
        results[name] = {**metrics.score(predictions), "frameseg": made_by}
    return results


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the headline numbers, one row per result."""
    width = max(len(name) for name in results)
    lines = [" " * width + "".join(f"{column:>10}" for column in HEADLINE_COLUMNS)]
    for name, result in results.items():
        cells = (f"{value:>10.2f}" if value is not None else f"{'-':>10}" for value in headline(result).values())
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)


# 5. Files -------------------------------------------------------------------------------------------------------------


def keep_start(trainer: SegmentationSeq2SeqTrainer, checkpoint: str | None) -> dict[str, torch.Tensor] | None:
    """Keep the start of a PiSSA adapter in the output folder, or go back to that of the run that is resumed.

    Without it the adapter fits only this run's random decomposition of the base.
    """
    model, output = trainer.accelerator.unwrap_model(trainer.model), Path(trainer.args.output_dir)
    start = start_of(checkpoint)
    if start is not None:
        initial = restore_adapter(model, start)
        if trainer.is_world_process_zero() and start.parent.resolve() != output.resolve():
            snapshot_adapter(model, output / SNAPSHOT_NAME)
        return initial
    if not hasattr(model, "peft_config") or not changes_base(lora_config_of(model)):
        return None
    if checkpoint:
        raise SystemExit(f"cannot resume {checkpoint}: its PiSSA decomposition ({SNAPSHOT_NAME}) is not beside it")
    return snapshot_adapter(model, output / SNAPSHOT_NAME if trainer.is_world_process_zero() else None)


def start_of(checkpoint: str | None) -> Path | None:
    """Return the file that keeps the start of the adapter of a checkpoint, if there is one."""
    path = Path(checkpoint).parent / SNAPSHOT_NAME if checkpoint else None
    return path if path is not None and path.is_file() else None


def card_of(
    args: tuple[ModelArguments, DataArguments, RunArguments, SegmentationSeq2SeqTrainingArguments],
    results: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Return what the model card says about the training: no paths of this machine."""
    model, data, run, training = args
    settings = {"recipe": Path(run.recipe).stem, "decoder": run.decoder, **asdict(model), **asdict(data)}
    for name in ("model_name_or_path", "data_dir", "video_dir", "allow_links", "cache_dir", "num_proc", "on_error"):
        del settings[name]
    names = "loss_weights_start loss_weights loss_warmup_steps loss_options num_train_epochs max_steps learning_rate"
    names += " lr_scheduler_type warmup_steps weight_decay per_device_train_batch_size gradient_accumulation_steps"
    settings |= {name: getattr(training, name) for name in f"{names} world_size bf16 seed".split()}
    synthetic = (Path(data.data_dir) / "synthetic.json").is_file()
    return {
        "metrics": {name: headline(result) for name, result in results.items()},
        "recipe": settings,
        "dataset": "synthetic" if synthetic else "QVHighlights",
    }


def save_model(
    trainer: SegmentationSeq2SeqTrainer,
    folder: Path,
    task: FrameSegmentationConfig,
    initial: dict[str, torch.Tensor] | None,
    card: dict[str, Any],
) -> None:
    """Save the model, or its adapter as an ordinary LoRA for the original base."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    task = replace(task, autocast=trainer.autocast)  # asked in the precision in which it was scored
    if not hasattr(model, "peft_config"):
        trainer.save_model(str(folder))
        if trainer.is_world_process_zero():
            trainer.processing_class.save_pretrained(folder)
            task.save(folder)
    elif trainer.is_world_process_zero():
        save_adapter(model, trainer.processing_class, task, folder, initial_adapter=initial, **card)


def write_figures(
    folder: Path, rows: Dataset, predictions: list[FramePrediction], results: dict, history: list[dict], count: int
) -> None:
    """Draw the training curves, the comparison and `count` predictions spread over the split."""
    folder.mkdir(parents=True, exist_ok=True)
    if any("loss_lm" in entry for entry in history):
        training_curves_figure(history).savefig(folder / "training_curves.png")
    headlines = {name: headline(result) for name, result in results.items()}
    comparison_figure(headlines, list(HEADLINE_COLUMNS)).savefig(folder / "comparison.png")
    for index in np.linspace(0, len(rows) - 1, num=min(count, len(rows))).astype(int):
        # What the model marked; a picture of ten candidates for a metric says nothing.
        row, prediction = rows[int(index)], redecode(predictions[index], PAPER_PROPOSALS)
        clips = num_clips(row["duration_seconds"])
        figure = qualitative_figure(
            prediction,
            frames=row_frames(row),  # the middle variants
            relevant_moments=moments_from_windows(row["relevant_windows"], row["duration_seconds"]),
            clip_saliency=clip_saliency_targets(row["relevant_clip_ids"], row["saliency_scores"], clips),
        )
        figure.savefig(folder / f"prediction_{row['qid']}.png")


def write_results(
    folder: Path, results: dict[str, dict[str, Any]], decoded: dict[str, list[FramePrediction]], split: str
) -> None:
    """Write `metrics.json` (one object per row of the table), the official submission file and the frames files."""
    # The official dictionary of each row, with its `brief` numbers also on top, where a reader looks for them.
    rows = {name: {**result["brief"], **result} for name, result in results.items()}
    (folder / "metrics.json").write_text(json.dumps(rows, indent=2) + "\n")
    write_submission(folder / f"hl_{split}_submission.jsonl", decoded["model"])
    # What `frameseg rescore` reads: other windows and saliency of every row without another decode.
    write_frames_file(folder / f"hl_{split}_frames.jsonl", decoded["model"])
    for old in (folder / "frames").glob(f"hl_{split}_*.jsonl"):
        old.unlink()  # of an earlier run with more rows
    for name in decoded.keys() - {"model"}:
        (folder / "frames").mkdir(exist_ok=True)
        write_frames_file(folder / "frames" / f"hl_{split}_{name.replace(' ', '_')}.jsonl", decoded[name])


# 6. All together ------------------------------------------------------------------------------------------------------


def load_rows(
    data: DataArguments, task: FrameSegmentationConfig, training: SegmentationSeq2SeqTrainingArguments
) -> tuple[Dataset, Dataset]:
    """Return the training and the evaluation split; the main process decodes the videos, the others wait for it."""
    options = {"num_frames": task.num_frames, "frame_size": task.frame_size, "frame_format": data.frame_format}
    options |= {"grid_kind": task.grid_kind, "grid_phase": task.grid_phase}
    options |= {"cache_dir": data.cache_dir, "num_proc": data.num_proc, "on_error": data.on_error}
    options |= {"video_dir": data.video_dir, "allow_links": data.allow_links}
    say(training, f"reading videos of {data.data_dir} (decoded once, then cached)")
    with training.main_process_first(desc="reading videos"):
        train, evaluation = (load_qvhighlights(data.data_dir, split, **options) for split in ("train", data.eval_split))
    if data.on_error == "blank":  # a query whose video is missing counts in a score, but teaches nothing
        train = train.filter(lambda missing: not missing, input_columns="frames_missing")
    return train, evaluation


def build_trainer(
    model_args: ModelArguments,
    data: DataArguments,
    task: FrameSegmentationConfig,
    training: SegmentationSeq2SeqTrainingArguments,
    rows: tuple[Dataset, Dataset],
    metrics: MomentRetrievalMetrics,
) -> SegmentationSeq2SeqTrainer:
    """Put model, collator and trainer together."""
    set_seed(training.seed)  # LoRA and PiSSA draw their first weights; a resumed run must draw the same
    model = load_model(model_args, torch.bfloat16 if training.bf16 else torch.float32)
    processor = load_processor(model_args.model_name_or_path or TINY_BASE, num_frames=task.num_frames)
    collator = FrameSegmentationCollator(
        processor=processor,
        labels=BinaryLabels.from_tokenizer(processor.tokenizer),
        prompt=task.prompt,
        num_frames=task.num_frames,
        label_rule=task.label_rule,
        graded_targets=data.graded_targets,
        prefix_corruption=data.prefix_corruption,
        seed=training.seed,
    )
    trainer = SegmentationSeq2SeqTrainer(
        model=model,
        args=training,
        data_collator=collator,
        train_dataset=rows[0],
        eval_dataset=rows[1],
        processing_class=processor,
        peft_config=lora_config(model_args, model),
        compute_metrics=metrics,
    )
    if not training.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(LossInBar)
    return trainer


def main(argv: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Train, score, draw; return the official dictionary of each row of the table."""
    with one_line_errors():
        model_args, data_args, run_args, training_args = parse(argv)
    if int(os.environ.get("WORLD_SIZE", "1")) != training_args.world_size:
        # accelerate can start processes that do not know of each other; each would then train alone, in silence
        raise SystemExit(
            "the launched processes are not joined: on CPU pass --use_cpu true (see examples/accelerate_cpu2.yaml)"
        )
    if training_args.use_cpu and training_args.deepspeed_plugin is not None:
        # accelerate 1.15 makes plain DDP of it without a word
        raise SystemExit("DeepSpeed does not run with --use_cpu: leave out --use_deepspeed, or train on GPUs")
    output = Path(training_args.output_dir)
    with one_line_errors():
        task = task_config(model_args, data_args, training_args)
        proposals = ProposalSettings(run_args.decoder)  # a misspelt name shall not cost the reading of the videos
        train_rows, eval_rows = load_rows(data_args, task, training_args)
        metrics = MomentRetrievalMetrics(eval_rows, proposals)
        checkpoint = training_args.resume_from_checkpoint
        if checkpoint in ("true", "True"):
            checkpoint = get_last_checkpoint(output) if output.is_dir() else None
        # A resumed PiSSA adapter goes back to the decomposition of its first run: no new one, which would be another.
        start_args = replace(model_args, lora_init="true") if start_of(checkpoint) else model_args
        trainer = build_trainer(start_args, data_args, task, training_args, (train_rows, eval_rows), metrics)
        initial = keep_start(trainer, checkpoint)

    decoded: dict[str, list[FramePrediction]] = {}
    if run_args.controls:
        shuffled = shuffle_queries(eval_rows, training_args.seed)  # before hours of training, in case it cannot be done
        decoded["base without fine-tuning"] = decode(trainer, eval_rows, metrics, "base without fine-tuning")
    say(training_args, f"training on {len(train_rows)} queries, {training_args.world_size} process(es)")
    trainer.train(resume_from_checkpoint=checkpoint)
    decoded = {"model": decode(trainer, eval_rows, metrics), **decoded}
    if run_args.controls:
        decoded |= decode_controls(trainer, eval_rows, shuffled, metrics)

    results = score_rows(decoded, metrics, task.num_beams)
    if trainer.is_world_process_zero():
        output.mkdir(parents=True, exist_ok=True)
        write_results(output, results, decoded, data_args.eval_split)
        history = trainer.state.log_history
        write_figures(output / "figures", eval_rows, decoded["model"], results, history, run_args.num_figures)
        print(f"\n{data_args.eval_split}: {len(eval_rows)} queries, {task.num_frames} frames, {task.num_beams} beams")
        print(f"windows by {run_args.decoder} where the row does not say otherwise\n")
        print(table(results), flush=True)
    card = card_of((model_args, data_args, run_args, training_args), results)
    save_model(trainer, output / "model", task, initial, card)  # last: a refused adapter does not take the scores along
    say(training_args, f"model, metrics.json, submission, frames and figures are in {output}")
    return results


if __name__ == "__main__":
    main()
    if torch.distributed.is_initialized():
        # Threads of the process group that outlive the interpreter abort it, now and then, after the work is done.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
