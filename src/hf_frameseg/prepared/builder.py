"""Videos and their annotations as a `datasets` data set of cached frames, whatever data set they come from.

Every video is decoded once and its frames are on disk once, for all its queries (`prepared/stored_once.py`). Labels and
prompts are not part of the frames: changing a label rule or a prompt never decodes a video again. The cache is keyed by
the choices, the annotations and the video files' places, sizes and times; to do without the videos later, keep the
result with `save_shards` (`dataset.save_to_disk` writes the frames of a video again for every query).

The annotated duration defines the frame grid. A file may be up to `duration_tolerance_seconds` shorter (its last frame
then stands for the rest); of a longer file the part up to the annotated end is used.

Columns of a row (one row per query, in the order of the annotations):

| column | type | meaning |
|---|---|---|
| `qid` | int64, or string | query id, as the annotations have it |
| `query` | string | the sentence |
| `vid` | string | video id |
| `duration_seconds` | float64 | annotated length T; defines the frame grid |
| `frames` | binary, or list of images | F x 3 pictures; read them with `Sample.of(row).pictures(variants)` |
| `frame_shape` | list of int64 | `[F, 3, H, W, 3]` |
| `frame_times_seconds` | F x 3 float64 | when each picture is shown in the file |
| `frames_missing` | bool | the video could not be read: the frames are black and stand for nothing |
| `grid_times` | F float64 | `times` of the `FrameGrid`: when each frame is to be shown |
| `grid_edges` | F + 1 float64 | its `edges`: the windows that the frames stand for |
| `relevant_windows` | list of `[start, end]` | seconds |
| `relevant_clip_ids` | list of int64 | 2-second clips inside the windows |
| `saliency_scores` | list of three int64 | annotators' ratings 0 to 4 of each relevant clip (float64 if scaled) |
| `saliency_source` | string | "annotators", or the name of the rule that made the ratings up |

The label columns are empty lists where the annotations have no labels (QVHighlights' official test release).
"""

from __future__ import annotations

import copy
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from datasets.naming import filenames_for_dataset_split
from datasets.table import concat_tables
from datasets.utils import tqdm

import datasets
from hf_frameseg._text import printable
from hf_frameseg.prepared.cache import (
    CacheError,
    DamagedCacheError,
    check_writable,
    clear_folder,
    exclusive,
    one_line_errors,
)
from hf_frameseg.prepared.config import FrameDatasetConfig, digest
from hf_frameseg.prepared.failures import FAILURES_FILE, Failure, failure_line, read_failures, write_failures
from hf_frameseg.prepared.frame_columns import grid_columns
from hf_frameseg.prepared.jobs import VideoJob, prepare_columns, run_jobs
from hf_frameseg.prepared.manifest import find_damage, write_manifest
from hf_frameseg.prepared.one_video import blank_columns
from hf_frameseg.prepared.parts import Parts
from hf_frameseg.prepared.stored_once import open_rows
from hf_frameseg.targets import ANNOTATED_SALIENCY
from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.settings import FrameSettings

logger = logging.getLogger(__name__)

LABELS = ("relevant_windows", "relevant_clip_ids", "saliency_scores")

_WRITER_BATCH_BYTES = 64 * 2**20
_MUCH = 1.1  # a file is much longer than annotated beyond this factor, and the tolerance
_HINT = "pass on_error='skip'"

Video = tuple[str, float]
"""vid and annotated duration: what the frames of a row depend on."""


class FrameDatasetBuilder(datasets.GeneratorBasedBuilder):
    """Decode the videos of a data set into rows; a data set is a subclass with a config of its own.

    `load_dataset` refuses builders that are not on the Hub as data files, so a builder is used as a class:

        builder = QVHighlights(data_dir="data", frames=FrameSettings(frame_size=378))
        builder.download_and_prepare(num_proc=8)
        rows = builder.as_dataset("train")
    """

    BUILDER_CONFIG_CLASS = FrameDatasetConfig

    def __init__(
        self, cache_dir: str | None = None, *args: Any, writer_batch_size: int | None = None, **kwargs: Any
    ) -> None:
        """Build with rows per written batch chosen by their size: the default 1000 would hold gigabytes in memory."""
        root = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser()
        kwargs.setdefault("memory_dir", str(root))
        try:
            with one_line_errors(root):
                check_writable(root)
                super().__init__(cache_dir, *args, writer_batch_size=writer_batch_size, **kwargs)
        except CacheError:
            with tempfile.TemporaryDirectory() as anywhere:  # `datasets` wants to write a lock
                super().__init__(anywhere, *args, writer_batch_size=writer_batch_size, **kwargs)
            self._cache_dir_root = str(root)
            self._build_cache_dir()
            if not self._place.is_dir():
                raise
        self._cache_dir = self._output_dir = str(self._place)
        self._new_info = copy.deepcopy(self.info)
        if self._is_complete():
            self.info = self._load_info()
        if writer_batch_size is None:
            self._writer_batch_size = _rows_per_batch(self.config.frames, self.config.frame_format)
        self._jobs: dict[Video, VideoJob] | None = None
        self._failures: dict[Video, Failure] = {}
        self._damaged: dict[Video, float] = {}  # share of damaged pictures that were kept
        self._longer: dict[Video, float] = {}
        self._stores_once = True  # other formats than Arrow are read by others

    def _info(self) -> datasets.DatasetInfo:
        """Describe the columns."""
        raw = self.config.frame_format == "raw"
        integers, floats, text = datasets.Value("int64"), datasets.Value("float64"), datasets.Value("string")
        ratings = floats if self.config.has_fractional_ratings() else integers
        features = {
            "qid": text if self.config.has_text_qids() else integers,
            "query": text,
            "vid": text,
            "duration_seconds": floats,
            # large_binary: a chunk of plain binary ends at 2 GB. decode=False: only the asked variants are decoded.
            "frames": datasets.Value("large_binary") if raw else datasets.List(datasets.Image(decode=False)),
            "frame_shape": datasets.List(integers),
            "frame_times_seconds": datasets.List(datasets.List(floats)),
            "frames_missing": datasets.Value("bool"),
            "grid_times": datasets.List(floats),
            "grid_edges": datasets.List(floats),
            "relevant_windows": datasets.List(datasets.List(floats)),
            "relevant_clip_ids": datasets.List(integers),
            "saliency_scores": datasets.List(datasets.List(ratings)),
            "saliency_source": text,
        }
        return datasets.DatasetInfo(features=datasets.Features(features))

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

    def _keys(self) -> set[str]:
        """Return the names of the parts of this data set."""
        return {job.key for job in self.plan().values()}

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
            A data set with the columns listed at the top of this module.

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
        report = Path(self.cache_dir) / FAILURES_FILE
        lines = read_failures(report)
        if kept := [line for line in lines if "damaged_share" in line]:
            logger.warning("videos with damaged pictures, which were kept: %d; see %s", len(kept), printable(report))
        if failures := [line for line in lines if "damaged_share" not in line]:
            queries = sum(failure["queries"] for failure in failures)
            what = "have black frames" if self.config.on_error == "blank" else "were left out"
            logger.warning(
                "missing or unreadable videos: %d (%d queries), which %s; see %s",
                *(len(failures), queries, what, printable(report)),
            )
        return dataset

    def _is_complete(self) -> bool:
        """Tell whether the data set is in the cache, and as large as it should be."""
        return os.path.lexists(self._place) and find_damage(self._place) is None

    def _save_info(self) -> None:
        """Write down what the folder holds, at the end of a preparation."""
        super()._save_info()
        write_manifest(Path(self._output_dir))
        if Path(self._output_dir).name == f"{self._place.name}.incomplete":
            self.parts().note(self.config_id, self._keys())

    def _download_and_prepare(
        self, dl_manager: Any, verification_mode: Any, num_proc: int | None = None, **kwargs: Any
    ) -> None:
        """Decode the videos, then write the rows in one process: the result does not depend on `num_proc`."""
        clear_folder(Path(self._output_dir))  # what a killed run left there would become part of the data set
        self._failure_report().unlink(missing_ok=True)
        self._decode(num_proc)
        self._longer, self._damaged = {}, {}
        self._stores_once = kwargs.get("file_format", "arrow") == "arrow"
        super()._download_and_prepare(dl_manager, verification_mode, **kwargs)
        self._warn_of_longer_files()
        if self._failures or self._damaged:
            write_failures(Path(self._output_dir) / FAILURES_FILE, self._failure_lines())

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        """Make one generator per split; its videos are decoded before."""
        generators = []
        for split in self.config.prepared_splits():
            # Rows of a stream are used as they come.
            once = self._stores_once and not dl_manager.is_streaming
            generator = datasets.SplitGenerator(name=split, gen_kwargs={"split": split, "once": once})
            # Gives the progress bar its end; replaced by the real count.
            generator.split_info.num_examples = sum(
                self.config.on_error == "blank" or _video(row) not in self._failures
                for row in self.config.annotations(split)
            )
            generators.append(generator)
        return generators

    def _generate_examples(self, split: str, once: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the rows of a split in the order of its annotations; `once`: only the first of a video has frames."""
        known: dict[Video, dict[str, Any] | None] = {}
        for row in self.config.annotations(split):
            video = _video(row)
            if video not in known:
                if not once:
                    known.clear()  # the frames of one video at a time
                known[video] = self._columns(video)
            columns = known[video]
            if once and columns is not None:
                known[video] = {**columns, "frames": None}
            if columns is None:
                continue
            query = {name: row[name] for name in ("qid", "query", "vid")} | {"duration_seconds": video[1]}
            grid = grid_columns(self.config.frames.grid(video[1]))
            labels = {name: row[name] for name in LABELS}
            source = {"saliency_source": row.get("saliency_source", ANNOTATED_SALIENCY)}
            yield row["qid"], {**query, **columns, **grid, **labels, **source}

    def _columns(self, video: Video) -> dict[str, Any] | None:
        """Return the columns of a video; None if its rows are left out."""
        jobs, config = self.plan(), self.config
        if video not in self._failures:
            columns = self.parts().read(jobs[video].key)
            if columns is not None:
                return self._without_notes(video, columns)
            # Rows are streamed without a cache, or the part was damaged.
            columns = prepare_columns(jobs[video], self.parts().scratch)
            if not isinstance(columns, Failure):
                return self._without_notes(video, columns)
            self._failures[video] = columns
        if config.on_error == "raise":
            raise VideoReadError(printable(f"video {video[0]}: {self._failures[video].error}; {_HINT}"))
        return blank_columns(video[1], config.frames, config.frame_format) if config.on_error == "blank" else None

    def _without_notes(self, video: Video, columns: dict[str, Any]) -> dict[str, Any]:
        """Note how long the file of a video is, and how much of it is damaged, which are no columns of a row."""
        if share := columns.pop("damaged_share", None):
            self._damaged[video] = share
        length = columns.pop("file_seconds", None)  # None: of a part that an earlier version left
        if length is not None and length > max(
            video[1] + self.config.frames.duration_tolerance_seconds, video[1] * _MUCH
        ):
            self._longer[video] = length
        return columns

    def _warn_of_longer_files(self) -> None:
        """Count the queries whose videos go on long after their annotated end, as with durations of another unit."""
        queries = Counter(
            _video(row) for split in self.config.prepared_splits() for row in self.config.annotations(split)
        )
        if self._longer:
            (vid, annotated), length = next(iter(self._longer.items()))
            logger.warning(
                "%d of %d videos (%d queries) last much longer than annotated, for example %s: %.1f s, annotated %g s; "
                "what lies behind the annotated end is not used; `frameseg verify` lists them",
                *(len(self._longer), len(queries), sum(queries[video] for video in self._longer)),
                *(printable(vid), length, annotated),
            )

    def plan(self) -> dict[Video, VideoJob]:
        """Find the file of every video, once.

        Returns:
            (vid, duration in seconds) -> what to decode, without videos that have no file.
        """
        if self._jobs is None:
            splits = self.config.prepared_splits()
            videos = dict.fromkeys(_video(row) for split in splits for row in self.config.annotations(split))
            found, missing = self.config.videos().locate(dict.fromkeys(vid for vid, _ in videos))
            self._failures = {video: Failure(missing[video[0]]) for video in videos if video[0] in missing}
            choices, kept = self.config.frames_key(), (self.config.frames, self.config.frame_format)
            self._jobs = {
                (vid, seconds): VideoJob(digest([found[vid].identity(), seconds, choices]), found[vid], seconds, *kept)
                for vid, seconds in videos
                if vid in found
            }
        return self._jobs

    def _decode(self, num_proc: int | None) -> None:
        """Decode the videos that are not finished yet."""
        self._jobs = None
        jobs, parts = self.plan(), self.parts()
        self.refuse_missing()
        parts.claim(job.key for job in jobs.values())
        finished = parts.finished()
        todo = [job for job in jobs.values() if job.key not in finished]
        videos = {job.key: video for video, job in jobs.items()}
        start = len(jobs) - len(todo)
        bar = tqdm(total=len(jobs), initial=start, desc="Decoding videos", unit=" videos", smoothing=0)  # an even pace
        with bar, closing(run_jobs(todo, parts, num_proc)) as results:
            for job, failure in results:
                bar.update()
                if failure is not None:
                    self._failures[videos[job.key]] = failure
                    if self.config.on_error == "raise":
                        break
        self._refuse_unreadable()

    def refuse_missing(self) -> None:
        """Stop before anything is decoded if that cannot end well.

        Raises:
            FileNotFoundError: If no video of a split is there or (with `on_error="raise"`) one is not.
        """
        for split in self.config.prepared_splits():
            rows = self.config.annotations(split)
            lost = [row for row in rows if _video(row) in self._failures]
            num_lost, num_videos = (len({row["vid"] for row in some}) for some in (lost, rows))
            if not lost or (num_lost < num_videos and self.config.on_error != "raise"):
                continue
            first, reason = lost[0], self._failures[_video(lost[0])].error
            message = printable(f"qid {first['qid']}: no video {first['vid']}: {reason}")
            if num_lost == num_videos:
                message = f"none of the {num_videos} videos of {split} is there; {message}"
            else:
                message += f" ({num_lost} of {num_videos} missing in {split}); add the files or {_HINT}"
            raise self._reported(FileNotFoundError, message)

    def _refuse_unreadable(self) -> None:
        """Stop if a video failed and that is an error, or if nothing of a split is left."""
        raising = self.config.on_error == "raise"
        for split in self.config.prepared_splits():
            videos = [_video(row) for row in self.config.annotations(split)]
            failed = [video for video in videos if video in self._failures]
            if failed and (raising or len(failed) == len(videos)):
                reason = self._failures[failed[0]].error
                hint = _HINT if raising else "no video of the split could be read"
                raise self._reported(VideoReadError, f"{split}: video {failed[0][0]}: {reason}; {hint}")

    def _reported(self, error: type[Exception], message: str) -> Exception:
        """Write the report of a preparation that failed, and return the error that names it."""
        path = self._failure_report()
        write_failures(path, self._failure_lines())
        return error(printable(f"{message}; report: {path}"))

    def _failure_report(self) -> Path:
        """Return where the report goes when the preparation fails: beside the folder that it would have filled."""
        return Path(self._output_dir.removesuffix(".incomplete") + f".{FAILURES_FILE}")

    def _failure_lines(self) -> list[dict[str, Any]]:
        """Describe the failed videos of every split."""
        lines = []
        for split in self.config.prepared_splits():
            queries = Counter(_video(row) for row in self.config.annotations(split))
            for video in sorted(queries.keys() & self._failures.keys()):
                job = self.plan().get(video)
                file = None if job is None else job.file.name
                lines.append(failure_line(split, video[0], file, self._failures[video], queries[video]))
            for video in sorted(queries.keys() & self._damaged.keys()):
                kept = Failure(f"{self._damaged[video]:.1%} of the chosen pictures are damaged; they were kept")
                line = failure_line(split, video[0], self.plan()[video].file.name, kept, queries[video])
                lines.append({**line, "damaged_share": self._damaged[video]})
        return lines

    def parts(self) -> Parts:
        """Return where finished videos are kept until the data set is complete.

        The name does not depend on the annotations, the files or `on_error`: who replaces a broken video or chooses to
        skip it goes on where it failed.
        """
        config = self.config
        places = [str(Path(place).resolve()) for place in (config.data_dir, config.video_place())]
        name = f"{'-'.join(config.prepared_splits())}-{config.readable()}-{digest([places, config.frames_key()])}.parts"
        return Parts(Path(self._cache_dir_root, self.dataset_name, name).absolute())


def _video(row: Mapping[str, Any]) -> Video:
    """Return which video, cut at which length, a row needs."""
    return row["vid"], float(row["duration"])


def _rows_per_batch(frames: FrameSettings, frame_format: str) -> int:
    """Return how many rows to hold in memory before they are written."""
    height, width = frames.known_size or (720, 1280)
    row_bytes = frames.num_frames * 3 * height * width * 3 // (8 if frame_format == "jpeg" else 1)
    return min(max(_WRITER_BATCH_BYTES // max(row_bytes, 1), 1), 1000)
