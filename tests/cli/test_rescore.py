"""`frameseg rescore`: the table, the files, what is refused, and that no torch is needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_frameseg import cli
from hf_frameseg.metrics import evaluate_submission, validate_submission
from hf_frameseg.moments import FrameGrid
from hf_frameseg.prepared.frame_columns import grid_columns
from hf_frameseg.proposals.frames_file import read_frames_file, write_frames_file
from hf_frameseg.proposals.prediction import to_prediction
from hf_frameseg.proposals.settings import OWN_OPTIONS, ProposalSettings

WINDOWS = {30: [[0, 4]], 10: [[4, 6], [8, 10]], 20: [[6, 10]]}
MASKS = {30: [1, 1, 0, 0, 0], 10: [0, 0, 1, 0, 1], 20: [0, 0, 0, 0, 0]}
LOG_ODDS = {30: [2.0, 1.0, -1.0, -2.0, -3.0], 10: [-1.0, -1.0, 3.0, -1.0, 1.0], 20: [-3.0, -1.0, -2.0, -4.0, -5.0]}


@pytest.fixture
def truth() -> list[dict[str, Any]]:
    """Three queries over 10 s, frames of 2 s."""
    rows = []
    for qid, windows in WINDOWS.items():
        clips = [clip for start, end in windows for clip in range(start // 2, end // 2)]
        ratings = [[4, 3, 2] for _ in clips]
        rows.append(
            {
                "qid": qid,
                "query": f"query {qid}",
                "vid": f"v{qid}",
                "duration": 10,
                "relevant_windows": windows,
                "relevant_clip_ids": clips,
                "saliency_scores": ratings,
            }
        )
    return rows


@pytest.fixture
def files(truth: list[dict[str, Any]], tmp_path: Path) -> tuple[str, str]:
    """Frames file and annotation file."""
    predictions = [
        to_prediction(
            MASKS[qid], [[0, x] for x in LOG_ODDS[qid]], FrameGrid.middle(10, 5), query="q", qid=qid, vid=f"v{qid}"
        )
        for qid in WINDOWS
    ]
    write_frames_file(tmp_path / "frames.jsonl", predictions)
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth))
    return str(tmp_path / "frames.jsonl"), str(tmp_path / "truth.jsonl")


def run(files: tuple[str, str], *more: str) -> int:
    return cli.main(["rescore", files[0], "--ground-truth", files[1], *more])


def table(text: str) -> dict[str, list[str]]:
    """Cells by row name."""
    rows = (line.split() for line in text.splitlines())
    return {cells[0]: cells[1:] for cells in rows if cells and cells[0] in OWN_OPTIONS}


def test_one_table_with_all_decoders(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files) == 0
    captured = capsys.readouterr()
    rows = table(captured.out)
    assert list(rows) == list(OWN_OPTIONS)
    assert {len(cells) for cells in rows.values()} == {8}
    assert captured.err == ""
    assert captured.out.splitlines()[0] == "3 queries, runs by mean-probability, saliency linear of probs"
    # Two of three queries are answered exactly; the third has the best frame, away from the truth.
    assert rows["runs"] == ["66.67", "66.67", "66.67", "66.67", "66.67", *rows["runs"][5:7], "1.3"]
    assert rows["runs+fill"][:2] == rows["runs"][:2]
    assert rows["runs+fill"][-1] == "10.0"
    assert max(len(line) for line in captured.out.splitlines()) <= 80


def test_the_numbers_are_those_of_the_submission(
    files: tuple[str, str], truth: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {name: tmp_path / "new" / f"{name}.json" for name in ("numbers", "submission")}
    options = ["--ranking", "log-odds", "--snap-seconds", "2", "--saliency", "box", "--saliency-values", "logits"]
    written = ["--json", str(paths["numbers"]), "--submission", str(paths["submission"])]
    assert run(files, "--decoder", "runs+fill", *options, *written) == 0
    out = capsys.readouterr().out
    assert "runs by log-odds, windows on a grid of 2 s, saliency box of logits" in out
    assert all(str(path) in out for path in paths.values())
    submission = [json.loads(line) for line in paths["submission"].read_text().splitlines()]
    assert validate_submission(submission, truth) == []
    assert submission[0]["pred_saliency_scores"] == LOG_ODDS[30]
    (row,) = json.loads(paths["numbers"].read_text()).values()
    official = evaluate_submission(submission, truth)
    assert {key: row[key] for key in official} == official
    assert row["MR-full-mAP"] == official["brief"]["MR-full-mAP"]
    made_by = row["frameseg"]
    settings = ProposalSettings(ranking="log-odds", snap_seconds=2, saliency="box", saliency_values="logits")
    assert ProposalSettings.from_dict(made_by.pop("proposals")) == settings
    assert made_by == {
        "version": cli.__version__,
        "frames_file": "frames.jsonl",
        "num_queries": 3,
        "num_frames": 5,
        "windows_per_query": 10.0,
    }


def test_decoders_come_in_the_order_asked_for_and_once(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(files, "--decoder", "soft-iou", "runs", "--decoder", "runs", "--ranking", "time") == 0
    out = capsys.readouterr().out
    assert list(table(out)) == ["soft-iou", "runs"]
    assert "runs by time" in out


def test_every_row_of_the_numbers_has_its_settings(files: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    assert run(files, "--json", str(path), "--ranking", "time") == 0
    rows = json.loads(path.read_text())
    found = {name: ProposalSettings.from_dict(row["frameseg"]["proposals"]) for name, row in rows.items()}
    expected = ProposalSettings("runs", ranking="time")
    assert found == {name: expected.for_decoder(name) for name in OWN_OPTIONS}


def test_a_subset_is_scored_on_purpose_only(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Path(files[0]).read_text().splitlines(keepends=True)
    Path(files[0]).write_text("".join(lines[:2]))
    assert run(files, "--decoder", "runs") == 2
    assert "the frames file has 2 queries and the ground truth 3, 2 of them in both" in capsys.readouterr().err
    assert run(files, "--decoder", "runs", "--allow-subset") == 0
    out = capsys.readouterr().out
    assert out.startswith("2 queries")
    assert table(out)["runs"][:3] == ["100.00", "100.00", "100.00"]


def test_frames_of_a_part_of_a_video_are_said(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(files[0])
    grid = FrameGrid.middle(8, 5).part(2, 10)
    own = json.dumps({"duration_seconds": 8.0, **grid_columns(grid)})[1:-1]
    path.write_text(path.read_text().replace('"duration_seconds": 10.0', own, 1))
    assert read_frames_file(path)[0].grid == grid
    assert run(files, "--decoder", "runs") == 0
    assert "warning: 1 of 3 videos have another duration in the ground truth" in capsys.readouterr().err


def test_another_duration_is_said(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(files[0])
    path.write_text(path.read_text().replace('"duration_seconds": 10.0', '"duration_seconds": 9.5', 1))
    assert run(files, "--decoder", "runs") == 0
    assert "warning: 1 of 3 videos have another duration in the ground truth, for example that of qid 30" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--submission", "s.jsonl"], "--submission holds the windows of one decoder, got 4; name one with --decoder"),
        (["--decoder", "soft-iou", "--ranking", "time"], "--ranking ranks the runs of runs and runs+fill; add one"),
        (["--data-dir", "."], "--data-dir is the folder to find a split in"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    files: tuple[str, str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(files, *more) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("frameseg: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_no_result_replaces_an_input_or_another_result(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: Path(path).read_bytes() for path in files}
    (tmp_path / "link.json").symlink_to(files[0])
    os.link(files[1], tmp_path / "hard.json")
    new, one = str(tmp_path / "new.json"), ["--decoder", "runs"]
    cases = [
        (["--json", files[0]], "--json .*frames.jsonl is an input"),
        (["--json", files[1]], "--json .*truth.jsonl is an input"),
        ([*one, "--submission", files[1]], "--submission .*truth.jsonl is an input"),
        ([*one, "--submission", str(tmp_path / "link.json")], "link.json is an input"),
        (["--json", str(tmp_path / "hard.json")], "hard.json is an input"),
        (["--json", str(tmp_path)], "--json .* is a folder; name a file in it"),
        ([*one, "--json", new, "--submission", f"{tmp_path}/x/../new.json"], "--json and --submission both name"),
        (["--json", f"{files[0]}/below.json"], "cannot write .*below.json"),
    ]
    for more, message in cases:
        assert run(files, *more) == 2
        error = capsys.readouterr().err
        assert re.search(message, error), error
        assert error.count("\n") == 1
    assert {path: Path(path).read_bytes() for path in files} == before
    assert not Path(new).exists()
    assert run(files, *one, "--json", "/dev/null", "--submission", "/dev/null") == 0


def test_what_others_wrote_is_printed_as_text(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for path in map(Path, files):
        path.write_text(path.read_text().replace('"qid": 10', '"qid": "1\\u001b[2J\\n0 problems"'))
    path = Path(files[0])
    path.write_text(path.read_text().replace('"duration_seconds": 10.0', '"duration_seconds": 9.0'))
    Path(files[0]).write_text("".join(sorted(path.read_text().splitlines(keepends=True), reverse=True)))
    run(files, "--decoder", "runs", "--saliency-values", "logits")
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "warning: 3 of 3 videos" in captured.err


def test_broken_input_is_one_line(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(files[0])
    good = path.read_text()
    day = good.replace('"duration_seconds": 10.0', '"duration_seconds": 1e9', 1)
    long = good.replace('"00101"', f'"{"0" * 20_000}"')
    cases = [
        (good.replace('"mask": "00101"', '"mask": "0010"'), "frames.jsonl:2: expected log_odds to be a list of 4"),
        (
            good.replace("-1.0", "NaN", 1),
            "frames.jsonl:1: expected log_odds to be finite numbers, got nan for frame 2; look for an overflow",
        ),
        ("", "frames.jsonl is empty; expected a text file with one JSON object per line"),
        (
            day,
            "frames.jsonl:1: expected duration_seconds to be finite and above 0, up to 86400 (a day), got 1000000000",
        ),
        (long, "frames.jsonl:2: expected num_frames of at most 10000, got 20000"),
        (good.replace('"qid": 20', '"qid": 21'), "2 of them in both; use those of the same split, or score the shared"),
        (good.replace('"qid": ', '"qid": 9'), "share no qid; use those of the same split"),
    ]
    for text, message in cases:
        path.write_text(text)
        assert run(files) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
    assert cli.main(["rescore", str(tmp_path / "none.jsonl"), "--ground-truth", files[1]]) == 2
    assert "no frames file at" in capsys.readouterr().err


def test_probabilities_without_logits_are_named_with_their_query(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in Path(files[0]).read_text().splitlines()]
    del rows[1]["log_odds"]
    rows[1]["probs"] = np.array(MASKS[10], dtype=float).tolist()
    Path(files[0]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(files) == 0
    capsys.readouterr()
    assert run(files, "--ranking", "log-odds") == 2
    assert "frameseg: error: qid 10: log-odds are needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["rescore"], ["rescore", "f"], ["rescore", "f", "--ground-truth", "t", "--decoder", "run"]]
)
def test_a_wrong_command_line_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(argv)
    assert exit_info.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_no_torch_is_needed(files: tuple[str, str]) -> None:
    script = (
        "import sys; from hf_frameseg.cli import main; status = main(sys.argv[1:]); "
        "sys.exit(status or ('torch' in sys.modules) or ('transformers' in sys.modules))"
    )
    command = [sys.executable, "-c", script, "rescore", files[0], "--ground-truth", files[1]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
