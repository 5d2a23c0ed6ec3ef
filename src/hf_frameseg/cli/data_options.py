"""The options of a command that say which data set, and where it lies."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_frameseg._files import refuse_to_overwrite
from hf_frameseg._options import given
from hf_frameseg.cli.parser import add_rating_options, add_settings
from hf_frameseg.datasets.load import DATASETS, builder_of
from hf_frameseg.prepared.settings import StorageSettings

if TYPE_CHECKING:
    from hf_frameseg.prepared.builder import FrameDatasetBuilder


def add_data_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the options that name the data set, its folders and its splits, and ``--num-proc``.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_data_options(parser)
        >>> options = parser.parse_args(["--data-dir", "QVH", "--split", "val", "test"])
        >>> options.split, options.dataset
        (['val', 'test'], 'qvhighlights')
    """
    group = parser.add_argument_group("data set")
    one_of = group.add_mutually_exclusive_group(required=required)
    one_of.add_argument("--data-dir", metavar="DIR", type=Path, help="folder with the annotation files and videos/")
    one_of.add_argument(
        "--table", metavar="FILE", type=Path, help="or a file of queries of any form, with videos/ beside it"
    )
    add_rating_options(group, "ratings of the table, if not 0 to 4 (TVSum: 1 5)")
    known, text = sorted(DATASETS.keys() - {"table"}), "its format (default: %(default)s)"
    group.add_argument("--dataset", choices=known, default="qvhighlights", help=text)
    group.add_argument("--split", metavar="NAME", nargs="+", help="splits (default: those whose annotations are there)")
    add_settings(group, StorageSettings, "video_dir", "allow_links")
    group.add_argument(
        "--download", action="store_true", help="download annotations of QVHighlights that are not there"
    )
    group.add_argument("--num-proc", metavar="N", type=int, help="processes (default: 1)")


def refuse_in_data(output: Path | None, option: str, options: argparse.Namespace) -> None:
    """Refuse an output that would replace a file of the data set."""
    places = [Path(place) for place in (options.data_dir, options.table, options.video_dir) if place is not None]
    refuse_to_overwrite(output, places, option)
    if output is None or not output.is_file():
        return
    folders = {os.path.realpath(place) for place in places if place.is_dir()}
    if folders & set(map(str, Path(os.path.realpath(output)).parents)):
        raise ValueError(f"{option} {output} is a file of the data set: it would be overwritten; name another file")


def builder_class(options: argparse.Namespace) -> type[FrameDatasetBuilder]:
    """Return the builder of the data set that the options name."""
    return builder_of("table" if options.table is not None else options.dataset)


def config_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the data set's config that the options set.

    Args:
        options: What the options of `add_data_options` were parsed into.

    Returns:
        Field -> value.

    Raises:
        ValueError: If an option does not fit the data set.
    """
    from hf_frameseg.video.worker import check_num_processes

    check_num_processes("--num-proc", options.num_proc)
    if options.download and options.dataset != "qvhighlights":
        raise ValueError(f"--download fetches QVHighlights only; put the files of {options.dataset} into --data-dir")
    scale = {name: getattr(options, name) for name in ("rating_scale", "clip_seconds")}
    fields: dict[str, Any] = {name: value for name, value in scale.items() if value is not None}
    if options.table is None:
        if fields:
            raise ValueError("--rating-scale and --clip-seconds say how a --table was rated; leave them out")
        fields["data_dir"] = str(options.data_dir)
    elif options.dataset != "qvhighlights" or options.download:
        raise ValueError("--table is read by its content; leave out --dataset and --download")
    else:
        fields["data_dir"] = str(options.table)
    fields |= given(options, StorageSettings)
    return fields | ({"download": True} if options.download else {})
