"""One way to load any data set: by its name, or by a builder of your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_frameseg._options import split_choices
from hf_frameseg._text import short
from hf_frameseg.prepared.settings import StorageSettings
from hf_frameseg.video.settings import FrameSettings

if TYPE_CHECKING:
    from datasets import Dataset
    from hf_frameseg.prepared.builder import FrameDatasetBuilder

DATASETS = {
    "qvhighlights": ("qvhighlights", "QVHighlights"),
    "charades-sta": ("charades_sta", "CharadesSTA"),
    "activitynet": ("activitynet", "ActivityNet"),
    "table": ("table", "MomentTable"),
}
"""Name of a data set -> module in `hf_frameseg.datasets`, and its builder."""


def builder_of(name: str) -> type[FrameDatasetBuilder]:
    """Return the builder of a data set.

    Args:
        name: A key of `DATASETS`.

    Returns:
        The class.

    Raises:
        ValueError: If there is no such data set.
    """
    if not isinstance(name, str) or name not in DATASETS:
        raise ValueError(f"expected a data set of {list(DATASETS)} or a class of a builder, got {short(name)}")
    module, builder = DATASETS[name]
    return getattr(import_module(f"hf_frameseg.datasets.{module}"), builder)


def load_rows(
    dataset: str | type[FrameDatasetBuilder],
    data_dir: str | Path,
    split: str = "train",
    frames: FrameSettings | None = None,
    *,
    frame_format: str = "jpeg",
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    check: bool = False,
    **options: Any,
) -> Dataset:
    """Load one split of a data set, decoding its videos the first time only.

    Args:
        dataset: A key of `DATASETS`, or a class of a builder.
        data_dir: Folder with the files that the module of the data set lists; for "table" the file of the queries.
        split: "train", "val" or "test", as far as the data set has them. A table is one split, under any word.
        frames: Which frames stand for a video, at what size, and how files are read; None takes the paper's.
        frame_format: "jpeg" (quality 95) or "raw" (uint8, for small frames).
        cache_dir: Where prepared data is kept; None takes the cache of `datasets`.
        num_proc: Processes that decode; the result does not depend on it.
        check: Compare all that is in the cache with its checksums; else sizes, which show no flipped bit.
        **options: Fields of `FrameSettings` to set differently, such as `num_frames`; and other fields of the data
            set's config, such as `video_dir` (a folder, or an archive), `on_error`, or a table's `rating_scale`.

    Returns:
        A data set with the columns listed in `hf_frameseg.prepared.builder`, in the order of the annotations. Where
        `saliency_source` is "window" the ratings are made up, and highlight scores mean nothing.

    Raises:
        FileNotFoundError: If the folder, the annotations or (with `on_error="raise"`) a video is not there.
        CacheError: If the cache cannot be written.
        AnnotationError: If an annotation is wrong; the message names the file and the place in it.
        VideoReadError: If (with `on_error="raise"`) a video cannot be read.
        ValueError: If there is no such data set, or an argument is out of range.
        TypeError: If there is no such option.

    Example:
        ::

            rows = load_rows("qvhighlights", "QVH", "val", num_frames=25, frame_size=384, on_error="skip")
    """
    builder = _builder(dataset, data_dir, split, frames, frame_format=frame_format, cache_dir=cache_dir, **options)
    return builder.load(split, num_proc, check=check)


def check_videos(
    dataset: str | type[FrameDatasetBuilder],
    data_dir: str | Path,
    splits: Sequence[str],
    frames: FrameSettings | None = None,
    **options: Any,
) -> None:
    """Look whether all annotations and videos are there, before hours go into the videos of the first split.

    A split that was prepared from the same files passes at once.

    Args:
        dataset: As for `load_rows`.
        data_dir: As for `load_rows`.
        splits: Which are about to be loaded.
        frames: As for `load_rows`.
        **options: As for `load_rows`, such as `cache_dir` and `on_error`.

    Raises:
        FileNotFoundError: If a file is missing and `on_error` is "raise".
        ValueError: If an annotation is wrong or an argument out of range.
    """
    for split in splits:
        builder = _builder(dataset, data_dir, split, frames, **options)
        if not builder.is_prepared():
            builder.plan()
            builder.refuse_missing()


def _builder(
    dataset: str | type[FrameDatasetBuilder],
    data_dir: str | Path,
    split: str,
    frames: FrameSettings | None,
    *,
    cache_dir: str | Path | None = None,
    **options: Any,
) -> FrameDatasetBuilder:
    """Return the builder of one split."""
    build = dataset if isinstance(dataset, type) else builder_of(dataset)
    if not isinstance(frames, FrameSettings | None):
        raise ValueError(f"expected frames to be FrameSettings(...), got {short(frames)}; pass num_frames= by its name")
    choices, others = split_choices(options, FrameSettings)
    _check_options(build, others)
    return build(
        cache_dir=None if cache_dir is None else str(cache_dir),
        data_dir=str(data_dir),
        splits=(split,),
        frames=(frames or FrameSettings()).changed(**choices),
        **others,
    )


def _check_options(build: type[FrameDatasetBuilder], options: Mapping[str, Any]) -> None:
    """Refuse options that neither the builder nor its config has, and say what was meant."""
    from datasets import BuilderConfig, DatasetBuilder

    config = getattr(build, "BUILDER_CONFIG_CLASS", None)
    if not (isinstance(config, type) and issubclass(config, StorageSettings)):
        raise ValueError(f"expected a data set of {list(DATASETS)} or a class of a builder, got {short(build)}")
    own = {one.name for one in (*fields(config), *fields(FrameSettings)) if one.init}
    known = {*own, *signature(DatasetBuilder).parameters, *signature(build).parameters} - {"splits"}
    listed = sorted(own - {one.name for one in fields(BuilderConfig)})
    for name in sorted(options.keys() - known):
        close = get_close_matches(name, [*listed, "split", "num_proc"], n=1)
        meant = f"did you mean {close[0]}?" if close else f"there are {listed}"
        raise TypeError(f"{build.__name__} has no option {short(name)}; {meant}")
