"""The honest table: the scores of a model above those of controls that cannot know, each decoded and scored once.

Digits in a row are easy to guess, so a score means something only beside what the untrained base, blank frames, the
queries of other videos and the whole video as one moment score.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hf_frameseg import __version__
from hf_frameseg.metrics import HEADLINE_COLUMNS, headline
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.prediction import redecode
from hf_frameseg.proposals.settings import PAPER_PROPOSALS
from hf_frameseg.sharing.adapters import adapter_off, changes_base, lora_config_of
from hf_frameseg.training.evaluation import MomentRetrievalMetrics, shuffle_queries, with_blank_frames
from hf_frameseg.training.results import MODEL_ROW, ResultsFolder

if TYPE_CHECKING:
    from torch import Tensor

    from datasets import Dataset
    from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer

logger = logging.getLogger(__name__)

PAPER_ROW = "model, windows by runs"
BASE_ROW = "base without fine-tuning"
BLANK_ROW = "blank frames"
SHUFFLED_ROW = "queries shuffled between videos"
WHOLE_VIDEO_ROW = "whole video"


class EvaluationWithControls:
    """Decode and score a trained model and its controls on a split.

    Make it before the training: which control can be had is known then, and whether the queries can be shuffled. In a
    distributed run call its methods on all processes.

    Args:
        trainer: Its `compute_metrics` score if they are `MomentRetrievalMetrics`, else new ones do.
        rows: The split; None takes the trainer's `eval_dataset`.
        controls: Whether there are rows of controls; without, only the model is decoded.
        trained: Whether the model is trained, or loaded from a checkpoint; else it is the base itself.
        initial_adapter: For PiSSA and its relatives: what `snapshot_adapter` or `keep_start` returned.
        folder: Where each row goes as soon as it is decoded and scored; None writes nothing.
        say: Takes a line about each decode.

    Raises:
        ValueError: If there is no split, or its queries cannot be shuffled because all videos have the same.

    Example:
        Around any training::

            evaluation = EvaluationWithControls(trainer)
            evaluation.decode_base_first()
            trainer.train()
            print(results_table(evaluation.run()))
    """

    def __init__(
        self,
        trainer: SegmentationSeq2SeqTrainer,
        rows: Dataset | None = None,
        *,
        controls: bool = True,
        trained: bool = True,
        initial_adapter: Mapping[str, Tensor] | None = None,
        folder: ResultsFolder | None = None,
        say: Callable[[str], None] = logger.info,
    ) -> None:
        self.trainer, self.folder, self.say = trainer, folder, say
        self.rows: Dataset = trainer.eval_dataset if rows is None else rows
        if self.rows is None or isinstance(self.rows, Mapping):
            raise ValueError("expected one split to evaluate, and the trainer has none or several: pass rows=...")
        scoring = trainer.compute_metrics
        is_ours = isinstance(scoring, MomentRetrievalMetrics)
        self.metrics = scoring.for_rows(self.rows) if is_ours else MomentRetrievalMetrics(self.rows)
        self.shuffled = shuffle_queries(self.rows, trainer.args.seed) if controls else None
        self.initial_adapter = initial_adapter
        self.base_is_decoded = when_base_is_decoded(trainer) if controls and trained else "never"
        if controls and trained and self.base_is_decoded == "never":
            say(f"left out: {BASE_ROW}, which cannot be decoded in this launch")
        self.predictions: dict[str, list[FramePrediction]] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self._base: list[FramePrediction] | None = None

    def decode_base_first(self) -> None:
        """Decode the base before the training if it cannot be had later, because the model has no adapter."""
        if self.base_is_decoded == "before":
            self._base = self._decode(BASE_ROW)

    def run(self) -> dict[str, dict[str, Any]]:
        """Decode and score the model, then its controls; what is there is written before what may fail.

        Returns:
            The official dictionary of each row of the table, and under `frameseg` how it was made. `predictions` has
            what was scored.
        """
        self.predictions, self.results = {}, {}
        for name, predictions in self._rows():
            self._publish(name, predictions)
        return self.results

    def _rows(self) -> Iterator[tuple[str, list[FramePrediction]]]:
        """Yield the rows in their order, each decoded when it is asked for."""
        model = self._decode(MODEL_ROW)
        yield MODEL_ROW, model
        if self.metrics.proposals != PAPER_PROPOSALS:
            yield PAPER_ROW, [redecode(prediction, PAPER_PROPOSALS) for prediction in model]
        if self.shuffled is None:
            return
        if self.base_is_decoded == "after":
            with adapter_off(self.trainer.accelerator.unwrap_model(self.trainer.model), self.initial_adapter):
                self._base = self._decode(BASE_ROW)
        if self._base is not None:
            yield BASE_ROW, self._base
        with _without_pictures(self.trainer):
            blank = self._decode(BLANK_ROW)
        yield BLANK_ROW, blank
        yield SHUFFLED_ROW, self._decode(SHUFFLED_ROW, self.shuffled)
        yield WHOLE_VIDEO_ROW, self.metrics.whole_video()

    def _decode(self, name: str, rows: Dataset | None = None) -> list[FramePrediction]:
        """Decode a row of the table on all processes."""
        rows = self.rows if rows is None else rows
        self.say(f"decoding {len(rows)} queries: {name}")
        return decode_rows(self.trainer, rows, self.metrics)

    def _publish(self, name: str, predictions: list[FramePrediction]) -> None:
        """Write what was decoded, score it, and write that."""
        folder = self.folder if self.trainer.is_world_process_zero() else None
        self.predictions[name] = predictions
        if folder is not None and name != PAPER_ROW:  # which has the frames of the model
            folder.write_predictions(name, predictions)
        self.results[name] = {**self.metrics.score(predictions), "frameseg": self._made_by(name, predictions)}
        if folder is not None:
            folder.write_metrics(self.results)

    def _made_by(self, name: str, predictions: list[FramePrediction]) -> dict[str, Any]:
        """Return how a row came about."""
        args, is_decoded = self.trainer.args, name != WHOLE_VIDEO_ROW
        proposals = PAPER_PROPOSALS if name == PAPER_ROW else self.metrics.proposals
        return {
            "version": __version__,
            "num_frames": predictions[0].grid.num_frames,
            "readout": args.readout if is_decoded else None,
            "num_beams": (args.generation_num_beams or 1) if is_decoded else None,
            "proposals": proposals.to_dict(),
        }

    @property
    def marked(self) -> list[FramePrediction]:
        """Return the model's predictions with the windows that it marked, for pictures."""
        return self.predictions.get(PAPER_ROW, self.predictions[MODEL_ROW])


def decode_rows(
    trainer: SegmentationSeq2SeqTrainer, rows: Dataset, metrics: MomentRetrievalMetrics
) -> list[FramePrediction]:
    """Decode rows on all processes, without scoring them: what is decoded shall be there even if it cannot be scored.

    Args:
        trainer: Any state of training.
        rows: With the queries of the metrics' rows; also of other texts.
        metrics: Which make predictions of the decodes.

    Returns:
        One prediction per query, in the order of the metrics' rows.
    """
    scoring, trainer.compute_metrics = trainer.compute_metrics, None
    try:
        return metrics.predictions(*trainer.predict(rows).predictions[:3])
    finally:
        trainer.compute_metrics = scoring


def when_base_is_decoded(trainer: SegmentationSeq2SeqTrainer) -> str:
    """Say when the base of a training can be decoded.

    Args:
        trainer: Before the training.

    Returns:
        "after" the training, with the adapter off; "before" it, for a model without one; or "never" in this launch.
    """
    model, plugin = trainer.accelerator.unwrap_model(trainer.model), trainer.args.deepspeed_plugin
    zero_stage = None if plugin is None else plugin.zero_stage
    if hasattr(model, "peft_config"):
        in_pieces = zero_stage == 3 or trainer.is_fsdp_enabled
        return "never" if in_pieces and changes_base(lora_config_of(model)) else "after"
    # DeepSpeed decodes with the engine of a training, which there is not yet, or at stage 3.
    return "before" if zero_stage in (None, 3) else "never"


def results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the headline numbers, one line per row of the table.

    Args:
        results: The official dictionary of each row.

    Example:
        >>> lines = results_table({"model": {"brief": {"MR-full-mAP": 35.28}}}).splitlines()
        >>> lines[0].split()[:3], lines[1].split()[:4]
        (['R1@0.5', 'R1@0.7', 'mAP'], ['model', '-', '-', '35.28'])
    """
    width = max(len(name) for name in results)
    lines = [" " * width + "".join(f"{column:>10}" for column in HEADLINE_COLUMNS)]
    for name, result in results.items():
        cells = (f"{value:>10.2f}" if value is not None else f"{'-':>10}" for value in headline(result).values())
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)


@contextmanager
def _without_pictures(trainer: SegmentationSeq2SeqTrainer) -> Iterator[None]:
    """Let a trainer decode without frames for a while."""
    collator = trainer.eval_data_collator
    trainer.eval_data_collator = with_blank_frames(collator)
    try:
        yield
    finally:
        trainer.eval_data_collator = collator
