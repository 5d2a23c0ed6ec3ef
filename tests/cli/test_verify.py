from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_frameseg.cli import main
from hf_frameseg.datasets.synthetic import write_dataset


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Train 2, val 3 and test 2 synthetic videos."""
    folder = tmp_path_factory.mktemp("synthetic")
    write_dataset(folder, num_train_videos=2, num_val_videos=3, num_test_videos=2, seed=0)
    return folder


@pytest.fixture
def data_dir(source, tmp_path):
    """The data set, to be damaged."""
    folder = tmp_path / "data"
    (folder / "videos").mkdir(parents=True)
    for path in source.rglob("*"):
        if path.is_file() and (path.suffix == ".jsonl" or path.parent.name == "videos"):
            (folder / path.relative_to(source)).hardlink_to(path)
    return folder


def vids(data_dir: Path, split: str) -> list[str]:
    """Return the videos of a split."""
    lines = (data_dir / f"highlight_{split}_release.jsonl").read_text().splitlines()
    return list(dict.fromkeys(json.loads(line)["vid"] for line in lines))


def test_a_data_set_without_problems(data_dir, capsys):
    assert main(["verify", "--data-dir", str(data_dir), "--num-proc", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["videos", "queries", "missing", "unreadable", "duration", "queries", "affected"]
    assert [line.split()[0] for line in lines[1:]] == ["train", "val", "test"]
    assert [line.split()[1] for line in lines[1:]] == ["2", "3", "2"]
    assert all(line.split()[3:] == ["0", "0", "0", "0"] for line in lines[1:])


def test_problems_are_listed_and_set_the_exit_status(data_dir, tmp_path, capsys):
    gone, broken, _ = vids(data_dir, "val")
    (data_dir / "videos" / f"{gone}.mp4").unlink()
    (data_dir / "videos" / f"{broken}.mp4").unlink()
    (data_dir / "videos" / f"{broken}.mp4").write_bytes(b"no video" * 100)
    report = tmp_path / "new" / "problems.json"
    assert main(["verify", "--data-dir", str(data_dir), "--split", "val", "--json", str(report)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines if gone in line] == [["val", "missing", gone, "no"]]
    assert [line.split()[:3] for line in lines if broken in line] == [["val", "unreadable", broken]]
    content = json.loads(report.read_text())
    assert content["splits"]["val"]["missing"]["videos"] == content["splits"]["val"]["unreadable"]["videos"] == 1
    assert [problem["vid"] for problem in content["problems"]] == [gone, broken]
    assert main(["verify", "--data-dir", str(data_dir), "--split", "train"]) == 0


def test_a_tolerance_and_a_time_limit_can_be_given(data_dir, capsys):
    words = ["verify", "--data-dir", str(data_dir), "--split", "train"]
    assert main([*words, "--timeout-seconds", "1000"]) == 0
    assert main([*words, "--timeout-seconds", "0"]) == 2
    assert "expected --timeout-seconds above 0 and up to 1e+06" in capsys.readouterr().err
    path = data_dir / "highlight_train_release.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    path.write_text("".join(json.dumps({**row, "duration": row["duration"] + 4}) + "\n" for row in rows))
    assert main(words) == 1
    assert main([*words, "--duration-tolerance-seconds", "5"]) == 0
    assert main([*words, "--duration-tolerance-seconds", "-1"]) == 2
    assert "expected --duration-tolerance-seconds of at least 0, got -1.0" in capsys.readouterr().err


def test_long_lists_are_cut_off(data_dir, capsys, monkeypatch):
    monkeypatch.setattr("hf_frameseg.cli.verify.SHOWN_PROBLEMS", 1)
    (data_dir / "elsewhere").mkdir()
    assert (
        main(["verify", "--data-dir", str(data_dir), "--video-dir", str(data_dir / "elsewhere"), "--split", "val"]) == 1
    )
    assert capsys.readouterr().out.splitlines()[-1] == "val  missing     and 2 more; --json FILE lists all"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "validation"], "expected --split to be one of ['train', 'val', 'test'], got 'validation'"),
        (["--num-proc", "0"], "expected --num-proc to be a whole number from 1 to "),
        (["--num-proc", "1000000"], "expected --num-proc to be a whole number from 1 to "),
        (["--video-dir", "nowhere"], "no video folder at nowhere"),
        (["--dataset", "charades-sta", "--download"], "--download fetches QVHighlights only"),
        (["--dataset", "charades-sta"], "charades_sta_train.txt"),
    ],
)
def test_what_is_at_fault_is_said_in_one_line(data_dir, capsys, options, message):
    assert main(["verify", "--data-dir", str(data_dir), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("frameseg: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_wrong_annotation_is_named(data_dir, capsys):
    path = data_dir / "highlight_val_release.jsonl"
    content = path.read_text()
    path.unlink()
    path.write_text(content + "{}\n")
    assert main(["verify", "--data-dir", str(data_dir)]) == 2
    assert "highlight_val_release.jsonl:" in capsys.readouterr().err


def test_torch_is_not_loaded(data_dir):
    code = f"""
import sys
from hf_frameseg.cli import main
status = main(["verify", "--data-dir", {str(data_dir)!r}, "--split", "val"])
sys.exit(3 if "torch" in sys.modules else status)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_a_table_is_verified(data_dir, tmp_path, capsys):
    name = vids(data_dir, "val")[0]
    table = tmp_path / "mine.csv"
    table.write_text(f"vid,query,start,end,duration\n{name},a dog,1,3,8\n{name},a cat,1,3,8\ngone,a bird,1,3,8\n")
    words = ["verify", "--table", str(table), "--video-dir", str(data_dir / "videos")]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert f"train  duration    {name}  " in out
    assert "annotations say 8 s (2 queries)" in out
    assert "train  missing     gone  " in out
    assert main([*words, "--dataset", "activitynet"]) == 2
    assert "--table is read by its content" in capsys.readouterr().err
    assert main(["verify", "--data-dir", str(data_dir), "--rating-scale", "1", "5"]) == 2
    assert "say how a --table was rated" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["annotations", "video", "link", "table"])
def test_no_file_of_the_data_set_is_overwritten(data_dir, tmp_path, capsys, place):
    target = data_dir / "highlight_val_release.jsonl"
    out, words = target, ["--data-dir", str(data_dir)]
    if place == "video":
        out = target = data_dir / "videos" / f"{vids(data_dir, 'val')[0]}.mp4"
    elif place == "link":
        out = tmp_path / "report.json"
        out.symlink_to(target)
    elif place == "table":
        words = ["--table", str(target), "--video-dir", str(data_dir / "videos")]
    before = target.read_bytes()
    assert main(["verify", *words, "--json", str(out)]) == 2
    assert "it would be overwritten; name another file" in capsys.readouterr().err
    assert target.read_bytes() == before


def test_names_of_others_are_shown_as_text(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    line = {"vid": "v\x1b[2J\n0 problems\u202e", "query": "q", "duration": 9, "relevant_windows": [[1, 3]]}
    table = tmp_path / "mine.jsonl"
    table.write_text(json.dumps(line))
    assert main(["verify", "--table", str(table)]) == 1
    assert all(text.isprintable() for text in capsys.readouterr().out.splitlines())


def test_a_cache_with_nothing_prepared_is_not_sound(tmp_path, capsys):
    assert main(["verify", "--cache", str(tmp_path), "--json", str(tmp_path / "report.json")]) == 1
    assert capsys.readouterr().out == "nothing is prepared there; `frameseg prepare` with this --cache-dir does it\n"
    assert json.loads((tmp_path / "report.json").read_text()) == {"prepared": []}
