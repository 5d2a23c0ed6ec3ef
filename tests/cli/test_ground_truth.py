"""Where a command gets its annotations: a file, a split in a folder, or a download."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from hf_frameseg.annotations import download
from hf_frameseg.cli.ground_truth import add_ground_truth_options, resolve_ground_truth


def resolve(*words: str) -> Path:
    parser = argparse.ArgumentParser()
    add_ground_truth_options(parser)
    return resolve_ground_truth(parser.parse_args(words))


def test_a_file_is_taken_as_it_is() -> None:
    assert resolve("--ground-truth", "some/where.jsonl.gz") == Path("some/where.jsonl.gz")


def test_a_split_is_found_in_the_folder(tmp_path: Path) -> None:
    for name in ("highlight_val_release.jsonl", "highlight_test_release.jsonl", "highlight_test_with_gt.jsonl"):
        (tmp_path / name).write_text("{}")
    assert resolve("--split", "val", "--data-dir", str(tmp_path)).name == "highlight_val_release.jsonl"
    assert resolve("--split", "test", "--data-dir", str(tmp_path)).name == "highlight_test_with_gt.jsonl"


def test_a_split_without_labels_is_no_ground_truth(tmp_path: Path) -> None:
    (tmp_path / "highlight_test_release.jsonl").write_text("{}")
    with pytest.raises(
        FileNotFoundError, match=r"has no labels and highlight_test_with_gt.jsonl is not beside it; put"
    ):
        resolve("--split", "test", "--data-dir", str(tmp_path))


def test_a_folder_without_the_split(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no annotations for val in .*; expected highlight_val_release.jsonl"):
        resolve("--split", "val", "--data-dir", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no such data folder"):
        resolve("--split", "val", "--data-dir", str(tmp_path / "gone"))


def test_without_a_folder_the_split_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "fetch_annotations", lambda split: Path("cache") / split)
    assert resolve("--split", "test") == Path("cache/test")


def test_a_folder_needs_a_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--data-dir is the folder to find a split in; add --split"):
        resolve("--ground-truth", "x", "--data-dir", str(tmp_path))


@pytest.mark.parametrize("words", [[], ["--split", "train"], ["--split", "val", "--ground-truth", "x"]])
def test_one_of_the_two_is_required(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        resolve(*words)
    assert "error:" in capsys.readouterr().err


def test_a_command_may_accept_other_splits() -> None:
    parser = argparse.ArgumentParser()
    add_ground_truth_options(parser, splits=("train", "val", "test"))
    assert parser.parse_args(["--split", "train"]).split == "train"
