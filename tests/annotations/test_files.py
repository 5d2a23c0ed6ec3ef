"""Which file of a folder holds a split."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hf_frameseg.annotations.files import split_file, splits_there
from hf_frameseg.annotations.qvhighlights import QVHIGHLIGHTS_FILES


def test_the_file_with_test_labels_is_preferred(tmp_path: Path) -> None:
    for name in ("highlight_test_release.jsonl", "highlight_test_with_gt.jsonl"):
        (tmp_path / name).touch()
        assert split_file(tmp_path, QVHIGHLIGHTS_FILES, "test").name == name


def test_finding_annotations_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split to be one of \['train', 'val', 'test'\], got 'validation'"):
        split_file(tmp_path, QVHIGHLIGHTS_FILES, "validation")
    with pytest.raises(FileNotFoundError, match="no such data folder: .*nowhere"):
        split_file(tmp_path / "nowhere", QVHIGHLIGHTS_FILES, "val")
    with pytest.raises(FileNotFoundError, match="no annotations for val in .*; expected highlight_val_release.jsonl"):
        split_file(tmp_path, QVHIGHLIGHTS_FILES, "val")


def test_splits_that_are_there_plain_or_packed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no annotations for train in .*; expected highlight_train_release"):
        splits_there(tmp_path, QVHIGHLIGHTS_FILES)
    (tmp_path / "highlight_val_release.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    assert splits_there(tmp_path, QVHIGHLIGHTS_FILES) == ("val",)
    (tmp_path / "highlight_test_release.jsonl").touch()
    assert splits_there(tmp_path, QVHIGHLIGHTS_FILES) == ("val", "test")
    assert split_file(tmp_path, QVHIGHLIGHTS_FILES, "val").name == "highlight_val_release.jsonl.gz"
