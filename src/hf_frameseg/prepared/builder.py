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

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from datasets.utils import tqdm

import datasets
from hf_frameseg._text import printable
from hf_frameseg.prepared.cache import clear_folder
from hf_frameseg.prepared.cached_builder import CachedBuilder
from hf_frameseg.prepared.config import FrameDatasetConfig, digest
from hf_frameseg.prepared.frame_columns import grid_columns
from hf_frameseg.prepared.jobs import VideoJob, prepare_columns, run_jobs
from hf_frameseg.prepared.one_video import blank_columns
from hf_frameseg.prepared.parts import Parts
from hf_frameseg.prepared.report import FAILURES_FILE, Failure, Findings, Video, write_failures
from hf_frameseg.targets import ANNOTATED_SALIENCY
from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.settings import FrameSettings
from hf_frameseg.video.worker import check_num_processes

LABELS = ("relevant_windows", "relevant_clip_ids", "saliency_scores")

_WRITER_BATCH_BYTES = 64 * 2**20
_HINT = "pass on_error='skip'"


class FrameDatasetBuilder(CachedBuilder):
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
        super().__init__(cache_dir, *args, writer_batch_size=writer_batch_size, **kwargs)
        if writer_batch_size is None:
            self._writer_batch_size = _rows_per_batch(self.config.frames, self.config.frame_format)
        self._jobs: dict[Video, VideoJob] | None = None
        self._findings = Findings()
        self._stores_once = True  # other formats and folders are read by others

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

    def _download_and_prepare(
        self, dl_manager: Any, verification_mode: Any, num_proc: int | None = None, **kwargs: Any
    ) -> None:
        """Decode the videos, then write the rows in one process: the result does not depend on `num_proc`."""
        clear_folder(Path(self._output_dir))  # what a killed run left there would become part of the data set
        self._failure_report().unlink(missing_ok=True)
        self._decode(num_proc)
        self._findings = Findings(self._findings.failures)  # what is written counts
        self._stores_once = self._fills_cache() and kwargs.get("file_format", "arrow") == "arrow"
        super()._download_and_prepare(dl_manager, verification_mode, **kwargs)
        self._findings.warn_of_longer_files(sum(self._queries().values(), Counter()))
        if lines := self._report_lines():
            write_failures(Path(self._output_dir) / FAILURES_FILE, lines)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        """Make one generator per split; its videos are decoded before."""
        generators = []
        for split in self.config.prepared_splits():
            # Rows of a stream are used as they come.
            once = self._stores_once and not dl_manager.is_streaming
            generator = datasets.SplitGenerator(name=split, gen_kwargs={"split": split, "once": once})
            # Gives the progress bar its end; replaced by the real count.
            generator.split_info.num_examples = sum(
                self.config.on_error == "blank" or _video(row) not in self._findings.failures
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
        tolerance = config.frames.duration_tolerance_seconds
        if video not in self._findings.failures:
            columns = self.parts().read(jobs[video].key)
            if columns is not None:
                return self._findings.without_notes(video, columns, tolerance)
            # Rows are streamed without a cache, or the part was damaged.
            columns = prepare_columns(jobs[video], self.parts().scratch)
            if not isinstance(columns, Failure):
                return self._findings.without_notes(video, columns, tolerance)
            self._findings.failures[video] = columns
        if config.on_error == "raise":
            raise VideoReadError(printable(f"video {video[0]}: {self._findings.failures[video].error}; {_HINT}"))
        return blank_columns(video[1], config.frames, config.frame_format) if config.on_error == "blank" else None

    def plan(self) -> dict[Video, VideoJob]:
        """Find the file of every video, once.

        Returns:
            (vid, duration in seconds) -> what to decode, without videos that have no file.
        """
        if self._jobs is None:
            splits = self.config.prepared_splits()
            videos = dict.fromkeys(_video(row) for split in splits for row in self.config.annotations(split))
            found, missing = self.config.videos().locate(dict.fromkeys(vid for vid, _ in videos))
            failures = {video: Failure(missing[video[0]]) for video in videos if video[0] in missing}
            self._findings = Findings(failures)
            choices, kept = self.config.frames_key(), (self.config.frames, self.config.frame_format)
            self._jobs = {
                (vid, seconds): VideoJob(digest([found[vid].identity(), seconds, choices]), found[vid], seconds, *kept)
                for vid, seconds in videos
                if vid in found
            }
        return self._jobs

    def _decode(self, num_proc: int | None) -> None:
        """Decode the videos that are not finished yet."""
        check_num_processes("num_proc", num_proc)
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
                    self._findings.failures[videos[job.key]] = failure
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
            lost = [row for row in rows if _video(row) in self._findings.failures]
            num_lost, num_videos = (len({row["vid"] for row in some}) for some in (lost, rows))
            if not lost or (num_lost < num_videos and self.config.on_error != "raise"):
                continue
            first, reason = lost[0], self._findings.failures[_video(lost[0])].error
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
            failed = [video for video in videos if video in self._findings.failures]
            if failed and (raising or len(failed) == len(videos)):
                reason = self._findings.failures[failed[0]].error
                hint = _HINT if raising else "no video of the split could be read"
                raise self._reported(VideoReadError, f"{split}: video {failed[0][0]}: {reason}; {hint}")

    def _reported(self, error: type[Exception], message: str) -> Exception:
        """Write the report of a preparation that failed, and return the error that names it."""
        path = self._failure_report()
        write_failures(path, self._report_lines())
        return error(printable(f"{message}; report: {path}"))

    def _failure_report(self) -> Path:
        """Return where the report goes when the preparation fails: beside the folder that it would have filled."""
        return Path(self._output_dir.removesuffix(".incomplete") + f".{FAILURES_FILE}")

    def _report_lines(self) -> list[dict[str, Any]]:
        """Describe the failed and the damaged videos of every split."""
        return self._findings.lines(self._queries(), {video: job.file.name for video, job in self.plan().items()})

    def _queries(self) -> dict[str, Counter[Video]]:
        """Count the queries of each split about each video."""
        return {split: Counter(map(_video, self.config.annotations(split))) for split in self.config.prepared_splits()}

    def _keys(self) -> set[str]:
        """Return the names of the parts of this data set."""
        return {job.key for job in self.plan().values()}

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
