"""The ground truth of a command: a file, or a split that is found in a folder or downloaded.

`score`, `rescore` and whatever else needs annotations take the same three options from here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_frameseg.metrics import ParsedSubmission

SPLITS = ("val", "test")


def add_ground_truth_options(parser: argparse.ArgumentParser, splits: Sequence[str] = SPLITS) -> None:
    """Add ``--ground-truth FILE | --split NAME`` (one of the two) and ``--data-dir DIR``.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_ground_truth_options(parser)
        >>> parser.parse_args(["--split", "val"])
        Namespace(ground_truth=None, split='val', data_dir=None)
    """
    group = parser.add_argument_group("ground truth (one of the two)")
    one_of = group.add_mutually_exclusive_group(required=True)
    one_of.add_argument("--ground-truth", metavar="FILE", type=Path, help="annotation file of any form")
    add_split_options(one_of, group, splits)


def add_split_options(
    one_of: argparse._ActionsContainer, group: argparse._ActionsContainer, splits: Sequence[str]
) -> None:
    """Add ``--split NAME``, beside another way to name the annotations, and ``--data-dir DIR``."""
    one_of.add_argument("--split", choices=splits, help="split of QVHighlights, downloaded once unless --data-dir")
    group.add_argument("--data-dir", metavar="DIR", type=Path, help="folder that holds the split's annotation file")


def resolve_ground_truth(options: argparse.Namespace) -> Path:
    """Return the annotation file that the options name, downloading it if need be.

    Args:
        options: What the options of `add_ground_truth_options` were parsed into.

    Returns:
        Path of a file with labels; for ``--ground-truth`` the path as given.

    Raises:
        ValueError: If ``--data-dir`` comes without ``--split``.
        FileNotFoundError: If the folder has no labelled annotations of the split.
        DownloadError: If they had to be downloaded and could not be.
    """
    if options.split is None:
        if options.data_dir is not None:
            raise ValueError("--data-dir is the folder to find a split in; add --split, or leave out --data-dir")
        return options.ground_truth
    from hf_frameseg.annotations.files import split_file
    from hf_frameseg.annotations.qvhighlights import QVHIGHLIGHTS_FILES

    if options.data_dir is None:
        from hf_frameseg.annotations.download import fetch_annotations

        return fetch_annotations(options.split)
    path = split_file(options.data_dir, QVHIGHLIGHTS_FILES, options.split)
    labelled = QVHIGHLIGHTS_FILES[options.split][0]
    if path.name != labelled:
        raise FileNotFoundError(
            f"{path} has no labels and {labelled} is not beside it; put it there, or download it (no --data-dir)"
        )
    return path


def read_truth(path: Path) -> ParsedSubmission:
    """Read annotations of any form for scoring.

    Rows with the fields of QVHighlights are taken as they are, for the official evaluator's numbers; other forms are
    checked and repaired as the loaders do.

    Args:
        path: The file.

    Returns:
        Rows, their lines and the checksum of the file.

    Raises:
        OSError: If it is not there or cannot be read.
        ValueError: If it is no annotation file; the message names file and place.
    """
    from hf_frameseg._text_file import read_text_file
    from hf_frameseg.annotations.forms import is_official, read_annotation_file
    from hf_frameseg.metrics import ParsedSubmission, read_ground_truth

    file = read_text_file(path)
    if is_official(path):
        return read_ground_truth(path)
    try:
        rows = read_annotation_file(path, need_durations=False)
    except ValueError:
        if b'"pred_relevant_windows"' in file.text:
            return read_ground_truth(path)  # says that the files are swapped
        raise
    return ParsedSubmission(rows, list(range(1, len(rows) + 1)), [], file.sha256)
