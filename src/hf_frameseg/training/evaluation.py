"""From gathered decodes to official scores, and the controls that a score is compared with.

Teacher-forced losses do not show that a model looks at the video: copying the previous digit is right nine times out of
ten. So every table has rows that cannot look: blank frames, the query of another video, the whole video as one moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_frameseg.metrics import evaluate_per_query, headline, recall_at, summarize_per_query, tasks_left_out
from hf_frameseg.metrics.summary import check_thresholds
from hf_frameseg.moments import FrameGrid
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.prediction import prediction_of, to_prediction
from hf_frameseg.proposals.settings import SCORING_PROPOSALS, ProposalSettings
from hf_frameseg.records import write_json_lines
from hf_frameseg.sample import Rows, Sample, plain, samples_without_pictures, with_queries

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import EvalPrediction

    from datasets import Dataset

logger = logging.getLogger(__name__)

PIXELS = ("pixel_values", "pixel_values_videos")
"""Names that processors of transformers give to what they make of pictures and videos."""


class MomentRetrievalMetrics:
    """Score the decodes of a split; the `compute_metrics` of the trainer.

    In the trainer, the rows that are evaluated take the place of `rows`: one object scores every evaluation set, a part
    of one, and training rows. Elsewhere `for_rows` does that.

    Highlight scores are those of the queries that people have rated: the others are left out of them, with a line in
    the log. Where nobody rated anything there are none.

    Args:
        rows: The split: a data set, rows, or samples.
        proposals: How windows and saliency are made of the decodes. The default, `runs+fill`, has the R1 of the paper's
            `runs` and a higher mAP; `docs/decoders.md` says by how much.
        r1_thresholds: Further IoU thresholds of R1, such as 0.3 for Charades-STA; `__call__` adds `R1@0.3`.

    Raises:
        ValueError: If a column is missing or a query id stands twice; from `predictions`, when decodes and rows do not
            hold the same queries.
    """

    def __init__(
        self,
        rows: Dataset | Rows,
        proposals: ProposalSettings = SCORING_PROPOSALS,
        r1_thresholds: Sequence[float] = (),
    ) -> None:
        self.samples = _by_qid(rows)
        self.proposals = proposals
        self.r1_thresholds = check_thresholds(r1_thresholds)

    def for_rows(self, rows: Dataset | Rows) -> MomentRetrievalMetrics:
        """Return the same metrics for other rows, or a part of these.

        Args:
            rows: As for the class.
        """
        other = copy(self)
        other.samples = _by_qid(rows)
        return other

    @property
    def ground_truth(self) -> list[dict[str, Any]]:
        """Return the annotation lines, as the official evaluator reads them."""
        return [sample.annotation() for sample in self.samples.values()]

    def predictions(self, masks: np.ndarray, frame_logits: np.ndarray, qids: np.ndarray) -> list[FramePrediction]:
        """Return one prediction per query, in the order of the rows whatever the order of the decodes.

        Args:
            masks: (N, F) decoded digits, below 0 behind the frames of a row that has fewer than F.
            frame_logits: (N, F, 2) scores of `0` and `1`.
            qids: (N,) query ids, numbers or texts.
        """
        order = {plain(qid): index for index, qid in enumerate(qids)}
        if len(order) != len(qids) or order.keys() != self.samples.keys():
            raise ValueError(
                f"expected one decode for each of {len(self.samples)} queries, got {len(qids)} for {len(order)} "
                "queries; evaluate the same split that the metrics were made for; for a part of it, ask "
                "metrics.for_rows(rows)."
            )
        found = []
        for qid, sample in self.samples.items():
            index = order[qid]
            real = masks[index] >= 0  # batches of other numbers of frames are gathered with -100 at the end
            prediction = to_prediction(
                masks[index][real] == 1,
                frame_logits[index][real],
                sample.grid_of(int(real.sum())),
                self.proposals,
                query=sample.query,
                qid=qid,
                vid=sample.vid,
            )
            found.append(prediction)
        return found

    def score(self, predictions: Sequence[FramePrediction]) -> dict[str, Any]:
        """Return the official nested dictionary."""
        return summarize_per_query(self._per_query(predictions))

    def _per_query(self, predictions: Sequence[FramePrediction]) -> dict[str, np.ndarray]:
        """Return the official scores of every query."""
        submission = [prediction.to_submission() for prediction in predictions]
        truth = self.ground_truth
        per_query = evaluate_per_query(submission, truth)
        if "hl_argmax" in per_query and (reason := tasks_left_out(submission, per_query).get("highlights")):
            logger.warning("highlight scores: %s", reason)
        return per_query

    def whole_video(self) -> list[FramePrediction]:
        """Return the control that answers every query with the whole video and constant saliency."""
        # One frame that is marked. Its odds rank nothing; even ones, and not certainty, because any settings take them.
        return [
            prediction_of(
                [1],
                [0.5],
                FrameGrid.middle(sample.duration_seconds, 1),
                self.proposals,
                log_odds=[0.0],
                query=sample.query,
                qid=qid,
                vid=sample.vid,
            )
            for qid, sample in self.samples.items()
        ]

    def __call__(self, decoded: EvalPrediction) -> dict[str, float]:
        """Return the headline numbers for the trainer's log, e.g. `eval_mAP`."""
        per_query = self._per_query(self.predictions(*decoded.predictions[:3]))
        result = headline(summarize_per_query(per_query))
        further = recall_at(per_query, self.r1_thresholds) if self.r1_thresholds else {}
        return {name: value for name, value in result.items() if value is not None} | further


def _by_qid(rows: Dataset | Rows) -> dict[int | str, Sample]:
    """Return the samples, without their pictures, by their query ids."""
    found: dict[int | str, Sample] = {}
    for sample in samples_without_pictures(rows):
        sample.check_can_be_scored()
        if sample.qid in found:
            raise ValueError(f"qid {sample.qid} stands in two rows; every query needs its own qid")
        found[sample.qid] = sample
    return found


def write_submission(path: str | Path, predictions: Sequence[FramePrediction]) -> None:
    """Write an official submission file (JSON lines), whole or not at all."""
    write_json_lines(path, (prediction.to_submission() for prediction in predictions))


def with_blank_frames(collator: Callable[[list[dict]], dict[str, torch.Tensor]]) -> BlankFrames:
    """Return a collator whose frames are all the mean colour: what the text alone can answer.

    Args:
        collator: The evaluation collator.

    Raises:
        KeyError: From the returned collator, when the processor gives no pixels.
    """
    return BlankFrames(collator)


@dataclass(frozen=True)
class BlankFrames:
    """Make the batches of another collator without their pictures; see `with_blank_frames`."""

    collator: Callable[[list[dict]], dict[str, torch.Tensor]]

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Return the batch of these rows with zeros as pixels."""
        batch = self.collator(rows)
        pixels = [name for name in PIXELS if name in batch]
        if not pixels:
            raise KeyError(f"expected {' or '.join(PIXELS)} in the batch, got {', '.join(batch)}")
        return batch | {name: torch.zeros_like(batch[name]) for name in pixels}

    def without_answers(self) -> BlankFrames:
        """Return the same for prompts alone, where the other collator can make them."""
        if not hasattr(self.collator, "without_answers"):
            return self
        return BlankFrames(self.collator.without_answers())


def shuffle_queries(dataset: Dataset, seed: int = 0) -> Dataset:
    """Return the split with every query replaced by a text that is not asked of its video; the annotations stay.

    Args:
        dataset: The split.
        seed: Seed of the exchange.

    Raises:
        ValueError: When a row finds no such text in another video.
    """
    rng = np.random.default_rng(seed)
    samples = list(samples_without_pictures(dataset))
    queries, vids = [sample.query for sample in samples], [sample.vid for sample in samples]
    asked: dict[str, set[str]] = {}
    for query, vid in zip(queries, vids, strict=True):
        asked.setdefault(vid, set()).add(query)
    shuffled = []
    for query, vid in zip(queries, vids, strict=True):
        other = next((int(i) for i in rng.permutation(len(queries)) if queries[i] not in asked[vid]), None)
        if other is None:
            raise ValueError(f"cannot shuffle queries: no other video has another query than {query!r}.")
        shuffled.append(queries[other])
    return with_queries(dataset, shuffled)
