"""Synthetic data set: the official fields, what the scripts promise, real H.264 files, and going on after a stop."""

from __future__ import annotations

import itertools
import json
import os
import select
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_frameseg.annotations.qvhighlights import read_annotations
from hf_frameseg.cli import main
from hf_frameseg.datasets import synthetic
from hf_frameseg.datasets.synthetic import (
    COLORS,
    MANIFEST,
    SHAPES,
    SPLITS,
    SyntheticSettings,
    SyntheticVideo,
    annotate,
    make_video,
    query_text,
    render_objects,
    write_dataset,
)
from hf_frameseg.moments import CLIP_SECONDS

TINY = {"num_train_videos": 3, "num_val_videos": 1, "num_test_videos": 1, "size_pixels": 64, "fps": 1}


@pytest.fixture(scope="module")
def scripts() -> list[tuple[SyntheticVideo, list[dict]]]:
    """200 videos with the annotations of all their objects; nothing is encoded."""
    found = []
    for number in range(200):
        rng = np.random.default_rng([5, number])
        video = make_video(f"video_{number}", rng)
        rows = [annotate(video, *pair, qid=10 * number + k, rng=rng) for k, pair in enumerate(video.objects)]
        found.append((video, rows))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("synthetic") / "data", progress=False, **TINY)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its name inside the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Scripts and annotations


def test_a_row_has_exactly_the_official_fields(scripts: list[tuple[SyntheticVideo, list[dict]]]) -> None:
    fields = ["qid", "query", "duration", "vid", "relevant_clip_ids", "saliency_scores", "relevant_windows"]
    assert all(list(row) == fields for _, rows in scripts for row in rows)
    row = scripts[0][1][0]
    assert [type(row[name]) for name in fields[:4]] == [int, str, int, str]


def test_scenes_fill_the_video_without_gap_or_overlap(scripts: list[tuple[SyntheticVideo, list[dict]]]) -> None:
    for video, _ in scripts:
        bounds = [(scene.start_clips * CLIP_SECONDS, scene.end_clips * CLIP_SECONDS) for scene in video.scenes]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == video.duration_seconds
        assert all(left[1] == right[0] for left, right in itertools.pairwise(bounds))
        pairs = [(scene.color, scene.shape) for scene in video.scenes]
        assert all(left != right for left, right in itertools.pairwise(pairs))  # else two windows would touch


def test_windows_are_one_or_two_on_the_clip_grid(scripts: list[tuple[SyntheticVideo, list[dict]]]) -> None:
    counts = {1: 0, 2: 0}
    for video, rows in scripts:
        for row in rows:
            counts[len(row["relevant_windows"])] += 1
            for start, end in row["relevant_windows"]:
                assert start % CLIP_SECONDS == end % CLIP_SECONDS == 0
                assert 0 <= start < end <= video.duration_seconds == row["duration"]
            clips = [
                c for s, e in row["relevant_windows"] for c in range(int(s // CLIP_SECONDS), int(e // CLIP_SECONDS))
            ]
            assert row["relevant_clip_ids"] == clips
    assert 0.2 < counts[2] / counts[1] < 0.35


def test_a_window_is_where_its_object_is_shown(scripts: list[tuple[SyntheticVideo, list[dict]]]) -> None:
    for video, rows in scripts:
        assert len({row["query"] for row in rows}) == len(rows) == len(video.objects)
        for (color, shape), row in zip(video.objects, rows, strict=True):
            assert row["query"] == query_text(color, shape)
            shown = [[2 * s.start_clips, 2 * s.end_clips] for s in video.scenes if (s.color, s.shape) == (color, shape)]
            assert row["relevant_windows"] == shown


def test_about_30_percent_is_foreground(scripts: list[tuple[SyntheticVideo, list[dict]]]) -> None:
    shares = [
        sum(end - start for start, end in row["relevant_windows"]) / row["duration"]
        for _, rows in scripts
        for row in rows
    ]
    assert 0.25 < np.mean(shares) < 0.35
    durations = [video.duration_seconds for video, _ in scripts]
    assert np.mean(np.array(durations) == 150) > 0.8
    assert len(set(durations)) > 3


def test_three_annotators_follow_the_visibility(scripts: list[tuple[SyntheticVideo, list[dict]]]) -> None:
    visibility, scores = [], []
    for video, rows in scripts:
        for row in rows:
            assert len(row["saliency_scores"]) == len(row["relevant_clip_ids"])
            scores += row["saliency_scores"]
            for clip in row["relevant_clip_ids"]:
                scene = next(scene for scene in video.scenes if scene.start_clips <= clip < scene.end_clips)
                visibility.append(scene.visibility(np.array([(clip + 0.5) * CLIP_SECONDS]))[0])
    table = np.array(scores)
    assert table.shape == (len(visibility), 3)
    assert set(np.unique(table)) == {0, 1, 2, 3, 4}
    for annotator in table.T:
        assert np.corrcoef(annotator, visibility)[0, 1] > 0.9
    assert np.ptp(table, axis=1).mean() > 0.2  # they do not all say the same
    # The mask says nothing about the highlight: relevant clips are rated low and high.
    assert 0.2 < np.mean(table.mean(1) < 2) < 0.8


def test_distractors_share_the_colour_or_the_shape_in_most_videos(
    scripts: list[tuple[SyntheticVideo, list[dict]]],
) -> None:
    def confusable(video: SyntheticVideo) -> bool:
        pairs = itertools.combinations(video.objects, 2)
        return any((a[0] == b[0]) != (a[1] == b[1]) for a, b in pairs)

    assert np.mean([confusable(video) for video, _ in scripts]) > 0.93


def test_one_word_of_the_query_is_not_enough(scripts: list[tuple[SyntheticVideo, list[dict]]]) -> None:
    # The share of queries for which scenes of the right colour (or shape) are just the right scenes.
    enough = {"color": [], "shape": []}
    for video, _ in scripts:
        for color, shape in video.objects:
            enough["color"].append(sum(c == color for c, _ in video.objects) == 1)
            enough["shape"].append(sum(s == shape for _, s in video.objects) == 1)
    assert np.mean(enough["color"]) < 0.55
    assert np.mean(enough["shape"]) < 0.45


def test_render_shows_the_scene_of_the_time(scripts: list[tuple[SyntheticVideo, list[dict]]]) -> None:
    video = scripts[0][0]
    scenes = sorted(video.scenes, key=lambda scene: scene.start_clips)
    peaks = np.array([scene.peak_seconds for scene in scenes])
    for scene, picture in zip(scenes, video.render(peaks, 64, np.random.default_rng(0)), strict=True):
        x, y = scene.centers(np.array([scene.peak_seconds]))[0] * 64
        patch = picture[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].astype(float).mean(axis=(0, 1))
        assert np.abs(patch - COLORS[scene.color]).max() < 30  # fully visible at its peak
        corner = picture[:6, :6].astype(float).mean(axis=(0, 1))
        assert np.abs(corner - scene.background).max() < 15


def test_a_more_visible_object_is_larger_and_clearer() -> None:
    def changed(shape: str) -> list[float]:
        backgrounds = np.full((2, 3), 100.0)
        pictures = render_objects(
            ["white"] * 2,
            [shape] * 2,
            np.array([0.1, 0.9]),
            np.full((2, 2), 0.5),
            backgrounds,
            64,
            np.random.default_rng(0),
        )
        return (pictures.astype(float).mean(axis=(1, 2, 3)) - 100).tolist()

    for shape in SHAPES:
        little, much = changed(shape)
        assert much > 2 * little > 0


# Files


def test_files_are_those_of_qvhighlights(folder: Path) -> None:
    names = {f"highlight_{split}_release.jsonl" for split in SPLITS} | {MANIFEST, "videos"}
    assert {path.name for path in folder.iterdir()} == names
    assert len(list((folder / "videos").iterdir())) == 5
    qids: list[int] = []
    vids: dict[str, set[str]] = {}
    for split in SPLITS:
        rows = read_annotations(folder / f"highlight_{split}_release.jsonl")  # refuses whatever is not official
        qids += [row["qid"] for row in rows]
        vids[split] = {row["vid"] for row in rows}
        assert {len([row for row in rows if row["vid"] == vid]) for vid in vids[split]} <= {2, 3}
    assert len(set(qids)) == len(qids)
    assert [len(vids[split]) for split in SPLITS] == [3, 1, 1]
    assert len(set().union(*vids.values())) == 5  # splits are disjoint
    assert {path.stem for path in (folder / "videos").iterdir()} == set().union(*vids.values())


def test_splits_show_different_videos(folder: Path) -> None:
    scripts = {split: (folder / f"highlight_{split}_release.jsonl").read_text() for split in SPLITS}
    windows = [json.loads(text.splitlines()[0])["saliency_scores"] for text in scripts.values()]
    assert all(a != b for a, b in itertools.combinations(windows, 2))


def test_videos_are_h264_of_the_annotated_length(folder: Path) -> None:
    import av

    rows = read_annotations(folder / "highlight_train_release.jsonl")
    for row in rows:
        with av.open(str(folder / "videos" / f"{row['vid']}.mp4")) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.pix_fmt == "yuv420p"
            assert (stream.width, stream.height) == (64, 64)
            frames = list(container.decode(stream))
        assert len(frames) == row["duration"] * TINY["fps"]
        assert frames[-1].time + 1 / TINY["fps"] == pytest.approx(row["duration"])


def test_the_files_show_what_the_annotations_say(folder: Path) -> None:
    from hf_frameseg.moments import FrameGrid
    from hf_frameseg.video.read import read_frames

    row = read_annotations(folder / "highlight_train_release.jsonl")[0]
    color = np.array(COLORS[row["query"].split()[1]], dtype=float)
    clips = row["duration"] // CLIP_SECONDS
    shown = read_frames(folder / "videos" / f"{row['vid']}.mp4", FrameGrid.middle(row["duration"], clips)).frames
    near = (np.abs(shown.astype(float) - color).max(axis=-1) < 60).mean(axis=(1, 2))  # share of pixels of that colour
    ratings = np.array(row["saliency_scores"]).mean(axis=1)
    relevant = np.array(row["relevant_clip_ids"])
    assert near[relevant[ratings == 4]].min() > 0.1
    assert np.corrcoef(near[relevant], ratings)[0, 1] > 0.8


def test_same_seed_same_bytes_whatever_the_number_of_processes(folder: Path, tmp_path: Path) -> None:
    again = write_dataset(tmp_path / "again", num_proc=2, progress=False, **TINY)
    assert contents(again) == contents(folder)
    other = write_dataset(tmp_path / "other", progress=False, **{**TINY, "num_train_videos": 1}, seed=1)
    same_name = "videos/synthetic0000000_0.0_150.0.mp4"
    assert contents(other)[same_name] != contents(folder)[same_name]


def test_a_video_does_not_depend_on_the_number_of_videos(folder: Path, tmp_path: Path) -> None:
    fewer = contents(write_dataset(tmp_path / "fewer", progress=False, **{**TINY, "num_train_videos": 1}))
    videos = [name for name in fewer if name.startswith("videos/")]
    assert len(videos) == 3
    assert all(fewer[name] == contents(folder)[name] for name in videos)


def test_a_complete_data_set_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_write_splits", None)  # would fail if called
    assert write_dataset(folder, progress=False, **TINY) == folder


def test_an_interrupted_run_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = tmp_path / "data"
    real, calls = synthetic.write_video, []

    def stop_at_the_third(path: Path, *args: object) -> None:
        calls.append(path)
        if len(calls) == 3:
            path.with_name(f".{path.name}.part").write_bytes(b"half a video")
            raise KeyboardInterrupt
        real(path, *args)

    class InThisProcess:
        """Stand-in for the pool: the interrupt has to reach this process."""

        def __init__(self, *_: object, **__: object) -> None: ...
        def shutdown(self, **_: object) -> None: ...
        def map(self, function: object, tasks: list, **_: object) -> object:
            return map(function, tasks)

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "ProcessPoolExecutor", InThisProcess)
        patch.setattr(synthetic, "write_video", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(stopped, progress=False, **TINY)
    assert not list(stopped.glob("*.jsonl"))
    kept = {path: path.stat().st_mtime_ns for path in stopped.glob("videos/*.mp4")}
    assert len(kept) == 2
    write_dataset(stopped, progress=False, **TINY)
    assert contents(stopped) == contents(folder)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # not written again


def test_killed_it_leaves_no_process_and_nothing_half_and_goes_on(tmp_path: Path) -> None:
    settings = {**TINY, "num_train_videos": 60, "size_pixels": 16}
    undisturbed = write_dataset(tmp_path / "undisturbed", progress=False, **settings)
    killed = tmp_path / "killed"
    script = (
        "import json, sys\n"
        "from hf_frameseg.datasets import synthetic\n"
        "original, at = synthetic.write_video, []\n"
        "def write_video(path, *args):\n"
        "    at.append(path)\n"
        "    if len(at) == 4:\n"
        "        path.with_name(f'.{path.name}.{synthetic.os.getpid()}.part').write_bytes(b'half')\n"
        "        print(synthetic.os.getpid(), flush=True)\n"
        "        while True:\n"
        "            synthetic.os.sched_yield()\n"  # in the middle of a video
        "    original(path, *args)\n"
        "synthetic.write_video = write_video\n"
        "synthetic.write_dataset(sys.argv[1], num_proc=2, progress=False, **json.loads(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", script, str(killed), json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        workers = []
        while len(workers) < 2:
            told, _, _ = select.select([process.stdout], [], [], 300)
            assert told, f"{len(workers)} of 2 workers reached their fourth video"
            workers += [os.pidfd_open(int(line)) for line in os.read(process.stdout.fileno(), 100).split()]
        with pytest.raises(ValueError, match="another process writes into .*; wait for it or choose another folder"):
            write_dataset(killed, progress=False, **settings)
        process.kill()  # the main process alone
    for worker in workers:
        ended, _, _ = select.select([worker], [], [], 60)
        assert ended, "a worker lives on"
        os.close(worker)
    assert len(list(killed.glob("videos/*.mp4"))) == 6
    assert len(list(killed.glob("videos/.*.part"))) == 2
    write_dataset(killed, progress=False, **settings)
    assert contents(killed) == contents(undisturbed)


def test_overwriting_leaves_the_old_data_set_until_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**TINY, "num_train_videos": 1, "size_pixels": 16}
    target = write_dataset(tmp_path / "data", progress=False, **settings)
    before = contents(target)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "_write_splits", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_dataset(target, progress=False, overwrite=True, **settings, seed=9)
    assert contents(target) == before
    write_dataset(target, progress=False, overwrite=True, **settings, seed=9)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert contents(target) != before


@pytest.mark.parametrize("content", ["", '{"settings": {', "[1]", "null", "7"])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"synthetic\.json is damaged; delete .* and write it again"):
        write_dataset(tmp_path, progress=False, **TINY)


def test_a_large_picture_is_not_drawn_with_all_others_at_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "_RENDERED_PIXELS", 7 * 64**2)
    again = write_dataset(tmp_path / "again", progress=False, **TINY)
    assert contents(again) == contents(folder)  # the noise goes on where it was


def test_other_settings_are_refused_unless_overwritten(tmp_path: Path) -> None:
    settings = {**TINY, "num_train_videos": 1}
    target = write_dataset(tmp_path / "data", progress=False, **settings)
    with pytest.raises(ValueError, match="holds a synthetic data set of other settings") as caught:
        write_dataset(target, progress=False, **settings, seed=9)
    assert "\n" not in str(caught.value)
    before = contents(target)
    write_dataset(target, progress=False, overwrite=True, **settings, seed=9)
    assert contents(target).keys() == before.keys()
    assert json.loads((target / MANIFEST).read_text())["settings"]["seed"] == 9
    assert contents(target) != before


def test_somebody_elses_folder_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is not empty and was not written by this command"):
            write_dataset(tmp_path, progress=False, overwrite=overwrite, **TINY)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_train_videos": 0}, "expected num_train_videos to be at least 1, got 0"),
        ({"queries_per_video": 0}, "expected queries_per_video to be at least 1, got 0"),
        ({"fps": 0}, "expected fps to be at least 1, got 0"),
        ({"seed": -1}, "expected seed to be at least 0, got -1"),
        ({"size_pixels": 33}, "expected size_pixels to be even for H.264"),
        ({"num_train_videos": 10**9}, "expected num_train_videos to be at most 1000000, got 1000000000"),
        ({"num_test_videos": 10**30}, "expected num_test_videos to be at most 1000000, got 1000000000000"),
        ({"size_pixels": 10**6}, "expected size_pixels to be at most 4096"),
        ({"fps": 10**6}, "expected fps to be at most 240"),
        ({"seed": 1.5}, "expected seed to be a whole number, got 1.5"),
        ({"seed": 2**70}, "expected seed to be at most"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticSettings(**settings)


@pytest.mark.parametrize("num_proc", [0, -1, 10**6])
def test_a_number_of_processes_that_no_machine_runs_is_refused(tmp_path: Path, num_proc: int) -> None:
    with pytest.raises(ValueError, match="expected num_proc to be a whole number from 1 to"):
        write_dataset(tmp_path / "data", num_proc=num_proc, progress=False, **TINY)
    assert not (tmp_path / "data").exists()


def test_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape must be one of"):
        synthetic._gauge("heart", np.zeros((1, 1)), np.zeros((1, 1)))


def test_the_help_names_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["synth", "--help"])
    shown = " ".join(capsys.readouterr().out.split()).partition("options:")[2]
    defaults = vars(synthetic.SyntheticSettings())
    for option, name in (
        ("num-train-videos", "num_train_videos"),
        ("num-val-videos", "num_val_videos"),
        ("seed", "seed"),
    ):
        assert f"(default: {defaults[name]})" in shown.partition(f"--{option} N")[2].partition(" --")[0]
