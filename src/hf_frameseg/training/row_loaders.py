"""`RowLoaders`: the loaders of a trainer, which give every row once whatever the processes and workers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler
from transformers.trainer_utils import seed_worker

import datasets
from hf_frameseg.batches.row_numbers import NumberedCollator, NumberedRows, NumberedStream, ProcessBatchSampler
from hf_frameseg.sample import rows_with_frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.utils.data import Dataset, Sampler

logger = logging.getLogger(__name__)


class RowLoaders:
    """Deal numbered rows to the processes of a `transformers.Trainer`; mixed in before it.

    The order is settled here, so accelerate only moves the batches. Evaluation has a collator of its own
    (`eval_data_collator`), which draws nothing.
    """

    def get_train_dataloader(self) -> DataLoader:
        """Return the training loader: every row once an epoch, without those whose video could not be read."""
        if self.train_dataset is None:
            raise ValueError("training needs rows: pass train_dataset.")
        rows = _with_frames(self.train_dataset)
        return self._loader(rows, self.data_collator, self._train_batch_size, is_training=True)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Return the evaluation loader, with the evaluation collator: every row once, with its answer for the loss.

        Args:
            eval_dataset: Rows, or the name of one of several evaluation sets; None takes the trainer's.
        """
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        rows = self.eval_dataset[rows] if isinstance(rows, str) else rows
        if rows is None:
            raise ValueError("evaluation needs rows: pass eval_dataset.")
        collator = self.eval_data_collator if self.args.evaluate_loss else _prompts_only(self.eval_data_collator)
        return self._evaluation_loader(rows, collator)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """Return the loader of `predict`, with the evaluation collator: every row once, without its answer.

        Args:
            test_dataset: Rows.
        """
        return self._evaluation_loader(test_dataset, _prompts_only(self.eval_data_collator))

    def _evaluation_loader(self, rows: Any, collator: Callable | None) -> DataLoader:
        """Return a loader of all rows, in their order."""
        self._check_eval_data_collator()
        return self._loader(rows, collator, self.args.eval_batch_size, is_training=False)

    def _loader(self, rows: Any, collator: Callable, batch_size: int, *, is_training: bool) -> DataLoader:
        """Return a loader of this process's batches."""
        options: dict[str, Any] = {
            "collate_fn": NumberedCollator(collator, keep_rows=not is_training),
            "num_workers": self.args.dataloader_num_workers,
            "pin_memory": self.args.dataloader_pin_memory,
            "persistent_workers": is_training and self.args.dataloader_persistent_workers,
            "multiprocessing_context": self.args.dataloader_multiprocessing_context,
            "prefetch_factor": self.args.dataloader_prefetch_factor,
            "in_order": self.args.dataloader_in_order,
        }
        if is_training:
            seeds = {"num_workers": self.args.dataloader_num_workers, "rank": self.args.process_index}
            options["worker_init_fn"] = partial(seed_worker, **seeds)
        place = (batch_size, self.args.process_index, self.args.world_size)
        drop_last = is_training and self.args.dataloader_drop_last
        if isinstance(rows, IterableDataset):
            sized = is_training or not self.args.dataloader_num_workers
            loader = DataLoader(NumberedStream(rows, *place, drop_last, sized), batch_size=None, **options)
        else:
            rows = _as_written(rows)
            sampler = self._sampler(rows) if is_training else self._get_eval_sampler(rows) or SequentialSampler(rows)
            batches = ProcessBatchSampler(sampler, *place, drop_last, self._order_seed)
            loader = DataLoader(NumberedRows(rows), batch_sampler=batches, **options)
        # accelerate moves the batches; which rows are whose is settled.
        loader = prepare_data_loader(
            loader,
            device=self.accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=self.accelerator.device_placement,
            dispatch_batches=False,
            non_blocking=self.accelerator.non_blocking,
        )
        loader._is_accelerate_prepared = True
        return loader

    @property
    def _order_seed(self) -> int:
        """Return the seed of the order of the rows."""
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _sampler(self, rows: Any) -> Sampler[int]:
        """Return the order of training; a random one is the same on every process and differs between epochs."""
        sampler = self._get_train_sampler(rows)
        if type(sampler) is RandomSampler:
            return SeedableRandomSampler(rows, data_seed=self._order_seed)
        return sampler

    def num_examples(self, dataloader: DataLoader) -> int:
        """Return the number of rows behind a loader.

        Args:
            dataloader: One of this trainer's.
        """
        rows = getattr(dataloader, "dataset", None)
        return len(rows.stream) if isinstance(rows, NumberedStream) else super().num_examples(dataloader)

    def _check_eval_data_collator(self) -> None:
        """Refuse to evaluate with a collator that may draw frames and corrupt digits."""
        if self.eval_data_collator is None:
            raise ValueError(
                "evaluation needs a collator without random frames and digits, and data_collator has no "
                "for_evaluation() to make one: pass eval_data_collator=..., or subclass FrameSegmentationCollator."
            )


def _prompts_only(collator: Any) -> Any:
    """Return the collator without answers; one that cannot leave them out has them cut off before decoding."""
    return collator.without_answers() if hasattr(collator, "without_answers") else collator


def _with_frames(rows: Any) -> Any:
    """Leave out rows whose video could not be read; the collator refuses those of a stream."""
    if not isinstance(rows, datasets.Dataset | Sequence):
        return rows
    kept = rows_with_frames(rows)
    if len(kept) < len(rows):
        lost = len(rows) - len(kept)
        logger.warning("%d of %d queries are not learnt from: their videos could not be read", lost, len(rows))
    return kept


def _as_written(rows: Any) -> Any:
    """Undo `set_format`, which would round durations and windows to single precision."""
    is_formatted = isinstance(rows, datasets.Dataset) and rows.format["type"] not in (None, "custom")
    return rows.with_format(None) if is_formatted else rows
