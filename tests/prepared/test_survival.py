"""Preparation is killed, disturbed and run twice at once; what it leaves is what an undisturbed run leaves."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hf_frameseg.datasets.load import load_rows
from hf_frameseg.datasets.qvhighlights import QVHighlights
from hf_frameseg.moments import FrameGrid
from hf_frameseg.prepared import jobs as video_jobs
from hf_frameseg.prepared.cache import CacheError
from hf_frameseg.prepared.report import FAILURES_FILE
from hf_frameseg.sample import Sample
from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.settings import FrameSettings

FILE = "highlight_val_release.jsonl"
SCRIPT = Path(__file__).with_name("preparation_process.py")
VIDS = [f"v{number}" for number in range(6)]

# A reader of our own writes down what is decoded, in whatever process that happens.
READER = """
import os
from hf_frameseg.video.readers import decode_with_pyav

def read(index, positions):
    with open(os.environ["DECODED"], "a") as log:
        log.write(index.path.stem + "\\n")
    yield from decode_with_pyav(index, positions)
"""


@pytest.fixture
def data_dir(tmp_path, write_video, annotation, write_annotations):
    """Six videos of 2 s, eight queries."""
    folder = tmp_path / "data"
    (folder / "videos").mkdir(parents=True)
    for number, vid in enumerate(VIDS):
        write_video(folder / "videos" / f"{vid}.mp4", np.arange(number, 20 + number), Fraction(1, 10))
    labels = {"duration": 2, "relevant_windows": [[0, 2]], "relevant_clip_ids": [0], "saliency_scores": [[1, 2, 3]]}
    vids = [*VIDS, "v1", "v4"]
    write_annotations(folder / FILE, [annotation(qid=qid, vid=vid, **labels) for qid, vid in enumerate(vids)])
    return folder


@pytest.fixture
def start(tmp_path, data_dir):
    """Start a preparation in a process group of its own."""
    (tmp_path / "counting_reader.py").write_text(READER)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    running = []

    def call(cache: str, number: int, stop_at: str | None = None, num_proc: int | None = None) -> Process:
        marker, decoded = (tmp_path / f"{cache}-{number}.{name}" for name in ("marker", "decoded"))
        options = {"data_dir": str(data_dir), "cache_dir": str(tmp_path / cache), "num_proc": num_proc}
        options |= {"num_frames": 3, "frame_size": 16, "frame_format": "raw", "reader": "counting_reader:read"}
        options |= {"stop_at": stop_at, "marker": str(marker)}
        command = [sys.executable, str(SCRIPT), json.dumps(options)]
        decoded.touch()
        with (tmp_path / f"{cache}-{number}.log").open("w") as log:
            process = subprocess.Popen(
                command, env=environment | {"DECODED": str(decoded)}, stderr=log, start_new_session=True
            )
        running.append(process)
        return Process(process, marker, decoded, Path(log.name))

    yield call
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Process:
    """A preparation that runs."""

    def __init__(self, process: subprocess.Popen, marker: Path, decoded: Path, log: Path) -> None:
        self.process, self.marker, self._decoded, self.log = process, marker, decoded, log

    @property
    def decoded(self) -> list[str]:
        """Return what it has decoded."""
        return self._decoded.read_text().splitlines()

    def wait(self) -> None:
        """Wait for the moment."""
        self._wait_until(self.marker.exists)

    def wait_for(self, message: str) -> None:
        """Wait until it has said something."""
        self._wait_until(lambda: message in self.log.read_text())

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)  # between two looks; nothing depends on how long

    def kill(self, group: bool) -> None:
        """Wait for the moment, and send SIGKILL."""
        self.wait()
        (os.killpg if group else os.kill)(self.process.pid, signal.SIGKILL)
        assert self.process.wait() == -signal.SIGKILL

    def finish(self) -> list[int]:
        """Wait for the end and return the qids of the data set."""
        assert self.process.wait() == 0, self.log.read_text()
        return json.loads(self.marker.read_text())


def hashes(cache: Path) -> dict[str, str]:
    """Return the checksum of each file in a cache, without locks, which are empty."""
    files = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(cache)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def finished(cache: Path) -> dict[str, tuple[int, int]]:
    """Return the parts that are there, and what changes when one is written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in cache.rglob("*.part")}


@pytest.mark.slow
def test_a_killed_preparation_goes_on_where_it_was(start, tmp_path):
    undisturbed = start("undisturbed", 0, num_proc=2)
    assert undisturbed.finish() == list(range(8))
    assert Counter(undisturbed.decoded) == Counter(VIDS)

    # (moment, processes, whole group or main process only): the number of processes may change between runs.
    # One process leaves exactly as many parts as it says; two go on until they are killed, so that they come last.
    moments = [("part:1", None, True), ("part:2", None, False), ("part:1", 2, True), ("row:3", 2, True)]
    cache, parts, decoded = tmp_path / "killed", {}, []
    for number, (stop_at, num_proc, group) in enumerate(moments):
        killed = start("killed", number, stop_at, num_proc)
        killed.kill(group)
        assert not list(cache.rglob("dataset_info.json"))
        after = finished(cache)
        assert parts.items() <= after.items()  # none was written again
        assert len(after) > len(parts) or stop_at == "row:3"
        parts = after
        decoded += killed.decoded
    assert len(parts) == 6

    killed = start("killed", 4, "renamed")
    killed.kill(group=True)
    assert killed.decoded == []  # everything was finished
    assert finished(cache) == parts
    survivor = start("killed", 5)
    assert survivor.finish() == list(range(8))
    assert survivor.decoded == []
    assert finished(cache) == {}
    assert set(decoded) == set(VIDS)
    assert len(decoded) <= 6 + 2  # two processes were at two videos when they were killed
    assert hashes(cache) == hashes(tmp_path / "undisturbed")


def test_two_preparations_at_once_do_the_work_once(start, tmp_path):
    first = start("shared", 0, "part:1")
    first.wait()
    second = start("shared", 1)
    second.wait_for("another process prepares the same data; waiting until it is finished")
    first.kill(group=True)
    assert second.finish() == list(range(8))
    assert len(first.decoded) in (1, 2)  # the next one may have been begun
    assert len(second.decoded) == 5


# From here on in this process.


@pytest.fixture
def load(data_dir, tmp_path):
    def call(cache_dir=tmp_path / "cache", **options):
        choices = {"num_frames": 3, "frame_size": 16, "frame_format": "raw", "cache_dir": cache_dir, **options}
        return load_rows("qvhighlights", data_dir, "val", **choices)

    return call


@pytest.fixture
def decoded(monkeypatch):
    """Record which videos are decoded."""
    calls = []
    original = video_jobs.prepare_video

    def spy(path, *args):
        calls.append(path.stem)
        return original(path, *args)

    monkeypatch.setattr(video_jobs, "prepare_video", spy)
    return calls


@pytest.fixture
def interrupt(monkeypatch):
    """Stop the next preparation when its rows are written."""

    def call(load, **options):
        with monkeypatch.context() as patch:
            patch.setattr(QVHighlights, "_split_generators", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                load(**options)

    return call


def no_video(data_dir: Path, vid: str) -> None:
    (data_dir / "videos" / f"{vid}.mp4").write_bytes(b"no video" * 100)


def test_a_damaged_part_is_made_again(load, interrupt, decoded, tmp_path):
    reference = load(tmp_path / "reference")
    decoded.clear()
    interrupt(load)
    assert decoded == VIDS
    cut, flipped, empty = sorted(tmp_path.rglob("*.part"))[:3]
    cut.write_bytes(cut.read_bytes()[:-1])
    flipped.write_bytes(flipped.read_bytes()[:-5] + b"?????")
    empty.write_bytes(b"")
    assert load().to_list() == reference.to_list()
    assert hashes(tmp_path / "cache") == hashes(tmp_path / "reference")


def test_leftovers_of_a_killed_run_do_not_get_into_the_data_set(load, interrupt, tmp_path):
    load(tmp_path / "reference")
    interrupt(load)
    (parts,) = (tmp_path / "cache").rglob("*.parts")
    (parts / "0123.tmp").write_bytes(b"half a part")
    (parts / "scratch" / "x").mkdir(parents=True)
    final = next((tmp_path / "reference").rglob("dataset_info.json")).parent
    incomplete = tmp_path / "cache" / final.relative_to(tmp_path / "reference").with_name(final.name + ".incomplete")
    (incomplete / "inside").mkdir(parents=True)
    (incomplete / "qvhighlights-val-00001-00000-of-NNNNN.arrow").write_bytes(b"half a file")
    load()
    assert hashes(tmp_path / "cache") == hashes(tmp_path / "reference")
    assert not parts.exists()


def test_replacing_a_broken_video_decodes_no_other_again(load, decoded, data_dir):
    good = (data_dir / "videos" / "v3.mp4").read_bytes()
    no_video(data_dir, "v3")
    with pytest.raises(VideoReadError, match="v3"):
        load()
    assert decoded == ["v0", "v1", "v2", "v3"]
    (data_dir / "videos" / "v3.mp4").write_bytes(good)
    load()
    assert decoded[4:] == ["v3", "v4", "v5"]


def test_choosing_to_skip_decodes_nothing_again(load, decoded, data_dir):
    no_video(data_dir, "v5")
    with pytest.raises(VideoReadError, match="v5"):
        load()
    assert load(on_error="skip")["vid"][:] == ["v0", "v1", "v2", "v3", "v4", "v1", "v4"]
    assert decoded == [*VIDS, "v5"]


@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_failure_is_written_down_when_it_is_an_error(load, data_dir, num_proc):
    no_video(data_dir, "v1")
    with pytest.raises(VideoReadError, match="report: ") as caught:
        load(num_proc=num_proc)
    path = Path(str(caught.value).split("report: ")[1])
    (line,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert line["error"].startswith("v1.mp4: could not be opened")
    assert line == {
        "split": "val",
        "vid": "v1",
        "file": str(data_dir / "videos" / "v1.mp4"),
        "error": line["error"],
        "attempts": [],
        "queries": 2,
    }
    (data_dir / "videos" / "v2.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="report: ") as caught:
        load(num_proc=num_proc)
    assert "no such file in" in Path(str(caught.value).split("report: ")[1]).read_text()


@pytest.mark.parametrize("frame_format", ["raw", "jpeg"])
def test_blank_keeps_the_rows_and_marks_them(load, data_dir, caplog, frame_format):
    no_video(data_dir, "v1")
    (data_dir / "videos" / "v4.mp4").unlink()
    dataset = load(on_error="blank", frame_format=frame_format)
    assert dataset["vid"][:] == [*VIDS, "v1", "v4"]
    assert dataset["frames_missing"][:] == [False, True, False, False, True, False, True, True]
    blank, real = dataset[1], dataset[0]
    assert blank["frame_shape"] == real["frame_shape"] == [3, 3, 16, 16, 3]
    assert not Sample.of(blank).pictures().any()
    assert Sample.of(real).pictures().any()
    assert blank["frame_times_seconds"] == [[time] * 3 for time in FrameGrid.middle(2.0, 3).times]
    assert "missing or unreadable videos: 2 (4 queries), which have black frames; see " in caplog.text
    folder = Path(dataset.cache_files[0]["filename"]).parent
    failures = [json.loads(line)["vid"] for line in (folder / FAILURES_FILE).read_text().splitlines()]
    assert failures == ["v1", "v4"]


def test_black_frames_of_no_known_size(load, data_dir):
    no_video(data_dir, "v1")
    shapes = load(on_error="blank", frame_size=None)["frame_shape"][:]
    assert shapes[:2] == [[3, 3, 64, 80, 3], [3, 3, 64, 64, 3]]
    assert load(on_error="blank", frame_size=None, short_side=24)["frame_shape"][1] == [3, 3, 24, 24, 3]


def test_the_shorter_side_is_fixed_and_the_aspect_ratio_kept(load, data_dir, write_video, read_number):
    write_video(data_dir / "videos" / "v1.mp4", np.arange(0, 2000, 100), size=(80, 60))
    write_video(data_dir / "videos" / "v2.mp4", np.arange(0, 2000, 100), size=(64, 96))
    dataset = load(frame_size=None, short_side=30)
    assert dataset["frame_shape"][:3] == [[3, 3, 30, 38, 3], [3, 3, 40, 30, 3], [3, 3, 30, 45, 3]]
    assert [read_number(picture) for picture in Sample.of(dataset[1]).pictures()] == [3, 10, 16]
    with pytest.raises(ValueError, match=r"frame_size or short_side, got both \(16 and 30\); leave one out"):
        load(frame_size=16, short_side=30)


def test_a_disk_that_is_full_is_said_and_what_is_finished_is_kept(load, decoded, tmp_path):
    reference = load(tmp_path / "reference")
    sizes = {
        "a part": 5_000,  # of 7 kB
        "the data set": 30_000,  # of 8 times 7 kB; all parts fit
    }
    for limit in sizes.values():
        decoded.clear()
        with largest_file(limit), pytest.raises(CacheError, match=FULL_DISK):
            load(timeout_seconds=None)  # in this process, where the limit is
        assert not list((tmp_path / "cache").rglob("*.arrow"))
        assert not list((tmp_path / "cache").rglob("*.tmp"))
    assert decoded == VIDS
    assert len(finished(tmp_path / "cache")) == 6
    decoded.clear()
    dataset = load(timeout_seconds=None)
    assert dataset.to_list() == reference.to_list()
    assert decoded == []


FULL_DISK = (
    r"^cannot write to the cache .* \(File too large\); make room there or pass another cache_dir; finished videos"
)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let no file grow larger: a write fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def read_only(monkeypatch):
    """Refuse every new file and folder, as a disk mounted read-only does; root could write to a folder that is not."""

    @contextmanager
    def call(folder: Path) -> Iterator[None]:
        def guard(function):
            def guarded(path, *args, **kwargs):
                writes = not args or args[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                if writes and Path(path).is_relative_to(folder) and not (function is os.mkdir and Path(path).exists()):
                    raise OSError(errno.EROFS, "Read-only file system", str(path))
                return function(path, *args, **kwargs)

            return guarded

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", guard(os.open))
            patch.setattr(os, "mkdir", guard(os.mkdir))
            yield

    return call


def test_a_read_only_cache_is_said_unless_everything_is_there(load, read_only, tmp_path):
    message = r"^cannot write to the cache .* \(Read-only file system\); allow writing there or pass another"
    (tmp_path / "cache").mkdir()
    with read_only(tmp_path / "cache"), pytest.raises(CacheError, match=message):
        load()
    before = load().to_list()
    with read_only(tmp_path / "cache"):
        assert load().to_list() == before
        with pytest.raises(CacheError, match=message):
            load(num_frames=4)


@pytest.mark.parametrize("name", ["with a space", "ünïcödé 影片", "a'b\"c", "100%s {x}"])
def test_a_cache_may_be_called_anything(load, tmp_path, name):
    load(tmp_path / name)
    assert load(tmp_path / name)["qid"][:] == list(range(8))


def test_relative_folders(data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"num_frames": 3, "frame_size": 16, "num_proc": 2}
    relative = load_rows("qvhighlights", "data", "val", cache_dir="here", **options)
    absolute = load_rows("qvhighlights", data_dir, "val", cache_dir=tmp_path / "here", **options)
    assert relative.cache_files == absolute.cache_files
    assert not list(tmp_path.rglob("*.parts"))


def test_a_process_that_is_killed_is_replaced(tmp_path, data_dir, load):
    reference = load()
    (tmp_path / "fatal_reader.py").write_text(FATAL_READER)
    marker = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        patch.setenv("KILLED", str(marker))
        dataset = load(reader="fatal_reader:read", num_proc=2)
    assert marker.exists()
    assert dataset.to_list() == reference.to_list()


# The first video takes its grandparent with it: the process of the pool, as when memory runs out.
FATAL_READER = """
import os, signal
from pathlib import Path
from hf_frameseg.video.readers import decode_with_pyav

def read(index, positions):
    marker = Path(os.environ["KILLED"])
    if index.path.stem == "v0" and not marker.exists():
        marker.touch()
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    yield from decode_with_pyav(index, positions)
"""


def test_a_video_that_hangs_is_reported(load, tmp_path):
    (tmp_path / "hanging_reader.py").write_text(HANGING_READER)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        dataset = load(reader="hanging_reader:read", on_error="skip", timeout_seconds=2.0)
    assert dataset["vid"][:] == ["v0", "v1", "v2", "v4", "v5", "v1", "v4"]
    (failure,) = [json.loads(line) for line in next((tmp_path / "cache").rglob(FAILURES_FILE)).open()]
    assert failure["attempts"] == [{"reader": "hanging_reader:read", "error": failure["error"]}]
    assert failure["error"] == "v3.mp4: hanging_reader:read gave no answer within 2 s"


HANGING_READER = """
import shutil
import signal
from hf_frameseg.video.readers import decode_with_pyav

def read(index, positions):
    if index.path.stem == "v3":
        signal.pause()
    yield from decode_with_pyav(index, positions)
"""


def test_rows_can_be_streamed_without_a_cache(data_dir, tmp_path, decoded):
    options = {"frames": FrameSettings(num_frames=3, frame_size=16), "splits": ("val",), "on_error": "skip"}
    no_video(data_dir, "v2")
    builder = QVHighlights(data_dir=str(data_dir), cache_dir=str(tmp_path / "cache"), **options)
    rows = list(builder.as_streaming_dataset("val"))
    assert [row["vid"] for row in rows] == ["v0", "v1", "v3", "v4", "v5", "v1", "v4"]
    assert Sample.of(rows[0]).pictures().shape == (3, 16, 16, 3)
    assert not list(tmp_path.rglob("*.part"))


def test_a_video_of_two_splits_is_decoded_once(data_dir, tmp_path, decoded):
    shutil.copy(data_dir / FILE, data_dir / "highlight_train_release.jsonl")
    builder = QVHighlights(
        data_dir=str(data_dir), cache_dir=str(tmp_path / "cache"), frames=FrameSettings(num_frames=3, frame_size=16)
    )
    builder.download_and_prepare()
    assert decoded == VIDS
    assert {name: len(split) for name, split in builder.as_dataset().items()} == {"train": 8, "val": 8}
