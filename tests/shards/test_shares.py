"""Shares of a preparation, killed or not, give the bytes that one process gives."""

from __future__ import annotations

import hashlib
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg.datasets.load import load_rows
from hf_frameseg.datasets.qvhighlights import QVHighlights
from hf_frameseg.datasets.synthetic import write_dataset
from hf_frameseg.prepared import jobs as video_jobs
from hf_frameseg.shards.files import find_shards
from hf_frameseg.shards.shares import AssembleShares, DecodeShare, decode_share, task_folder
from hf_frameseg.shards.stream import FrameStream
from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.settings import FrameSettings

OPTIONS = {"frames": FrameSettings(num_frames=5, frame_size=16)}
NUM_VIDEOS = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    counts = {"num_train_videos": NUM_VIDEOS, "num_val_videos": 1, "num_test_videos": 0}
    return write_dataset(folder, progress=False, size_pixels=16, fps=1, queries_per_video=2, **counts)


@pytest.fixture
def builder(data: Path, tmp_path: Path) -> Callable[..., QVHighlights]:
    """Builder of builders, as every machine makes one."""

    def build(cache: str = "many", **options: Any) -> QVHighlights:
        options = {"data_dir": str(data), "splits": ("train",), **OPTIONS, **options}
        return QVHighlights(cache_dir=str(tmp_path / cache), **options)

    return build


def load(data: Path, cache: Path, **options: Any) -> Any:
    return load_rows("qvhighlights", data, "train", cache_dir=cache, **{**OPTIONS, **options})


def digest(dataset: Any) -> str:
    """Hash the files of a data set."""
    return hashlib.sha256(b"".join(Path(file["filename"]).read_bytes() for file in dataset.cache_files)).hexdigest()


@pytest.fixture
def alone(data: Path, tmp_path: Path) -> Any:
    """What one process makes."""
    return load(data, tmp_path / "alone")


def test_shares_give_the_same_bytes_and_the_builder_decodes_nothing(
    builder: Callable[..., QVHighlights], data: Path, alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [decode_share(builder(), rank, 3) for rank in range(3)] == [2, 2, 1]
    assert not builder().is_prepared()
    monkeypatch.setattr(video_jobs, "prepare_video", lambda *args: pytest.fail("decoded twice"))
    dataset = load(data, tmp_path / "many")
    assert digest(dataset) == digest(alone)
    assert [row["qid"] for row in dataset] == [row["qid"] for row in alone]
    assert builder().is_prepared()
    assert decode_share(builder(), 0, 1) == 0  # nothing is left, and nothing is decoded


def test_another_cut_goes_on(builder: Callable[..., QVHighlights]) -> None:
    assert decode_share(builder(), 0, 2) == 3
    assert decode_share(builder(), 0, 2) == 0
    assert decode_share(builder(), 0, 1) == 2


def test_a_killed_share_goes_on(builder: Callable[..., QVHighlights], data: Path, alone: Any, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from hf_frameseg.prepared.parts import Parts\n"
        "from hf_frameseg.datasets.qvhighlights import QVHighlights\n"
        "from hf_frameseg.shards.shares import decode_share\n"
        "write, calls = Parts.write, []\n"
        "def killed(*args):\n"
        "    calls.append(args)\n"
        "    if len(calls) == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(*args)\n"
        "Parts.write = killed\n"
        "from hf_frameseg.video.settings import FrameSettings\n"
        f"options = dict({OPTIONS!r}, data_dir=sys.argv[1], splits=('train',))\n"
        "decode_share(QVHighlights(cache_dir=sys.argv[2], **options), 0, 1)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(data), str(tmp_path / "many")], capture_output=True)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    assert decode_share(builder(), 0, 1) == NUM_VIDEOS - 2
    assert digest(load(data, tmp_path / "many")) == digest(alone)


def test_a_broken_video_is_reported_as_by_one_process(
    builder: Callable[..., QVHighlights], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for number, path in enumerate(sorted((data / "videos").iterdir())):
        (videos / path.name).write_bytes(path.read_bytes()[: 200 if number == 1 else None])
    broken = {"video_dir": str(videos)}
    with pytest.raises(VideoReadError, match=r"\(1 of 5 in this share\); pass on_error='skip'") as caught:
        decode_share(builder(**broken), 0, 1)
    assert "\n" not in str(caught.value)
    assert decode_share(builder(**broken, on_error="skip"), 0, 1) == 0  # the other four are finished
    for on_error, num_rows in (("skip", 8), ("blank", 10)):
        many = load(data, tmp_path / "many", **broken, on_error=on_error)
        alone = load(data, tmp_path / "alone", **broken, on_error=on_error)
        assert len(many) == num_rows
        assert digest(many) == digest(alone)
        reports = [Path(rows.cache_files[0]["filename"]).with_name("failures.jsonl") for rows in (many, alone)]
        assert reports[0].read_text() == reports[1].read_text()


def test_a_missing_video_stops_before_anything_is_decoded(
    builder: Callable[..., QVHighlights], data: Path, tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    some = sorted((data / "videos").iterdir())[0]
    (tmp_path / "videos" / some.name).write_bytes(some.read_bytes())
    lacking = builder(video_dir=str(tmp_path / "videos"))
    with pytest.raises(FileNotFoundError, match=r"\(4 of 5 missing in train\); add the files or pass on_err"):
        decode_share(lacking, 0, 2)
    assert not list((tmp_path / "many").rglob("*.part"))


def test_there_is_no_such_share(builder: Callable[..., QVHighlights]) -> None:
    with pytest.raises(ValueError, match="rank from 0 to 1, got 2"):
        decode_share(builder(), 2, 2)


def test_steps_survive_pickling(data: Path, alone: Any, builder: Callable[..., QVHighlights], tmp_path: Path) -> None:
    options = {"data_dir": str(data), "cache_dir": str(tmp_path / "many"), "splits": ("train",), **OPTIONS}
    steps = [DecodeShare(QVHighlights, options), AssembleShares(QVHighlights, options, "train", str(tmp_path / "out"))]
    decode, assemble = pickle.loads(pickle.dumps(steps))
    for rank in range(2):
        decode(None, rank, 2)
    (task_folder(builder()) / "completions").mkdir(parents=True)  # an engine's notes are no part of the data set
    assemble(None)
    assert not task_folder(builder()).exists()
    assert digest(builder().as_dataset("train")) == digest(alone)
    assert list(FrameStream(find_shards(tmp_path / "out", "train"))) == list(alone)
