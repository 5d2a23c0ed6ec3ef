"""`SegmentationSeq2SeqTrainer`: the language model loss and the frame segmentation losses in one step."""

from __future__ import annotations

import inspect
import shutil
import signal
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Seq2SeqTrainer, TrainerCallback
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from hf_frameseg.checkpoints import StopAtSigterm, record_processes
from hf_frameseg.data.encoding import TARGET_KEYS, drop_answers
from hf_frameseg.decoding.beam_search import generate_frame_logits
from hf_frameseg.decoding.precision import autocasting
from hf_frameseg.labels import BinaryLabels
from hf_frameseg.losses import FrameSegmentationLoss, weighted_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from peft import PeftConfig
    from torch.utils.data import DataLoader
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import EvalLoopOutput

    from hf_frameseg.data.collator import FrameSegmentationCollator
    from hf_frameseg.training_args import SegmentationSeq2SeqTrainingArguments


class SegmentationSeq2SeqTrainer(Seq2SeqTrainer):
    """Train a multimodal LLM to answer with one digit per frame, on token and on frame level at once.

    The loss of a sample is `w_lm LM + w_bce BCE + w_tv Tversky + w_gd Dice` (paper, section III-C). Every part is a
    mean within the sample, and the loss of an optimiser step is the mean over *all* its samples, over accumulated
    batches and processes alike: batch 8 equals batch 2 x accumulation 4 equals 2 processes x 4.

    Evaluation decodes with digits only (`generation_num_beams`) and hands `compute_metrics` predictions
    `(mask (N, F), frame_logits (N, F, 2), qid (N,))` gathered from all processes, each query once, and as `label_ids`
    the frame targets. Vocabulary logits never leave the step.

    Args:
        model: Any transformers model that takes the collator's tensors and returns logits on the axis of `input_ids`.
        args: `SegmentationSeq2SeqTrainingArguments`.
        data_collator: `FrameSegmentationCollator` with `train=True`, or a callable with the same keys.
        eval_data_collator: The one for evaluation; default: `data_collator.for_evaluation()` where it exists.
        labels: Digit ids; default: from `processing_class`.
        peft_config: Wraps the model with an adapter before training.
        **kwargs: As for `transformers.Seq2SeqTrainer`.

    Raises:
        ValueError: When the labels can be had from nowhere, or the logits are not on the axis of `input_ids`.

    Paper:
        "Moment and Highlight Detection via MLLM Frame Segmentation", sections III-C and III-D.
    """

    # compute_loss divides by the samples of the whole optimiser step; a second division would be wrong (transformers
    # looks at the model's signature otherwise, and divides by the accumulation steps for some models, not for others).
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module | None = None,
        args: SegmentationSeq2SeqTrainingArguments | None = None,
        data_collator: Callable[[list[dict]], dict[str, Tensor]] | None = None,
        *,
        eval_data_collator: Callable[[list[dict]], dict[str, Tensor]] | None = None,
        labels: BinaryLabels | None = None,
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ) -> None:
        if data_collator is None:
            raise ValueError("data_collator is missing: pass FrameSegmentationCollator(processor=..., labels=...).")
        if peft_config is not None:
            model = _with_adapter(model, peft_config)
        self.binary_labels = labels or _labels_of(data_collator, kwargs.get("processing_class"))
        if eval_data_collator is None:
            eval_data_collator = getattr(data_collator, "for_evaluation", lambda: data_collator)()
        self.eval_data_collator = eval_data_collator
        super().__init__(model=model, args=args, data_collator=data_collator, **kwargs)
        if hasattr(data_collator, "set_epoch"):
            self.add_callback(_EpochToCollator(data_collator))
        self._stop: StopAtSigterm | None = None
        if self.args.enable_jit_checkpoint:
            self._take_over_sigterm()
        self.frame_loss = FrameSegmentationLoss(self.args.frame_losses())
        signature = inspect.signature(_base_model(self.accelerator.unwrap_model(self.model)).forward)
        self._keeps_logits = "logits_to_keep" in signature.parameters
        self._train_parts: dict[str, Tensor] = {}
        self._train_samples = 0
        self._train_weights: dict[str, float] = {}
        self._eval_parts: dict[str, list[Tensor]] = {}

    # ---- Loss --------------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Return the joint loss of a batch.

        Args:
            model: The (wrapped) model.
            inputs: A batch of the collator.
            return_outputs: Also return the parts, each (B,), unweighted.
            num_items_in_batch: Samples of the whole optimiser step; None (evaluation): the mean over this batch.

        Returns:
            The scalar loss, or `(loss, parts)`.
        """
        parts = self.loss_parts(model, inputs)
        if num_items_in_batch is None:
            loss = weighted_sum(parts, self.final_weights).mean()
        else:
            # DDP averages the gradients of the processes: their number undoes that.
            weights = self.current_weights
            loss = weighted_sum(parts, weights).sum() * self.accelerator.num_processes / num_items_in_batch
            self._record_train_parts(parts, weights)
        return (loss, parts) if return_outputs else loss

    def loss_parts(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return every loss part per sample, (B,), from one forward pass with logits at the answer only."""
        answer_start, num_frames = inputs["answer_start"], inputs["frame_targets"].shape[1]
        length = inputs["input_ids"].shape[1]
        first = int(answer_start.min()) - 1  # the position that predicts the first digit of the longest answer
        model_inputs = {key: value for key, value in inputs.items() if key not in TARGET_KEYS}
        if self._keeps_logits:
            model_inputs["logits_to_keep"] = length - first
        logits = model(**model_inputs, use_cache=False).logits
        expected = length - first if self._keeps_logits else length
        if logits.shape[1] != expected:
            raise ValueError(
                f"expected logits at {expected} positions, got {logits.shape[1]}: the model's output is not on the "
                "axis of input_ids; use a processor that expands each <image> into its placeholder tokens."
            )
        logits = logits[:, -(length - first) :]
        # Rows end together, so answers of fewer frames start later: their frames that are not valid lie behind the end.
        later = int(answer_start.max()) - 1 - first
        padded = F.pad(logits, (0, 0, 0, later)) if later else logits
        frame_logits = self.binary_labels.frame_logits(padded, answer_start, num_frames, logits_start=first)
        segmentation = self.frame_loss(frame_logits, inputs["frame_targets"], inputs["frame_valid"])
        return {"lm": _language_model_loss(logits, inputs["labels"][:, first:]), **segmentation}

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
        """Count the samples (not the tokens) of an optimiser step over accumulated batches and processes."""
        if not batch_samples:
            return None
        count = torch.tensor(sum(len(batch["input_ids"]) for batch in batch_samples), device=device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    # ---- Logging -----------------------------------------------------------------------------------------------------

    def _record_train_parts(self, parts: Mapping[str, Tensor], weights: dict[str, float]) -> None:
        """Add a batch to the sums that the next log line reports, with the weights of the last batch."""
        for name, values in parts.items():
            value = values.detach().float().sum()
            self._train_parts[name] = self._train_parts.get(name, torch.zeros_like(value)) + value
        self._train_samples += len(next(iter(parts.values())))
        self._train_weights = weights

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of every loss part since the last line, over all processes, and the last step's weights."""
        if "loss" in logs and self._train_samples:
            sums = torch.stack([*self._train_parts.values()])
            sums = torch.cat([sums, sums.new_tensor([self._train_samples])])
            total = self.accelerator.reduce(sums, reduction="sum").tolist()
            means = dict(zip(self._train_parts, (value / total[-1] for value in total[:-1]), strict=True))
            logs = logs | {f"loss_{name}": value for name, value in means.items()}
            logs |= {f"weight_{name}": value for name, value in self._train_weights.items()}
            self._train_parts, self._train_samples = {}, 0
        super().log(logs, start_time)

    # ---- Evaluation --------------------------------------------------------------------------------------------------

    @property
    def autocast(self) -> str | None:
        """Return the half precision in which evaluation decodes, for `FrameSegmentationConfig.autocast`; None without.

        A model is to be asked in the precision in which it was scored, so it is saved beside the weights.
        """
        if not self.accelerator.native_amp:  # DeepSpeed's weights are in half precision themselves
            return None
        return "float16" if self.accelerator.mixed_precision == "fp16" else "bfloat16"

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: Sequence[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Tensor | None, tuple[Tensor, Tensor, Tensor] | None, Tensor | None]:
        """Return `(loss, (mask (B, F), frame_logits (B, F, 2), qid (B,)), frame targets (B, F))` of a batch.

        The loss goes through `compute_loss`; transformers' own step would take the model's.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, parts = self.compute_loss(model, inputs, return_outputs=True)
            for name, values in parts.items():
                gathered = self.accelerator.gather_for_metrics(values.float())
                self._eval_parts.setdefault(name, []).append(gathered.cpu())
            if prediction_loss_only or not self.args.predict_with_generate:
                return loss, None, None
            options = {"num_beams": self.args.generation_num_beams or 1} | getattr(self, "_gen_kwargs", {}) | gen_kwargs
            # `generation_max_length` comes as max_length; an answer has one digit per frame, whatever it says.
            options = {key: value for key, value in options.items() if value is not None and key != "max_length"}
            if not bool(inputs["frame_valid"].all()):
                raise ValueError(
                    "decoding needs the same number of frames in every row of a batch: group the rows by it or set "
                    "per_device_eval_batch_size=1."
                )
            # PEFT generates with the module inside, which the mixed precision of accelerate does not reach.
            with autocasting(self.args.device, self.autocast):
                decoded = generate_frame_logits(
                    self.accelerator.unwrap_model(self.model),
                    drop_answers(inputs),
                    self.binary_labels,
                    num_frames=inputs["frame_targets"].shape[1],
                    **options,
                )
        predictions = (decoded.mask.to(torch.int8), decoded.frame_logits.float(), inputs["qid"])
        return loss, predictions, inputs["frame_targets"]

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Add the mean over all samples of every loss part, and of their weighted sum, to the metrics."""
        self._eval_parts = {}
        # Seq2SeqTrainer sets `accelerator.gather`, which keeps the repeated rows that fill up the last batch.
        self.gather_function = self.accelerator.gather_for_metrics
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        parts = {name: torch.cat(values) for name, values in self._eval_parts.items()}
        if parts:
            output.metrics[f"{prefix}_loss"] = weighted_sum(parts, self.final_weights).mean().item()
            output.metrics.update({f"{prefix}_loss_{name}": values.mean().item() for name, values in parts.items()})
        return output

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """Return the evaluation loader, with the evaluation collator."""
        with self._evaluation_collator():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """Return the test loader, with the evaluation collator."""
        with self._evaluation_collator():
            return super().get_test_dataloader(*args, **kwargs)

    @contextmanager
    def _evaluation_collator(self) -> Iterator[None]:
        """Lend the evaluation collator to transformers, which knows only one."""
        training, self.data_collator = self.data_collator, self.eval_data_collator
        try:
            yield
        finally:
            self.data_collator = training

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


class _EpochToCollator(TrainerCallback):
    """Tell the collator which epoch its draws belong to, before the epoch's loader starts."""

    def __init__(self, collator: FrameSegmentationCollator) -> None:
        self.collator = collator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass the epoch on."""
        self.collator.set_epoch(int(state.epoch or 0))


def _language_model_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the next-token loss (B,), a mean over the labelled tokens of each sample.

    Args:
        logits: (B, K, V) at K consecutive positions.
        labels: (B, K) token ids at the same positions, -100 where there is nothing to predict.
    """
    labels = labels[:, 1:]
    predicted = logits[:, :-1].float().flatten(0, 1)
    per_token = F.cross_entropy(predicted, labels.flatten(), ignore_index=-100, reduction="none")
    counted = labels != -100
    return per_token.view(labels.shape).sum(1) / counted.sum(1).clamp(min=1)


def _labels_of(collator: object, processing_class: object) -> BinaryLabels:
    """Return the digit ids of the collator, else of the processor's tokenizer."""
    if isinstance(found := getattr(collator, "labels", None), BinaryLabels):
        return found
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if tokenizer is None:
        raise ValueError("the digit ids are unknown: pass labels=BinaryLabels.from_tokenizer(tokenizer).")
    return BinaryLabels.from_tokenizer(tokenizer)


def _base_model(model: nn.Module) -> nn.Module:
    """Return the model inside a PEFT wrapper, whose forward has the real signature."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _with_adapter(model: nn.Module, peft_config: PeftConfig) -> nn.Module:
    """Wrap the model with PEFT."""
    from peft import PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        raise ValueError("the model has an adapter already: pass peft_config=None, or the base model.")
    return get_peft_model(model, peft_config)
