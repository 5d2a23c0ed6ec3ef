"""Rows -> model inputs with the answer, its labels and the frame targets (layout: see `batches/encoding.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from hf_frameseg._text import short
from hf_frameseg.annotations.schema import qid_seed
from hf_frameseg.batches.encoding import TARGETS, append_answers, encode_prompts
from hf_frameseg.batches.prompt_template import PromptTemplate
from hf_frameseg.batches.prompts import get_prompt
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.objectives.objective import Targets
from hf_frameseg.prepared.frame_columns import Decoded
from hf_frameseg.sample import Sample
from hf_frameseg.targets import saliency_threshold
from hf_frameseg.video.sampling import MIDDLE_VARIANT, VARIANTS


def _no_epoch() -> torch.Tensor:
    """Make the memory, shared with worker processes, of an epoch that nobody has set yet."""
    return torch.full((), -1, dtype=torch.int64).share_memory_()


@dataclass(kw_only=True)
class FrameSegmentationCollator:
    """Turn data set rows into a batch for training, evaluation or generation.

    Reproducible randomness: every draw comes from a generator of its own, keyed by (`seed`, epoch, `qid`). So a row
    gets the same frames and the same corrupted digits whatever the batch size, the number of workers or processes, and
    after resuming from a checkpoint, and no random state is shared with anything else. Call `set_epoch` before each
    epoch (the package's trainer does); it reaches worker processes, persistent ones too. Without it, the loader's seed
    of the epoch (in worker processes) or the number of times this object has seen the row (elsewhere) keeps epochs
    apart; persistent workers then draw the same again, because their seed stays.

    To change what it does, subclass it: of a function around it the trainer can neither set the epoch nor make the
    collator for evaluation.

    Args:
        processor: Any multimodal processor of transformers with a chat template and a tokenizer.
        labels: The digit and end ids of that tokenizer.
        prompt: A `PromptTemplate` or the name of one in `PROMPTS`. Times in it are those of the pictures that are drawn
            (`frame_times_seconds`), or of the row's grid where the row has none.
        num_frames: Frames every row must hold; None lets rows differ.
        label_rule: Which frames are relevant, see `targets.frame_mask`.
        graded_targets: Let `frame_targets` be the annotators' mean score / 4 in place of the mask, which stays in the
            digits.
        train: Draw one of three variants per frame and corrupt the prefix; else the middle variants, untouched.
        prefix_corruption: Probability with which a digit of the teacher-forced *input* becomes a random digit (half of
            these change it). Labels and targets keep the truth. Keeps a model from copying the previous true digit.
        with_answer: False gives the prompt alone, for decoding; rows then need no annotations.
        seed: Seed of the draws.
        targets: Further targets by name, a function of a `Sample` each; the trainer adds those of its objectives.

    Raises:
        ValueError: When an argument is out of range, a row lacks a column or has another number of frames, or the
            processor does not place one image per frame.

    Example:
        A loader of training batches; `labels` comes from `BinaryLabels.from_tokenizer(processor.tokenizer)`::

            rows = load_rows("qvhighlights", data_dir, "train", num_frames=25)
            collator = FrameSegmentationCollator(processor=processor, labels=labels, prefix_corruption=0.3)
            loader = DataLoader(rows, batch_size=4, shuffle=True, collate_fn=collator)
    """

    processor: Any
    labels: BinaryLabels
    prompt: PromptTemplate | str = "paper"
    num_frames: int | None = None
    label_rule: str = "window"
    graded_targets: bool = False
    train: bool = True
    prefix_corruption: float = 0.0
    with_answer: bool = True
    seed: int = 0
    targets: Targets = field(default_factory=dict)
    _epoch: torch.Tensor = field(default_factory=_no_epoch, init=False, repr=False, compare=False)
    _seen: Counter[int] = field(default_factory=Counter, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Resolve the prompt and check the numbers."""
        self.prompt = get_prompt(self.prompt)
        saliency_threshold(self.label_rule)  # refuses an unknown rule
        if not 0.0 <= self.prefix_corruption <= 1.0:
            raise ValueError(f"expected prefix_corruption between 0 and 1, got {self.prefix_corruption}")
        if self.seed < 0:
            raise ValueError(f"expected a seed of at least 0, got {self.seed}")
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"expected num_frames of at least 1 or None, got {self.num_frames}")

    def for_evaluation(self) -> FrameSegmentationCollator:
        """Return the same collator with the middle variants and true digits."""
        other = copy(self)  # not a new one: a subclass may be made with other arguments
        other.train = False
        other._epoch, other._seen = _no_epoch(), Counter()
        return other

    def without_answers(self) -> FrameSegmentationCollator:
        """Return the same collator with prompts alone, for decoding."""
        other = copy(self)
        other.with_answer = False
        return other

    def with_targets(self, targets: Targets) -> FrameSegmentationCollator:
        """Return the same collator, which makes these targets too; the trainer asks for those of its objectives.

        Args:
            targets: A function of a `Sample` by the target's name, see `objectives.Objective`.
        """
        if targets.keys() <= {"frame_targets", *self.targets}:
            return self
        other = copy(self)  # the epoch is still the same: what is set here counts there
        other.targets = {**self.targets, **targets}
        return other

    def set_epoch(self, epoch: int) -> None:
        """Key the next draws to an epoch; call before the loader's iterator is made.

        Args:
            epoch: Number of the epoch, from 0.

        Raises:
            ValueError: If it is negative.
        """
        if epoch < 0:
            raise ValueError(f"expected an epoch of at least 0, got {epoch}")
        if not self._epoch.is_shared():  # a deep copy's own
            self._epoch = self._epoch.clone().share_memory_()
        self._epoch.fill_(epoch)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate rows.

        Args:
            rows: B rows with the columns listed in `prepared/builder.py`; those of the grid and of the times may be
                absent.

        Returns:
            The processor's tensors (`input_ids`, `attention_mask`, `pixel_values`, ...) with the answer appended, all
            of them inputs of the model, and under `targets` what is none: `labels` (B, L), `answer_start` (B,),
            `frame_targets` (B, F) float32, `frame_valid` (B, F) bool, `qid`: (B,) int64, or a list where ids are texts;
            and what objectives ask for. With `with_answer=False` there are no answers, `labels`, `answer_start` and
            targets of objectives, and the `frame_targets` of a row without annotations are nan.
        """
        samples = [self._sample(row) for row in rows]
        self._check(samples)
        frames, times, masks, inputs = [], [], [], []
        decoded: Decoded = {}  # queries about one video show the same pictures
        for sample in samples:
            rng = self._generator(sample.qid)
            variants = self._variants(sample.num_pictures, rng)
            frames.append(sample.pictures(variants, decoded))
            times.append(sample.times(variants) if self.prompt.tells_time else None)
            if self.with_answer:
                masks.append(sample.mask())
                inputs.append(self._corrupt(masks[-1], rng))
        batch = encode_prompts(self.processor, self.prompt, [sample.query for sample in samples], frames, times)
        targets = {"frame_targets": _collate([self._frame_targets(sample) for sample in samples])}
        if self.with_answer:
            answers = [self.labels.answer_ids(mask) for mask in inputs]
            truths = [self.labels.answer_ids(mask) for mask in masks]
            batch = append_answers(batch, answers, truths, self.processor.tokenizer.pad_token_id)
            targets |= batch[TARGETS] | self._asked_targets(samples)
        targets["frame_valid"] = _collate([np.ones(sample.num_frames, dtype=bool) for sample in samples])
        qids = [sample.qid for sample in samples]
        targets["qid"] = qids if any(isinstance(qid, str) for qid in qids) else torch.tensor(qids, dtype=torch.int64)
        return batch | {TARGETS: targets}

    def _sample(self, row: Mapping[str, Any] | Sample) -> Sample:
        """Return a row as this training labels it and as the prompt shows it."""
        sample = Sample.of(row).labelled(self.label_rule, self.graded_targets)
        return sample.merged(self.prompt.pictures_per_window)

    def _check(self, samples: Sequence[Sample]) -> None:
        """Refuse rows of which no batch can be made."""
        for sample in samples:
            sample.check_can_be_asked(answered=self.with_answer, rated=self._needs_saliency)
            if self.num_frames is not None:
                sample.check_num_frames(self.num_frames)
            if self.train and sample.frames_missing:
                raise ValueError(
                    f"qid {sample.qid}: its video could not be read, and there is nothing to learn from blank frames; "
                    'drop such rows: rows.filter(lambda missing: not missing, input_columns="frames_missing")'
                )

    @property
    def _needs_saliency(self) -> bool:
        return self.graded_targets or self.label_rule.startswith("saliency")

    def _generator(self, qid: int | str) -> np.random.Generator:
        """Make the generator of one row's draws (see the class docstring for the key)."""
        epoch = int(self._epoch) + 1
        if epoch:
            return np.random.default_rng([self.seed, epoch, 0, qid_seed(qid), 0])
        worker = torch.utils.data.get_worker_info()
        # A worker's seed is the loader's seed of this epoch plus the worker's number, which must not matter to the row.
        loader_seed = 0 if worker is None else worker.seed - worker.id
        times_seen = self._seen[qid]
        self._seen[qid] += 1
        return np.random.default_rng([self.seed, 0, loader_seed, qid_seed(qid), times_seen])

    def _variants(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        if not self.train:
            return np.full(num_frames, MIDDLE_VARIANT, dtype=np.int64)
        return rng.integers(len(VARIANTS), size=num_frames)

    def _frame_targets(self, sample: Sample) -> np.ndarray:
        """Return the targets (F,) of a row; nan for one without annotations, of which only a prompt is made."""
        if sample.has_answer(rated=self._needs_saliency):
            return sample.frame_targets()
        return np.full(sample.num_frames, np.nan, dtype=np.float32)

    def _asked_targets(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Return what objectives ask for beside the frame targets."""
        found = {}
        for name, read in self.targets.items():
            if name == "frame_targets":
                continue
            values = [_as_target(read(sample), name, sample) for sample in samples]
            shapes = {value.shape[1:] if value.ndim else None for value in values}
            if len(shapes) > 1:
                raise ValueError(
                    f"expected the target {name!r} to have one shape behind the frames in all rows, got "
                    f"{sorted({value.shape for value in values})}: fill the smaller ones up"
                )
            found[name] = _collate(values)
        return found

    def _corrupt(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Replace digits of the teacher-forced input by random ones."""
        if not self.train or self.prefix_corruption == 0.0:
            return mask
        replaced = rng.random(mask.shape) < self.prefix_corruption
        return np.where(replaced, rng.integers(2, size=mask.shape).astype(bool), mask)


def _as_target(value: Any, name: str, sample: Sample) -> np.ndarray:
    """Return a target of a row as an array of numbers whose first axis is the frames, or as a single number."""
    try:
        value = value.detach().cpu() if isinstance(value, torch.Tensor) else value
        array = np.asarray(value.float() if getattr(value, "dtype", None) == torch.bfloat16 else value)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"numbers are needed, not {array.dtype}")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"qid {sample.qid}: expected the target {name!r} to be an array of numbers, got {short(value)} ({error})"
        ) from None
    if array.ndim and len(array) != sample.num_frames:
        raise ValueError(
            f"qid {sample.qid}: expected the target {name!r} to have one entry for each of the "
            f"{sample.num_frames} frames first, or to be a number, got shape {array.shape}"
        )
    return array


def _collate(values: list[np.ndarray]) -> torch.Tensor:
    """Stack values of rows, all of the type that holds each; those with fewer frames are filled up with zeros."""
    kind = np.result_type(*values)
    if kind.kind in "uf":  # torch computes little with unsigned numbers of more than a byte
        kind = np.dtype(np.float32 if kind.kind == "f" else np.uint8 if kind.itemsize == 1 else np.int64)
    tensors = [torch.from_numpy(np.array(value, kind)) for value in values]
    return pad_sequence(tensors, batch_first=True) if tensors[0].ndim else torch.stack(tensors)
