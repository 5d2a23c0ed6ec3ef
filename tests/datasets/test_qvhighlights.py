from __future__ import annotations

import json
import logging
import os
import re
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import datasets
from hf_frameseg._text import printable
from hf_frameseg.annotations.schema import AnnotationError
from hf_frameseg.datasets import qvhighlights
from hf_frameseg.datasets.load import load_rows
from hf_frameseg.datasets.qvhighlights import QVHighlights, QVHighlightsConfig
from hf_frameseg.moments import FrameGrid
from hf_frameseg.prepared import builder
from hf_frameseg.prepared import jobs as video_jobs
from hf_frameseg.prepared.frame_columns import check_num_frames
from hf_frameseg.sample import Sample
from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.readers import reader_names
from hf_frameseg.video.sampling import select_frames
from hf_frameseg.video.settings import FrameSettings

FILE = "highlight_val_release.jsonl"


@pytest.fixture(scope="module")
def source_video(tmp_path_factory, write_video):
    """A 10 s video with 10 numbered frames per second."""
    return write_video(tmp_path_factory.mktemp("source") / "v.mp4", np.arange(100), Fraction(1, 10))


@pytest.fixture
def rows(annotation):
    """Five queries of three videos, the queries of one video apart from each other."""
    return [
        annotation(qid=qid, query=f"query {qid}", vid=vid) for qid, vid in zip([9, 2, 5, 1, 7], "abcab", strict=True)
    ]


@pytest.fixture
def data_dir(tmp_path, source_video, rows, write_annotations):
    folder = tmp_path / "data"
    (folder / "videos").mkdir(parents=True)
    for vid in "abc":
        shutil.copy(source_video, folder / "videos" / f"{vid}.mp4")
    write_annotations(folder / FILE, rows)
    return folder


@pytest.fixture
def load(data_dir, tmp_path):
    """Load val with 4 frames of 32 pixels, raw, unless told otherwise."""

    def call(split="val", **options):
        defaults = {"num_frames": 4, "frame_size": 32, "frame_format": "raw", "cache_dir": tmp_path / "cache"}
        return load_rows("qvhighlights", data_dir, split, **{**defaults, **options})

    return call


@pytest.fixture
def decoded(monkeypatch):
    """Record which files are decoded."""
    calls = []
    original = video_jobs.prepare_video

    def spy(path, *args):
        calls.append(Path(path).stem)
        return original(path, *args)

    monkeypatch.setattr(video_jobs, "prepare_video", spy)
    return calls


@pytest.mark.parametrize("frame_format", ["raw", "jpeg"])
def test_columns_and_content(load, rows, read_number, frame_format):
    dataset = load(frame_format=frame_format)
    assert isinstance(dataset, datasets.Dataset)
    assert dataset["qid"][:] == [9, 2, 5, 1, 7]  # the order of the annotation file
    row = dataset[1]
    for name in ("qid", "query", "vid", "relevant_windows", "relevant_clip_ids", "saliency_scores"):
        assert row[name] == rows[1][name]
    assert row["duration_seconds"] == 10.0
    assert row["frame_shape"] == [4, 3, 32, 32, 3]
    expected = select_frames(np.arange(100) / 10, FrameGrid.middle(10, 4))
    np.testing.assert_allclose(row["frame_times_seconds"], expected / 10, atol=1e-6)
    for variant in range(3):
        pictures = Sample.of(row).pictures(np.full(4, variant))
        assert pictures.shape == (4, 32, 32, 3)
        assert [read_number(picture) for picture in pictures] == expected[:, variant].tolist()


def test_feature_types(load):
    raw, jpeg = load().features, load(frame_format="jpeg").features
    assert raw["frames"] == datasets.Value("large_binary")
    assert jpeg["frames"] == datasets.List(datasets.Image(decode=False))
    assert raw["qid"] == datasets.Value("int64")
    assert raw["relevant_windows"] == datasets.List(datasets.List(datasets.Value("float64")))
    assert raw["frames_missing"] == datasets.Value("bool")
    assert set(raw) == set(jpeg)


def test_native_size_and_the_papers_number_of_frames_are_the_defaults(load, data_dir, tmp_path):
    dataset = load_rows("qvhighlights", data_dir, "val", cache_dir=tmp_path / "cache")
    assert dataset[0]["frame_shape"] == [25, 3, 64, 80, 3]
    assert isinstance(dataset[0]["frames"], list)  # jpeg


def test_each_video_is_decoded_once_and_then_never_again(load, decoded):
    load()
    assert decoded == ["a", "b", "c"]  # five queries of three videos
    load()
    assert decoded == ["a", "b", "c"]


def test_two_processes_write_the_same_files(load, tmp_path):
    one = load()
    two = load(num_proc=2, cache_dir=tmp_path / "cache2")
    files = [Path(dataset.cache_files[0]["filename"]) for dataset in (one, two)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"num_frames": 5},
        {"frame_size": 16},
        {"frame_size": (16, 24)},
        {"frame_format": "jpeg"},
        {"variant_offset_frames": 1},
        {"reader": "pyav"},
        {"on_error": "skip"},
        {"grid_kind": "uniform"},
        {"grid_phase": 0.25},
        {"variant_offset_seconds": 0.5},
        {"timeout_seconds": 60.0},
        {"duration_tolerance_seconds": 1.0},
    ],
)
def test_every_choice_keys_the_cache(load, decoded, options):
    load()
    load(**options)
    assert len(decoded) == 6
    load()
    load(**options)
    assert len(decoded) == 6


def test_changed_files_are_prepared_again(load, data_dir, decoded, rows, write_annotations):
    load()
    os.utime(data_dir / "videos" / "b.mp4", ns=(1, 1))
    load()
    assert len(decoded) == 6
    write_annotations(data_dir / FILE, [*rows[:-1], {**rows[-1], "query": "another"}])
    assert load()[4]["query"] == "another"
    assert len(decoded) == 9
    (data_dir / "videos" / "unrelated.mp4").write_bytes(b"x")
    load()
    assert len(decoded) == 9


def test_the_cache_folder_tells_what_is_in_it(load):
    folder = Path(load().cache_files[0]["filename"]).parents[1].name
    assert folder.startswith("val-4f-32px-raw-")


def test_the_builder_is_a_class_to_use_directly(data_dir, tmp_path, rows, write_annotations):
    write_annotations(data_dir / "highlight_train_release.jsonl", rows[:1])
    builder = QVHighlights(
        cache_dir=str(tmp_path / "cache"), data_dir=str(data_dir), frames=FrameSettings(num_frames=2, frame_size=8)
    )
    builder.download_and_prepare()
    prepared = builder.as_dataset()
    assert {name: len(split) for name, split in prepared.items()} == {"train": 1, "val": 5}  # the splits that are there
    assert prepared["val"]["vid"][:] == list("abcab")


def test_another_video_folder(load, data_dir, tmp_path):
    (data_dir / "videos").rename(tmp_path / "elsewhere")
    assert len(load(video_dir=str(tmp_path / "elsewhere"))) == 5


def test_test_rows_may_lack_labels(load, data_dir, rows, write_annotations):
    bare = [{name: row[name] for name in ("qid", "query", "duration", "vid")} for row in rows]
    write_annotations(data_dir / "highlight_test_release.jsonl", bare)
    dataset = load("test")
    assert dataset[0]["relevant_windows"] == []
    write_annotations(data_dir / "highlight_test_with_gt.jsonl", rows)
    assert load("test")[0]["relevant_windows"] == [[2, 6]]


def test_a_prepared_data_set_with_another_number_of_frames_is_refused(load, tmp_path):
    load().save_to_disk(tmp_path / "prepared")
    prepared = datasets.load_from_disk(tmp_path / "prepared")
    check_num_frames(prepared, 4)
    with pytest.raises(ValueError, match="expected 25 frames per video, the prepared data has 4"):
        check_num_frames(prepared, 25)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_an_unreadable_video_raises_its_own_error(load, data_dir, tmp_path, num_proc):
    (data_dir / "videos" / "b.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(VideoReadError, match=r"^val: video b: b\.mp4: could not be opened[^\n]*; report: .*$"):
        load(num_proc=num_proc)
    assert not list((tmp_path / "cache").rglob("*.arrow"))


@pytest.mark.parametrize("num_proc", [None, 2])
def test_unreadable_videos_can_be_skipped_with_a_report(load, data_dir, tmp_path, caplog, num_proc):
    (data_dir / "videos" / "a.mp4").unlink()
    (data_dir / "videos" / "c.mp4").write_bytes(b"no video" * 100)
    with caplog.at_level(logging.WARNING):
        dataset = load(num_proc=num_proc, on_error="skip")
    assert dataset["qid"][:] == [2, 7]
    assert [r.getMessage() for r in caplog.records if r.name == "hf_frameseg.prepared.report"] == [
        "missing or unreadable videos: 2 (3 queries), which were left out; see "
        f"{next((tmp_path / 'cache').rglob('failures.jsonl'))}"
    ]
    report = [json.loads(line) for line in next((tmp_path / "cache").rglob("failures.jsonl")).read_text().splitlines()]
    assert [(failure["split"], failure["vid"], failure["queries"]) for failure in report] == [
        ("val", "a", 2),
        ("val", "c", 1),
    ]
    assert report[0]["file"] is None
    assert "could not be opened" in report[1]["error"]


def test_skipping_everything_is_an_error(load, data_dir):
    for path in (data_dir / "videos").iterdir():
        path.write_bytes(b"")
    with pytest.raises(VideoReadError, match="no video of the split could be read"):
        load(on_error="skip")
    shutil.rmtree(data_dir / "videos")
    (data_dir / "videos").mkdir()
    with pytest.raises(FileNotFoundError, match="none of the 3 videos of val is there"):
        load(on_error="skip")


def test_reports_of_a_killed_run_do_not_count(load, tmp_path):
    cache = Path(load().cache_files[0]["filename"]).parent
    shutil.rmtree(cache)
    stale = cache.with_name(cache.name + ".incomplete")
    stale.mkdir()
    (stale / "failures.jsonl.1").write_text('{"split": "val", "vid": "a", "error": "old", "queries": 1}\n')
    assert len(load()) == 5


def test_text_qids_stay_texts(load, data_dir, annotation, write_annotations):
    write_annotations(data_dir / FILE, [annotation(qid="s34-d28_1", vid="a"), annotation(qid="7", vid="b")])
    dataset = load()
    assert dataset["qid"][:] == ["s34-d28_1", "7"]
    assert dataset.features["qid"] == datasets.Value("string")


def test_splits_with_qids_of_two_kinds_are_not_one_data_set(data_dir, tmp_path, annotation, write_annotations):
    write_annotations(data_dir / "highlight_train_release.jsonl", [annotation(qid="s1", vid="a")])
    with pytest.raises(AnnotationError, match=r"qids of one kind, got \d in val and 's1' in train; .* one by one"):
        QVHighlights(cache_dir=str(tmp_path / "cache"), data_dir=str(data_dir), frames=FrameSettings(num_frames=4))
    assert QVHighlightsConfig(data_dir=str(data_dir), splits=("train",)).has_text_qids()


def test_a_qid_without_a_video_is_named_before_anything_is_decoded(load, data_dir, decoded):
    (data_dir / "videos" / "c.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r"^qid 5: no video c: no such file .* \(1 of 3 missing in val\)"):
        load()
    assert decoded == []


@pytest.mark.parametrize("vid", ["../outside", "..\\outside", "a\0", "A", "a" * 300])
def test_a_vid_cannot_leave_the_video_folder(load, data_dir, source_video, annotation, write_annotations, vid):
    shutil.copy(source_video, data_dir / "outside.mp4")
    write_annotations(data_dir / FILE, [annotation(vid=vid), annotation(qid=2, vid="a")])
    with pytest.raises(FileNotFoundError, match=rf"^qid 1: no video {re.escape(printable(vid))}: no such file"):
        load()
    assert load(on_error="skip")["vid"][:] == ["a"]


def test_a_link_out_of_the_video_folder_is_refused_unless_allowed(load, data_dir, tmp_path):
    (data_dir / "videos" / "b.mp4").rename(tmp_path / "b.mp4")
    (data_dir / "videos" / "b.mp4").symlink_to(tmp_path / "b.mp4")
    with pytest.raises(FileNotFoundError, match="no video b: .* leads out of the video folder"):
        load()
    assert len(load(allow_links=True)) == 5


def test_videos_may_lie_in_folders(load, data_dir):
    (data_dir / "videos" / "more").mkdir()
    (data_dir / "videos" / "b.mp4").rename(data_dir / "videos" / "more" / "b.mp4")
    assert len(load()) == 5


def test_annotations_are_downloaded_when_asked_for(load, data_dir, monkeypatch, tmp_path):
    (data_dir / FILE).rename(tmp_path / FILE)
    with pytest.raises(FileNotFoundError, match=r"expected highlight_val_release\.jsonl, or pass download=True$"):
        load()
    asked = []
    monkeypatch.setattr(qvhighlights, "fetch_annotations", lambda split: asked.append(split) or tmp_path / FILE)
    assert len(load(download=True)) == 5
    assert set(asked) == {"val"}
    asked.clear()
    (tmp_path / FILE).rename(data_dir / FILE)
    load(download=True)
    assert asked == []  # what is in the folder counts


def test_a_file_much_shorter_than_annotated_is_refused_unless_allowed(load, data_dir, rows, write_annotations):
    write_annotations(data_dir / FILE, [{**row, "duration": 13} for row in rows])
    with pytest.raises(VideoReadError, match=r"video a: a\.mp4: the file lasts 10\.00 s, the annotations say 13 s"):
        load()
    assert load(duration_tolerance_seconds=3.0)[0]["duration_seconds"] == 13.0


def test_missing_folders_and_files_are_named(load, data_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match="no annotations for train"):
        load("train")
    with pytest.raises(FileNotFoundError, match="no such data folder"):
        load_rows("qvhighlights", tmp_path / "nowhere", "val")
    with pytest.raises(FileNotFoundError, match="no such data folder"):
        QVHighlights(data_dir=str(tmp_path / "nowhere"))
    shutil.rmtree(data_dir / "videos")
    with pytest.raises(FileNotFoundError, match="no video folder"):
        load()


def test_annotation_errors_come_through(load, data_dir):
    (data_dir / FILE).write_text("{}\n")
    with pytest.raises(AnnotationError, match=r"^highlight_val_release\.jsonl:1: lacks qid"):
        load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "num_frames to be a whole number of at least 1 and at most 10000, got 0"),
        ({"frame_size": -1}, "frame_size to be None, a whole number or .* from 1 to 8192, got -1"),
        ({"frame_format": "png"}, "frame_format to be one of"),
        ({"reader": "ffmpeg"}, "reader to be one of"),
        ({"on_error": "ignore"}, r"on_error to be one of \['raise', 'skip', 'blank'\]"),
        ({"variant_offset_frames": -3}, "variant_offset_frames"),
        ({"duration_tolerance_seconds": -1.0}, "duration_tolerance_seconds"),
        ({"split": "validation"}, "split to be one of"),
    ],
)
def test_bad_choices_are_refused_at_once(load, decoded, options, message):
    with pytest.raises(ValueError, match=message):
        load(**options)
    assert decoded == []


def test_a_data_folder_is_needed():
    with pytest.raises(ValueError, match="data_dir is missing"):
        QVHighlightsConfig()


def test_rows_held_in_memory_before_writing_are_bounded():
    def rows_per_batch(frame_format="jpeg", **options):
        return builder._rows_per_batch(FrameSettings(**options), frame_format)

    assert rows_per_batch(frame_size=32, frame_format="raw") == 64 * 2**20 // (25 * 3 * 32 * 32 * 3)
    assert rows_per_batch(frame_format="raw") == 1
    assert rows_per_batch(frame_size=1) == 1000
    assert rows_per_batch("raw", frame_size=(16, 64)) == rows_per_batch("raw", short_side=32)


def test_official_annotations_with_stand_in_videos(shared_dir: Path, tmp_path):
    lines = (shared_dir / "qvhighlights" / FILE).read_text("utf-8").splitlines()[:3]
    folder = tmp_path / "official"
    (folder / "videos").mkdir(parents=True)
    (folder / FILE).write_text("\n".join(lines), "utf-8")
    stand_ins = ["nasa_13013.mp4", "av1_video.mkv", "corrupted.mp4"]
    for line, name in zip(lines, stand_ins, strict=True):
        source = shared_dir / "videos" / name
        shutil.copy(source, folder / "videos" / (json.loads(line)["vid"] + source.suffix))
    options = {"frame_size": 32, "cache_dir": tmp_path / "cache", "duration_tolerance_seconds": 150.0}
    dataset = load_rows("qvhighlights", folder, "val", on_error="skip", **options)
    assert dataset["vid"][:] == [json.loads(line)["vid"] for line in lines[:2]]
    (failure,) = [json.loads(line) for line in next((tmp_path / "cache").rglob("failures.jsonl")).open()]
    assert failure["vid"] == json.loads(lines[2])["vid"]
    assert [attempt["reader"] for attempt in failure["attempts"]] == list(reader_names("auto"))
    assert all(failure["vid"] in attempt["error"] for attempt in failure["attempts"])
    assert dataset[0]["frame_shape"] == [25, 3, 32, 32, 3]
    # Frames at 3 and 9 s of the 13 s stand-in, then its last one.
    middle_times = [times[1] for times in dataset[0]["frame_times_seconds"]]
    assert middle_times[:2] == pytest.approx([3, 9], abs=0.04)
    assert len(set(middle_times[2:])) == 1
    with pytest.raises(VideoReadError, match="could not be decoded by pyav"):
        load_rows("qvhighlights", folder, "val", **options)


def test_the_seven_videos_give_frames_or_a_reported_failure(shared_dir, tmp_path, annotation, write_annotations):
    labels = {"relevant_windows": [], "relevant_clip_ids": [], "saliency_scores": []}
    durations = {"av1_video": 5, "corrupted": 5, "h264_10bits": 1, "h265_video": 1, "nasa_13013": 13}
    durations |= {"unordered": 0.125, "video_90": 0.1}
    rows = [annotation(qid=q, vid=vid, duration=time, **labels) for q, (vid, time) in enumerate(durations.items())]
    write_annotations(tmp_path / FILE, rows)
    options = {"video_dir": str(shared_dir / "videos"), "cache_dir": tmp_path / "cache", "num_frames": 5}
    dataset = load_rows("qvhighlights", tmp_path, "val", frame_size=32, on_error="skip", **options)
    assert dataset["vid"][:] == [vid for vid in durations if vid != "corrupted"]
    assert all(Sample.of(row).pictures().any() for row in dataset)
    (failure,) = [json.loads(line) for line in next((tmp_path / "cache").rglob("failures.jsonl")).open()]
    assert (failure["vid"], failure["queries"]) == ("corrupted", 1)
    assert [attempt["reader"] for attempt in failure["attempts"]] == list(reader_names("auto"))
