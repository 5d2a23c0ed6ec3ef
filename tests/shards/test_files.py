"""Shards: the rows of the data set, a video's frames once, and the old ones or the new ones after whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from datasets import Dataset, DatasetDict, Split, load_dataset
from hf_frameseg.prepared import stored_once
from hf_frameseg.sample import Sample
from hf_frameseg.shards.files import find_shards, order_shards, save_shards
from hf_frameseg.shards.stream import FrameStream

NUM_ROWS = 23


def qids(rows: Any) -> list[int]:
    return [row["qid"] for row in rows]


@pytest.mark.parametrize("frame_format", ["raw", "jpeg"])
def test_rows_and_types_survive(frame_format: str, make_dataset: Callable[..., Dataset], tmp_path: Path) -> None:
    dataset = make_dataset(frame_format)
    paths = save_shards(dataset, tmp_path, shard_bytes=dataset.data.nbytes // 3 + 1)
    assert [path.name for path in paths] == [f"train-{index:05d}-of-00003.parquet" for index in range(3)]
    stream = FrameStream(find_shards(tmp_path, "train"))
    assert len(stream) == NUM_ROWS
    assert stream.features == dataset.features
    loaded = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features == dataset.features
    for original, streamed, downloaded in zip(dataset, stream, loaded, strict=True):
        assert streamed == downloaded == original
        pictures = [Sample.of(row).pictures([2, 0, 1, 2, 0]) for row in (streamed, original)]
        np.testing.assert_array_equal(*pictures)


def test_sizes_are_kept(dataset: Dataset, tmp_path: Path) -> None:
    row_bytes = dataset.data.nbytes / NUM_ROWS
    paths = save_shards(dataset, tmp_path, shard_bytes=int(12 * row_bytes), group_bytes=int(2.5 * row_bytes))
    footers = [pq.read_metadata(path) for path in paths]
    assert [footer.num_rows for footer in footers] == [12, 11]
    groups = [footer.row_group(index).num_rows for footer in footers for index in range(footer.num_row_groups)]
    assert groups == [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]
    # a row larger than both limits has a group and a shard of its own
    assert len(save_shards(dataset, tmp_path, shard_bytes=10, group_bytes=10)) == NUM_ROWS


def test_rows_of_a_selection_keep_their_order(dataset: Dataset, tmp_path: Path) -> None:
    order = [5, 1, 20, 7]
    save_shards(dataset.select(order), tmp_path, "val")
    assert qids(FrameStream(find_shards(tmp_path, "val"))) == order


@pytest.mark.parametrize("frame_format", ["raw", "jpeg"])
def test_the_frames_of_a_video_are_in_the_file_once(
    frame_format: str, make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    vids = "abacbdcabcad"
    dataset = make_dataset(frame_format, len(vids), vids)
    (path,) = save_shards(dataset, tmp_path)
    footer = pq.read_metadata(path)
    assert [footer.row_group(index).num_rows for index in range(footer.num_row_groups)] == [4, 3, 3, 2]
    stream = FrameStream(find_shards(tmp_path, "train"))
    order = [qid for video in "abcd" for qid, vid in enumerate(vids) if vid == video]
    assert list(stream) == dataset.select(order).to_list()
    read = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert read.features == dataset.features
    assert read.to_list() == dataset.select(order).to_list()
    assert [row["vid"] for row in stream.rows] == sorted(vids)
    (alone,) = save_shards(dataset.select([vids.index(vid) for vid in "abcd"]), tmp_path / "alone")
    pictures = [index for index in range(footer.num_columns) if footer.schema.column(index).name in ("bytes", "frames")]
    assert len(pictures) == 1
    for group in range(4):  # what a second query adds: numbers of pictures that are there
        shared, single = (
            file.row_group(group).column(pictures[0]).total_uncompressed_size
            for file in (footer, pq.read_metadata(alone))
        )
        assert single <= shared < single + 100


def test_many_rows_of_few_videos_are_cut_into_groups_and_shards(
    make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    vids = "abcdefgh" * 3
    dataset = make_dataset("raw", len(vids), vids)
    video_bytes = dataset.data.nbytes / len(vids)
    paths = save_shards(dataset, tmp_path, shard_bytes=int(3.1 * video_bytes), group_bytes=int(2.1 * video_bytes))
    footers = [pq.read_metadata(path) for path in paths]
    assert [footer.num_rows for footer in footers] == [9, 9, 6]
    save_shards(dataset, tmp_path, group_bytes=int(2.1 * video_bytes))
    groups = FrameStream(find_shards(tmp_path, "train"))._group_rows
    assert groups == [3] * 8  # so that the order of eight videos can be drawn


def test_a_group_is_never_too_large_for_other_readers(
    make_dataset: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load_dataset` holds every row of a group with frames of its own, and an Arrow array of JPEGs ends at 2 GB."""
    rows = make_dataset("jpeg", 12, "a" * 12)
    monkeypatch.setattr(stored_once, "_PIECE_BYTES", 11 * rows.data["frames"].nbytes // 24)
    (path,) = save_shards(rows, tmp_path)
    footer = pq.read_metadata(path)
    assert [footer.row_group(index).num_rows for index in range(footer.num_row_groups)] == [5, 5, 2]
    assert list(FrameStream([str(path)])) == list(rows)


def test_a_video_of_another_length_is_another_video(make_dataset: Callable[..., Dataset], tmp_path: Path) -> None:
    dataset = make_dataset("raw", 3, "aaa")
    dataset = dataset.remove_columns("duration_seconds").add_column("duration_seconds", [10.0, 8.0, 10.0])
    save_shards(dataset, tmp_path)
    assert qids(FrameStream(find_shards(tmp_path, "train"))) == [0, 2, 1]


def test_writing_again_replaces_only_its_own_split(dataset: Dataset, tmp_path: Path) -> None:
    save_shards(dataset, tmp_path, "val")
    save_shards(dataset, tmp_path, "train", shard_bytes=dataset.data.nbytes // 5)
    save_shards(dataset.select(range(4)), tmp_path, "train")
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert names == ["train-00000-of-00001.parquet", "val-00000-of-00001.parquet"]
    assert len(FrameStream(find_shards(tmp_path, "train"))) == 4


def test_a_failed_write_leaves_the_old_shards(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_shards(dataset, tmp_path)
    original, calls = pq.ParquetWriter.write_table, []

    def full_disk(self: pq.ParquetWriter, *args: Any, **kwargs: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_shards(dataset.select(range(6)), tmp_path, shard_bytes=10)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["train-00000-of-00001.parquet"]
    assert len(FrameStream(find_shards(tmp_path, "train"))) == NUM_ROWS


def test_an_error_while_shards_are_replaced_loses_none(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_shards(dataset, tmp_path, shard_bytes=dataset.data.nbytes // 12)
    save_shards(dataset.select([3]), tmp_path, "val")
    rename, calls = Path.rename, []

    def io_error(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    for cannot_exchange in (False, True):
        with monkeypatch.context() as patch:
            if cannot_exchange:
                patch.setattr("hf_frameseg._files._exchange", lambda first, second: False)
            patch.setattr(Path, "rename", io_error)
            calls.clear()
            try:
                save_shards(dataset.select(range(6)), tmp_path, "train", shard_bytes=10)
            except OSError:
                left = NUM_ROWS
            else:
                left = 6
        assert len(FrameStream(find_shards(tmp_path, "train"))) == left
        assert qids(FrameStream(find_shards(tmp_path, "val"))) == [3]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "data.lock"]
        save_shards(dataset, tmp_path, shard_bytes=dataset.data.nbytes // 12)


# Written with each call of these, the process is killed there: SIGKILL to itself, in a fork that has all imports.
KILLED = """
import json, os, signal, sys
from pathlib import Path
import pyarrow.parquet as pq
from datasets import load_dataset
from hf_frameseg import _files
from hf_frameseg.shards.order import epoch_windows, node_windows, worker_rows
from hf_frameseg.shards.files import find_shards, save_shards
from hf_frameseg.shards.stream import FrameStream

source, folder = sys.argv[1], Path(sys.argv[2])
dataset = load_dataset("parquet", data_files=source, split="train", cache_dir=folder / "cache")

def kill_at(owner, name, number, after):
    original, calls = getattr(owner, name), []
    def killed(*args, **kwargs):
        calls.append(args)
        if len(calls) == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if len(calls) == number and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, killed)

points = [(pq.ParquetWriter, "write_table", number) for number in (1, 3)] + [(pq.ParquetWriter, "close", 2)]
points += [(os, "link", 1), (_files, "_exchange", 1)]
points += [(Path, "rename", 1), (Path, "rename", 2)]
found = []
for exchange in (True, False):
    for owner, name, number in points:
        for after in (False, True):
            out = folder / f"{exchange}-{name}-{number}-{after}"
            save_shards(dataset, out, "train", shard_bytes=dataset.data.nbytes // 12)
            save_shards(dataset.select([3]), out, "val")
            child = os.fork()
            if not child:
                if not exchange:
                    _files._exchange = lambda first, second: False
                kill_at(owner, name, number, after)
                save_shards(dataset.select(range(6)), out, "train", shard_bytes=dataset.data.nbytes // 5)
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            rows = len(FrameStream(find_shards(out, "train")))
            val = [row["qid"] for row in FrameStream(find_shards(out, "val"))]
            save_shards(dataset.select(range(4)), out, "train")
            left = sorted(path.name for path in out.iterdir())
            found.append([exchange, name, number, after, status, rows, val, left])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_old_shards_or_the_new_ones_are_there(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.parquet"
    load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache")).to_parquet(source)
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(source), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert len(found) == 28
    assert {status for *_, status, _, _, _ in found} == {0, -9}
    assert {rows for *_, rows, _, _ in found} == {NUM_ROWS, 6}
    for exchange, name, number, after, status, rows, val, left in found:
        where = (exchange, name, number, after)
        assert rows == 6 if status == 0 else rows in (6, NUM_ROWS), where
        assert val == [3], where
        assert left == ["data", "data.lock"], where


def test_a_damaged_shard_is_named(dataset: Dataset, tmp_path: Path) -> None:
    (path,) = save_shards(dataset, tmp_path)
    good = path.read_bytes()
    assert qids(FrameStream([str(path)])) == list(range(NUM_ROWS))
    damages = {
        "cut": good[: len(good) // 2],
        "empty": b"",
        "text": b"text" * 1000,
        "pixels": good[:5000] + bytes([good[5000] ^ 1]) + good[5001:],
    }
    for content in damages.values():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^cannot read the shard .*train-00000-of-00001.parquet \(.*write it ag"):
            qids(FrameStream([str(path)]))


def test_what_is_no_shard_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    (path,) = save_shards(dataset, tmp_path)
    path.unlink()
    os.mkfifo(path)  # opening it would wait for ever
    with pytest.raises(ValueError, match=r"parquet is no file; write the shards again"):
        FrameStream([str(path)])
    names = ["data/a\n- split: x-00000-of-00001.parquet", "data/val-00000-of-00001.parquet"]
    assert order_shards(names, "val", "here") == names[1:]
    with pytest.raises(FileNotFoundError, match=r"got splits \['val'\]"):
        order_shards(names, "a\n- split: x", "here")


def test_what_cannot_be_saved_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"without \['frames'\]"):
        save_shards(dataset.remove_columns("frames"), tmp_path)
    with pytest.raises(ValueError, match="no rows to write"):
        save_shards(dataset.select([]), tmp_path)
    with pytest.raises(ValueError, match="expected the name of a split such as 'train', got '../train'"):
        save_shards(dataset, tmp_path, "../train")
    with pytest.raises(ValueError, match="got None; pass split="):
        save_shards(Dataset.from_list(list(dataset)), tmp_path)
    for many in (DatasetDict(val=dataset), dataset.to_iterable_dataset(), list(dataset)):
        with pytest.raises(ValueError, match=f"expected one split, a datasets.Dataset, got a {type(many).__name__}"):
            save_shards(many, tmp_path, "val")
    for name in ("shard_bytes", "group_bytes"):
        for wrong in (0, -1, None, "1 GB"):
            with pytest.raises(ValueError, match=f"expected {name} of at least 1, got {wrong!r}"):
                save_shards(dataset, tmp_path, **{name: wrong})
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_shards_is_kept(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    with pytest.raises(ValueError, match="data is a file, and would be the folder of the shards"):
        save_shards(dataset, tmp_path, "val")
    assert (tmp_path / "data").read_text() == "mine"


def test_a_split_may_be_one_of_datasets(dataset: Dataset, tmp_path: Path) -> None:
    assert save_shards(dataset, tmp_path, Split.VALIDATION)[0].name == "validation-00000-of-00001.parquet"


def test_missing_shards_are_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"in here, got splits \['val'\]; write them with save_shards"):
        order_shards(["data/val-00000-of-00001.parquet", "data/README.md"], "train", "here")
    with pytest.raises(FileNotFoundError, match="expected 3 shards of val in here, got 2"):
        order_shards([f"val-0000{index}-of-00003.parquet" for index in (0, 2)], "val", "here")
    with pytest.raises(FileNotFoundError, match="expected 1 or 2 shards of val in here, got 3"):
        order_shards(
            ["val-00000-of-00001.parquet", "val-00000-of-00002.parquet", "val-00001-of-00002.parquet"], "val", "here"
        )
