"""The life of a prepared data set in its folder: made once by one process at a time, checked, repaired, opened."""

from __future__ import annotations

import copy
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from datasets.naming import filenames_for_dataset_split
from datasets.table import concat_tables

import datasets
from hf_frameseg._text import printable
from hf_frameseg.prepared.cache import CacheError, DamagedCacheError, check_writable, exclusive, one_line_errors
from hf_frameseg.prepared.manifest import find_damage, write_manifest
from hf_frameseg.prepared.parts import Parts
from hf_frameseg.prepared.report import FAILURES_FILE, warn_of_failures
from hf_frameseg.prepared.stored_once import open_rows

logger = logging.getLogger(__name__)


class CachedBuilder(datasets.GeneratorBasedBuilder):
    """Keep what is prepared; what that is, and how it is made, says the subclass."""

    def __init__(self, cache_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Look at what is in the cache, which may be read-only then; arguments are those of `DatasetBuilder`."""
        root = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser()
        kwargs.setdefault("memory_dir", str(root))
        try:
            with one_line_errors(root):
                check_writable(root)
                super().__init__(cache_dir, *args, **kwargs)
        except CacheError:
            with tempfile.TemporaryDirectory() as anywhere:  # `datasets` wants to write a lock
                super().__init__(anywhere, *args, **kwargs)
            self._cache_dir_root = str(root)
            self._build_cache_dir()
            if not self._place.is_dir():
                raise
        self._cache_dir = self._output_dir = str(self._place)
        self._new_info = copy.deepcopy(self.info)
        if self.is_prepared():
            self.info = self._load_info()

    def parts(self) -> Parts:
        """Return where finished videos are kept until the data set is complete."""
        raise NotImplementedError

    def _keys(self) -> set[str]:
        """Return the names of the parts of this data set."""
        raise NotImplementedError

    def _build_cache_dir(self) -> str:
        """Note the folder of the prepared data; `datasets`, which would trust what is there, gets a name of nothing."""
        self._place = Path(super()._build_cache_dir())
        return f"{self._place}.none"

    def download_and_prepare(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Prepare the splits, or do nothing if they are there; arguments are those of `DatasetBuilder`.

        What is finished when this is killed is not decoded again by the next call. A second process that is asked for
        the same data waits for the first. Data that is there but damaged is prepared again, with a warning.
        """
        if output_dir is not None or args or kwargs.keys() - {"num_proc"}:
            with one_line_errors(Path(self._cache_dir_root)), exclusive(self.parts().folder):
                super().download_and_prepare(output_dir, *args, **kwargs)
        else:
            self._prepare_if(self.damage, **kwargs)

    def repair(self, num_proc: int | None = None) -> None:
        """Read all prepared data, and prepare it again if it is not what was written; or prepare it the first time.

        Args:
            num_proc: Processes that decode.
        """
        self._prepare_if(lambda: self.damage(contents=True), num_proc=num_proc)

    def damage(self, contents: bool = False) -> str | None:
        """Return what is wrong with the prepared data that is there.

        Args:
            contents: Read all of it. Else sizes are compared, and the contents of small files.

        Returns:
            What is wrong, in a few words; None if nothing is, or nothing is there.
        """
        return find_damage(self._place, contents) if os.path.lexists(self._place) else None

    def _prepare_if(self, find: Callable[[], str | None], **kwargs: Any) -> None:
        """Prepare the splits if they are not there, or if something is wrong with them."""
        parts = self.parts()
        if os.path.lexists(self._place) and find() is None:
            self.info = self._load_info()
            self._delete_noted(parts)
            return  # no lock is needed: the cache may be read-only
        with one_line_errors(Path(self._cache_dir_root)), exclusive(parts.folder):
            if os.path.lexists(self._place) and (damage := find()) is not None:
                shown = map(printable, (self._place, damage))
                logger.warning("the prepared data in %s is damaged (%s); it is prepared again", *shown)
                if not self._place.is_dir() or self._place.is_symlink():
                    self._place.unlink()
                self.info = copy.deepcopy(self._new_info)
                kwargs["download_mode"] = datasets.DownloadMode.FORCE_REDOWNLOAD  # or `datasets` would keep it
            super().download_and_prepare(**kwargs)
            parts.delete(self.config_id, self._keys())

    def _delete_noted(self, parts: Parts) -> None:
        """Delete what a process left that was killed when this data set was there and its parts were too."""
        if keys := parts.noted(self.config_id):
            with suppress(OSError), exclusive(parts.folder, wait=False) as ours:
                if ours and parts.noted(self.config_id):
                    parts.delete(self.config_id, keys)

    def _as_dataset(self, split: datasets.ReadInstruction | str, in_memory: bool = False) -> datasets.Dataset:
        """Open a split, or parts of splits; every row has the frames of its video."""
        infos = self.info.splits
        spec = split if isinstance(split, datasets.ReadInstruction) else datasets.ReadInstruction.from_spec(str(split))
        parts = []
        for part in spec.to_absolute({name: info.num_examples for name, info in infos.items()}):
            lengths = infos[part.splitname].shard_lengths
            place = (self._output_dir, self.dataset_name, part.splitname)
            files = filenames_for_dataset_split(*place, filetype_suffix="arrow", shard_lengths=lengths)
            parts.append(open_rows(files, in_memory).slice(part.from_, part.to - part.from_))
        name = datasets.Split(str(split))
        return datasets.Dataset(concat_tables(parts), self.info, name, fingerprint=self._get_dataset_fingerprint(split))

    def as_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """Open the prepared data; arguments are those of `DatasetBuilder`.

        Raises:
            DamagedCacheError: If it is damaged.
        """
        try:
            return super().as_dataset(*args, **kwargs)
        except Exception as error:
            if (damage := self.damage(contents=True)) is None:
                raise
            raise DamagedCacheError(
                f"the prepared data in {self._place} is damaged ({damage}); prepare it again with the same choices"
            ) from error

    def load(self, split: str, num_proc: int | None = None, *, check: bool = False) -> datasets.Dataset:
        """Prepare a split, unless it is in the cache, and open it. What is damaged in the cache is prepared again.

        Args:
            split: Name of the split.
            num_proc: Processes that decode.
            check: Compare all that is in the cache with its checksums; else sizes, which show no flipped bit.

        Returns:
            A data set with the columns listed in `prepared/builder.py`.

        Raises:
            CacheError: If the cache cannot be written.
            FileNotFoundError: If (with `on_error="raise"`) a video is not there.
            VideoReadError: If (with `on_error="raise"`) a video cannot be read.
        """
        (self.repair if check else self.download_and_prepare)(num_proc=num_proc)
        try:
            dataset = self.as_dataset(split)
        except DamagedCacheError:
            self.repair(num_proc=num_proc)
            dataset = self.as_dataset(split)
        warn_of_failures(Path(self.cache_dir) / FAILURES_FILE, self.config.on_error)
        return dataset

    def is_prepared(self) -> bool:
        """Tell whether the data set is complete, so that there is nothing to decode."""
        return self._place.is_dir() and self.damage() is None

    def _fills_cache(self) -> bool:
        """Tell whether what is being prepared goes into the cache, and not into a folder for others to read."""
        return Path(self._output_dir).resolve() == Path(f"{self._place}.incomplete").resolve()

    def _save_info(self) -> None:
        """Write down what the folder holds, at the end of a preparation."""
        super()._save_info()
        write_manifest(Path(self._output_dir))
        if self._fills_cache():
            self.parts().note(self.config_id, self._keys())
