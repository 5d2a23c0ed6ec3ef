from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hf_frameseg.cli import main
from hf_frameseg.datasets.load import load_rows
from hf_frameseg.datasets.synthetic import write_dataset
from hf_frameseg.prepared import jobs as video_jobs


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Train 1 and val 2 synthetic videos."""
    folder = tmp_path_factory.mktemp("synthetic")
    write_dataset(folder, num_train_videos=1, num_val_videos=2, num_test_videos=1, seed=0)
    return folder


def test_a_training_finds_what_was_prepared(data_dir, tmp_path, capsys, monkeypatch):
    options = ["--num-frames", "3", "--frame-size", "16", "--frame-format", "raw", "--on-error", "skip"]
    folders = ["--data-dir", str(data_dir), "--cache-dir", str(tmp_path / "cache")]
    assert main(["prepare", *folders, *options, "--split", "train", "val"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["train", "val"]
    assert all(Path(line[line.index(str(tmp_path)) :]).is_dir() for line in lines)
    monkeypatch.setattr(video_jobs, "prepare_video", None)  # nothing is decoded from here on
    dataset = load_rows(
        "qvhighlights",
        data_dir,
        "val",
        num_frames=3,
        frame_size=16,
        frame_format="raw",
        on_error="skip",
        cache_dir=tmp_path / "cache",
    )
    assert f"val  {len(dataset)} queries" in lines[1]


def test_every_choice_of_frames_has_an_option(data_dir, tmp_path, capsys):
    choices = ["--num-frames", "2", "--short-side", "16", "--grid-kind", "uniform", "--frame-format", "jpeg"]
    choices += ["--variant-offset-seconds", "0.2", "--reader", "pyav", "--timeout-seconds", "60"]
    choices += ["--duration-tolerance-seconds", "1", "--on-error", "blank"]
    folders = ["--data-dir", str(data_dir), "--cache-dir", str(tmp_path / "cache"), "--split", "val"]
    assert main(["prepare", *folders, *choices]) == 0
    printed = capsys.readouterr().out.strip()
    folder = Path(printed[printed.index(str(tmp_path)) :])
    assert folder.parent.name.startswith("val-2f-uniform-short16px-jpeg-")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--on-error", "ignore"], "expected --on-error to be one of"),
        (["--frame-size", "8", "--short-side", "8"], "expected --frame-size or --short-side, got both"),
        (["--grid-phase", "2"], "phase"),
        (["--reader", "ffmpeg"], "expected --reader to be one of"),
        (["--num-frames", "0"], "--num-frames to be a whole number of at least 1"),
        (
            ["--num-frames", "1000000000"],
            "--num-frames to be a whole number of at least 1 and at most 10000, got 1000000000",
        ),
        (["--frame-size", "1000000"], "expected --frame-size to be None, a whole number or"),
        (
            ["--short-side", "100000000000"],
            "expected --short-side to be None, a whole number in pixels, from 1 to 8192",
        ),
        (["--short-side", "8000"], "expected --short-side of at most 36000000 pixels in all, got 8000"),
        (["--num-frames", "9999", "--frame-size", "6000"], "bytes of frames for a video, got 3239676"),
        (
            ["--variant-offset-frames", "1" + "0" * 30],
            "expected --variant-offset-frames to be a whole number >= 0, at most",
        ),
        (
            ["--variant-offset-seconds", "1e300"],
            "--variant-offset-seconds of at least 0 or None, at most 14400",
        ),
        (["--timeout-seconds", "1e300"], "expected --timeout-seconds above 0 and up to 1e+06"),
        (["--num-proc", "1000000"], "expected --num-proc to be a whole number from 1 to"),
        (["--cache-dir", "/proc"], "cannot write to the cache /proc ("),
    ],
)
def test_bad_choices_are_refused_in_one_line(data_dir, tmp_path, capsys, options, message):
    assert main(["prepare", "--data-dir", str(data_dir), "--cache-dir", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_ctrl_c_is_one_line_that_says_what_is_kept(data_dir, tmp_path, capsys, monkeypatch):
    decode, seen = video_jobs.prepare_video, []

    def interrupted_at_the_second(*args):
        seen.append(args)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return decode(*args)

    monkeypatch.setattr(video_jobs, "prepare_video", interrupted_at_the_second)
    command = ["prepare", "--data-dir", str(data_dir), "--cache-dir", str(tmp_path), "--split", "val"]
    command += ["--num-frames", "2", "--frame-size", "16"]
    assert main(command) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "frameseg: stopped; finished videos are kept, the same command goes on from there"
    assert main(command) == 0
    assert len(seen) == 3  # the first video was not decoded again


def test_a_missing_video_names_the_report(data_dir, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(data_dir, folder)
    gone = json.loads((folder / "highlight_val_release.jsonl").read_text().splitlines()[0])["vid"]
    (folder / "videos" / f"{gone}.mp4").unlink()
    options = ["prepare", "--data-dir", str(folder), "--cache-dir", str(tmp_path / "cache"), "--split", "val"]
    assert main([*options, "--frame-size", "16"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"no video {gone}" in error
    assert json.loads(Path(error.split("report: ")[1]).read_text())["vid"] == gone
