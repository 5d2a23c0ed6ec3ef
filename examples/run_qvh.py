"""Fine-tune a multimodal LLM for moment retrieval and highlight detection, and score it next to its controls.

The demo's synthetic data and the real QVHighlights run through the same steps:

    accelerate launch examples/run_qvh.py --recipe default --data_dir DATA --output_dir runs/mine \
        --model_name_or_path Salesforce/xgen-mm-phi3-mini-instruct-interleave-r-v1.5

`--recipe` names a file in `examples/recipes/` (or any YAML file); the command line overrides its values. What can be
found wrong is found before videos are read. The model is saved as soon as it is trained, before anything that can fail.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedModel,
    ProgressCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks

import hf_frameseg.models.xgenmm  # noqa: F401  (registers xGen-MM with the Auto classes)
from datasets import Dataset
from hf_frameseg import __version__
from hf_frameseg._files import atomic_write, replace_folder
from hf_frameseg._options import given, optional_arguments
from hf_frameseg._text import printable
from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.datasets.load import load_rows
from hf_frameseg.datasets.qvhighlights import QVHighlights
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.metrics import HEADLINE_COLUMNS, headline
from hf_frameseg.objectives import LOSSES
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.frames_file import write_frames_file
from hf_frameseg.proposals.prediction import redecode
from hf_frameseg.proposals.settings import PAPER_PROPOSALS, ProposalSettings
from hf_frameseg.sample import Sample
from hf_frameseg.sharing.adapter_folder import CARD_NAME, save_adapter
from hf_frameseg.sharing.adapters import (
    BASE_CHANGING_INITS,
    SNAPSHOT_NAME,
    adapter_off,
    changes_base,
    lora_config_of,
    restore_adapter,
    snapshot_adapter,
)
from hf_frameseg.sharing.config import CONFIG_NAME, TINY_BASE, FrameSegmentationConfig
from hf_frameseg.sharing.loading import load_base, load_processor
from hf_frameseg.sharing.model_card import model_card
from hf_frameseg.sharing.model_folder import ADAPTER_CONFIG_NAME
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
from hf_frameseg.training.checkpoints import (
    STATE_NAME,
    holds_adapter,
    is_complete,
    last_whole_checkpoint,
    steps_taken,
    weights_problem,
    what_is_missing,
)
from hf_frameseg.training.evaluation import MomentRetrievalMetrics, shuffle_queries, with_blank_frames, write_submission
from hf_frameseg.training.recipes import RecipeParser
from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer
from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.settings import FrameSettings
from hf_frameseg.visualization import comparison_figure, qualitative_figure, save_figure, training_curves_figure

RECIPES = Path(__file__).parent / "recipes"
PAPER_ROW, WHOLE_VIDEO, BASE_ROW = "model, windows by runs", "whole video", "base without fine-tuning"
RESUME = "--resume_from_checkpoint true"
TERMINATED, INTERRUPTED = 128 + 15, 128 + 2  # the exit status of a process that a SIGTERM ended, or Ctrl-C


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

    def __post_init__(self) -> None:
        """Check what PEFT looks at only when the videos are read."""
        if self.lora_r < 0 or self.lora_alpha < 1 or not 0 <= self.lora_dropout < 1:
            raise ValueError(
                "expected lora_r of at least 0, lora_alpha of at least 1 and lora_dropout from 0 to below 1, got "
                f"{self.lora_r}, {self.lora_alpha} and {self.lora_dropout}"
            )
        if not re.fullmatch(r"true|gaussian|orthogonal|olora|pissa|pissa_niter_[1-9]\d*", self.lora_init):
            raise ValueError(
                "expected lora_init to be true, gaussian, orthogonal, olora, pissa or pissa_niter_N, got "
                f"{self.lora_init!r}"
            )


@dataclass
class DataArguments(optional_arguments(FrameSettings, "default: the base's, else {default}")):
    """Which data, and how a row becomes a question with an answer."""

    data_dir: str = field(metadata={"help": "Folder with highlight_{train,val,test}_release.jsonl and videos/."})
    eval_split: str = field(default="val", metadata={"help": "Split that is scored: val or test."})
    frame_format: str = field(default="jpeg", metadata={"help": "Cache frames as jpeg, or raw (small frames only)."})
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

    def __post_init__(self) -> None:
        """Check what nobody else does."""
        if self.eval_split not in ("val", "test"):
            raise ValueError(f"expected eval_split to be val or test, got {self.eval_split!r}")
        if self.num_proc is not None and self.num_proc < 1:
            raise ValueError(f"expected num_proc of at least 1, got {self.num_proc}")


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

    def __post_init__(self) -> None:
        """Check the number."""
        if self.num_figures < 0:
            raise ValueError(f"expected num_figures of at least 0, got {self.num_figures}")


Arguments = tuple[ModelArguments, DataArguments, RunArguments, SegmentationSeq2SeqTrainingArguments]


# 1. Arguments: recipe below command line ------------------------------------------------------------------------------


def parse(argv: list[str] | None) -> Arguments:
    """Parse the command line over the values of the recipe."""
    parser = RecipeParser(
        (ModelArguments, DataArguments, RunArguments, SegmentationSeq2SeqTrainingArguments),
        RECIPES,
        prog="run_qvh.py",
    )
    parser.set_defaults(do_train=True, do_eval=True)
    model, data, run, training = parser.parse(argv)
    check_training(training)
    check_launch(training)
    return model, data, run, training


def check_training(args: SegmentationSeq2SeqTrainingArguments) -> None:
    """Refuse what would end the run after the training, or be ignored."""
    if args.do_predict:
        raise ValueError("--do_predict is not used here: --do_eval decodes, scores and writes --eval_split")
    if not args.do_train and not args.do_eval:
        raise ValueError("--do_train false and --do_eval false leave nothing to do")
    if args.do_eval and (not args.predict_with_generate or args.prediction_loss_only):
        raise ValueError(
            "scores need decoded masks: leave --predict_with_generate true and --prediction_loss_only false, or pass "
            "--do_eval false"
        )
    if not args.eval_do_concat_batches:
        raise ValueError("--eval_do_concat_batches false is not supported: the scores are of whole splits")
    trackers = args.report_to if isinstance(args.report_to, list) else [args.report_to]
    get_reporting_integration_callbacks(trackers)  # refuses unknown names
    if missing := [name for name in trackers if name not in (*get_available_reporting_integrations(), "flyte")]:
        raise ValueError(f"--report_to {missing[0]} needs a package that is not installed: pip install {missing[0]}")
    known = ["loss", *(f"loss_{name}" for name in ("lm", *LOSSES)), *HEADLINE_COLUMNS]
    best = args.metric_for_best_model
    if best is not None and best.removeprefix("eval_") not in known:
        raise ValueError(f"expected metric_for_best_model to be one of {', '.join(known)}, got {best!r}")


def check_launch(args: SegmentationSeq2SeqTrainingArguments) -> None:
    """Refuse launches of which accelerate 1.15 makes something else without a word."""
    if int(os.environ.get("WORLD_SIZE", "1")) != args.world_size:
        # accelerate can start processes that do not know of each other; each would then train alone, in silence
        raise ValueError(
            "the launched processes are not joined: on CPU pass --use_cpu true (see examples/accelerate_cpu2.yaml)"
        )
    by_fsdp = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    if args.use_cpu and args.deepspeed_plugin is not None:
        raise ValueError("DeepSpeed does not run with --use_cpu: leave out --use_deepspeed, or train on GPUs")
    if args.use_cpu and by_fsdp:
        raise ValueError("FSDP does not run with --use_cpu: leave out --fsdp (or --use_fsdp), or train on GPUs")
    if not args.do_train and (by_fsdp or args.deepspeed_plugin is not None):
        raise ValueError("--do_train false runs without DeepSpeed and FSDP: launch it without them")


# 2. Model -------------------------------------------------------------------------------------------------------------


def load_model(args: ModelArguments, dtype: torch.dtype) -> PreTrainedModel:
    """Load the base and freeze what shall not learn."""
    name = args.model_name_or_path or TINY_BASE
    model = load_base(name, dtype=dtype, attn_implementation=args.attn_implementation)
    if args.freeze_vision:
        vision_tower(model).requires_grad_(False)
    return model


def vision_tower(model: PreTrainedModel) -> torch.nn.Module:
    """Return what reads the pictures."""
    tower = getattr(model.model, "vision_tower", None) or getattr(model.model, "visual", None)
    if tower is None:
        raise ValueError(f"{type(model).__name__} has no vision_tower or visual to freeze; use --freeze_vision false.")
    return tower


def check_model(args: ModelArguments) -> None:
    """Look for what the arguments name in the model's outline, which has no weights."""
    name = args.model_name_or_path or TINY_BASE
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        raise ValueError(f"no model {name}: there is no such folder, and the Hub gives none ({error})") from error
    with torch.device("meta"):
        outline = AutoModelForImageTextToText.from_config(config, attn_implementation=args.attn_implementation)
    if args.freeze_vision:
        vision_tower(outline)
    lora_config(args, outline)


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
    if not any(name.startswith(prefix) for name in linears):
        raise ValueError(f"{type(model).__name__} has no linear layers in {prefix[:-1]} for LoRA; use --lora_r 0.")
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
    values = {
        **given(data, FrameSettings),
        "prompt": data.prompt,
        "label_rule": data.label_rule,
        "readout": training.readout,
        "num_beams": training.generation_num_beams,
    }
    return base.changed(**{name: value for name, value in values.items() if value is not None})


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
    except (ValueError, OSError, ImportError, VideoReadError) as error:
        line = f"run_qvh.py: error: {printable(' '.join(str(error).split()))}"
        raise SystemExit(line if os.environ.get("RANK", "0") == "0" else 1) from error


@contextmanager
def naming_what_is_kept(trainer: SegmentationSeq2SeqTrainer, saved: Path | None = None) -> Iterator[None]:
    """Say, when a run breaks off, what it leaves behind and how to go on."""
    try:
        yield
    except SystemExit:
        raise  # it has said why
    except BaseException:
        checkpoint, _ = last_whole_checkpoint(trainer.args.output_dir, trainer.args.world_size)
        if saved is not None:
            say(trainer.args, f"broken off; the trained model is in {saved}")
        elif checkpoint is not None:
            say(trainer.args, f"broken off; go on from {checkpoint} with the same command and {RESUME}")
        else:
            say(trainer.args, "broken off before the first checkpoint")
        raise


def end_processes() -> None:
    """Leave together: threads of the process group that outlive the interpreter abort it, now and then."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


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
    with decoding_alone(trainer):
        return metrics.predictions(*trainer.predict(rows).predictions)


@contextmanager
def decoding_alone(trainer: SegmentationSeq2SeqTrainer) -> Iterator[None]:
    """Leave the scoring out of `predict`: what is decoded shall be there even if it cannot be scored."""
    scoring, trainer.compute_metrics = trainer.compute_metrics, None
    try:
        yield
    finally:
        trainer.compute_metrics = scoring


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
    decoded: dict[str, list[FramePrediction]], metrics: MomentRetrievalMetrics, task: FrameSegmentationConfig
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
            "readout": None if name == WHOLE_VIDEO else task.readout,
            "num_beams": None if name == WHOLE_VIDEO else task.num_beams,
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


# 5. Going on with an earlier run --------------------------------------------------------------------------------------


def find_checkpoint(model: ModelArguments, args: SegmentationSeq2SeqTrainingArguments) -> Path | None:
    """Return the checkpoint to go on from, or to score; None for a start from the beginning."""
    wish = str(args.resume_from_checkpoint or False)
    last, skipped = last_whole_checkpoint(args.output_dir, args.world_size)
    if wish.lower() in ("false", "no", "0"):
        if args.do_train and last is not None:  # two trainings in one folder cannot be told apart later
            raise ValueError(
                f"{last} is of an earlier training: go on with it ({RESUME}), delete the checkpoints, or choose "
                "another --output_dir"
            )
        return None
    if wish.lower() in ("true", "yes", "1"):
        for path, reason in skipped.items():
            say(args, f"skipped {path}, which is not whole: {reason}")
        if last is None and not args.do_train:
            raise ValueError(f"{args.output_dir} holds no whole checkpoint to score")
        if last is None:
            say(args, "there is no checkpoint to go on from: starting from the beginning")
        checkpoint = last
    else:
        checkpoint = Path(wish)
        if problem := what_is_missing(checkpoint, args.world_size) if args.do_train else weights_problem(checkpoint):
            hint = " (--do_train false scores it as it is)" if args.do_train and not weights_problem(checkpoint) else ""
            raise ValueError(f"{checkpoint} is no checkpoint to go on from: {problem}{hint}")
    if checkpoint is not None:
        check_same_model(checkpoint, model)
    return checkpoint


def check_same_model(checkpoint: Path, args: ModelArguments) -> None:
    """Refuse a checkpoint of another adapter, or of a model without one: transformers passes over what does not fit."""
    if holds_adapter(checkpoint) != (args.lora_r > 0):
        kind = "an adapter" if holds_adapter(checkpoint) else "a whole model"
        raise ValueError(f"{checkpoint} holds {kind}, which does not go with --lora_r {args.lora_r}")
    if not holds_adapter(checkpoint):
        return
    config = json.loads((checkpoint / ADAPTER_CONFIG_NAME).read_text(encoding="utf-8"))
    wanted = {
        "r": args.lora_r,
        "lora_alpha": args.lora_alpha,
        "use_rslora": args.lora_rslora,
        "modules_to_save": args.lora_modules_to_save or None,
    }
    if odd := [
        f"{name} {config.get(name)} and not {value}" for name, value in wanted.items() if config.get(name) != value
    ]:
        raise ValueError(f"{checkpoint} is of an adapter with {', '.join(odd)}: use the arguments it was trained with")
    if str(config.get("init_lora_weights")).startswith(BASE_CHANGING_INITS):
        start = start_of(checkpoint)
        if start is None or not is_complete(start):
            raise ValueError(f"cannot resume {checkpoint}: its PiSSA decomposition ({SNAPSHOT_NAME}) is not beside it")


def keep_start(trainer: SegmentationSeq2SeqTrainer, checkpoint: Path | None) -> dict[str, torch.Tensor] | None:
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
    return snapshot_adapter(model, output / SNAPSHOT_NAME if trainer.is_world_process_zero() else None)


def start_of(checkpoint: Path | None) -> Path | None:
    """Return the file that keeps the start of the adapter of a checkpoint, if there is one."""
    path = checkpoint.parent / SNAPSHOT_NAME if checkpoint else None
    return path if path is not None and path.is_file() else None


def load_weights(trainer: SegmentationSeq2SeqTrainer, checkpoint: Path) -> None:
    """Take the weights and the log of a checkpoint, without training further."""
    trainer._load_from_checkpoint(str(checkpoint))
    if (checkpoint / STATE_NAME).is_file():
        trainer.state = TrainerState.load_from_json(str(checkpoint / STATE_NAME))


# 6. Files -------------------------------------------------------------------------------------------------------------


def check_place(output: Path) -> None:
    """Look whether the results can be written where they shall go."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=output):
        pass
    model, known = output / "model", (CONFIG_NAME, ADAPTER_CONFIG_NAME)
    if model.exists() and any(model.iterdir()) and not any((model / name).is_file() for name in known):
        raise FileExistsError(f"{model} holds something that is no model of this package: choose another --output_dir")


def remove_results(output: Path) -> None:
    """Remove the scores and pictures of an earlier model, which must not lie beside the new one."""
    for path in [output / "metrics.json", *output.glob("hl_*.jsonl")]:
        path.unlink(missing_ok=True)
    for name in ("frames", "figures"):
        shutil.rmtree(output / name, ignore_errors=True)


def card_of(args: Arguments) -> dict[str, Any]:
    """Return what the model card says about the training: no paths of this machine."""
    model, data, run, training = args
    settings = {"recipe": Path(run.recipe).stem, "decoder": run.decoder, **asdict(model), **asdict(data)}
    for name in ("model_name_or_path", "data_dir", "video_dir", "allow_links", "cache_dir", "num_proc", "on_error"):
        del settings[name]
    names = "loss_weights_start loss_weights loss_warmup_steps loss_options num_train_epochs max_steps learning_rate"
    names += " lr_scheduler_type warmup_steps weight_decay per_device_train_batch_size gradient_accumulation_steps"
    settings |= {name: getattr(training, name) for name in f"{names} world_size bf16 seed".split()}
    synthetic = (Path(data.data_dir) / "synthetic.json").is_file()
    return {"recipe": settings, "dataset": "synthetic" if synthetic else "QVHighlights"}


def save_model(
    trainer: SegmentationSeq2SeqTrainer,
    folder: Path,
    task: FrameSegmentationConfig,
    initial: dict[str, torch.Tensor] | None,
    card: dict[str, Any],
) -> str | None:
    """Save the model, or its adapter as an ordinary LoRA for the original base; return why an adapter was refused."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    task = replace(task, autocast=trainer.autocast)  # asked in the precision in which it was scored
    if hasattr(model, "peft_config"):
        if trainer.is_world_process_zero():
            try:
                save_adapter(model, trainer.processing_class, task, folder, initial_adapter=initial, **card)
            except ValueError as error:  # it is kept under another name, and the scores are worth having
                return str(error)
        return None
    partial = folder.with_name(f".{folder.name}.partial")
    if trainer.is_world_process_zero():
        shutil.rmtree(partial, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(partial))
    if trainer.is_world_process_zero():
        trainer.processing_class.save_pretrained(partial)
        task.save(partial)
        replace_folder(partial, folder)
    return None


def write_scores_into_card(folder: Path, results: dict[str, dict[str, Any]], card: dict[str, Any]) -> None:
    """Add the scores to the card of the adapter, which was saved before there were any."""
    metrics = {name: headline(result) for name, result in results.items()}
    atomic_write(folder / CARD_NAME, model_card(FrameSegmentationConfig.load(folder), metrics=metrics, **card))


def write_figures(
    folder: Path, rows: Dataset, predictions: list[FramePrediction], results: dict, history: list[dict], count: int
) -> None:
    """Draw the training curves, the comparison and `count` predictions spread over the split."""
    folder.mkdir(parents=True, exist_ok=True)
    if any("loss_lm" in entry for entry in history):
        save_figure(training_curves_figure(history), folder / "training_curves.png")
    headlines = {name: headline(result) for name, result in results.items()}
    save_figure(comparison_figure(headlines, list(HEADLINE_COLUMNS)), folder / "comparison.png")
    for index in np.linspace(0, len(rows) - 1, num=min(count, len(rows))).astype(int):
        # What the model marked; a picture of ten candidates for a metric says nothing.
        sample, prediction = Sample.of(rows[int(index)]), redecode(predictions[index], PAPER_PROPOSALS)
        figure = qualitative_figure(
            prediction,
            frames=sample.pictures(),  # the middle variants
            relevant_moments=sample.windows,
            clip_saliency=sample.clip_targets(),
        )
        save_figure(figure, folder / picture_name(sample.qid))


def picture_name(qid: int | str) -> str:
    """Return the file of a query's picture; some data sets number their queries with texts."""
    return f"prediction_{re.sub(r'[^A-Za-z0-9_-]', '_', str(qid))[:100]}.png"


def write_predictions(folder: Path, decoded: dict[str, list[FramePrediction]], split: str) -> None:
    """Write the official submission file, and of every row what `frameseg rescore` reads."""
    write_submission(folder / f"hl_{split}_submission.jsonl", decoded["model"])
    write_frames_file(folder / f"hl_{split}_frames.jsonl", decoded["model"])
    names = {f"hl_{split}_{name.replace(' ', '_')}.jsonl": name for name in decoded if name != "model"}
    for name in names:
        (folder / "frames").mkdir(exist_ok=True)
        write_frames_file(folder / "frames" / name, decoded[names[name]])
    for old in (folder / "frames").glob(f"hl_{split}_*.jsonl"):
        if old.name not in names:
            old.unlink()  # of an earlier run with more rows


def write_metrics(folder: Path, results: dict[str, dict[str, Any]]) -> None:
    """Write `metrics.json`, one object per row of the table."""
    # The official dictionary of each row, with its `brief` numbers also on top, where a reader looks for them.
    rows = {name: {**result["brief"], **result} for name, result in results.items()}
    atomic_write(folder / "metrics.json", json.dumps(rows, indent=2) + "\n")


# 7. All together ------------------------------------------------------------------------------------------------------


def read_splits(
    data: DataArguments, task: FrameSegmentationConfig, training: SegmentationSeq2SeqTrainingArguments
) -> tuple[Dataset, Dataset]:
    """Return the training and the evaluation split; the main process decodes the videos, the others wait for it."""
    options = {"frames": task.frames, "frame_format": data.frame_format, "cache_dir": data.cache_dir}
    options |= {"on_error": data.on_error, "video_dir": data.video_dir, "allow_links": data.allow_links}
    say(training, f"reading videos of {data.data_dir} (decoded once, then cached)")
    splits = ("train", data.eval_split)
    with training.main_process_first(desc="reading videos"):
        for split in splits:  # both, before hours go into the videos of the first
            builder = QVHighlights(data_dir=data.data_dir, splits=(split,), **options)
            if not builder._is_complete():
                builder.plan()
                builder.refuse_missing()
        train, evaluation = (
            load_rows("qvhighlights", data.data_dir, split, num_proc=data.num_proc, **options) for split in splits
        )
        if data.on_error == "blank":  # a query whose video is missing counts in a score, but teaches nothing
            train = train.filter(lambda missing: not missing, input_columns="frames_missing")
    if training.do_train and len(train) == 0:
        raise ValueError(f"there is nothing to learn from: no training video of {data.data_dir} can be read")
    return train, evaluation


def build_collator(
    model: ModelArguments, data: DataArguments, task: FrameSegmentationConfig, seed: int
) -> FrameSegmentationCollator:
    """Return what makes batches of rows; it checks prompt, label rule and tokenizer."""
    processor = load_processor(model.model_name_or_path or TINY_BASE, num_frames=task.frames.num_frames)
    return FrameSegmentationCollator(
        processor=processor,
        labels=BinaryLabels.from_tokenizer(processor.tokenizer),
        prompt=task.prompt,
        num_frames=task.frames.num_frames,
        label_rule=task.label_rule,
        graded_targets=data.graded_targets,
        prefix_corruption=data.prefix_corruption,
        seed=seed,
    )


def build_trainer(
    model_args: ModelArguments,
    training: SegmentationSeq2SeqTrainingArguments,
    collator: FrameSegmentationCollator,
    rows: tuple[Dataset, Dataset],
    metrics: MomentRetrievalMetrics,
) -> SegmentationSeq2SeqTrainer:
    """Put model, collator and trainer together."""
    set_seed(training.seed)  # LoRA and PiSSA draw their first weights; a resumed run must draw the same
    model = load_model(model_args, torch.bfloat16 if training.bf16 else torch.float32)
    trainer = SegmentationSeq2SeqTrainer(
        model=model,
        args=training,
        data_collator=collator,
        train_dataset=rows[0],
        eval_dataset=rows[1],
        processing_class=collator.processor,
        peft_config=lora_config(model_args, model),
        compute_metrics=metrics,
    )
    if not training.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(LossInBar)
    return trainer


@dataclass
class Split:
    """What is scored, and how; `shuffled` has the queries in the wrong places and is None without controls."""

    name: str
    rows: Dataset
    metrics: MomentRetrievalMetrics
    shuffled: Dataset | None
    base: str = "never"  # when the base is decoded, see `when_base_is_decoded`
    initial: dict[str, torch.Tensor] | None = None  # start of a PiSSA adapter


def when_base_is_decoded(trainer: SegmentationSeq2SeqTrainer, checkpoint: Path | None) -> str:
    """Return "after" the training, with the adapter off; "before" it, for a model without one; or "never"."""
    if not trainer.args.do_train and checkpoint is None:
        return "never"  # the base is what is scored
    model, plugin = trainer.accelerator.unwrap_model(trainer.model), trainer.args.deepspeed_plugin
    zero_stage = None if plugin is None else plugin.zero_stage
    if hasattr(model, "peft_config"):
        in_pieces = zero_stage == 3 or trainer.is_fsdp_enabled
        when = "never" if in_pieces and changes_base(lora_config_of(model)) else "after"
    else:
        # DeepSpeed decodes with the engine of a training, which there is not yet, or at stage 3.
        when = "before" if zero_stage in (None, 3) else "never"
    if when == "never":
        say(trainer.args, f"left out: {BASE_ROW}, which cannot be decoded in this launch")
    return when


def train(trainer: SegmentationSeq2SeqTrainer, checkpoint: Path | None) -> None:
    """Train, from a checkpoint on if there is one; without training take its weights."""
    args = trainer.args
    if not args.do_train:
        if checkpoint is not None:
            load_weights(trainer, checkpoint)
        return
    say(args, f"training on {len(trainer.train_dataset)} queries, {args.world_size} process(es)")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    state = trainer.state
    if trainer.stopped_by_sigterm and state.global_step < state.max_steps:
        say(args, f"terminated after step {state.global_step} of {state.max_steps}; go on with {RESUME}")
        end_processes()
        raise SystemExit(TERMINATED)
    if trainer.is_world_process_zero() and state.global_step > (0 if checkpoint is None else steps_taken(checkpoint)):
        remove_results(Path(args.output_dir))


def evaluate(
    trainer: SegmentationSeq2SeqTrainer, split: Split, base: list[FramePrediction] | None, task: FrameSegmentationConfig
) -> tuple[dict[str, list[FramePrediction]], dict[str, dict[str, Any]]]:
    """Decode and score the model, then its controls; what is there is written before what may fail."""
    decoded = {"model": decode(trainer, split.rows, split.metrics)}
    results = publish(trainer, split, decoded | ({} if base is None else {BASE_ROW: base}), task)
    if split.shuffled is None:
        return decoded, results
    if split.base == "after":
        with adapter_off(trainer.accelerator.unwrap_model(trainer.model), split.initial):
            base = decode(trainer, split.rows, split.metrics, BASE_ROW)
    if base is not None:
        decoded[BASE_ROW] = base
    decoded |= decode_controls(trainer, split.rows, split.shuffled, split.metrics)
    return decoded, publish(trainer, split, decoded, task)


def publish(
    trainer: SegmentationSeq2SeqTrainer,
    split: Split,
    decoded: dict[str, list[FramePrediction]],
    task: FrameSegmentationConfig,
) -> dict[str, dict[str, Any]]:
    """Write what was decoded, score it, and write that."""
    output = Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        write_predictions(output, decoded, split.name)
    results = score_rows(decoded, split.metrics, task)
    if trainer.is_world_process_zero():
        write_metrics(output, results)
    return results


def main(argv: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Train, save, score, draw; return the official dictionary of each row of the table."""
    with one_line_errors():
        args = model_args, data_args, run_args, training_args = parse(argv)
        output = Path(training_args.output_dir)
        check_place(output)
        task = task_config(model_args, data_args, training_args)
        proposals = ProposalSettings(run_args.decoder)
        checkpoint = find_checkpoint(model_args, training_args)
        check_model(model_args)
        collator = build_collator(model_args, data_args, task, training_args.seed)
        train_rows, eval_rows = read_splits(data_args, task, training_args)
        metrics = MomentRetrievalMetrics(eval_rows, proposals)
        controls = run_args.controls and training_args.do_eval
        shuffled = shuffle_queries(eval_rows, training_args.seed) if controls else None
        split = Split(data_args.eval_split, eval_rows, metrics, shuffled)
        # A resumed PiSSA adapter goes back to the decomposition of its first run: no new one, which would be another.
        start_args = replace(model_args, lora_init="true") if start_of(checkpoint) else model_args
        trainer = build_trainer(start_args, training_args, collator, (train_rows, eval_rows), metrics)
        initial = keep_start(trainer, checkpoint)

        if controls:
            split.base, split.initial = when_base_is_decoded(trainer, checkpoint), initial

    before = decode(trainer, eval_rows, metrics, BASE_ROW) if split.base == "before" else None
    folder, refused, saved = output / "model", None, training_args.do_train or checkpoint is not None
    with naming_what_is_kept(trainer):
        train(trainer, checkpoint)
        if saved:
            refused = save_model(trainer, folder, task, initial, card_of(args))
    if trainer.stopped_by_sigterm:
        end_processes()
        raise SystemExit(TERMINATED)
    results: dict[str, dict[str, Any]] = {}
    if training_args.do_eval:
        with naming_what_is_kept(trainer, folder if saved and refused is None else None):
            decoded, results = evaluate(trainer, split, before, task)
            if trainer.is_world_process_zero():
                print(
                    f"\n{split.name}: {len(eval_rows)} queries, {task.frames.num_frames} frames, {task.num_beams} beams"
                )
                print(f"windows by {run_args.decoder} where the row does not say otherwise\n")
                print(table(results), flush=True)
                if saved and refused is None and model_args.lora_r:
                    write_scores_into_card(folder, results, card_of(args))
                history = trainer.state.log_history
                write_figures(output / "figures", eval_rows, decoded["model"], results, history, run_args.num_figures)
    say(training_args, f"model, metrics.json, submission, frames and figures are in {output}")
    end_processes()
    if refused is not None:
        raise SystemExit(f"run_qvh.py: error: {printable(refused)}")
    return results


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
