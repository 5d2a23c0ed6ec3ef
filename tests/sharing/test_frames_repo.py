"""Frames on a Hub on loopback: private, one commit, streamed back row by row, refusals in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets import Dataset, Features, List, Value, load_dataset
from hf_frameseg.datasets.load import load_rows
from hf_frameseg.sample import Sample
from hf_frameseg.shards.files import save_shards
from hf_frameseg.sharing.frames_repo import push_frames, stream_frames
from hf_frameseg.video.settings import FrameSettings

sys.path.insert(0, str(Path(__file__).parents[1]))  # with importlib mode a test cannot import its neighbour otherwise
from hub_server import TOKEN, Hub, serve  # noqa: E402

NUM_ROWS = 12


@pytest.fixture(scope="module")
def dataset(make_row: Callable[..., dict[str, Any]]) -> Dataset:
    rows = [make_row(qid, size=16) for qid in range(NUM_ROWS)]
    integers, floats = Value("int64"), Value("float64")
    features = Features(
        {
            "qid": integers,
            "query": Value("string"),
            "vid": Value("string"),
            "duration_seconds": floats,
            "frames": Value("large_binary"),
            "frame_shape": List(integers),
            "frame_times_seconds": List(List(floats)),
            "relevant_windows": List(List(floats)),
            "relevant_clip_ids": List(integers),
            "saliency_scores": List(List(integers)),
        }
    )
    return Dataset.from_list(rows, features=features, split="train")


@pytest.fixture
def folder(dataset: Dataset, tmp_path: Path) -> Path:
    """Two shards of train, one of val."""
    save_shards(dataset, tmp_path / "prepared", shard_bytes=dataset.data.nbytes // 2 + 1)
    save_shards(dataset.select(range(3)), tmp_path / "prepared", "val")
    return tmp_path / "prepared"


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The real clients, pointed to a Hub on loopback, that do not wait between their retries."""
    from huggingface_hub import HfFileSystem, constants

    import datasets

    with serve() as server:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # another server with another protocol
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        HfFileSystem.clear_instance_cache()
        yield server
        HfFileSystem.clear_instance_cache()


def test_push_and_stream(dataset: Dataset, folder: Path, online: Hub) -> None:
    url = push_frames(folder, "me/frames", source="QVHighlights", token=TOKEN)
    assert url.startswith(online.url)
    assert online.private == {"me/frames": True}
    assert set(online.files("me/frames")) == {
        "README.md",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/val-00000-of-00001.parquet",
    }
    assert len(online.large) == 3
    assert len(online.repos["me/frames"]) == 2  # empty, and one commit

    stream = stream_frames("me/frames", "train", token=TOKEN)
    assert len(stream) == NUM_ROWS
    assert list(stream) == list(dataset)
    mixed = stream_frames("me/frames", "train", seed=1, buffer_rows=4, token=TOKEN)
    rows = iter(mixed)
    done = [next(rows)["qid"] for _ in range(5)]
    resumed = stream_frames("me/frames", "train", seed=1, buffer_rows=4, token=TOKEN)
    resumed.load_state_dict(json.loads(json.dumps(mixed.state_dict())))
    assert sorted(done + [row["qid"] for row in resumed]) == list(range(NUM_ROWS))
    assert len(stream_frames("me/frames", "val", token=TOKEN)) == 3


@pytest.mark.parametrize("frame_format", ["raw", "jpeg"])
def test_five_queries_a_video_take_the_room_of_one(
    frame_format: str,
    online: Hub,
    tmp_path: Path,
    write_video: Callable[..., Path],
    annotation: Callable[..., dict],
    write_annotations: Callable[..., Path],
) -> None:
    (tmp_path / "videos").mkdir()
    for vid in "abc":
        write_video(tmp_path / "videos" / f"{vid}.mp4", np.arange(20), Fraction(1, 10), size=(256, 256))
    labels = {"duration": 2, "relevant_windows": [[0, 2]], "relevant_clip_ids": [0], "saliency_scores": [[1, 2, 3]]}
    sizes: dict[int, list[int]] = {}
    for queries in (1, 5):
        lines = [annotation(qid=qid, vid=vid, **labels) for qid, vid in enumerate("abc" * queries)]
        write_annotations(tmp_path / "highlight_val_release.jsonl", lines)
        cache, shards, name = tmp_path / f"cache-{queries}", tmp_path / f"shards-{queries}", f"me/frames-{queries}"
        rows = load_rows(
            "qvhighlights",
            tmp_path,
            "val",
            FrameSettings(num_frames=8, frame_size=256),
            frame_format=frame_format,
            cache_dir=cache,
        )
        save_shards(rows, shards)
        push_frames(shards, name, token=TOKEN)
        stream = stream_frames(name, "val", token=TOKEN)
        assert sorted(stream, key=lambda row: row["qid"]) == list(rows)
        assert len(stream) == 3 * queries
        on_disk = [sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) for place in (cache, shards)]
        arrived = [content for file, content in online.files(name).items() if file.endswith(".parquet")]
        sizes[queries] = [*on_disk, sum(map(len, arrived))]
    assert sizes[1][0] > 150_000  # nearly all of it pictures
    for kind, one, five in zip(("cache", "shards", "Hub"), sizes[1], sizes[5], strict=True):
        assert five <= 1.1 * one, (kind, five / one)


def test_the_card_tells_rights_and_how_to_read_it(folder: Path, online: Hub) -> None:
    from huggingface_hub import DatasetCard

    push_frames(folder, "me/frames", source="QVHighlights", token=TOKEN)
    text = online.files("me/frames")["README.md"].decode()
    assert "**must not be redistributed**" in text
    assert "CC BY-NC-SA 4.0" in text
    assert "5 x 3 frames of 16 x 16 pixels a row (uint8)" in text
    assert "| train | 12 | 2 |" in text
    assert 'stream_frames("me/frames", "train", seed=0)' in text
    header = DatasetCard(text).data
    assert header.license == "other"
    splits = header["configs"][0]["data_files"]
    assert splits == [{"split": split, "path": f"data/{split}-*.parquet"} for split in ("train", "val")]
    (folder / "README.md").write_text(text)
    loaded = load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 12, "val": 3}
    push_frames(folder, "me/frames", token=TOKEN)
    assert "has none to share the frames" in online.files("me/frames")["README.md"].decode()


def test_pushing_again_removes_what_is_gone(dataset: Dataset, folder: Path, online: Hub) -> None:
    push_frames(folder, "me/frames", token=TOKEN)
    commit = len(online.repos["me/frames"]) - 1
    opened = stream_frames("me/frames", "train", token=TOKEN)
    save_shards(dataset.select(range(4)), folder, "train")
    push_frames(folder, "me/frames", token=TOKEN)
    names = sorted(online.files("me/frames"))
    assert names == ["README.md", "data/train-00000-of-00001.parquet", "data/val-00000-of-00001.parquet"]
    assert len(stream_frames("me/frames", "train", token=TOKEN)) == 4
    assert all(f"@{commit:040x}/" in name for name in opened.files)  # a stream stays at its commit


def test_a_public_repository_is_refused(folder: Path, online: Hub) -> None:
    online.repos["me/open"], online.private["me/open"] = [{}], False
    with pytest.raises(ValueError, match="expected a private repository, me/open is public.*private=False") as caught:
        push_frames(folder, "me/open", token=TOKEN)
    assert "\n" not in str(caught.value)
    assert online.files("me/open") == {}
    assert online.large == {}  # nothing has left this machine
    push_frames(folder, "me/open", token=TOKEN, private=False)
    assert "README.md" in online.files("me/open")


@pytest.mark.parametrize("where", ["POST /api/repos/create", "preupload", "PUT /lfs", "/commit/"])
def test_a_dropped_connection_leaves_no_half_push(where: str, folder: Path, online: Hub) -> None:
    online.drop = where
    with pytest.raises(ConnectionError, match="could not push to me/frames .*the connection broke.*try again"):
        push_frames(folder, "me/frames", token=TOKEN)
    assert online.repos.get("me/frames", [{}]) == [{}]
    online.drop = None
    push_frames(folder, "me/frames", token=TOKEN)
    assert len(online.files("me/frames")) == 4


def test_errors_are_one_line(folder: Path, online: Hub, tmp_path: Path) -> None:
    push_frames(folder, "me/frames", token=TOKEN)
    (folder / "data" / "train-00001-of-00002.parquet").unlink()
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: push_frames(folder, "me/x", token=TOKEN), FileNotFoundError, "expected 2 shards of train .*, got 1"),
        (lambda: push_frames(tmp_path, "me/x", token=TOKEN), FileNotFoundError, "expected shards in .*, got none"),
        (lambda: stream_frames(folder, "train"), FileNotFoundError, "expected 2 shards of train"),
        (lambda: stream_frames(folder, "test"), FileNotFoundError, r"got splits \['train', 'val'\]"),
        (lambda: stream_frames("me/frames", "test", token=TOKEN), FileNotFoundError, r"in me/frames, got splits \['tr"),
        (lambda: stream_frames("me/absent", "train", token=TOKEN), FileNotFoundError, "could not load me/absent .*404"),
        (lambda: stream_frames("me/frames", "train", token="hf_no"), PermissionError, "could not load me/frames .*401"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert "me/x" not in online.repos


def test_what_a_link_leads_to_is_not_uploaded(folder: Path, online: Hub, tmp_path: Path) -> None:
    shard = next(iter(sorted((folder / "data").glob("*.parquet"))))
    shard.rename(tmp_path / "private")
    shard.symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match=r"is a link or no file: what it leads to would be uploaded; remove it"):
        push_frames(folder, "me/frames", token=TOKEN)
    assert "me/frames" not in online.repos


def test_a_folder_is_streamed_without_a_hub(dataset: Dataset, folder: Path) -> None:
    for source in (folder, str(folder)):
        rows = list(stream_frames(source, "train"))
        assert rows == list(dataset)
    assert Sample.of(rows[0]).pictures().shape == (5, 16, 16, 3)
