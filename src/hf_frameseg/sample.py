"""`Sample`: one prepared row as a value. The only place outside of what writes rows that knows their columns.

Axes: F frames, C clips.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_frameseg.moments import FrameGrid, Moment, num_clips
from hf_frameseg.prepared.frame_columns import Decoded, check_num_frames, row_frames, row_shape
from hf_frameseg.targets import (
    clip_saliency_targets,
    frame_mask,
    graded_frame_targets,
    moments_from_windows,
    saliency_threshold,
)
from hf_frameseg.video.sampling import MIDDLE_VARIANT, VARIANTS

if TYPE_CHECKING:
    from datasets import Dataset

_QUESTION = ("qid", "query", "frames", "frame_shape", "duration_seconds")
_ANSWER = ("relevant_windows",)
_RATINGS = ("relevant_clip_ids", "saliency_scores")
_ANNOTATION = ("qid", "query", "vid", *_ANSWER, *_RATINGS)
_OPTIONAL = ("vid", "frame_times_seconds", "frames_missing", "saliency_source", "grid_times", "grid_edges")
_KNOWN = frozenset((*_QUESTION, *_ANNOTATION, *_OPTIONAL))


class Sample:
    """Read one row of a prepared data set: a query about a video, its frames, and what annotators said.

    Values are read when they are asked for, so a row may lack what nobody asks for, as the rows of a test split lack
    annotations. Make samples with `Sample.of`.

    Example:
        >>> row = {"qid": 7, "query": "a dog", "duration_seconds": 8.0, "frame_shape": [4, 3, 32, 32, 3]}
        >>> sample = Sample.of(row | {"relevant_windows": [[2, 6]]})
        >>> sample.grid.num_frames, sample.mask().tolist()
        (4, [False, True, True, False])
    """

    def __init__(
        self, columns: Mapping[str, Any], rule: str = "window", graded: bool = False, per_window: int = 1
    ) -> None:
        self._columns, self._rule, self._graded, self._per_window = dict(columns), rule, graded, per_window

    @classmethod
    def of(cls, row: Mapping[str, Any] | Sample) -> Sample:
        """Return the sample of a row.

        Args:
            row: A row with the columns that `prepared/builder.py` lists, also of a data set with `set_format`; a sample
                is returned as it is.

        Returns:
            The sample; the row is not changed.
        """
        if isinstance(row, Sample):
            return row
        return cls({name: value if name == "frames" else plain(value) for name, value in row.items()})

    def labelled(self, rule: str = "window", graded: bool = False) -> Sample:
        """Return the sample as a training labels it: what `mask` and `frame_targets` mean unless they are told.

        Args:
            rule: See `targets.frame_mask`.
            graded: Let frame targets be the annotators' mean rating / 4 in place of the mask.
        """
        return Sample(self._columns, rule, graded, self._per_window)

    def merged(self, pictures_per_window: int) -> Sample:
        """Return the sample as a model sees it that takes neighbouring pictures for one frame.

        Args:
            pictures_per_window: Pictures of the row that stand for one of the F frames.
        """
        return Sample(self._columns, self._rule, self._graded, pictures_per_window)

    # ---- The question ------------------------------------------------------------------------------------------------

    @property
    def qid(self) -> int | str | None:
        """Return the id of the query."""
        return self._columns.get("qid")

    @property
    def query(self) -> str | None:
        """Return the sentence."""
        return self._columns.get("query")

    @property
    def vid(self) -> str | None:
        """Return the name of the video."""
        return self._columns.get("vid")

    @property
    def duration_seconds(self) -> float:
        """Return the duration of the video, in seconds."""
        return self._columns["duration_seconds"]

    @property
    def num_pictures(self) -> int:
        """Return how many windows the row holds pictures of; F, unless several stand for one frame."""
        return row_shape(self._columns)[0]

    @property
    def num_frames(self) -> int:
        """Return the number of frames F."""
        return self.num_pictures // self._per_window

    @cached_property
    def grid(self) -> FrameGrid:
        """Return the windows of the frames and the times that they were sampled at."""
        return self.grid_of(self.num_frames)

    def grid_of(self, num_frames: int) -> FrameGrid:
        """Return the grid of a row that need not say how many frames it has.

        Args:
            num_frames: Number of frames F; a share of the row's where a model takes several pictures for one frame.

        Returns:
            The grid that the row holds, with as many neighbouring windows merged; of a row without one, such as one
            made by hand, that of the paper.

        Raises:
            ValueError: If the row holds the grid of another number of frames, or half of one.
        """
        times, edges = self._columns.get("grid_times"), self._columns.get("grid_edges")
        if times is None and edges is None:
            return FrameGrid.middle(self.duration_seconds, num_frames)
        if times is None or edges is None or len(times) < num_frames or len(times) % num_frames:
            got = [None if values is None else len(values) for values in (times, edges)]
            raise ValueError(
                f"qid {self.qid}: expected grid_times and grid_edges of {num_frames} and {num_frames + 1} numbers, got "
                f"{got[0]} and {got[1]}; prepare the row again, or leave both out for the grid of the paper"
            )
        return FrameGrid(times, edges).merged(len(times) // num_frames)

    @property
    def other(self) -> dict[str, Any]:
        """Return the columns that this package does not know: what an objective or a metric of your own needs."""
        return {name: value for name, value in self._columns.items() if name not in _KNOWN}

    # ---- The frames --------------------------------------------------------------------------------------------------

    @property
    def frames_missing(self) -> bool:
        """Tell whether the video could not be read and the frames are blank."""
        return bool(self._columns.get("frames_missing"))

    def pictures(self, variants: ArrayLike | None = None, decoded: Decoded | None = None) -> NDArray[np.uint8]:
        """Return one picture per frame, or as many as the sample was merged with.

        Args:
            variants: Which of its three source frames stands for each window, (F,), 0 to 2 for left, middle, right;
                `num_pictures` of them in a merged sample. None takes the middle ones.
            decoded: A dict that samples of one batch hand on, empty at first: what they share is decoded once.

        Returns:
            Pictures (F, H, W, 3), or (`num_pictures`, H, W, 3), uint8, writable and not shared with the row.

        Raises:
            ValueError: If the stored pictures or `variants` do not have the expected shape.
        """
        return row_frames(self._columns, variants, decoded)

    def times(self, variants: ArrayLike | None = None) -> NDArray[np.float64]:
        """Return when the frames are shown, (F,), in seconds; the grid's times where the row does not say.

        Args:
            variants: As for `pictures`.

        Raises:
            ValueError: If the row has not one time for each picture.
        """
        if self._columns.get("frame_times_seconds") is None:
            return self.grid.times
        chosen = np.full(self.num_pictures, MIDDLE_VARIANT) if variants is None else np.asarray(variants)
        times = np.asarray(self._columns["frame_times_seconds"], dtype=np.float64)
        if times.shape != (len(chosen), len(VARIANTS)):
            raise ValueError(
                f"qid {self.qid}: expected frame_times_seconds of shape ({len(chosen)}, {len(VARIANTS)}), one time for "
                f"each picture, got {times.shape}; prepare the row again"
            )
        return times[np.arange(len(chosen)), chosen].reshape(-1, self._per_window).mean(axis=1)

    def without_pictures(self) -> Sample:
        """Return the sample without its stored pictures, small enough to be kept and sent around."""
        kept = {name: value for name, value in self._columns.items() if name != "frames"}
        return Sample(kept, self._rule, self._graded, self._per_window)

    # ---- The annotation ----------------------------------------------------------------------------------------------

    @property
    def windows(self) -> tuple[Moment, ...]:
        """Return the relevant moments."""
        return tuple(moments_from_windows(self._columns["relevant_windows"], self.duration_seconds))

    @property
    def clip_ids(self) -> list[int]:
        """Return the indices of the rated clips."""
        return self._columns["relevant_clip_ids"]

    @property
    def ratings(self) -> list[list[float]]:
        """Return the ratings 0-4 of every annotator for each rated clip."""
        return self._columns["saliency_scores"]

    @property
    def saliency_source(self) -> str | None:
        """Return where ratings come from that no annotator gave; None for those of annotators."""
        return self._columns.get("saliency_source")

    def clip_targets(self) -> NDArray[np.float64]:
        """Return the mean rating / 4 of every clip, (C,), 0 for clips nobody rated."""
        return clip_saliency_targets(self.clip_ids, self.ratings, num_clips(self.duration_seconds))

    def mask(self, rule: str | None = None) -> NDArray[np.bool_]:
        """Return which frames are relevant, (F,).

        Args:
            rule: See `targets.frame_mask`; None takes that of `labelled`, which is "window" by default.
        """
        rule = self._rule if rule is None else rule
        saliency = None if saliency_threshold(rule) is None else self.clip_targets()
        windows = self._columns["relevant_windows"]
        return np.asarray(frame_mask(windows, self.grid, rule, saliency, self.duration_seconds))

    def frame_targets(self, rule: str | None = None, graded: bool | None = None) -> NDArray[np.float32]:
        """Return what the frames are to be learnt as, (F,), float32: the mask, or the mean ratings.

        Args:
            rule: As for `mask`.
            graded: Take the annotators' mean rating / 4 in place of the mask; None as `labelled` says.
        """
        graded = self._graded if graded is None else graded
        targets = graded_frame_targets(self.clip_targets(), self.grid) if graded else self.mask(rule)
        return np.asarray(targets, dtype=np.float32)

    def annotation(self) -> dict[str, Any]:
        """Return the line of a ground-truth file, as the official evaluator reads it."""
        source = {} if self.saliency_source is None else {"saliency_source": self.saliency_source}
        return {**{name: self._columns[name] for name in _ANNOTATION}, "duration": self.duration_seconds, **source}

    def has_answer(self, rated: bool = False) -> bool:
        """Tell whether the row says which frames are relevant.

        Args:
            rated: Whether ratings are needed for it.
        """
        return not self._missing((*_ANSWER, *(_RATINGS if rated else ())))

    # ---- Checks ------------------------------------------------------------------------------------------------------

    def check_can_be_asked(self, answered: bool = False, rated: bool = False) -> None:
        """Refuse a row that cannot become a prompt, or the answer to it.

        Args:
            answered: Whether the answer is needed too.
            rated: Whether the ratings are needed for it.

        Raises:
            ValueError: If a column is missing.
        """
        needed = (*_QUESTION, *(_ANSWER if answered else ()), *(_RATINGS if answered and rated else ()))
        if missing := self._missing(needed):
            raise ValueError(
                f"expected rows with the column(s) {missing}, got {sorted(self._columns)}: load them with "
                "load_rows, train with remove_unused_columns=False, and use with_answer=False for rows without "
                "annotations"
            )

    def check_num_frames(self, num_frames: int) -> None:
        """Refuse a row that holds another number of frames.

        Args:
            num_frames: Number of frames F that the caller works with.

        Raises:
            ValueError: If it does.
        """
        check_num_frames([self._columns], num_frames)

    def check_can_be_scored(self) -> None:
        """Refuse a row without annotations.

        Raises:
            ValueError: If a column is missing.
        """
        if missing := self._missing((*_ANNOTATION, "duration_seconds")):
            raise ValueError(f"expected rows with the column(s) {missing} to score them, got {sorted(self._columns)}")

    def _missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if self._columns.get(name) is None]


Rows = Iterable[Mapping[str, Any] | Sample]
"""A data set, a stream, a list of rows or of samples."""


def samples_without_pictures(rows: Dataset | Rows) -> Iterator[Sample]:
    """Yield the samples of rows without reading their pictures: of a large split, that would take minutes.

    Args:
        rows: A data set, a stream, or rows.

    Yields:
        One sample per row.
    """
    if hasattr(rows, "select_columns"):
        rows = rows.with_format(None)  # `set_format` would round durations and windows to single precision
        here = rows.column_names or list(next(iter(rows), {}))
        rows = rows.select_columns([name for name in here if name != "frames"])
    for row in rows:
        yield Sample.of(row).without_pictures()


def rows_with_frames(rows: Dataset | Sequence[Mapping[str, Any]]) -> Dataset | Sequence[Mapping[str, Any]]:
    """Leave out the rows whose video could not be read: they count in a score, but teach nothing.

    Args:
        rows: A data set, or rows.

    Returns:
        The rows whose frames are not blank; `rows` itself where that is all of them.
    """
    is_table = hasattr(rows, "select_columns")
    if not is_table:
        missing = [Sample(row).frames_missing for row in rows]
    else:
        missing = rows.with_format(None)["frames_missing"][:] if "frames_missing" in rows.column_names else []
    if not any(missing):
        return rows
    kept = [index for index, is_missing in enumerate(missing) if not is_missing]
    return rows.select(kept) if is_table else [rows[index] for index in kept]


def with_queries(dataset: Dataset, queries: Sequence[str]) -> Dataset:
    """Return a data set with other queries.

    Args:
        dataset: The data set.
        queries: One sentence for every row.
    """
    return dataset.remove_columns("query").add_column("query", list(queries))


def plain(value: Any) -> Any:
    """Turn tensors and arrays, as `set_format` of `datasets` makes them of columns, back into Python values.

    Args:
        value: Any value of a row.

    Returns:
        The value, made of lists, dicts and scalars.

    Example:
        >>> plain({"qid": np.int64(3), "windows": [np.array([0.5, 2.0])], "query": "a dog"})
        {'qid': 3, 'windows': [[0.5, 2.0]], 'query': 'a dog'}
    """
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value.tolist() if hasattr(value, "tolist") else value
