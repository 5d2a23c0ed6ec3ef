"""Rows -> model inputs with the answer, its labels and the frame targets (layout: see `batches/encoding.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hf_frameseg.annotations.schema import qid_seed
from hf_frameseg.batches.encoding import append_answers, encode_prompts
from hf_frameseg.batches.prompt_template import PromptTemplate
from hf_frameseg.batches.prompts import get_prompt
from hf_frameseg.digits import BinaryLabels
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
        num_frames: Frames every row must have; None lets rows differ.
        label_rule: Which frames are relevant, see `targets.frame_mask`.
        graded_targets: Let `frame_targets` be the annotators' mean score / 4 in place of the mask, which stays in the
            digits.
        train: Draw one of three variants per frame and corrupt the prefix; else the middle variants, untouched.
        prefix_corruption: Probability with which a digit of the teacher-forced *input* becomes a random digit (half of
            these change it). Labels and targets keep the truth. Keeps a model from copying the previous true digit.
        with_answer: False gives the prompt alone, for decoding; rows then need no annotations.
        seed: Seed of the draws.

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

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows.

        Args:
            rows: B rows with the columns listed in `prepared/builder.py`; those of the grid and of the times may be
                absent.

        Returns:
            The processor's tensors (`input_ids`, `attention_mask`, `pixel_values`, ...) with the answer appended, and
            `labels` (B, L), `answer_start` (B,), `frame_targets` (B, F) float32, `frame_valid` (B, F) bool, `qid`: (B,)
            int64, or a list where ids are texts. With `with_answer=False` there are no answers, `labels` and
            `answer_start`, and the `frame_targets` of a row without annotations are nan.
        """
        samples = [Sample.of(row) for row in rows]
        self._check(samples)
        frames, times, masks, targets, inputs = [], [], [], [], []
        for sample in samples:
            rng = self._generator(sample.qid)
            variants = self._variants(sample.num_frames, rng)
            frames.append(sample.pictures(variants))
            times.append(sample.times(variants) if self.prompt.tells_time else None)
            targets.append(self._targets(sample))
            if self.with_answer:
                masks.append(sample.mask(self.label_rule))
                inputs.append(self._corrupt(masks[-1], rng))
        batch = encode_prompts(self.processor, self.prompt, [sample.query for sample in samples], frames, times)
        if self.with_answer:
            answers = [self.labels.answer_ids(mask) for mask in inputs]
            truths = [self.labels.answer_ids(mask) for mask in masks]
            batch = append_answers(batch, answers, truths, self.processor.tokenizer.pad_token_id)
        batch["frame_targets"] = _pad(targets, torch.float32)
        batch["frame_valid"] = _pad([np.ones(len(row), dtype=bool) for row in frames], torch.bool)
        qids = [sample.qid for sample in samples]
        batch["qid"] = qids if any(isinstance(qid, str) for qid in qids) else torch.tensor(qids, dtype=torch.int64)
        return batch

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

    def _targets(self, sample: Sample) -> np.ndarray:
        """Return the targets (F,) of a row; nan for one without annotations, of which only a prompt is made."""
        if sample.has_answer(rated=self._needs_saliency):
            return sample.frame_targets(self.label_rule, self.graded_targets)
        return np.full(sample.num_frames, np.nan, dtype=np.float32)

    def _corrupt(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Replace digits of the teacher-forced input by random ones."""
        if not self.train or self.prefix_corruption == 0.0:
            return mask
        replaced = rng.random(mask.shape) < self.prefix_corruption
        return np.where(replaced, rng.integers(2, size=mask.shape).astype(bool), mask)


def _pad(rows: list[np.ndarray], dtype: torch.dtype) -> torch.Tensor:
    """Stack values per frame; rows with fewer frames are filled up at the end with zeros."""
    padded = torch.zeros(len(rows), max(len(row) for row in rows), dtype=dtype)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = torch.from_numpy(row)
    return padded
