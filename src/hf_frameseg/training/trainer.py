"""`SegmentationSeq2SeqTrainer`: the language model loss and the frame segmentation losses in one step."""

from __future__ import annotations

import inspect
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Seq2SeqTrainer, TrainerCallback
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from hf_frameseg.batches.encoding import TARGETS
from hf_frameseg.batches.row_numbers import ROW_NUMBER
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.objectives import Objective, weighted_sum
from hf_frameseg.objectives.heads import attach_heads
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
from hf_frameseg.training.checkpoints import StopAtSigterm, record_processes
from hf_frameseg.training.checks import check_arguments, check_processes
from hf_frameseg.training.evaluation_loop import EvaluationLoop
from hf_frameseg.training.loss_parts import LossParts
from hf_frameseg.training.row_loaders import RowLoaders

if TYPE_CHECKING:
    from collections.abc import Callable

    from peft import PeftConfig
    from transformers import TrainerControl, TrainerState, TrainingArguments


class SegmentationSeq2SeqTrainer(LossParts, EvaluationLoop, RowLoaders, Seq2SeqTrainer):
    """Train a multimodal LLM to answer with one digit per frame, on token and on frame level at once.

    The loss of a sample is `w_lm LM + w_bce BCE + w_tv Tversky + w_gd Dice` (paper, section III-C), and whatever other
    objectives are weighted (`objectives.OBJECTIVES`, or given here). Every part is a mean within the sample, and the
    loss of an optimiser step is the mean over *all* its samples, over accumulated batches and processes alike: batch 8
    equals batch 2 x accumulation 4 equals 2 processes x 4.

    Evaluation decodes by `args.readout` (digits only, with `generation_num_beams`) and hands `compute_metrics`
    predictions `(mask (N, F), frame_logits (N, F, 2), qid (N,))` gathered from all processes, each query once, and as
    `label_ids` the frame targets. Vocabulary logits never leave the step.

    Args:
        model: Any transformers model that takes the collator's tensors and returns logits on the axis of `input_ids`.
        args: `SegmentationSeq2SeqTrainingArguments`.
        data_collator: `FrameSegmentationCollator` with `train=True`, or a callable with the same keys.
        eval_data_collator: The one for evaluation; default: `data_collator.for_evaluation()` where it exists.
        labels: Digit ids; default: from `processing_class`.
        objectives: Objectives of your own by name, or classes of them, which `args.loss_weights` may weigh too.
        peft_config: Wraps the model with an adapter before training.
        **kwargs: As for `transformers.Seq2SeqTrainer`.

    Raises:
        ValueError: When the labels can be had from nowhere, or the logits are not on the axis of `input_ids`.

    Paper:
        "Moment and Highlight Detection via MLLM Frame Segmentation", sections III-C and III-D.
    """

    # `training_step` says how much of the optimiser step a batch is; no model's signature shall decide it.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: nn.Module | None = None,
        args: SegmentationSeq2SeqTrainingArguments | None = None,
        data_collator: Callable[[list[dict]], dict[str, Tensor]] | None = None,
        *,
        eval_data_collator: Callable[[list[dict]], dict[str, Tensor]] | None = None,
        labels: BinaryLabels | None = None,
        objectives: Mapping[str, Objective | type[Objective]] | None = None,
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ) -> None:
        args = SegmentationSeq2SeqTrainingArguments("tmp_trainer") if args is None else args
        check_arguments(args, data_collator, kwargs)
        if peft_config is not None:
            model = None if model is None else _with_adapter(model, peft_config)
            if kwargs.get("model_init") is not None:
                kwargs["model_init"] = _with_adapters(kwargs["model_init"], peft_config)
        self._given_objectives = dict(objectives or {})
        if model is not None:
            attach_heads(model, args.objectives(self._given_objectives), args.seed)
        self.binary_labels = labels or _labels_of(data_collator, kwargs.get("processing_class"))
        if eval_data_collator is None and hasattr(data_collator, "for_evaluation"):
            eval_data_collator = data_collator.for_evaluation()
        data_collator = self._ready_collator(data_collator, args)
        self.eval_data_collator = self._ready_collator(eval_data_collator, args)
        if kwargs.get("eval_dataset") is not None:
            self._check_eval_data_collator()
        super().__init__(model=model, args=args, data_collator=data_collator, **kwargs)
        check_processes(self)
        self.add_callback(_TrainingBegins(self))
        self._stop: StopAtSigterm | None = None
        if self.args.enable_jit_checkpoint:
            self._take_over_sigterm()
        self._step: _Step | None = None
        self._train_parts: dict[str, Tensor] = {}
        self._train_rows: Tensor | None = None

    # ---- Loss --------------------------------------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Compute the loss of a batch and its gradients, as its share of the mean over all rows of the optimiser step.

        Args:
            model: The (wrapped) model.
            inputs: A batch.
            num_items_in_batch: Rows of the whole optimiser step, over accumulated batches and processes.

        Returns:
            The mean loss of the batch, weighted.
        """
        rows = _count_rows([inputs], self.args.device)
        self._step = _Step(self.current_weights, rows)
        try:
            if num_items_in_batch is not None:
                # transformers divides the batch's mean by this number, and DDP averages over the processes.
                self.current_gradient_accumulation_steps = num_items_in_batch / (rows * self.accelerator.num_processes)
            return super().training_step(model, inputs)
        finally:
            self._step = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Return the joint loss of a batch: the mean over its samples.

        An override returns such a mean too. How much of the optimiser step the batch is, over accumulated batches and
        processes, is not its business: `training_step` weighs it.

        Args:
            model: The (wrapped) model.
            inputs: A batch of the collator.
            return_outputs: Also return the parts, each (B,), unweighted.
            num_items_in_batch: Not used; always None in training.

        Returns:
            The scalar loss, or `(loss, parts)`.
        """
        parts = self.loss_parts(model, inputs)
        loss = weighted_sum(parts, self.final_weights if self._step is None else self._step.weights).mean()
        if self._step is not None:
            self._record_train_parts(parts, self._step)
        return (loss, parts) if return_outputs else loss

    @property
    def current_weights(self) -> dict[str, float]:
        """Return the weights of the loss parts at the current optimiser step."""
        return self.args.loss_schedule(max(self.state.max_steps, 1)).at(self.state.global_step)

    @property
    def final_weights(self) -> dict[str, float]:
        """Return the weights after the warm-up; evaluation uses them, so that epochs can be compared."""
        schedule = self.args.loss_schedule(max_steps=1)
        return schedule.at(schedule.warmup_steps)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        """Count the rows (not the tokens) of an optimiser step over accumulated batches and processes."""
        if not batch_samples:
            return None
        count = _count_rows(batch_samples, device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    # ---- Logging -----------------------------------------------------------------------------------------------------

    def _record_train_parts(self, parts: Mapping[str, Tensor], step: _Step) -> None:
        """Add a batch to the sums that the next log line reports, with the weights of the last batch."""
        for name, values in parts.items():
            total = values.detach().float().sum()
            total = torch.where(step.rows > 0, total, torch.zeros_like(total))
            self._train_parts[name] = self._train_parts.get(name, torch.zeros_like(total)) + total
        self._train_rows = step.rows if self._train_rows is None else self._train_rows + step.rows
        self._train_weights = step.weights

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of every loss part since the last line, over all processes, and the last step's weights."""
        if "loss" in logs and self._train_parts:
            sums = torch.stack([*self._train_parts.values(), self._train_rows.float()])
            total = self.accelerator.reduce(sums, reduction="sum").tolist()
            means = dict(zip(self._train_parts, (value / total[-1] for value in total[:-1]), strict=True))
            logs = logs | {f"loss_{name}": value for name, value in means.items()}
            logs |= {f"weight_{name}": value for name, value in self._train_weights.items()}
            self._forget_train_parts()
        super().log(logs, start_time)

    def _forget_train_parts(self) -> None:
        """Start the sums of the next log line."""
        self._train_parts, self._train_rows = {}, None

    # ---- Search ------------------------------------------------------------------------------------------------------

    def hyperparameter_search(
        self, hp_space: Any = None, compute_objective: Callable[[dict[str, float]], float] | None = None, **kwargs: Any
    ) -> Any:
        """Search for arguments; the objective is `eval_loss` unless `compute_objective` says another.

        transformers' default adds up all metrics, which are scores to be raised and losses to be lowered.

        Args:
            hp_space: As for `transformers.Trainer.hyperparameter_search`.
            compute_objective: Number to optimise, e.g. `lambda metrics: metrics["eval_mAP"]`.
            **kwargs: As there; `direction="maximize"` needs a `compute_objective`.

        Returns:
            The best run.

        Raises:
            ValueError: If the loss would be maximised.
        """
        if compute_objective is None:
            if kwargs.get("direction", "minimize") != "minimize":
                raise ValueError(
                    'direction="maximize" would raise the loss: pass compute_objective, e.g. '
                    'lambda metrics: metrics["eval_mAP"].'
                )
            compute_objective = itemgetter("eval_loss")
        return super().hyperparameter_search(hp_space, compute_objective, **kwargs)

    # ---- Checkpoints -------------------------------------------------------------------------------------------------

    def _take_over_sigterm(self) -> None:
        """Put `StopAtSigterm` in the place of transformers' callback, and the signal back to what it was."""
        theirs = self.pop_callback(JITCheckpointCallback)
        if theirs is not None and theirs.jit_manager is not None:
            signal.signal(signal.SIGTERM, theirs.jit_manager._original_sigterm_handler)
        self._stop = StopAtSigterm()
        self.add_callback(self._stop)

    @property
    def stopped_by_sigterm(self) -> bool:
        """Tell whether a SIGTERM ended the last training, on any process; only `enable_jit_checkpoint` lets it."""
        return self._stop is not None and self._stop.stopped

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Take no step when all are taken: transformers takes one more when a finished training ended in an epoch."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Begin with an empty folder: the trainer state of an earlier checkpoint must not vouch for half a new one."""
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            shutil.rmtree(folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        """Wait for all processes: the trainer state comes next, vouches for all files, and lets older ones go."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            record_processes(output_dir, self.args.world_size)


@dataclass(frozen=True)
class _Step:
    """What a batch of training has to know: the weights of the parts, and how many of its rows count."""

    weights: dict[str, float]
    rows: Tensor


class _TrainingBegins(TrainerCallback):
    """Forget the parts of another training, and tell the collator which epoch its draws belong to."""

    def __init__(self, trainer: SegmentationSeq2SeqTrainer) -> None:
        self.trainer = trainer
        self.next_epoch = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Also called when a training starts again with a smaller batch."""
        self.trainer._forget_train_parts()
        self.next_epoch = int(state.epoch or 0)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the epochs: of a stream without a length, and of one cut short, `state.epoch` is a fraction."""
        if hasattr(self.trainer.data_collator, "set_epoch"):
            self.trainer.data_collator.set_epoch(self.next_epoch)
        self.next_epoch += 1


def _count_rows(batches: Sequence[Mapping[str, Any]], device: torch.device) -> Tensor:
    """Count the rows of batches, without those that only keep a process in step."""
    counts = [
        (batch[TARGETS][ROW_NUMBER] >= 0).sum()
        if ROW_NUMBER in batch[TARGETS]
        else torch.tensor(len(batch["input_ids"]))
        for batch in batches
    ]
    return torch.stack([count.to(device) for count in counts]).sum()


def _labels_of(collator: object, processing_class: object) -> BinaryLabels:
    """Return the digit ids of the collator, else of the processor's tokenizer."""
    if isinstance(found := getattr(collator, "labels", None), BinaryLabels):
        return found
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if tokenizer is None:
        raise ValueError("the digit ids are unknown: pass labels=BinaryLabels.from_tokenizer(tokenizer).")
    return BinaryLabels.from_tokenizer(tokenizer)


def _with_adapters(model_init: Callable[..., nn.Module], peft_config: PeftConfig) -> Callable[..., nn.Module]:
    """Return a `model_init` whose models have an adapter."""
    takes_trial = bool(inspect.signature(model_init).parameters)

    def adapted(trial: Any = None) -> nn.Module:
        return _with_adapter(model_init(trial) if takes_trial else model_init(), peft_config)

    return adapted


def _with_adapter(model: nn.Module, peft_config: PeftConfig) -> nn.Module:
    """Wrap the model with PEFT."""
    from peft import PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        raise ValueError("the model has an adapter already: pass peft_config=None, or the base model.")
    return get_peft_model(model, peft_config)
