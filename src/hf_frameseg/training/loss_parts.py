"""`LossParts`: the objectives of a trainer, from one forward pass to one value per sample and objective."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_frameseg.batches.encoding import TARGETS, model_inputs
from hf_frameseg.digits import BinaryLabels, states_at_digits
from hf_frameseg.objectives import OBJECTIVES, AnswerOutputs, Objective, targets_of
from hf_frameseg.objectives.heads import HEADS, attach_heads, heads_of, needs_head, outputs_become
from hf_frameseg.sharing.heads import load_heads, save_heads, split_heads

if TYPE_CHECKING:
    from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments


class LossParts:
    """Give a `transformers.Trainer` objectives in place of the model's own loss; mixed in before it.

    Heads hang on the model before the optimiser is made. They are saved in every checkpoint and beside the model, and
    come back when a training goes on.
    """

    binary_labels: BinaryLabels
    _given_objectives: Mapping[str, Objective | type[Objective]]
    _last_made: tuple[Any, dict[str, Objective]] | None = None

    def _ready_collator(self, collator: Any, args: SegmentationSeq2SeqTrainingArguments) -> Any:
        """Return a collator that makes what the objectives need."""
        targets = targets_of(args.objectives(self._given_objectives))
        return collator.with_targets(targets) if hasattr(collator, "with_targets") else collator

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Make a model, with new heads."""
        model = super().call_model_init(trial)
        attach_heads(model, self.args.objectives(self._given_objectives), self.args.seed, rebuild=True)
        return model

    @property
    def objectives(self) -> dict[str, Objective]:
        """Return the objectives that ever weigh anything, by name, as the arguments have them now."""
        heads = heads_of(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))
        found = {name: heads.get(name, one) for name, one in self._made_objectives().items()}
        for name, objective in found.items():
            if needs_head(objective) and name not in heads:
                raise ValueError(
                    f"the objective {name!r} has a head, which must be there before the training: weigh it (with 0, if "
                    "it shall come in later) when the trainer is made"
                )
        return found

    def _made_objectives(self) -> dict[str, Objective]:
        """Return the objectives without their heads: the same as in the last step, unless the arguments changed."""
        asked = deepcopy((self.args.loss_weights, self.args.loss_weights_start, self.args.loss_options))
        kinds = {**OBJECTIVES, **self._given_objectives}
        if self._last_made is None or self._last_made[0] != (asked, kinds):
            made = self.args.objectives(self._given_objectives)
            for objective in made.values():
                if not needs_head(objective):  # it may have buffers, and no model takes them along
                    objective.to(self.args.device)
            self._last_made = ((asked, kinds), made)
        return self._last_made[1]

    def loss_parts(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the value of every objective per sample, (B,), from one forward pass with logits at the answer only.

        Args:
            model: The (wrapped) model.
            inputs: A batch of the collator.

        Raises:
            ValueError: If the logits are not on the axis of `input_ids`.
        """
        objectives, targets = self.objectives, inputs[TARGETS]
        inner = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        options: dict[str, Any] = {"use_cache": False}
        first = int(targets["answer_start"].min()) - 1  # the position that predicts the first digit of the longest
        if keeps_logits(inner):
            options["logits_to_keep"] = inputs["input_ids"].shape[1] - first
        if any(objective.needs_hidden_states for objective in objectives.values()):
            options["output_hidden_states"] = True

        def values(outputs: Any) -> dict[str, Tensor]:
            answer = self._answer_outputs(outputs, inputs, first, "logits_to_keep" in options)
            return _values(objectives, answer, targets)

        if not any(objective.has_head for objective in objectives.values()):
            return values(model(**model_inputs(inputs), **options))
        with outputs_become(inner, values):
            return model(**model_inputs(inputs), **options)

    def _answer_outputs(
        self, outputs: Any, inputs: Mapping[str, Any], first: int, logits_are_kept: bool
    ) -> AnswerOutputs:
        """Cut the answers out of what the model says, from position `first` on."""
        targets, length, logits = inputs[TARGETS], inputs["input_ids"].shape[1], outputs.logits
        expected = length - first if logits_are_kept else length
        if logits.shape[1] != expected:
            raise ValueError(
                f"expected logits at {expected} positions, got {logits.shape[1]}: the model's output is not on the "
                "axis of input_ids; use a processor that expands each <image> into its placeholder tokens."
            )
        logits = logits[:, -(length - first) :]
        starts, valid = targets["answer_start"], targets["frame_valid"]
        # Rows end together, so answers of fewer frames start later: their frames that are not valid lie behind the end.
        later = int(starts.max()) - 1 - first
        padded = F.pad(logits, (0, 0, 0, later)) if later else logits
        frame_logits = self.binary_labels.frame_logits(padded, starts, valid.shape[1], logits_start=first)
        hidden_states = None
        if getattr(outputs, "hidden_states", None) is not None:
            states = F.pad(outputs.hidden_states[-1][:, first:], (0, 0, 0, later))
            hidden_states = states_at_digits(states, starts, valid.shape[1], states_start=first).float()
        return AnswerOutputs(logits, targets["labels"][:, first:], frame_logits, valid, hidden_states)

    # ---- Heads on disk -----------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the model without its heads, and these beside it."""
        heads, state_dict = split_heads(state_dict)
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            save_heads(model, output_dir or self.args.output_dir, heads)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights of a checkpoint and those of its heads."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_heads(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        """Load the best weights and those of their heads."""
        super()._load_best_model()
        self._load_heads(self.state.best_model_checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Warn of what a checkpoint lacks, but for heads, which have a file of their own and are loaded next."""
        missing = [name for name in load_result.missing_keys if not name.startswith(f"{HEADS}.")]
        super()._issue_warnings_after_load(_Loaded(missing, list(load_result.unexpected_keys)))

    def _load_heads(self, folder: str) -> None:
        """Load heads, unless they lie among the weights that FSDP or DeepSpeed saved."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if heads := heads_of(model):
            load_heads(model, folder, heads)


class _Loaded(NamedTuple):
    """What `load_state_dict` did not find, and what it had no use for."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def _values(
    objectives: Mapping[str, Objective], answer: AnswerOutputs, targets: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the value of every objective, (B,)."""
    values, unused = {}, torch.zeros((), device=answer.frame_valid.device)
    for name, objective in objectives.items():
        if missing := [target for target in objective.targets if target not in targets]:
            raise ValueError(
                f"the objective {name!r} needs the target {missing[0]!r}, which the collator does not make: take a "
                "FrameSegmentationCollator, or make it under batch['targets']"
            )
        said = answer
        if objective.has_head:
            parameters = [parameter for parameter in objective.parameters() if parameter.is_floating_point()]
            if answer.hidden_states is not None:
                said = replace(answer, hidden_states=answer.hidden_states.to(parameters[0].dtype))
            # DDP waits for a gradient of every parameter, also while the objective weighs nothing.
            unused = unused + sum(0.0 * parameter.float().sum() for parameter in parameters)
        values[name] = _checked(name, objective(said, targets), len(answer.frame_valid))
    has_head = any(objective.has_head for objective in objectives.values())
    return {name: value + unused for name, value in values.items()} if has_head else values


def _checked(name: str, value: Any, num_samples: int) -> Tensor:
    """Refuse a value that is not one number per sample: a mean over the batch would weigh short batches wrongly."""
    if not isinstance(value, Tensor) or value.shape != (num_samples,):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"expected the objective {name!r} to return one value per sample, ({num_samples},), got {got}")
    return value


def keeps_logits(model: nn.Module) -> bool:
    """Tell whether a model computes only the logits that it is asked for.

    Args:
        model: The model, wrapped by PEFT or not.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(type(base).forward).parameters
