"""Annotation files on disk: which file holds a split, and its text or JSON objects, every error with its place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg._text_file import TextFile, read_text_file
from hf_frameseg.annotations.schema import AnnotationError
from hf_frameseg.records import objects_of

SplitFiles = Mapping[str, tuple[str, ...]]
"""Split -> names of the files that hold it, the preferred one first."""

_MAGIC_BYTES = 64  # enough to tell a binary file by its start


def open_annotations(path: str | Path | TextFile) -> TextFile:
    """Read the text of an annotation file, of whatever form.

    Args:
        path: The file, plain or gzip; one that is read already is returned as it is.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If it is empty, damaged, too large, or no file of text.
    """
    if isinstance(path, TextFile):
        return path
    if not os.path.lexists(path):
        raise FileNotFoundError(f"no annotation file at {printable(path)}; check the path")
    try:
        return read_text_file(path, "expected annotations", _MAGIC_BYTES)
    except ValueError as error:
        raise _named(path, error) from None


def json_objects(file: TextFile) -> list[tuple[int, dict[str, Any]]]:
    """Return the JSON objects of an annotation file with their lines.

    Args:
        file: The file: JSON lines, one list, or objects over several lines.

    Returns:
        Line, counted from 1, and object.

    Raises:
        AnnotationError: If it holds no object, or something that is none; the message starts with `file:line`.
    """
    try:
        found = objects_of(file)
    except ValueError as error:
        raise _named(file.name, error) from None
    if not found:
        raise AnnotationError(f"{file.short_name}: expected at least one query, got none; download it again")
    return found


def split_file(data_dir: str | Path, files: SplitFiles, split: str) -> Path:
    """Return the annotation file of a split.

    Args:
        data_dir: The folder.
        files: The file names of each split.
        split: The split.

    Returns:
        Path of an existing file.

    Raises:
        ValueError: If there is no such split.
        FileNotFoundError: If the folder or the file does not exist.
    """
    folder = Path(data_dir)
    if split not in files:
        raise ValueError(f"expected split to be one of {list(files)}, got {split!r}")
    if not folder.is_dir():
        raise FileNotFoundError(f"no such data folder: {folder}; pass the folder that holds the annotation files")
    for name in files[split]:
        if found := find_file(folder, name):
            return found
    raise FileNotFoundError(f"no annotations for {split} in {folder}; expected {' or '.join(files[split])}")


def splits_there(data_dir: str | Path, files: SplitFiles) -> tuple[str, ...]:
    """Return the splits whose annotation file is there.

    Args:
        data_dir: The folder.
        files: The file names of each split.

    Returns:
        The splits, in the order of `files`.

    Raises:
        FileNotFoundError: If there are none.
    """
    splits = tuple(split for split, names in files.items() if any(find_file(data_dir, name) for name in names))
    if not splits:
        split_file(data_dir, files, next(iter(files)))  # says what is missing
    return splits


def find_file(folder: str | Path, name: str) -> Path | None:
    """Return a file of a folder by its name, or the same packed by gzip.

    Args:
        folder: The folder.
        name: Name of the file, without `.gz`.

    Returns:
        Path of an existing file; None if there is none.
    """
    paths = (Path(folder) / name, Path(folder) / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _named(path: str | Path, error: ValueError) -> AnnotationError:
    """Return an error that starts with the file's short name, as those of single lines do already."""
    text, shown = str(error), printable(path)
    return AnnotationError(
        f"{printable(Path(path).name)}: {text[len(shown) + 1 :]}" if text.startswith(f"{shown} ") else text
    )
