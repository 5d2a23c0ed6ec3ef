"""`frameseg audit`: what it prints and writes, and one line for every error a user can mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg import cli
from hf_frameseg.audit.report import audit_report
from hf_frameseg.cli.audit import audit_text


def row(qid: int, windows: list[list[int]], duration: int = 60) -> dict[str, Any]:
    clips = [clip for start, end in windows for clip in range(start // 2, end // 2)]
    return {
        "qid": qid,
        "query": "a red circle",
        "vid": f"video_{qid // 2}",
        "duration": duration,
        "relevant_windows": windows,
        "relevant_clip_ids": clips,
        "saliency_scores": [[4, clip % 5, 0] for clip in clips],
    }


ROWS = [row(1, [[2, 6]]), row(2, [[0, 20], [30, 34]]), row(3, [[10, 50]]), row(4, [[8, 10]])]


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    path = tmp_path / "highlight_val_release.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in ROWS), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def run(*words: object) -> int:
    return cli.main(["audit", *map(str, words)])


def error_of(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("frameseg: error: ").rstrip()


# Worked out by hand: frame centres 3.75, 11.25 ... at F = 8; a clip passes the rule when its number ends in 3, 4, 8, 9.
UPPER_PART = """\
highlight_val_release.jsonl
4 queries on 3 videos of 60 s
5 windows of 2-40 s (median 4): 60.0 % short (up to 10 s), 20.0 % middle (up to
30 s), 20.0 % long
25.0 % of the queries have several windows, 0.0 % cover the whole video
29.2 % of the time is relevant: 2.4286 s of background per second of foreground

Window lengths in seconds
     0-2      1  20.0 %  ███████████████
     2-6      2  40.0 %  ██████████████████████████████
    6-10      0   0.0 %
   10-20      1  20.0 %  ███████████████
   20-30      0   0.0 %
   30-60      1  20.0 %  ███████████████
  60-100      0   0.0 %
 100-150      0   0.0 %
    >150      0   0.0 %

Masks: the digits of a perfect answer
                   fore-    pos_   all       windows without
label rule     F  ground  weight  zero  one          a frame
window         8  34.4 %  1.9091     1    0        1  20.0 %
              30  29.2 %  2.4286     0    0        0   0.0 %
saliency>0.5   8  12.5 %  7.0000     2    0        1  20.0 %
              30  10.8 %  8.2308     1    0        0   0.0 %

"""


def test_the_whole_table(annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(annotations, "--num-frames", "8", "30", "--label-rule", "window", "saliency>0.5") == 0
    text = capsys.readouterr().out
    assert text[: text.index("Moments")] == UPPER_PART
    report = audit_report(ROWS, [8, 30], ["window", "saliency>0.5"])
    for setting in report["settings"]:
        for listing in ("by_time", "by_rating"):
            cells = [*setting["windows"][listing].values(), *setting["windows_by_length"][listing].values()]
            assert [f"{cell:.1f}" for cell in cells] in [line.split()[-8:] for line in text.splitlines()]
        for way in setting["highlights"].values():
            cells = [f"{value:.1f}" for score in way.values() for value in score.values()]
            assert cells in [line.split()[-4:] for line in text.splitlines()]
    assert max(map(len, text.splitlines())) <= 80


def test_numbers_of_one_frame_a_clip(annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(annotations, "--num-frames", "30") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["window", "30", "time", *["100.0"] * 5, "83.3", "100.0", "100.0"] in lines
    assert ["exact", "windows", "time", *["100.0"] * 5, "83.3", "100.0", "100.0"] in lines


def test_numbers_and_picture_are_written(annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, picture = annotations.with_name("new") / "audit.json", annotations.with_name("drawn") / "audit.png"
    assert run(annotations, "--num-frames", "30", "10", "30", "--json", numbers, "--output", picture) == 0
    expected = {"file": annotations.name, **audit_report(ROWS, [10, 30])}
    assert json.loads(numbers.read_text(encoding="utf-8")) == json.loads(json.dumps(expected))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.splitlines()[-2:] == [f"numbers  {numbers}", f"picture  {picture}"]


def test_a_split_is_found_in_its_folder(annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--split", "val", "--data-dir", annotations.parent, "--num-frames", "5") == 0
    assert capsys.readouterr().out.startswith("highlight_val_release.jsonl\n")


def test_a_split_is_downloaded(
    annotations: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(
        "hf_frameseg.annotations.download.fetch_annotations", lambda split: asked.append(split) or annotations
    )
    assert run("--split", "train", "--num-frames", "5") == 0
    assert asked == ["train"]
    assert "4 queries" in capsys.readouterr().out


def test_a_narrow_terminal_gets_narrow_tables() -> None:
    report = audit_report(ROWS, [10], ["window", "saliency>0.5"])
    for width in (40, 60, 80):
        assert max(map(len, audit_text(report, "x", width).splitlines())) <= width
    assert audit_text(report, "x", 60).count("label rule") > audit_text(report, "x", 80).count("label rule")


def test_without_ratings_there_is_no_highlight_table() -> None:
    rows = [{**one, "relevant_clip_ids": [], "saliency_scores": []} for one in ROWS]
    text = audit_text(audit_report(rows, [10]), "x", 80)
    assert "Highlights" not in text
    assert " best " not in text
    assert " time " in text


def test_what_is_not_there_is_a_dash() -> None:
    text = audit_text(audit_report([row(4, [[8, 10]])], [2]), "x", 80)
    assert [line.split() for line in text.splitlines() if line.startswith("window ")] == [
        ["window", "2", "0.0", "%", "-", "1", "0", "1", "100.0", "%"],
        ["window", "2", "time", *["0.0"] * 6, "-", "-"],
    ]


def test_errors_name_file_and_line(annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = annotations.read_text(encoding="utf-8").splitlines()
    annotations.write_text("\n".join([lines[0], lines[1].replace("[[0, 20]", "[[20, 0]")]), encoding="utf-8")
    assert error_of(capsys, annotations).startswith("highlight_val_release.jsonl:2: relevant window 0")
    annotations.write_text("\n".join([lines[0], "{"]), encoding="utf-8")
    assert error_of(capsys, annotations).startswith("highlight_val_release.jsonl:2: not JSON")
    assert error_of(capsys, annotations.with_name("none.jsonl")).startswith("no annotation file at")


def test_annotations_without_labels_are_refused(annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = {key: ROWS[0][key] for key in ("qid", "query", "vid", "duration")}
    released = annotations.with_name("highlight_test_release.jsonl")
    released.write_text(json.dumps(bare) + "\n", encoding="utf-8")
    assert error_of(capsys, released).startswith("highlight_test_release.jsonl:1: lacks relevant_windows")
    assert "has no labels" in error_of(capsys, "--split", "test", "--data-dir", annotations.parent)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-frames", "0"], "expected --num-frames to be a whole number >= 1"),
        (["--label-rule", "saliency"], "unknown label rule 'saliency'"),
        (["--output", "audit.txt"], "--output audit.txt: expected a name that ends in .png"),
        (["--data-dir", "."], "--data-dir is the folder to find a split in"),
    ],
)
def test_wrong_options_are_one_line(
    annotations: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert error_of(capsys, annotations, *options).startswith(message)


def test_the_annotations_are_never_overwritten(annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = annotations.read_bytes()
    assert "is an input: it would be overwritten" in error_of(capsys, annotations, "--json", annotations)
    assert annotations.read_bytes() == before


@pytest.mark.parametrize("argv", [[], ["--split", "all"], ["a.jsonl", "--split", "val"], ["a", "--num-frames", "2.5"]])
def test_a_wrong_command_line_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run(*argv)
    assert exit_info.value.code == 2
    assert "error:" in capsys.readouterr().err
