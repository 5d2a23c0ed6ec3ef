"""Row groups: the values that pyarrow reads, with pictures that occur twice in memory once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets import Dataset
from hf_frameseg.shards.files import save_shards
from hf_frameseg.shards.row_groups import group_sizes, read_footer, read_group

VIDS = "aabab"


@pytest.fixture(params=["raw", "jpeg"])
def dataset(make_dataset: Callable[..., Dataset], request: pytest.FixtureRequest) -> Dataset:
    return make_dataset(request.param, len(VIDS), VIDS)


def rows_of(path: Path) -> list[dict]:
    footer = read_footer(str(path), None)
    return [row for index in range(len(group_sizes(footer))) for row in read_group(str(path), None, footer, index)]


def test_rows_of_a_video_share_its_pictures(dataset: Dataset, tmp_path: Path) -> None:
    (path,) = save_shards(dataset, tmp_path)
    rows = rows_of(path)
    assert [row["vid"] for row in rows] == list("aaabb")
    assert rows == dataset.select([0, 1, 3, 2, 4]).to_list()
    for first, second in ((0, 1), (1, 2), (3, 4)):
        mine, others = rows[first]["frames"], rows[second]["frames"]
        if isinstance(mine, bytes):
            assert mine is others
        else:
            assert mine is not others  # whoever changes a row changes no other
            assert all(one["bytes"] is other["bytes"] for one, other in zip(mine, others, strict=True))


def test_shards_that_others_wrote_are_read_too(dataset: Dataset, tmp_path: Path) -> None:
    dataset.to_parquet(tmp_path / "plain.parquet", batch_size=2)
    footer = read_footer(str(tmp_path / "plain.parquet"), None)
    assert [rows for rows, _ in group_sizes(footer)] == [2, 2, 1]
    assert rows_of(tmp_path / "plain.parquet") == dataset.to_list()


def test_nulls_and_empty_lists_stay(tmp_path: Path) -> None:
    picture = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {
        "frames": pa.array([[], [{"bytes": b"1", "path": None}, {"bytes": None, "path": "2"}]], pa.list_(picture)),
        "windows": pa.array([None, [[0.5, 1.0], None]], pa.list_(pa.list_(pa.float64()))),
        "text": pa.array(["a", None]).dictionary_encode(),
        "point": pa.array([None, {"x": 1}], pa.struct({"x": pa.int64()})),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    assert rows_of(tmp_path / "rows.parquet") == pa.table(columns).to_pylist()
    nullable = pa.table({"frames": pa.array([None, [{"bytes": b"1", "path": "x"}, None]], pa.list_(picture))})
    pq.write_table(nullable, tmp_path / "rows.parquet")
    assert rows_of(tmp_path / "rows.parquet") == nullable.to_pylist()
