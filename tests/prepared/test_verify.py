from __future__ import annotations

import shutil
import tarfile
from fractions import Fraction

import numpy as np
import pytest

from hf_frameseg.annotations.schema import AnnotationError
from hf_frameseg.datasets.qvhighlights import QVHighlightsConfig
from hf_frameseg.prepared.config import FrameDatasetConfig
from hf_frameseg.prepared.verify import VideoProblem, verify_videos
from hf_frameseg.video import readers
from hf_frameseg.video.settings import FrameSettings


@pytest.fixture(scope="module")
def source_video(tmp_path_factory, write_video):
    """A video of 10 s."""
    return write_video(tmp_path_factory.mktemp("source") / "v.mp4", np.arange(100), Fraction(1, 10))


@pytest.fixture
def data_dir(tmp_path, source_video, annotation, write_annotations):
    """Six videos: fine, missing, unreadable, too short by 3 s, too long by 3 s, too short by 2 s."""
    folder = tmp_path / "data"
    (folder / "videos").mkdir(parents=True)
    durations = {"fine": 10, "gone": 10, "broken": 10, "short": 13, "long": 7, "near": 12}
    for vid in durations:
        shutil.copy(source_video, folder / "videos" / f"{vid}.mp4")
    (folder / "videos" / "gone.mp4").unlink()
    (folder / "videos" / "broken.mp4").write_bytes(b"no video" * 100)
    rows = [annotation(qid=qid, vid=vid, duration=durations[vid]) for qid, vid in enumerate(durations)]
    write_annotations(folder / "highlight_val_release.jsonl", [*rows, annotation(qid=7, vid="gone")])
    write_annotations(folder / "highlight_train_release.jsonl", [annotation(vid="fine"), annotation(qid=9, vid="gone")])
    return folder


@pytest.mark.parametrize("num_proc", [None, 2])
def test_what_is_wrong_is_said_with_the_queries_that_need_it(data_dir, num_proc):
    verification = verify_videos(QVHighlightsConfig(data_dir=str(data_dir)), num_proc)
    videos = data_dir / "videos"
    no_file = f"no such file in the video folder {videos}"
    broken = verification.problems[2].error
    assert verification.problems == (
        VideoProblem("train", "gone", None, "missing", no_file, 1),
        VideoProblem("val", "gone", None, "missing", no_file, 2),
        VideoProblem("val", "broken", str(videos / "broken.mp4"), "unreadable", broken, 1),
        VideoProblem(
            "val",
            "short",
            str(videos / "short.mp4"),
            "duration",
            "short.mp4: the file lasts 10.00 s, the annotations say 13 s",
            1,
        ),
        VideoProblem(
            "val",
            "long",
            str(videos / "long.mp4"),
            "duration",
            "long.mp4: the file lasts 10.00 s, the annotations say 7 s",
            1,
        ),
    )
    assert broken.startswith("broken.mp4: could not be opened")
    assert verification.videos == {"train": 2, "val": 6}
    assert verification.queries == {"train": 2, "val": 7}
    assert verification.counts("val") == {"missing": (1, 2), "unreadable": (1, 1), "duration": (2, 2)}
    assert verification.to_dict()["splits"]["train"] == {
        "videos": 2,
        "queries": 2,
        "missing": {"videos": 1, "queries": 1},
        "unreadable": {"videos": 0, "queries": 0},
        "duration": {"videos": 0, "queries": 0},
    }


def test_a_video_may_have_another_duration_in_another_row(data_dir, annotation, write_annotations):
    rows = [annotation(qid=qid, vid="fine", duration=10) for qid in (20, 21)]
    write_annotations(data_dir / "highlight_train_release.jsonl", [*rows, annotation(qid=22, vid="near", duration=6)])
    found = verify_videos(QVHighlightsConfig(data_dir=str(data_dir)))
    wrong = [(one.split, one.vid, one.queries) for one in found.problems if one.problem == "duration"]
    assert wrong == [("train", "near", 1), ("val", "short", 1), ("val", "long", 1)]

    class Clips(QVHighlightsConfig):
        def read_split(self, split):
            rows = super().read_split(split)
            return [*rows, *[dict(row, qid=f"{row['qid']}+{more}", duration=more) for row in rows for more in (10, 50)]]

    found = verify_videos(Clips(data_dir=str(data_dir), splits=("val",)))
    counts = found.counts("val")
    assert (found.videos, found.queries) == ({"val": 6}, {"val": 21})
    assert counts == {"missing": (1, 6), "unreadable": (1, 3), "duration": (4, 6)}
    assert [one.error[-9:] for one in found.problems if one.vid == "short"] == [" say 13 s", " say 50 s"]


def test_nothing_is_decoded(data_dir, monkeypatch):
    def refuse(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr(readers, "READERS", dict.fromkeys(readers.READERS, refuse))
    config = QVHighlightsConfig(data_dir=str(data_dir), splits=("train",), frames=FrameSettings(timeout_seconds=None))
    assert [problem.vid for problem in verify_videos(config).problems] == ["gone"]


def test_the_tolerance_can_be_chosen(data_dir):
    config = QVHighlightsConfig(
        data_dir=str(data_dir), splits=("val",), frames=FrameSettings(duration_tolerance_seconds=1.0)
    )
    assert [problem.vid for problem in verify_videos(config).problems if problem.problem == "duration"] == [
        "short",
        "long",
        "near",
    ]


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_archives_are_verified_too(data_dir, tmp_path, kind):
    path = tmp_path / f"videos.{kind}"
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
        archive.add(data_dir / "videos", "videos")
    config = QVHighlightsConfig(data_dir=str(data_dir), splits=("val",), video_dir=str(path))
    problems = verify_videos(config, num_proc=2).problems
    assert [problem.vid for problem in problems] == ["gone", "broken", "short", "long"]
    assert problems[1].file == f"{path}:videos/broken.mp4"
    assert config.file_durations(["near", "broken", "nowhere", "fine"]) == {"near": 10.0, "fine": 10.0}


def test_asking_files_how_long_they_are_is_limited_in_time(data_dir, monkeypatch):
    asked = []

    def probe(path, *, timeout_seconds):
        asked.append(timeout_seconds)
        return 10.0

    monkeypatch.setattr("hf_frameseg.prepared.config.probe_duration", probe)
    config = QVHighlightsConfig(data_dir=str(data_dir), splits=("val",), frames=FrameSettings(timeout_seconds=7.0))
    assert config.file_durations(["fine"]) == {"fine": 10.0}
    assert asked == [7.0]


def test_a_reader_of_annotations_that_lets_nonsense_through_is_stopped(data_dir, annotation):
    class Config(FrameDatasetConfig):
        row: dict = {}

        def read_split(self, split):
            return [self.row]

    for fields in ({"duration": 1e-300}, {"vid": ""}, {"query": "\ud800"}):
        Config.row = annotation(qid=3, **fields)
        with pytest.raises(AnnotationError, match=rf"^val: qid 3: expected {next(iter(fields))} to be"):
            Config(data_dir=str(data_dir)).annotations("val")


def test_a_damaged_picture_is_found_by_decoding_only(shared_dir, tmp_path, annotation, write_annotations):
    labels = {"relevant_windows": [], "relevant_clip_ids": [], "saliency_scores": []}
    durations = {"av1_video": 5, "corrupted": 5, "nasa_13013": 16, "unordered": 0.125, "video_90": 0.1}
    rows = [annotation(qid=q, vid=vid, duration=time, **labels) for q, (vid, time) in enumerate(durations.items())]
    write_annotations(tmp_path / "highlight_val_release.jsonl", rows)
    config = QVHighlightsConfig(data_dir=str(tmp_path), video_dir=str(shared_dir / "videos"), splits=("val",))
    assert [(problem.vid, problem.problem) for problem in verify_videos(config).problems] == [
        ("nasa_13013", "duration")
    ]
