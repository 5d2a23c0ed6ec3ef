"""What a run leaves behind in its output folder: the model, scores, submission, frames and pictures.

Each file appears whole or not at all, and nothing of an earlier model stays beside a newer one.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_frameseg._files import atomic_write, replace_folder
from hf_frameseg.metrics import HEADLINE_COLUMNS, headline
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.frames_file import write_frames_file
from hf_frameseg.sample import Sample
from hf_frameseg.sharing.adapter_folder import save_adapter
from hf_frameseg.sharing.config import CONFIG_NAME, FrameSegmentationConfig
from hf_frameseg.sharing.model_card import CARD_NAME, model_card
from hf_frameseg.sharing.model_folder import ADAPTER_CONFIG_NAME
from hf_frameseg.training.evaluation import write_submission

if TYPE_CHECKING:
    from torch import Tensor

    from datasets import Dataset
    from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer

MODEL_ROW = "model"
"""The row of the table that the submission is made of; the others are controls."""


class ResultsFolder:
    """Write the results of one split into an output folder, each as soon as it is there.

    Args:
        path: The output folder.
        split: Name of the split, for the names of files.

    Example:
        >>> folder = ResultsFolder("runs/mine", split="val")
        >>> folder.submission.as_posix(), folder.frames("blank frames").as_posix()
        ('runs/mine/hl_val_submission.jsonl', 'runs/mine/frames/hl_val_blank_frames.jsonl')
    """

    def __init__(self, path: str | Path, split: str = "val") -> None:
        self.path = Path(path)
        self.split = split

    @property
    def model(self) -> Path:
        """Return the folder of the model or adapter."""
        return self.path / "model"

    @property
    def submission(self) -> Path:
        """Return the official submission file."""
        return self.path / f"hl_{self.split}_submission.jsonl"

    def frames(self, row: str) -> Path:
        """Return the file that `frameseg rescore` reads.

        Args:
            row: Row of the table.
        """
        if row == MODEL_ROW:
            return self.path / f"hl_{self.split}_frames.jsonl"
        return self.path / "frames" / f"hl_{self.split}_{row.replace(' ', '_')}.jsonl"

    def check(self) -> None:
        """Look whether the results can be written where they shall go, before there are any.

        Raises:
            FileExistsError: If something that is no model stands in the model's place.
            OSError: If nothing can be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.path):
            pass
        known = (CONFIG_NAME, ADAPTER_CONFIG_NAME)
        is_known = any((self.model / name).is_file() for name in known)
        if self.model.exists() and any(self.model.iterdir()) and not is_known:
            raise FileExistsError(
                f"{self.model} holds something that is no model of this package: choose another --output_dir"
            )

    def clear(self) -> None:
        """Remove the scores and pictures of an earlier model, which must not lie beside the new one."""
        for path in [self.path / "metrics.json", *self.path.glob("hl_*.jsonl")]:
            path.unlink(missing_ok=True)
        for name in ("frames", "figures"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def write_predictions(self, row: str, predictions: Sequence[FramePrediction]) -> None:
        """Write the frames of a row; for the model also the submission, and the other rows of an earlier run go.

        Args:
            row: Row of the table.
            predictions: One per query.
        """
        if row == MODEL_ROW:
            write_submission(self.submission, predictions)
            for old in (self.path / "frames").glob(f"hl_{self.split}_*.jsonl"):
                old.unlink()
        write_frames_file(self.frames(row), predictions)

    def write_metrics(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Write `metrics.json`, one object per row of the table.

        Args:
            results: The official dictionary of each row. Its `brief` numbers are written on top too, where a reader
                looks for them.
        """
        rows = {name: {**result["brief"], **result} for name, result in results.items()}
        atomic_write(self.path / "metrics.json", json.dumps(rows, indent=2) + "\n")

    def write_figures(
        self,
        rows: Dataset,
        predictions: Sequence[FramePrediction],
        results: Mapping[str, Mapping[str, Any]],
        history: Sequence[Mapping[str, Any]] = (),
        count: int = 4,
    ) -> None:
        """Draw the training curves, the comparison of the rows, and some predictions, into `figures/`.

        Args:
            rows: The split.
            predictions: One per row of the split. Windows of the decoder `runs` are what the model marked; a picture of
                ten candidates for a metric says nothing.
            results: The official dictionary of each row of the table.
            history: `trainer.state.log_history`; without losses there are no curves.
            count: How many predictions, spread over the split.
        """
        from hf_frameseg.visualization import (
            comparison_figure,
            qualitative_figure,
            save_figure,
            training_curves_figure,
        )

        folder = self.path / "figures"
        if any("loss_lm" in entry for entry in history):
            save_figure(training_curves_figure(history), folder / "training_curves.png")
        headlines = {name: headline(result) for name, result in results.items()}
        save_figure(comparison_figure(headlines, list(HEADLINE_COLUMNS)), folder / "comparison.png")
        for index in drawn_rows(len(rows), count):
            sample = Sample.of(rows[index])
            figure = qualitative_figure(
                predictions[index],
                frames=sample.pictures(),  # the middle variants
                relevant_moments=sample.windows,
                clip_saliency=sample.clip_targets(),
            )
            save_figure(figure, folder / picture_name(sample.qid))


def drawn_rows(num_rows: int, count: int) -> list[int]:
    """Return which rows of a split are drawn, spread over it.

    Args:
        num_rows: Rows of the split.
        count: How many to draw.

    Example:
        >>> drawn_rows(9, count=3), drawn_rows(2, count=4)
        ([0, 4, 8], [0, 1])
    """
    return np.linspace(0, num_rows - 1, num=min(count, num_rows)).astype(int).tolist()


def picture_name(qid: int | str) -> str:
    """Return the file of a query's picture; some data sets number their queries with texts.

    Args:
        qid: Query id.

    Example:
        >>> picture_name(17), picture_name("../a 1")
        ('prediction_17.png', 'prediction____a_1.png')
    """
    return f"prediction_{re.sub(r'[^A-Za-z0-9_-]', '_', str(qid))[:100]}.png"


def save_trained(
    trainer: SegmentationSeq2SeqTrainer,
    folder: str | Path,
    config: FrameSegmentationConfig,
    *,
    initial_adapter: Mapping[str, Tensor] | None = None,
    **card: Any,
) -> str | None:
    """Save a trained model whole, or its adapter as an ordinary LoRA for the original base; call it on all processes.

    Args:
        trainer: After the training.
        folder: Where to; an older model or adapter there is replaced in one step.
        config: How the model is asked; the precision in which the trainer scores is added.
        initial_adapter: For PiSSA and its relatives, as for `save_adapter`.
        **card: What the card of an adapter says, as for `save_adapter`: `recipe`, `dataset`, `metrics`.

    Returns:
        Why an adapter was refused, which is kept under another name then; None if all is well.
    """
    folder = Path(folder)
    model = trainer.accelerator.unwrap_model(trainer.model)
    config = replace(config, autocast=trainer.autocast)  # asked in the precision in which it was scored
    if hasattr(model, "peft_config"):
        if trainer.is_world_process_zero():
            try:
                save_adapter(model, trainer.processing_class, config, folder, initial_adapter=initial_adapter, **card)
            except ValueError as error:  # it is kept under another name, and the scores are worth having
                return str(error)
        return None
    partial = folder.with_name(f".{folder.name}.partial")
    if trainer.is_world_process_zero():
        shutil.rmtree(partial, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(partial))
    if trainer.is_world_process_zero():
        trainer.processing_class.save_pretrained(partial)
        config.save(partial)
        replace_folder(partial, folder)
    return None


def add_scores_to_card(folder: str | Path, results: Mapping[str, Mapping[str, Any]], **card: Any) -> None:
    """Write the card of a saved adapter again, with the scores that there are by now.

    Args:
        folder: Folder of `save_adapter`.
        results: The official dictionary of each row of the table.
        **card: What the card said before: `recipe`, `dataset`.
    """
    folder = Path(folder)
    metrics = {name: headline(result) for name, result in results.items()}
    atomic_write(folder / CARD_NAME, model_card(FrameSegmentationConfig.load(folder), metrics=metrics, **card))
