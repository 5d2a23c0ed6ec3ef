"""QVHighlights, or any folder of its shape, as a `datasets` data set of cached frames.

`load_qvhighlights(data_dir, "train")` decodes every video once, for all its queries, and keeps the result. Labels and
prompts are not part of the cache: changing a label rule or a prompt never decodes a video again. The cache is keyed by
the choices, the annotations and the video files' names, sizes and times; to do without the videos later, keep the
result with `dataset.save_to_disk`.

The annotated duration defines the frame grid. A file may be up to `duration_tolerance_seconds` shorter (its last frame
then stands for the rest); of a longer file the part up to the annotated end is used.

Columns of a row (one row per query):

| column | type | meaning |
|---|---|---|
| `qid` | int64 | query id |
| `query` | string | the sentence |
| `vid` | string | video id |
| `duration_seconds` | float64 | annotated length T; defines the frame grid |
| `frames` | binary, or list of images | F x 3 pictures; read them with `row_frames(row, variants)` |
| `frame_shape` | list of int64 | `[F, 3, H, W, 3]` |
| `frame_times_seconds` | F x 3 float64 | when each picture is shown in the file |
| `relevant_windows` | list of `[start, end]` | seconds |
| `relevant_clip_ids` | list of int64 | 2-second clips inside the windows |
| `saliency_scores` | list of three int64 | annotators' ratings 0 to 4 of each relevant clip |

The label columns are empty lists where the annotation file has no labels (the official test release).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from hf_frameseg.data.annotations import AnnotationError, read_annotations
from hf_frameseg.data.frame_columns import check_num_frames, row_frames
from hf_frameseg.data.preparation import QVHighlightsConfig, prepare_video
from hf_frameseg.data.video import DEFAULT_NUM_FRAMES, VideoReadError

__all__ = [
    "AnnotationError",
    "QVHighlights",
    "QVHighlightsConfig",
    "VideoReadError",
    "check_num_frames",
    "load_qvhighlights",
    "prepare_video",
    "read_annotations",
    "row_frames",
]

logger = logging.getLogger(__name__)

FAILURES_FILE = "failures.jsonl"
"""Report of the videos that `on_error="skip"` left out, in the cache folder."""

_WRITER_BATCH_BYTES = 64 * 2**20


class QVHighlights(datasets.GeneratorBasedBuilder):
    """Decode the videos of a QVHighlights-shaped folder into rows.

    `load_dataset` refuses builders that are not on the Hub as data files, so this class is used as a class:

        builder = QVHighlights(data_dir="data", num_frames=25, frame_size=378)
        builder.download_and_prepare(num_proc=8)
        rows = builder.as_dataset("train")

    A split's rows are grouped by video here; `load_qvhighlights` gives them in the order of the annotation file.
    """

    BUILDER_CONFIG_CLASS = QVHighlightsConfig

    def __init__(self, *args: Any, writer_batch_size: int | None = None, **kwargs: Any) -> None:
        """Build with rows per written batch chosen by their size: the default 1000 would hold gigabytes in memory."""
        super().__init__(*args, writer_batch_size=writer_batch_size, **kwargs)
        if writer_batch_size is None:
            self._writer_batch_size = _rows_per_batch(self.config)

    def _info(self) -> datasets.DatasetInfo:
        """Describe the columns."""
        raw = self.config.frame_format == "raw"
        integers, floats = datasets.Value("int64"), datasets.Value("float64")
        features = {
            "qid": integers,
            "query": datasets.Value("string"),
            "vid": datasets.Value("string"),
            "duration_seconds": floats,
            # large_binary: a chunk of plain binary ends at 2 GB. decode=False: only the asked variants are decoded.
            "frames": datasets.Value("large_binary") if raw else datasets.List(datasets.Image(decode=False)),
            "frame_shape": datasets.List(integers),
            "frame_times_seconds": datasets.List(datasets.List(floats)),
            "relevant_windows": datasets.List(datasets.List(floats)),
            "relevant_clip_ids": datasets.List(integers),
            "saliency_scores": datasets.List(datasets.List(integers)),
        }
        return datasets.DatasetInfo(features=datasets.Features(features))

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        """Make one job per video, with all its queries."""
        videos = self.config.videos()
        generators = []
        for split in self.config.prepared_splits():
            rows = self.config.annotations(split)
            jobs: dict[str, dict[str, Any]] = {}
            for row in rows:
                path = str(videos[row["vid"]]) if row["vid"] in videos else None
                jobs.setdefault(row["vid"], {"split": split, "vid": row["vid"], "path": path, "rows": []})
                jobs[row["vid"]]["rows"].append(row)
            self._settle_missing([job for job in jobs.values() if job["path"] is None], len(jobs))
            present = [job for job in jobs.values() if job["path"] is not None]
            if not present:
                raise FileNotFoundError(f"none of the {len(jobs)} videos of {split} is there; check the video folder")
            generator = datasets.SplitGenerator(name=split, gen_kwargs={"jobs": present})
            generator.split_info.num_examples = len(rows)  # gives the progress bar its end; replaced by the real count
            generators.append(generator)
        return generators

    def _settle_missing(self, missing: list[dict[str, Any]], num_videos: int) -> None:
        """Refuse or report videos that are not there."""
        if missing and self.config.on_error == "raise":
            first = missing[0]
            raise FileNotFoundError(
                f"qid {first['rows'][0]['qid']}: no video {first['vid']} in the video folder ({len(missing)} of "
                f"{num_videos} missing in {first['split']}); add the files or pass on_error='skip'"
            )
        for job in missing:
            self._report(job, "no such file in the video folder")

    def _generate_examples(self, jobs: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Decode each video once and yield a row per query."""
        _use_one_thread_in_workers()
        for job in jobs:
            if self.config.on_error == "raise" and self._reports():
                return  # `_download_and_prepare` raises: an exception would lose its type and text between processes
            try:
                columns = prepare_video(job["path"], job["rows"][0]["duration"], self.config)
            except (VideoReadError, OSError) as error:
                self._report(job, str(error))
                continue
            for row in job["rows"]:
                labels = {name: row[name] for name in ("relevant_windows", "relevant_clip_ids", "saliency_scores")}
                query = {name: row[name] for name in ("qid", "query", "vid")}
                yield row["qid"], {**query, "duration_seconds": float(row["duration"]), **columns, **labels}

    def _download_and_prepare(self, dl_manager: Any, verification_mode: Any, **kwargs: Any) -> None:
        """Prepare, then raise or write down what went wrong."""
        import torch  # noqa: F401  # before the workers are forked: each would take seconds to import it again

        for stale in self._reports():  # of a run that was killed
            stale.unlink()
        super()._download_and_prepare(dl_manager, verification_mode, **kwargs)
        parts = self._reports()
        failures = [json.loads(line) for part in parts for line in part.read_text("utf-8").splitlines()]
        if not failures:
            return
        failures.sort(key=lambda failure: (failure["split"], failure["vid"]))
        emptied = [name for name, split in self.info.splits.items() if split.num_examples == 0]
        if self.config.on_error == "raise" or emptied:
            raising = self.config.on_error == "raise"
            hint = "or pass on_error='skip'" if raising else "no video of the split could be read"
            first = failures[0]
            raise VideoReadError(f"{first['split']}: video {first['vid']}: {first['error']}; {hint}")
        lines = "".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures)
        (Path(self._output_dir) / FAILURES_FILE).write_text(lines, "utf-8")
        for part in parts:
            part.unlink()

    def _report(self, job: Mapping[str, Any], error: str) -> None:
        """Write down a failed video; every process has its own file."""
        failure = {"split": job["split"], "vid": job["vid"], "file": job["path"], "error": error}
        line = json.dumps({**failure, "queries": len(job["rows"])}, ensure_ascii=False)
        with (Path(self._output_dir) / f"{FAILURES_FILE}.{os.getpid()}").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _reports(self) -> list[Path]:
        """List what all processes have written down."""
        return sorted(Path(self._output_dir).glob(f"{FAILURES_FILE}.*"))


def load_qvhighlights(
    data_dir: str | Path,
    split: str,
    num_frames: int = DEFAULT_NUM_FRAMES,
    frame_size: int | None = None,
    frame_format: str = "jpeg",
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    **options: Any,
) -> datasets.Dataset:
    """Load one split, decoding its videos the first time only.

    Args:
        data_dir: Folder with `highlight_<split>_release.jsonl` and `videos/<vid>.mp4` (.mkv .webm .avi .mov).
        split: "train", "val" or "test".
        num_frames: Frames F per video.
        frame_size: Side of the square the frames are squashed to, in pixels; None keeps the native size.
        frame_format: "jpeg" (quality 95) or "raw" (uint8, for small frames).
        cache_dir: Where prepared data is kept; None takes the cache of `datasets`.
        num_proc: Processes that decode.
        **options: Other fields of `QVHighlightsConfig`: video_dir, variant_offset_frames, reader, on_error,
            duration_tolerance_seconds.

    Returns:
        A data set with the columns listed at the top of this module, in the order of the annotation file.

    Raises:
        FileNotFoundError: If the folder, the annotations or (with `on_error="raise"`) a video is not there.
        AnnotationError: If an annotation is wrong; the message names file and line.
        VideoReadError: If (with `on_error="raise"`) a video cannot be read.
        ValueError: If an argument is out of range.
    """
    builder = QVHighlights(
        cache_dir=None if cache_dir is None else str(cache_dir),
        data_dir=str(data_dir),
        splits=(split,),
        num_frames=num_frames,
        frame_size=frame_size,
        frame_format=frame_format,
        **options,
    )
    builder.download_and_prepare(num_proc=num_proc)
    _warn_of_failures(Path(builder.cache_dir) / FAILURES_FILE)
    dataset = builder.as_dataset(split)
    at = {qid: index for index, qid in enumerate(dataset.data.column("qid").to_pylist())}
    order = [at[row["qid"]] for row in builder.config.annotations(split) if row["qid"] in at]
    return dataset if order == list(range(len(dataset))) else dataset.select(order)


def _rows_per_batch(config: QVHighlightsConfig) -> int:
    """Return how many rows to hold in memory before they are written."""
    pixels = 1280 * 720 if config.frame_size is None else config.frame_size**2
    row_bytes = config.num_frames * 3 * pixels * 3 // (8 if config.frame_format == "jpeg" else 1)
    return min(max(_WRITER_BATCH_BYTES // max(row_bytes, 1), 1), 1000)


def _use_one_thread_in_workers() -> None:
    """Keep torch from using its thread pool in a forked worker, where the parent's OpenMP pool would hang it."""
    from multiprocess import parent_process  # the fork of multiprocessing that `datasets` makes its workers with

    if parent_process() is not None:
        import torch

        torch.set_num_threads(1)


def _warn_of_failures(report: Path) -> None:
    """Say in one line what a skipping preparation left out."""
    if report.is_file():
        failures = [json.loads(line) for line in report.read_text("utf-8").splitlines()]
        queries = sum(failure["queries"] for failure in failures)
        logger.warning("%d videos (%d queries) were left out; see %s", len(failures), queries, report)
