"""`EvaluationLoop`: the evaluation of a trainer, which decodes every row once and scores what it decoded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import EvalPrediction
from transformers.distributed.fsdp import is_fsdp_managed_module
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from hf_frameseg.batches.encoding import TARGETS, drop_answers
from hf_frameseg.batches.row_numbers import NO_ROW, ROW_NUMBER, ROWS, NumberedCollator
from hf_frameseg.readout import DecodedFrames, get_readout
from hf_frameseg.readout.precision import autocasting
from hf_frameseg.training.evaluated_rows import EvaluatedRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn
    from torch.utils.data import DataLoader
    from transformers.trainer_utils import EvalLoopOutput


class EvaluationLoop:
    """Let a `transformers.Seq2SeqTrainer` decode frames when it evaluates; mixed in before it.

    `evaluate` computes the loss (unless `args.evaluate_loss` is off) and decodes if there is a `compute_metrics`;
    `predict` decodes only, whatever the arguments. Which readout decodes is `args.readout`.
    """

    _evaluated: EvaluatedRows | None = None
    _computes_loss = True

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
    ) -> tuple[Tensor | None, tuple[Any, ...] | None, Tensor | None]:
        """Return `(loss, (mask (B, F), frame_logits (B, F, 2), number (B,)), frame targets (B, F))` of a batch.

        What else the readout gives (`DecodedFrames.further`) stands behind the numbers.

        The loss goes through `compute_loss`; transformers' own step would take the model's. `number` is the row's in
        the evaluation, or its place in a batch that no loader of this trainer made. The loss is None in `predict` and
        for prompts without answers; targets are nan for rows without annotations.
        """
        inputs = dict(self._prepare_inputs(inputs))
        targets = inputs[TARGETS]
        rows, places = targets.get(ROWS), torch.arange(len(inputs["input_ids"]), device=self.args.device)
        numbers = targets.get(ROW_NUMBER, places)
        has_loss = self._computes_loss and "answer_start" in targets
        with torch.no_grad(), self.compute_loss_context_manager():
            found = self.compute_loss(model, inputs, return_outputs=True) if has_loss else None
            loss, parts = found if isinstance(found, tuple) else (found, None)
            if self._evaluated is not None:
                self._evaluated.add(numbers.tolist(), rows, loss, parts)
            if prediction_loss_only or not self.args.predict_with_generate:
                return loss, None, None
            decoded = self._decode(inputs, gen_kwargs)
        found = (decoded.mask.to(torch.int8), decoded.frame_logits.float(), numbers)
        found += (dict(decoded.further),) if decoded.further else ()
        return loss, found, targets.get("frame_targets")

    def _decode(self, inputs: dict[str, Tensor], gen_kwargs: dict[str, Any]) -> DecodedFrames:
        """Return what the readout makes of a batch."""
        options = {"num_beams": self.args.generation_num_beams or 1} | getattr(self, "_gen_kwargs", {}) | gen_kwargs
        if is_deepspeed_zero3_enabled() or is_fsdp_managed_module(self.model):
            options["synced_gpus"] = True  # the others may have more frames
        # `generation_max_length` comes as max_length; an answer has one digit per frame, whatever it says.
        options = {key: value for key, value in options.items() if value is not None and key != "max_length"}
        valid = inputs[TARGETS]["frame_valid"]
        if not bool(valid.all()):
            raise ValueError(
                "decoding needs the same number of frames in every row of a batch: group the rows by it or set "
                "per_device_eval_batch_size=1."
            )
        # PEFT generates with the module inside, which the mixed precision of accelerate does not reach.
        with autocasting(self.args.device, self.autocast), _whole_parameters(self.model):
            decoded = get_readout(self.args.readout)(
                self.accelerator.unwrap_model(self.model),
                drop_answers(inputs),
                self.binary_labels,
                num_frames=valid.shape[1],
                **options,
            )
        return DecodedFrames.of(decoded, self.args.readout, *valid.shape)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> EvalLoopOutput:
        """Evaluate every row once; add the mean over all rows of the loss and of every part of it to the metrics.

        Which of loss and decodes `evaluate` and `predict` make, the class says. A `compute_metrics` with a method
        `for_rows` is asked for one that scores the rows of this data set.
        """
        if not isinstance(getattr(dataloader, "collate_fn", None), NumberedCollator):
            raise ValueError(
                "evaluation needs a loader of this trainer, which numbers the rows so that each counts once: pass "
                "eval_dataset and eval_data_collator, or call super().get_eval_dataloader(rows) in an override."
            )
        needs_loss = description == "Evaluation" and self.args.evaluate_loss
        if not needs_loss:
            self._check_decodes(prediction_loss_only, description)
        self._evaluated = EvaluatedRows()
        self.gather_function = self._gather_rows
        compute_metrics = self.compute_metrics
        if compute_metrics is not None:
            self.compute_metrics = lambda decoded: self._scores(compute_metrics, decoded)
        self._computes_loss = needs_loss
        try:
            with self._without_engine_before_training():
                output = super().evaluation_loop(dataloader, description, prediction_loss_only, *args, **kwargs)
        finally:
            self.compute_metrics, self._computes_loss = compute_metrics, True
        self._evaluated.gather()
        losses = self._evaluated.mean_losses(kwargs.get("metric_key_prefix", "eval"))
        if not len(self._evaluated):
            raise ValueError("evaluation needs rows, got none: check the split or the filter that made it.")
        if output.predictions is not None:
            once = self._each_once(EvalPrediction(output.predictions, output.label_ids))
            output = output._replace(predictions=once.predictions, label_ids=once.label_ids)
        if description == "Evaluation" and (not losses if needs_loss else output.label_ids is None):
            raise ValueError("evaluation needs rows with annotations and a collator with_answer=True; use predict.")
        output.metrics.update(losses)
        return output._replace(num_samples=len(self._evaluated))

    def _check_decodes(self, prediction_loss_only: bool | None, description: str) -> None:
        """Refuse to go through rows for nothing."""
        loss_only = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        if description == "Evaluation" and loss_only:
            raise ValueError("evaluate_loss=False leaves only scores to evaluate: pass compute_metrics to the trainer.")
        if loss_only or not self.args.predict_with_generate:
            raise ValueError(
                "predict decodes, and prediction_loss_only=True or predict_with_generate=False decodes nothing: leave "
                "it out, or ask evaluate for the loss."
            )

    def _gather_rows(self, tensors: Any) -> Any:
        """Gather the rows of all processes, which may have different numbers of them; `NO_ROW` fills up."""
        return self.accelerator.gather(self.accelerator.pad_across_processes(tensors, dim=0, pad_index=NO_ROW))

    def _each_once(self, decoded: EvalPrediction) -> EvalPrediction:
        """Put gathered rows in order, each once, with their query ids in place of their numbers."""
        mask, frame_logits, numbers, *further = decoded.predictions
        places = self._evaluated.each_once(numbers)
        further = [{name: values[places] for name, values in named.items()} for named in further]
        inputs, targets = getattr(decoded, "inputs", None), decoded.label_ids
        has_targets = targets is not None and not np.isnan(targets).all()
        return EvalPrediction(
            predictions=(mask[places], frame_logits[places], self._evaluated.qids(), *further),
            label_ids=targets[places] if has_targets else None,
            inputs=None if inputs is None else inputs[places],
            losses=self._evaluated.losses if "loss" in self.args.include_for_metrics else None,
        )

    def _scores(self, compute_metrics: Callable[[EvalPrediction], dict], decoded: EvalPrediction) -> dict[str, float]:
        """Return what `compute_metrics` makes of the rows; nothing for rows without annotations."""
        self._evaluated.gather()
        once = self._each_once(decoded)
        if once.label_ids is None:
            return {}
        if hasattr(compute_metrics, "for_rows"):
            compute_metrics = compute_metrics.for_rows(self._evaluated.rows)
        return compute_metrics(once)

    @contextmanager
    def _without_engine_before_training(self) -> Iterator[None]:
        """Evaluate the plain model before training, where DeepSpeed would make an engine for ZeRO-3 inference of it.

        transformers asks for that engine in every evaluation before `train`, and stages 0 to 2 refuse it.
        """
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        if not self.is_deepspeed_enabled or self.deepspeed is not None or plugin.zero_stage == 3:
            yield
            return
        self._move_model_to_device(self.model, self.args.device)
        self.is_deepspeed_enabled = False
        try:
            yield
        finally:
            self.is_deepspeed_enabled = True


@contextmanager
def _whole_parameters(model: nn.Module) -> Iterator[None]:
    """Gather the parameters that FSDP 1 has spread over the processes; `generate` calls the module inside."""
    if not is_fsdp_managed_module(model):
        yield
        return
    from torch.distributed.fsdp import FullyShardedDataParallel

    whole = isinstance(model, FullyShardedDataParallel)
    with FullyShardedDataParallel.summon_full_params(model, writeback=False) if whole else nullcontext():
        yield
