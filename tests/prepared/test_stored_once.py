"""Frames are on disk once for each video, and every row has them, whatever `datasets` does with the rows."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets.table import MemoryMappedTable
from torch.utils.data import DataLoader

import datasets
from datasets import Dataset, Value, concatenate_datasets, load_from_disk
from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.batches.row_numbers import NumberedRows
from hf_frameseg.datasets.qvhighlights import QVHighlights
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.prepared import frame_columns, stored_once
from hf_frameseg.prepared.stored_once import StoredOnceTable, open_rows, read_rows, with_frames
from hf_frameseg.sample import Sample
from hf_frameseg.video.settings import FrameSettings

VIDS = "abcabbacaccb"  # queries of one video are apart, and side by side
NUM_ROWS = len(VIDS)
FILE = "highlight_val_release.jsonl"
CHOICES: dict[str, Any] = {"frames": FrameSettings(num_frames=3, frame_size=32), "frame_format": "raw"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, write_video, annotation, write_annotations) -> Path:
    """Three videos of 2 s and twelve queries; of 10, 20 and 30 pictures a second, so that each shows other ones."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "videos").mkdir()
    for rate, vid in zip((10, 20, 30), "abc", strict=True):
        write_video(folder / "videos" / f"{vid}.mp4", np.arange(2 * rate), Fraction(1, rate))
    labels = {"duration": 2, "relevant_windows": [[0, 2]], "relevant_clip_ids": [0], "saliency_scores": [[1, 2, 3]]}
    rows = [annotation(qid=qid, query=f"query {qid}", vid=vid, **labels) for qid, vid in enumerate(VIDS)]
    write_annotations(folder / FILE, rows)
    return folder


@pytest.fixture(scope="module")
def make_builder(data_dir: Path, tmp_path_factory) -> Callable[..., QVHighlights]:
    """Make a builder of these rows, prepared."""
    root = tmp_path_factory.mktemp("cache")

    def make(cache: str = "cache", **options: Any) -> QVHighlights:
        chosen = CHOICES | options
        builder = QVHighlights(cache_dir=str(root / cache), data_dir=str(data_dir), splits=("val",), **chosen)
        builder.download_and_prepare()
        return builder

    return make


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def builder(make_builder, request) -> QVHighlights:
    return make_builder(frame_format=request.param)


@pytest.fixture(scope="module")
def plain(builder: QVHighlights) -> list[dict[str, Any]]:
    """The rows as a stream gives them: made for each query, from no table."""
    return list(builder.as_streaming_dataset("val"))


@pytest.fixture(scope="module")
def rows(builder: QVHighlights) -> Dataset:
    return builder.as_dataset("val")


def arrow_files(builder: QVHighlights) -> list[Path]:
    return sorted(Path(builder.cache_dir).glob(f"{builder.dataset_name}-*.arrow"))  # `map` keeps others there


# ---- On disk and opened ----------------------------------------------------------------------------------------------


def test_the_first_row_of_a_video_holds_its_frames(builder: QVHighlights, plain: list[dict[str, Any]]) -> None:
    stored = Dataset.from_file(str(arrow_files(builder)[0]))
    assert [vid for vid, frames in zip(VIDS, stored["frames"], strict=True) if frames is not None] == ["a", "b", "c"]
    assert [row["frames"] for row in stored.select(range(3))] == [row["frames"] for row in plain[:3]]
    assert stored.remove_columns("frames").to_list() == [
        {name: value for name, value in row.items() if name != "frames"} for row in plain
    ]
    with pytest.raises(ValueError, match="^video a: expected frames, got none: .* open the data by its builder$"):
        Sample.of(stored[3]).pictures()


def test_every_row_has_the_frames_of_its_video(rows: Dataset, plain: list[dict[str, Any]]) -> None:
    assert rows.to_list() == plain
    assert [row["vid"] for row in plain] == list(VIDS)
    assert all(plain[0]["frames"] != row["frames"] != plain[1]["frames"] for row in plain if row["vid"] == "c")
    assert plain[0]["frames"] != plain[1]["frames"]
    assert rows.features == Dataset.from_list(plain, features=rows.features).features
    assert rows.column_names == list(plain[0])


def test_nothing_is_copied(rows: Dataset, make_builder) -> None:
    def places(dataset: Dataset) -> list[tuple[int, int]]:
        """Say where the frames of each row lie in memory."""
        chunks = [dataset.data.slice(place, 1)["frames"].chunk(0) for place in range(NUM_ROWS)]
        return [(chunk.buffers()[1].address, chunk.offset) for chunk in chunks]

    found = places(rows)
    assert [found[VIDS.index(vid)] for vid in VIDS] == found
    assert len(set(found)) == 3


def test_slices_of_splits(builder: QVHighlights, plain: list[dict[str, Any]]) -> None:
    assert builder.as_dataset("val[5:8]").to_list() == plain[5:8]
    assert builder.as_dataset("val[-2:]+val[3:4]").to_list() == plain[-2:] + plain[3:4]
    assert builder.as_dataset("val[50%:]").to_list() == plain[6:]
    assert builder.as_dataset("val[:0]").to_list() == []
    whole = builder.as_dataset()
    assert list(whole) == ["val"]
    assert whole["val"].to_list() == plain
    assert builder.as_dataset("val").split == "val"
    with pytest.raises(ValueError, match="Unknown split"):
        builder.as_dataset("train")


def test_in_memory(builder: QVHighlights, plain: list[dict[str, Any]]) -> None:
    rows = builder.as_dataset("val", in_memory=True)
    assert rows.cache_files == []
    assert pickle.loads(pickle.dumps(rows)).to_list() == plain


def test_in_memory_no_array_holds_more_than_it_can(
    builder: QVHighlights, plain: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One array of JPEGs ends at 2 GB."""
    rows = builder.as_dataset("val")
    monkeypatch.setattr(stored_once, "_PIECE_BYTES", 5 * rows.data["frames"].nbytes // NUM_ROWS)
    copied = builder.as_dataset("val", in_memory=True)
    assert 3 <= len(copied.data["frames"].chunks) <= 4
    assert max(map(len, copied.data["frames"].chunks)) <= 5
    assert copied.to_list() == plain
    assert builder.as_dataset("val[:0]", in_memory=True).to_list() == []


def test_a_split_of_several_files(make_builder, plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "MAX_SHARD_SIZE", "30KB")
    builder = make_builder("several", writer_batch_size=1)
    assert len(arrow_files(builder)) == 3
    rows = builder.as_dataset("val")
    assert [row["vid"] for row in rows] == list(VIDS)
    for row in rows:
        assert row["frames"] == rows[VIDS.index(row["vid"])]["frames"]
    copied = pickle.loads(pickle.dumps(rows.select(range(4, 9)).select_columns(["qid", "frames"])))
    assert copied.to_list() == rows.select_columns(["qid", "frames"]).select(range(4, 9)).to_list()
    assert builder.as_dataset("val[7:9]").to_list() == rows.select([7, 8]).to_list()


@pytest.mark.parametrize("on_error", ["skip", "blank"])
def test_rows_of_videos_that_cannot_be_read(
    on_error: str, data_dir: Path, tmp_path: Path, plain: list[dict[str, Any]], builder: QVHighlights
) -> None:
    shutil.copytree(data_dir, tmp_path / "data")
    (tmp_path / "data" / "videos" / "a.mp4").unlink()
    (tmp_path / "data" / "videos" / "c.mp4").write_bytes(b"no video")
    options = {"splits": ("val",), "frames": builder.config.frames, "frame_format": builder.config.frame_format}
    partial = QVHighlights(
        cache_dir=str(tmp_path / "cache"), data_dir=str(tmp_path / "data"), on_error=on_error, **options
    )
    rows = partial.load("val").to_list()
    stored = Dataset.from_file(str(arrow_files(partial)[0]))["frames"][:]
    assert sum(frames is not None for frames in stored) == (3 if on_error == "blank" else 1)
    assert [row for row in rows if row["vid"] == "b"] == [row for row in plain if row["vid"] == "b"]
    assert [row["vid"] for row in rows] == [vid for vid in VIDS if on_error == "blank" or vid == "b"]
    for row in rows:
        assert row["frames_missing"] == (row["vid"] != "b")
        assert (Sample.of(row).pictures().max() == 0) == row["frames_missing"]


def test_rows_without_frames_anywhere_are_refused() -> None:
    table = pa.table({"vid": ["a", "a\n"], "duration_seconds": [2.0, 2.0], "frames": [b"1", None]})
    with pytest.raises(ValueError, match=r"^no row holds the frames of video a\\n$"):
        with_frames(table)
    shorter = pa.table({"vid": ["a", "a"], "duration_seconds": [2.0, 3.0], "frames": [b"1", None]})
    with pytest.raises(ValueError, match="^no row holds the frames of video a$"):
        with_frames(shorter)


def test_pieces_by_hand() -> None:
    first = {"vid": ["a", "b", "a"], "duration_seconds": [2.0] * 3, "frames": [b"1", b"2", None]}
    second = {"vid": ["c", "b", "b"], "duration_seconds": [2.0] * 3, "frames": [b"3", None, None]}
    empty = pa.table(first).slice(0, 0)
    table = with_frames(pa.concat_tables([empty, pa.table(first), pa.table(second)]))
    assert table["frames"].to_pylist() == [b"1", b"2", b"1", b"3", b"2", b"2"]
    assert [len(chunk) for chunk in table["frames"].chunks] == [2, 1, 1, 1, 1]
    assert with_frames(empty) is empty


def test_rows_that_are_read_together_share_their_frames(rows: Dataset, plain: list[dict[str, Any]]) -> None:
    numbered = NumberedRows(rows.shuffle(seed=0))
    order = numbered.rows["qid"][:]
    read = numbered.__getitems__([(number, number) for number in range(NUM_ROWS)])
    assert [number for number, _ in read] == list(range(NUM_ROWS))
    assert [row for _, row in read] == [plain[qid] for qid in order]
    assert len({id(row["frames"]) for _, row in read}) == 3
    changed = rows.map(lambda row: {"frames": row["frames"]}, load_from_cache_file=False)  # each has frames of its own
    assert len({id(row["frames"]) for row in read_rows(changed.with_format("arrow"), range(NUM_ROWS))}) == NUM_ROWS


def test_columns_of_the_format_are_kept(rows: Dataset, plain: list[dict[str, Any]]) -> None:
    numbered = NumberedRows(rows.with_format(None, columns=["qid"]))
    assert numbered.__getitems__([(5, 2)]) == [(5, {"qid": 2})]
    assert NumberedRows(plain).__getitems__([(5, 2)]) == [(5, plain[2])]
    as_arrays = NumberedRows(rows.with_format("numpy", columns=["qid"])).__getitems__([(5, 2)])
    assert isinstance(as_arrays[0][1]["qid"], np.int64)


def test_a_picture_is_decoded_once_for_a_batch(
    make_builder: Callable[..., QVHighlights], tiny_processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_builder(frame_format="jpeg").as_dataset("val")
    labels = BinaryLabels.from_tokenizer(tiny_processor.tokenizer)
    options = {"processor": tiny_processor, "labels": labels, "prompt": "compact", "num_frames": 3, "train": True}
    decode, decoded = frame_columns._from_jpeg, []
    monkeypatch.setattr(frame_columns, "_from_jpeg", lambda jpeg, out: decoded.append(jpeg) or decode(jpeg, out))
    alone = FrameSegmentationCollator(**options)(list(rows))
    assert len(decoded) == NUM_ROWS * 3
    decoded.clear()
    read = NumberedRows(rows).__getitems__([(number, number) for number in range(NUM_ROWS)])
    together = FrameSegmentationCollator(**options)([row for _, row in read])
    assert len(decoded) == len(set(map(id, decoded))) <= 3 * 9  # three variants of three frames, of three videos
    torch.testing.assert_close(together["pixel_values"], alone["pixel_values"], rtol=0, atol=0)


# ---- What `datasets` does with rows ----------------------------------------------------------------------------------

OPERATIONS: dict[str, tuple[Callable[[Dataset], Any], list[int]]] = {
    "one row": (lambda rows: [rows[7]], [7]),
    "first rows": (lambda rows: Dataset.from_dict(rows[:4], features=rows.features), [0, 1, 2, 3]),
    "some rows": (lambda rows: rows.__getitems__([9, 0, 9]), [9, 0, 9]),
    "select": (lambda rows: rows.select([10, 3, 4]), [10, 3, 4]),
    "select a range": (lambda rows: rows.select(range(3, 6)), [3, 4, 5]),
    "shard": (lambda rows: rows.shard(3, 1, contiguous=True), [4, 5, 6, 7]),
    "filter": (lambda rows: rows.filter(lambda qid: qid % 5 == 3, input_columns="qid"), [3, 8]),
    "filter whole rows": (lambda rows: rows.filter(lambda row: row["qid"] > 9 and row["frames"]), [10, 11]),
    "sort": (lambda rows: rows.sort("qid", reverse=True).select([0, 1]), [11, 10]),
    "flatten_indices": (lambda rows: rows.select([4, 11, 2]).flatten_indices(), [4, 11, 2]),
    "concatenate": (lambda rows: concatenate_datasets([rows.select([3]), rows, rows]).select([0, 6, 20]), [3, 5, 7]),
    "train_test_split": (lambda rows: rows.train_test_split(4, shuffle=False)["test"], [8, 9, 10, 11]),
    "map": (lambda rows: rows.map(lambda row: {"query": row["query"]}).select([5, 3]), [5, 3]),
    "map in two processes": (lambda rows: rows.map(lambda row: {"query": row["query"]}, num_proc=2), range(NUM_ROWS)),
    "set_format": (lambda rows: rows.with_format("numpy").with_format(None).select([6]), [6]),
    "skip and take": (lambda rows: rows.skip(3).take(2), [3, 4]),
    "repeat": (lambda rows: rows.repeat(2).select([15]), [3]),
    "rename": (lambda rows: rows.rename_column("qid", "number").rename_column("number", "qid").select([3]), [3]),
    "cast": (lambda rows: rows.cast_column("qid", Value("int32")).cast_column("qid", Value("int64")), range(NUM_ROWS)),
    "pickle": (lambda rows: pickle.loads(pickle.dumps(rows.select([8, 3]))), [8, 3]),
    "pickle of a slice": (lambda rows: pickle.loads(pickle.dumps(rows.select(range(3, 12)).select([1]))), [4]),
    "a stream": (lambda rows: rows.to_iterable_dataset(num_shards=2), range(NUM_ROWS)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_frames_and_rows_together(name: str, rows: Dataset, plain: list[dict[str, Any]]) -> None:
    operate, expected = OPERATIONS[name]
    assert list(operate(rows)) == [plain[number] for number in expected]


def test_no_operation_of_a_table_is_forgotten() -> None:
    operations = {name for name in vars(MemoryMappedTable) if not name.startswith("_")} - {"from_file"}
    assert operations == vars(StoredOnceTable).keys() & operations


def test_a_table_stays_what_it_is(builder: QVHighlights, rows: Dataset) -> None:
    (file,) = arrow_files(builder)
    table = open_rows([file])
    changed = table.slice(2).drop(["qid"]).rename_columns([*"abcdefghijklm"]).filter(pa.array([True, False] * 5))
    assert changed.num_rows == 5
    again = pickle.loads(pickle.dumps(changed))
    assert type(again) is type(changed) is StoredOnceTable
    assert again.table.equals(changed.table)
    assert rows.cache_files == [{"filename": str(file)}]


def test_columns_may_be_chosen_and_exchanged(rows: Dataset, plain: list[dict[str, Any]]) -> None:
    assert rows.select_columns("frames").select([3])[0] == {"frames": plain[3]["frames"]}
    queries = [f"another {qid}" for qid in range(NUM_ROWS)]
    changed = rows.remove_columns("query").add_column("query", queries)
    assert list(changed) == [row | {"query": query} for row, query in zip(plain, queries, strict=True)]
    assert list(pickle.loads(pickle.dumps(changed))) == list(changed)
    shown = rows.with_format("numpy", columns=["qid", "duration_seconds"], output_all_columns=True)[3]
    assert shown["frames"] == plain[3]["frames"]
    assert shown["qid"].dtype == np.int64


def test_rows_kept_elsewhere_stand_by_themselves(rows: Dataset, plain: list[dict[str, Any]], tmp_path: Path) -> None:
    rows.select([3, 11]).save_to_disk(tmp_path / "saved")
    assert load_from_disk(tmp_path / "saved").to_list() == [plain[3], plain[11]]
    rows.select([4, 5]).to_parquet(tmp_path / "rows.parquet")
    read = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    assert read.to_list() == [plain[4], plain[5]]


def test_rows_of_a_relative_cache_are_found_from_another_folder(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"cache_dir": "cache", "data_dir": str(data_dir), "splits": ("val",), **CHOICES}
    QVHighlights(**options).download_and_prepare()
    rows = QVHighlights(**options).load("val")  # from the cache
    expected = rows.to_list()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(pickle.dumps(rows)).to_list() == expected
    assert rows.map(lambda qid: {"more": qid}, input_columns="qid", num_proc=2)["more"][:] == list(range(NUM_ROWS))


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_loader(context: str, rows: Dataset, plain: list[dict[str, Any]]) -> None:
    if context == "spawn":
        assert len(pickle.dumps(rows)) < 10_000  # places and operations, no frames
    loader = DataLoader(
        rows, batch_size=5, num_workers=2, collate_fn=list, multiprocessing_context=context, in_order=True
    )
    assert [row for batch in loader for row in batch] == plain


def test_other_formats_hold_plain_rows(make_builder, data_dir: Path, tmp_path: Path) -> None:
    options = {"data_dir": str(data_dir), "splits": ("val",), "frames": FrameSettings(num_frames=3, frame_size=32)}
    builder = QVHighlights(cache_dir=str(tmp_path / "cache"), **options)
    builder.download_and_prepare(str(tmp_path / "parquet"), file_format="parquet")
    files = [str(file) for file in (tmp_path / "parquet").glob("*.parquet")]
    read = Dataset.from_parquet(files, cache_dir=str(tmp_path / "read"))
    assert read.to_list() == make_builder(frame_format="jpeg").as_dataset("val").to_list()


def test_a_folder_of_ones_own_holds_plain_rows(make_builder, data_dir: Path, tmp_path: Path) -> None:
    """Whoever names a folder reads its files in other ways than by the builder, which opens them, too."""
    builder = QVHighlights(cache_dir=str(tmp_path / "cache"), data_dir=str(data_dir), splits=("val",), **CHOICES)
    builder.download_and_prepare(str(tmp_path / "own"))
    (file,) = (tmp_path / "own").glob("*.arrow")
    expected = make_builder().as_dataset("val").to_list()
    assert Dataset.from_file(str(file)).to_list() == builder.as_dataset("val").to_list() == expected


def test_files_that_are_gone_are_an_error(make_builder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_rows([tmp_path / "none.arrow"])
