"""Fine-tune a multimodal LLM for moment retrieval and highlight detection, and score it next to its controls.

The demo's synthetic data and the real QVHighlights run through the same steps:

    accelerate launch examples/run_qvh.py --recipe default --data_dir DATA --output_dir runs/mine \
        --model_name_or_path Salesforce/xgen-mm-phi3-mini-instruct-interleave-r-v1.5

`--recipe` names a file in `examples/recipes/` (or any YAML file); the command line overrides its values. What can be
found wrong is found before videos are read. The model is saved as soon as it is trained, before anything that can fail.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForImageTextToText, set_seed

import hf_frameseg.models.xgenmm  # noqa: F401  (registers xGen-MM with the Auto classes)
from datasets import Dataset
from hf_frameseg._options import given, optional_arguments
from hf_frameseg._text import printable
from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.datasets.load import check_videos, load_rows
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.prepared.settings import StorageSettings
from hf_frameseg.proposals.settings import ProposalSettings
from hf_frameseg.sample import rows_with_frames
from hf_frameseg.sharing.config import TINY_BASE, FrameSegmentationConfig
from hf_frameseg.sharing.loading import load_base, load_processor
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
from hf_frameseg.training.checkpoints import steps_taken
from hf_frameseg.training.checks import check_best_metric, check_launch, check_trackers
from hf_frameseg.training.controls import EvaluationWithControls, results_table
from hf_frameseg.training.evaluation import MomentRetrievalMetrics
from hf_frameseg.training.recipes import RecipeParser
from hf_frameseg.training.results import ResultsFolder, add_scores_to_card, save_trained
from hf_frameseg.training.resume import RESUME, find_checkpoint, keep_start, load_weights, start_of
from hf_frameseg.training.terminal import (
    INTERRUPTED,
    TERMINATED,
    leave_together,
    one_line_errors,
    saying_what_is_kept,
    show_loss_in_bar,
)
from hf_frameseg.training.trainable import language_model_lora, vision_tower
from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer
from hf_frameseg.video.settings import OF_THIS_MACHINE, FrameSettings

RECIPES = Path(__file__).parent / "recipes"


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


@dataclass(kw_only=True)
class DataArguments(optional_arguments(FrameSettings, "default: the base's, else {default}"), StorageSettings):
    """Which data, and how a row becomes a question with an answer."""

    data_dir: str = field(metadata={"help": "Folder with highlight_{train,val,test}_release.jsonl and videos/."})
    eval_split: str = field(default="val", metadata={"help": "Split that is scored: val or test."})
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
    groups = (ModelArguments, DataArguments, RunArguments, SegmentationSeq2SeqTrainingArguments)
    parser = RecipeParser(groups, RECIPES, prog="run_qvh.py")
    parser.set_defaults(do_train=True, do_eval=True)
    model, data, run, training = parser.parse(argv)
    check_training(training)
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
    args.objectives()  # refuses names that nobody knows
    check_trackers(args)
    check_best_metric(args)
    check_launch(args)


# 2. Model -------------------------------------------------------------------------------------------------------------


def check_model(args: ModelArguments) -> LoraConfig | None:
    """Look for what the arguments name in the model's outline, which has no weights; return the adapter, if any."""
    name = args.model_name_or_path or TINY_BASE
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        raise ValueError(f"no model {name}: there is no such folder, and the Hub gives none ({error})") from error
    with torch.device("meta"):
        outline = AutoModelForImageTextToText.from_config(config, attn_implementation=args.attn_implementation)
    if args.freeze_vision:
        vision_tower(outline)
    if args.lora_r == 0:
        return None
    return language_model_lora(
        outline,
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        use_rslora=args.lora_rslora,
        init_lora_weights=True if args.lora_init == "true" else args.lora_init,
        modules_to_save=args.lora_modules_to_save,
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


# 3. Data and trainer --------------------------------------------------------------------------------------------------


def say(args: SegmentationSeq2SeqTrainingArguments, text: str) -> None:
    """Print a line once, not once per process."""
    if args.process_index == 0:
        print(f"[run_qvh] {text}", flush=True)


def read_splits(
    data: DataArguments, task: FrameSegmentationConfig, training: SegmentationSeq2SeqTrainingArguments
) -> tuple[Dataset, Dataset]:
    """Return the training and the evaluation split; the main process decodes the videos, the others wait for it."""
    options = {"frames": task.frames, "cache_dir": data.cache_dir, **given(data, StorageSettings)}
    say(training, f"reading videos of {data.data_dir} (decoded once, then cached)")
    splits = ("train", data.eval_split)
    with training.main_process_first(desc="reading videos"):
        check_videos("qvhighlights", data.data_dir, splits, **options)
        train, evaluation = (
            load_rows("qvhighlights", data.data_dir, split, num_proc=data.num_proc, **options) for split in splits
        )
        train = rows_with_frames(train)  # with --on_error blank
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
    peft_config: LoraConfig | None,
) -> SegmentationSeq2SeqTrainer:
    """Load the base, freeze what shall not learn, and put model, collator and trainer together."""
    set_seed(training.seed)  # LoRA and PiSSA draw their first weights; a resumed run must draw the same
    name, dtype = model_args.model_name_or_path or TINY_BASE, torch.bfloat16 if training.bf16 else torch.float32
    model = load_base(name, dtype=dtype, attn_implementation=model_args.attn_implementation)
    if model_args.freeze_vision:
        vision_tower(model).requires_grad_(False)
    trainer = SegmentationSeq2SeqTrainer(
        model=model,
        args=training,
        data_collator=collator,
        train_dataset=rows[0],
        eval_dataset=rows[1],
        processing_class=collator.processor,
        peft_config=peft_config,
        compute_metrics=metrics,
    )
    show_loss_in_bar(trainer)
    return trainer


# 4. All together ------------------------------------------------------------------------------------------------------


def card_of(args: Arguments) -> dict[str, Any]:
    """Return what the model card says about the training: no paths of this machine."""
    model, data, run, training = args
    settings = {"recipe": Path(run.recipe).stem, "decoder": run.decoder, **asdict(model), **asdict(data)}
    local = ("model_name_or_path", "data_dir", "video_dir", "allow_links", "cache_dir", "num_proc", "on_error")
    for name in (*local, *OF_THIS_MACHINE):
        del settings[name]
    names = "loss_weights_start loss_weights loss_warmup_steps loss_options num_train_epochs max_steps learning_rate"
    names += " lr_scheduler_type warmup_steps weight_decay per_device_train_batch_size gradient_accumulation_steps"
    settings |= {name: getattr(training, name) for name in f"{names} world_size bf16 seed".split()}
    synthetic = (Path(data.data_dir) / "synthetic.json").is_file()
    return {"recipe": settings, "dataset": "synthetic" if synthetic else "QVHighlights"}


def train(trainer: SegmentationSeq2SeqTrainer, checkpoint: Path | None, folder: ResultsFolder) -> None:
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
        leave_together()
        raise SystemExit(TERMINATED)
    if trainer.is_world_process_zero() and state.global_step > (0 if checkpoint is None else steps_taken(checkpoint)):
        folder.clear()


def score(evaluation: EvaluationWithControls, args: Arguments, saved: Path | None) -> dict[str, dict[str, Any]]:
    """Score the model next to its controls, print the table and draw the figures."""
    model, _, run, _ = args
    trainer, folder = evaluation.trainer, evaluation.folder
    with saying_what_is_kept(trainer, evaluation.say, saved):
        results = evaluation.run()
        if trainer.is_world_process_zero():
            count, how = len(evaluation.rows), results["model"]["frameseg"]
            print(f"\n{folder.split}: {count} queries, {how['num_frames']} frames, {how['num_beams']} beams")
            print(f"windows by {run.decoder} where the row does not say otherwise\n")
            print(results_table(results), flush=True)
            if saved is not None and model.lora_r:
                add_scores_to_card(saved, results, **card_of(args))
            history = trainer.state.log_history
            folder.write_figures(evaluation.rows, evaluation.marked, results, history, run.num_figures)
    return results


def main(argv: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Train, save, score, draw; return the official dictionary of each row of the table."""
    with one_line_errors("run_qvh.py"):
        args = model_args, data_args, run_args, training_args = parse(argv)
        tell = partial(say, training_args)
        folder = ResultsFolder(training_args.output_dir, data_args.eval_split)
        folder.check()
        task = task_config(model_args, data_args, training_args)
        proposals = ProposalSettings(run_args.decoder)
        peft_config = check_model(model_args)
        checkpoint = find_checkpoint(training_args, peft_config, tell)
        collator = build_collator(model_args, data_args, task, training_args.seed)
        rows = read_splits(data_args, task, training_args)
        metrics = MomentRetrievalMetrics(rows[1], proposals)
        if peft_config is not None and start_of(checkpoint):
            # a resumed PiSSA adapter goes back to the decomposition of its first run: a new one would be another
            peft_config.init_lora_weights = True
        trainer = build_trainer(model_args, training_args, collator, rows, metrics, peft_config)
        initial = keep_start(trainer, checkpoint)
        saved = training_args.do_train or checkpoint is not None
        evaluation = None
        if training_args.do_eval:
            options = {"controls": run_args.controls, "trained": saved, "initial_adapter": initial}
            evaluation = EvaluationWithControls(trainer, **options, folder=folder, say=tell)

    if evaluation is not None:
        evaluation.decode_base_first()
    refused = None
    with saying_what_is_kept(trainer, tell):
        train(trainer, checkpoint, folder)
        if saved:
            refused = save_trained(trainer, folder.model, task, initial_adapter=initial, **card_of(args))
    if trainer.stopped_by_sigterm:
        leave_together()
        raise SystemExit(TERMINATED)
    results: dict[str, dict[str, Any]] = {}
    if evaluation is not None:
        results = score(evaluation, args, folder.model if saved and refused is None else None)
    tell(f"model, metrics.json, submission, frames and figures are in {folder.path}")
    leave_together()
    if refused is not None:
        raise SystemExit(f"run_qvh.py: error: {printable(refused)}")
    return results


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
