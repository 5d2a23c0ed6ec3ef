"""Arguments of `SegmentationSeq2SeqTrainer`."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers import Seq2SeqTrainingArguments

from hf_frameseg._numbers import is_number
from hf_frameseg.readout import get_readout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hf_frameseg.objectives import LossWeightSchedule, Objective

_DRIVEN_BY_SCORES = ("reduce_lr_on_plateau", "greedy")
"""Learning rate schedules that follow `metric_for_best_model`."""


class StepsOrShare(float):
    """Read a number of steps (`1`) or a share of all steps (`1.0`) from the command line."""

    def __new__(cls, text: str) -> int | float:  # type: ignore[misc]
        """Return an int for a whole number, else a float."""
        return int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else float(text)


_ENDLESS = sys.float_info.max
_TINY = sys.float_info.min
_RANGES: dict[str, tuple[float, float]] = {
    "per_device_train_batch_size": (1, _ENDLESS),
    "per_device_eval_batch_size": (1, _ENDLESS),
    "gradient_accumulation_steps": (1, _ENDLESS),
    "num_train_epochs": (_TINY, _ENDLESS),
    "learning_rate": (0, _ENDLESS),
    "weight_decay": (0, _ENDLESS),
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_epsilon": (_TINY, _ENDLESS),
    "max_grad_norm": (0, _ENDLESS),
    "warmup_steps": (0, _ENDLESS),
    "logging_steps": (_TINY, _ENDLESS),
    "save_steps": (_TINY, _ENDLESS),
    "eval_steps": (_TINY, _ENDLESS),
    "eval_delay": (0, _ENDLESS),
    "save_total_limit": (1, _ENDLESS),
    "generation_num_beams": (1, _ENDLESS),
    "dataloader_num_workers": (0, _ENDLESS),
    "seed": (0, 2**32 - 1),
    "data_seed": (0, 2**32 - 1),
}
"""Numbers of the arguments and where they may lie; None is always allowed."""


@dataclass
class SegmentationSeq2SeqTrainingArguments(Seq2SeqTrainingArguments):
    r"""Add the joint objective to the arguments of `transformers.Seq2SeqTrainingArguments`.

    Overridden defaults: `remove_unused_columns=False` (the collator needs the raw columns),
    `predict_with_generate=True` (evaluation decodes), `generation_num_beams=2` (paper, table II). `greater_is_better`
    is False for the loss and every part of it, and schedules that follow a score get its direction. A field that is
    set later, as by a hyperparameter search, takes effect at the next step.

    Args:
        loss_weights: Weights of the objectives by name, those of `objectives.OBJECTIVES` or of the trainer; a name that
            is left out weighs 0; on the command line as JSON. Default: the paper's, .2 for `lm` and .2667 for each of
            `bce`, `tversky`, `generalized_dice`.
        loss_weights_start: Weights at the first step, from which they move linearly. None: `loss_weights` from the
            first step on, which is the package's default because a model trained with `lm` alone first learns to copy
            the previous digit. The paper's: `{"lm": 1}`.
        loss_warmup_steps: Optimiser steps of that move; below 1 it is a share of all steps (the paper: 6 of 11 epochs).
        loss_options: Settings of the objectives by name, e.g. `{"tversky": {"alpha": 0.3, "beta": 0.7}}`.
        evaluate_loss: Compute the loss in `evaluate`, beside the scores. False decodes only, which saves a forward pass
            and the making of answers. `predict` never computes it.
        readout: How evaluation decodes, a name in `readout.READOUTS`; a trained model is to be saved with it
            (`FrameSegmentationConfig.readout`).

    Raises:
        ValueError: On unknown names, negative weights, or options that the trainer cannot honour.
    """

    _VALID_DICT_FIELDS = [
        *Seq2SeqTrainingArguments._VALID_DICT_FIELDS,
        "loss_weights",
        "loss_weights_start",
        "loss_options",
    ]

    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Drop columns the model does not take; stays off: the collator reads them."}
    )
    predict_with_generate: bool = field(
        default=True, metadata={"help": "Decode masks at evaluation; off: evaluation computes the loss only."}
    )
    generation_num_beams: int | None = field(default=2, metadata={"help": "Beams of the evaluation decode (paper: 2)."})
    loss_weights: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "JSON, final weight of each loss part; default: the paper's .2 / .2667 x 3."}
    )
    loss_weights_start: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "JSON, weights at the first step; default: loss_weights from the start."}
    )
    loss_warmup_steps: StepsOrShare = field(
        default=0, metadata={"help": "Optimiser steps from start to final weights; 0.5 or 1.0: share of all steps."}
    )
    loss_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'JSON, settings of the losses, e.g. {"bce": {"pos_weight": 2.36}}.'}
    )
    evaluate_loss: bool = field(
        default=True, metadata={"help": "Compute the loss in evaluate beside the scores; off: decode only."}
    )
    readout: str = field(default="beam", metadata={"help": "How the evaluation decodes: a name in READOUTS."})

    def __post_init__(self) -> None:
        """Check what only this class knows."""
        _check_numbers(self)
        self._know_the_direction()
        super().__post_init__()
        if str(getattr(self.lr_scheduler_type, "value", "")) in _DRIVEN_BY_SCORES:
            mode = "max" if self.greater_is_better else "min"
            self.lr_scheduler_kwargs = {"mode": mode} | dict(self.lr_scheduler_kwargs or {})
        self._refuse_what_cannot_be_honoured()
        self.accelerator_config.dispatch_batches = False  # accelerate's default for streams is True
        self._check_objectives()
        get_readout(self.readout)

    def _know_the_direction(self) -> None:
        """Minimise the loss and its parts; transformers maximises every name that does not end in `loss`."""
        if self.greater_is_better is None and re.search(r"(^|_)loss_\w+$", self.metric_for_best_model or ""):
            self.greater_is_better = False

    def _refuse_what_cannot_be_honoured(self) -> None:
        """Raise on arguments of transformers that would do something else here."""
        if not self.evaluate_loss:
            self._refuse_to_do_without_the_loss()
        if self.remove_unused_columns:
            raise ValueError(
                "remove_unused_columns must be False: the collator reads a row's frames, query and windows."
            )
        if self.label_smoothing_factor:
            raise ValueError("label_smoothing_factor is not supported: use soft targets (graded_targets) instead.")
        if self.accelerator_config.dispatch_batches:
            raise ValueError(
                "accelerator_config.dispatch_batches must be False: it cuts a batch along the first axis, which is "
                "frames in pixel_values."
            )
        if self.accelerator_config.split_batches:
            raise ValueError(
                "accelerator_config.split_batches must be False: per_device_train_batch_size counts the rows of one "
                "process."
            )
        if self.train_sampling_strategy == "batch_rebalance":
            raise ValueError(
                'train_sampling_strategy "batch_rebalance" is not supported: it repeats rows; leave it out.'
            )
        if self.batch_eval_metrics or not self.eval_do_concat_batches:
            raise ValueError(
                "batch_eval_metrics must be False and eval_do_concat_batches True: scores are made once, of every "
                "query once."
            )

    def _refuse_to_do_without_the_loss(self) -> None:
        """Raise on arguments that need the loss of an evaluation."""
        if self.prediction_loss_only or not self.predict_with_generate:
            raise ValueError(
                "evaluate_loss=False decodes only, and prediction_loss_only=True or predict_with_generate=False decodes"
                " nothing: leave one of them out."
            )
        if re.search(r"(^|_)loss(_|$)", self.metric_for_best_model or ""):
            raise ValueError(
                f"metric_for_best_model {self.metric_for_best_model!r} needs the loss of every evaluation: leave "
                "evaluate_loss=True, or name a score such as mAP."
            )

    def _check_objectives(self) -> None:
        """Refuse wrong weights and settings; names that are not registered yet are for the trainer to know."""
        from hf_frameseg.objectives import OBJECTIVES, make_objectives

        self.loss_schedule(max_steps=1)
        make_objectives((), {name: given for name, given in self._loss_options().items() if name in OBJECTIVES})

    def loss_schedule(self, max_steps: int, known: Iterable[str] | None = None) -> LossWeightSchedule:
        """Return the weights over a training.

        Args:
            max_steps: Its optimiser steps.
            known: Names that may be weighted; None lets any name pass.

        Raises:
            ValueError: On weights that cannot be, or names that nobody knows.
        """
        from hf_frameseg.objectives import OBJECTIVES, PAPER_WEIGHTS, LossWeightSchedule

        end = _numbers("loss_weights", PAPER_WEIGHTS if self.loss_weights is None else self.loss_weights)
        warmup_steps = _warmup_steps(self.loss_warmup_steps, max_steps)
        if self.loss_weights_start is None:
            if self.loss_warmup_steps:
                raise ValueError(
                    'loss_warmup_steps needs weights to start from: set loss_weights_start, e.g. {"lm": 1}.'
                )
            known = {**OBJECTIVES, **end} if known is None else known
            return LossWeightSchedule(start=end, end=end, warmup_steps=0, kind="constant", known=known)
        start = _numbers("loss_weights_start", self.loss_weights_start)
        if not self.loss_warmup_steps:
            raise ValueError(
                "loss_weights_start needs steps to move in: set loss_warmup_steps (0.5 is half of all steps), or leave "
                "loss_weights_start out."
            )
        known = {**OBJECTIVES, **end, **start} if known is None else known
        return LossWeightSchedule(start=start, end=end, warmup_steps=warmup_steps, known=known)

    def objectives(self, given: Mapping[str, Objective | type[Objective]] | None = None) -> dict[str, Objective]:
        """Return the objectives that ever weigh anything, with their settings, by name.

        Args:
            given: Objectives, or classes of them, beside those of `objectives.OBJECTIVES`.

        Raises:
            ValueError: On names that nobody knows, or settings that an objective does not take.
        """
        from hf_frameseg.objectives import OBJECTIVES, make_objectives

        schedule = self.loss_schedule(max_steps=1, known={**OBJECTIVES, **(given or {})})
        return make_objectives(schedule.at(0), self._loss_options(), given)

    def _loss_options(self) -> dict[str, dict[str, Any]]:
        """Return the settings of objectives by name."""
        options = self.loss_options or {}
        if not isinstance(options, dict) or not all(isinstance(settings, dict) for settings in options.values()):
            example = '{"bce": {"pos_weight": 2}}'
            raise ValueError(f"loss_options must be a JSON object such as {example}, got {options!r}.")
        return options


def _check_numbers(args: SegmentationSeq2SeqTrainingArguments) -> None:
    """Refuse numbers with which a training fails late or learns nothing; transformers takes most of them."""
    for name, (least, most) in _RANGES.items():
        value = getattr(args, name)
        if value is None:
            continue
        if not is_number(value) or not least <= value <= most:
            wanted = f"from {least:g} to {most:g}" if most < _ENDLESS else f"of at least {least:g}"
            raise ValueError(f"expected {name} to be a number {wanted}, got {value!r}.")
    if args.max_steps == 0 or args.max_steps < -1:
        raise ValueError(f"expected max_steps of at least 1, or -1 for whole epochs, got {args.max_steps}.")


def _warmup_steps(steps: float, max_steps: int) -> int:
    """Return the optimiser steps of the warm-up: an int as it is, a float up to 1.0 as a share of all steps."""
    if not is_number(steps) or steps < 0 or (steps > 1 and steps != int(steps)):
        raise ValueError(
            f"loss_warmup_steps must be >= 0, a whole number of steps or a share of all steps up to 1.0, got {steps!r}."
        )
    return round(steps * max_steps) if isinstance(steps, float) and steps <= 1 else int(steps)


def _numbers(name: str, weights: dict[str, Any] | str) -> dict[str, float]:
    """Return the weights as floats, `lm` always among them; JSON from the command line arrives here as a dict."""
    if not isinstance(weights, dict):
        raise ValueError(f'{name} must be a JSON object such as {{"lm": 0.2, "bce": 0.8}}, got {weights!r}.')
    try:
        numbers = {"lm": 0.0} | {key: float(value) for key, value in weights.items()}
    except (TypeError, ValueError):
        raise ValueError(f"{name} must hold one number per loss, got {weights!r}.") from None
    if not all(math.isfinite(value) for value in numbers.values()):
        raise ValueError(f"{name} must hold finite numbers, got {weights!r}.")
    return numbers
