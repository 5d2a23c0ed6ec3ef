"""`frameseg score`: the official numbers through the command line, and one line for every mistake."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from hf_frameseg import __version__, cli
from hf_frameseg.annotations import download

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "metric"
GOLDENS = ROOT.parent / "shared" / "goldens" / "metric"
PREDS, TRUTH = DATA / "t01_synthetic_gt.preds.jsonl.gz", DATA / "gt_synthetic.jsonl.gz"
EXPECTED = json.loads((DATA / "t01_synthetic_gt.result.json").read_text(encoding="utf-8"))
OFFICIAL_KEYS = ["brief", "HL-min-Fair", "HL-min-Good", "HL-min-VeryGood", "full", "long", "middle", "short"]

CRASHES = {case["name"]: case for case in json.loads((DATA / "crashes.json").read_text(encoding="utf-8"))}
# The official code crashes on these too, but they have a score here (docs/scoring.md).
SCORED_HERE = {
    name for name in CRASHES if name.startswith(("empty pred_relevant_windows", "no GT window", "GT window >"))
}

Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def read(path: Path) -> Rows:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def preds() -> Rows:
    """The recorded submission, repaired: sorted, ten windows, inside the video, as many values as clips."""
    truth = {row["qid"]: row for row in read(TRUTH)}
    rows = read(PREDS)
    for row in rows:
        duration = truth[row["qid"]]["duration"]
        windows = [[max(0.0, float(a)), min(float(b), duration), c] for a, b, c in row["pred_relevant_windows"]]
        row["pred_relevant_windows"] = sorted(windows, key=lambda window: -window[2])[:10]
        num_clips = int(duration / 2)
        row["pred_saliency_scores"] = (row["pred_saliency_scores"] + [0.0] * num_clips)[:num_clips]
    return rows


def score(*words: str | Path) -> int:
    return cli.main(["score", *map(str, words)])


def result_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def official(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "frameseg"}


# The numbers


def recorded_cases() -> list[dict[str, Any]]:
    index = GOLDENS / "index.json"
    return json.loads(index.read_text(encoding="utf-8")) if index.is_file() else [{"name": "none recorded"}]


@pytest.mark.parametrize("case", recorded_cases(), ids=lambda case: case["name"])
def test_recorded_cases_are_equal(case: dict[str, Any], shared_dir: Path, tmp_path: Path) -> None:
    folder, out = shared_dir / "goldens" / "metric", tmp_path / "out.json"
    subset = [] if case["match_number"] else ["--allow-subset"]
    words = ["--no-validate", "--bootstrap", "0", "--json", out, *subset]
    assert score(folder / case["preds"], "--ground-truth", folder / case["gt"], *words) == 0
    expected = result_of(folder / case["result"])
    result = result_of(out)
    assert official(result) == expected
    assert [*result] == [*expected, "frameseg"]
    assert [*result["brief"]] == [*expected["brief"]]


@pytest.mark.parametrize("name", CRASHES)
def test_odd_inputs_end_in_the_official_result_or_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, out = CRASHES[name], tmp_path / "out.json"
    files = [write(tmp_path / f"{part}.jsonl", case[part]) for part in ("submission", "ground_truth")]
    words = [files[0], "--ground-truth", files[1], "--no-validate", "--bootstrap", "10", "--json", out]
    status = score(*words, *([] if case["match_number"] else ["--allow-subset"]))
    captured = capsys.readouterr()
    if case["error"] is None:
        assert (status, official(result_of(out))) == (0, case["result"])
    elif name in SCORED_HERE:
        assert status == 0
        assert [*result_of(out)][0] == "brief"
    else:
        assert (status, captured.out, out.exists()) == (2, "", False)
        assert re.fullmatch(r"frameseg: error: .*; .*\n", captured.err)


@pytest.mark.parametrize("name", CRASHES)
def test_odd_inputs_end_in_violations_or_a_result(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = CRASHES[name]
    files = [write(tmp_path / f"{part}.jsonl", case[part]) for part in ("submission", "ground_truth")]
    subset = [] if case["match_number"] else ["--allow-subset"]
    assert score(files[0], "--ground-truth", files[1], "--bootstrap", "0", *subset) in (0, 2)
    assert "Traceback" not in capfd.readouterr().err


def test_the_json_is_the_official_dictionary_with_ours_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.json"
    assert score(PREDS, "--ground-truth", TRUTH, "--json", out, "--bootstrap", "50", "--seed", "3") == 0
    result = result_of(out)
    assert [*result] == [*OFFICIAL_KEYS, "frameseg"]
    assert official(result) == EXPECTED
    # the official evaluator writes json.dumps(result, indent=4)
    assert out.read_text(encoding="utf-8").startswith(json.dumps(EXPECTED, indent=4).removesuffix("\n}") + ",\n")
    ours = result["frameseg"]
    assert ours["version"] == __version__
    assert ours["mIoU"] == 70.21
    assert ours["num_queries"] == {"full": 60, "short": 40, "middle": 32, "long": 28}
    assert ours["bootstrap"] == {"num_resamples": 50, "level": 0.95, "seed": 3}
    assert [*ours["intervals"]] == [*EXPECTED["brief"], "mIoU"]
    interval = ours["intervals"]["MR-full-mAP"]
    assert interval["low"] < EXPECTED["brief"]["MR-full-mAP"] < interval["high"]
    assert ours["validated"] is True
    assert ours["violations"] == {"unsorted-scores": 46, "too-many-windows": 5}
    assert ours["submission"]["file"] == str(PREDS)
    assert re.fullmatch("[0-9a-f]{64}", ours["submission"]["sha256"])
    assert ours["ground_truth"]["sha256"] != ours["submission"]["sha256"]


def test_a_range_without_windows_is_null_and_a_dash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = [row for row in read(TRUTH) if all(end - start > 10 for start, end in row["relevant_windows"])]
    qids = {row["qid"] for row in truth}
    rows = [row for row in read(PREDS) if row["qid"] in qids]
    files = [write(tmp_path / "p.jsonl", rows), write(tmp_path / "t.jsonl", truth)]
    assert score(files[0], "--ground-truth", files[1], "--json", tmp_path / "out.json", "--bootstrap", "20") == 0
    result = result_of(tmp_path / "out.json")
    assert result["brief"]["MR-short-mAP"] is None
    assert result["frameseg"]["intervals"]["MR-short-mAP"] == {"low": None, "high": None, "standard_error": None}
    (mean,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("mean")]
    assert mean[2] == "-"


# The table


def test_the_table_shows_every_official_number_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert score(PREDS, "--ground-truth", TRUTH, "--bootstrap", "0") == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    headline = out.splitlines()[2:4]
    assert headline[0].split() == ["R1@0.5", "R1@0.7", "mAP", "mAP@0.5", "mAP@0.75", "HL-mAP", "HIT@1", "mIoU"]
    assert headline[1].split()[1:] == ["76.67", "58.33", "36.21", "57.35", "36.32", "38.65", "56.67", "70.21"]
    ranges = ("full", "short", "middle", "long")
    for limit in EXPECTED["full"]["MR-R1"]:
        numbers = [EXPECTED[name][metric][limit] for metric in ("MR-mAP", "MR-R1") for name in ranges]
        assert lines[f"{float(limit):.2f}"] == [f"{number:.2f}" for number in numbers]
    assert lines["mean"] == [f"{EXPECTED[name]['MR-mAP']['average']:.2f}" for name in ranges]
    assert lines["queries"] == ["60", "40", "32", "28"] * 2
    ratings = [
        EXPECTED[f"HL-min-{name}"][key] for key in ("HL-mAP", "HL-Hit1") for name in ("Fair", "Good", "VeryGood")
    ]
    assert lines["score"] == [f"{number:.2f}" for number in ratings]  # the last of that name


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_tables_fit_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    write(Path("p.jsonl"), read(PREDS))
    assert score("p.jsonl", "--ground-truth", TRUTH, "--bootstrap", "20") == 0
    assert score("--compare", "p.jsonl", PREDS, "--ground-truth", TRUTH, "--bootstrap", "20") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "queries of" not in line]
    assert 50 < max(map(len, lines)) <= columns
    assert not any(line.endswith(" ") for line in lines)


def test_what_was_not_scored_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], preds: Rows) -> None:
    for row in preds:
        del row["pred_saliency_scores"]
    assert score(write(tmp_path / "p.jsonl", preds), "--ground-truth", TRUTH, "--bootstrap", "20") == 0
    out = capsys.readouterr().out
    assert "no highlights: the first row has no pred_saliency_scores" in out
    assert "HL-mAP" not in out


# The check


def test_a_clean_submission_prints_nothing_but_its_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], preds: Rows
) -> None:
    path = write(tmp_path / "p.jsonl", preds)
    assert score(path, "--ground-truth", TRUTH, "--bootstrap", "0") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith(f"{path}: 60 queries of gt_synthetic.jsonl.gz\n")


def test_errors_are_listed_by_line_and_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str], preds: Rows) -> None:
    preds[1]["pred_relevant_windows"][0] = [9.0, 4.0, 0.99]
    preds[2]["pred_relevant_windows"][0][:2] = [2, 6]
    preds[3]["pred_saliency_scores"][5] = float("nan")
    preds[4] = preds[0]
    path, out = write(tmp_path / "p.jsonl", preds), tmp_path / "out.json"
    path.write_text(path.read_text() + '{"qid": 99', encoding="utf-8")
    assert score(path, "--ground-truth", TRUTH, "--json", out) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert not out.exists()
    assert captured.err.splitlines() == [
        f"{path}: 5 errors, 1 warning",
        "  line 2 (qid 2): error: expected start < end, got [9.0, 4.0, 0.99] as window 0; swap the ends or remove the "
        "window [inverted-window]",
        "  line 4 (qid 4): error: expected a finite number for clip 5, got nan; check the model's output "
        "[bad-saliency]",
        "  line 5 (qid 1): error: qid already stands in line 1; keep one row per query [duplicate-qid]",
        "  line 61: error: expected JSON, got Expecting ',' delimiter at column 11; write one JSON object per query "
        "(json.dumps) [not-json]",
        "  file: error: 1 of 60 qids are missing: 5; predict every query, or score the subset on purpose [missing-qid]",
        "  line 3 (qid 3): warning: expected seconds as floats, got [2, 6, 0.8] as window 0; write floats and do not "
        "round (0.0, not 0) [integer-window]",
        "",
        f"frameseg: error: {path} not scored; correct the errors above, or pass --no-validate to score what the "
        "official evaluator scores",
    ]


def test_many_violations_of_a_kind_are_counted_or_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert score(PREDS, "--ground-truth", TRUTH, "--bootstrap", "0") == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "more" in line] == [
        "  and 43 more [unsorted-scores]; --all-violations shows each",
        "  and 2 more [too-many-windows]; --all-violations shows each",
    ]
    assert score(PREDS, "--ground-truth", TRUTH, "--bootstrap", "0", "--all-violations") == 0
    lines = capsys.readouterr().err.splitlines()
    places = [int(re.search(r"line (\d+)", line)[1]) for line in lines[1:] if line]
    assert len(places) == 46 + 5
    assert places == sorted(places)


def test_without_validation_only_what_nobody_can_read_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], preds: Rows
) -> None:
    path = write(tmp_path / "p.jsonl", [*preds, {**preds[0], "pred_relevant_windows": [[9.0, 4.0, 0.5]]}])
    words = ["--ground-truth", TRUTH, "--no-validate", "--bootstrap", "0"]
    assert score(path, *words) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{path}: 60 queries of gt_synthetic.jsonl.gz, not validated\n")
    assert captured.err == ""
    path.write_text(path.read_text() + "{", encoding="utf-8")
    assert score(path, *words) == 2
    assert f"{path}: line 62: error: expected JSON" in capsys.readouterr().err


def test_a_subset_is_scored_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str], preds: Rows) -> None:
    path = write(tmp_path / "p.jsonl", preds[:40])
    assert score(path, "--ground-truth", TRUTH) == 2
    assert "20 of 60 qids are missing" in capsys.readouterr().err
    assert score(path, "--ground-truth", TRUTH, "--no-validate") == 2
    assert "pass --allow-subset to score the shared ones" in capsys.readouterr().err
    assert score(path, "--ground-truth", TRUTH, "--allow-subset", "--bootstrap", "0") == 0
    assert capsys.readouterr().out.startswith(f"{path}: 40 of 60 queries of ")


def test_a_ground_truth_with_two_rows_for_a_query(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = read(TRUTH)
    path = write(tmp_path / "t.jsonl", [*truth, truth[4]])
    assert score(PREDS, "--ground-truth", path) == 2
    assert "t.jsonl: qid 5 stands in lines 5 and 61; keep one of them, or pass" in capsys.readouterr().err
    assert score(PREDS, "--ground-truth", path, "--no-validate", "--bootstrap", "0") == 0


@pytest.mark.parametrize("duration", ["-5", "0", "NaN", "1e400", '"x"', "true"])
def test_a_duration_that_no_video_has_is_refused(
    duration: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submission = write(tmp_path / "p.jsonl", [{"qid": 1, "pred_relevant_windows": [[2.0, 6.0, 0.9]]}])
    row = f'{{"qid": 1, "query": "q", "vid": "v", "duration": {duration}, "relevant_windows": [[2, 6]]}}\n'
    (tmp_path / "gt.jsonl").write_text(row)
    words = [submission, "--ground-truth", tmp_path / "gt.jsonl", "--bootstrap", "0"]
    assert score(*words) == 2
    assert "gt.jsonl:1: expected duration to be a number of seconds above 0, got " in capsys.readouterr().err
    assert score(*words, "--no-validate") == 0
    (tmp_path / "gt.jsonl").write_text(row.replace(duration, "null"))
    assert score(*words) == 0  # moments alone need none


# Files in


def test_a_submission_from_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PREDS.read_bytes())))
    assert score("-", "--ground-truth", TRUTH, "--bootstrap", "0") == 0
    assert capsys.readouterr().out.startswith("stdin: 60 queries of ")


def test_the_two_files_swapped(capsys: pytest.CaptureFixture[str]) -> None:
    assert score(TRUTH, "--ground-truth", PREDS) == 2
    assert "swap submission and ground truth" in capsys.readouterr().err


def test_a_split_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "highlight_val_release.jsonl", read(TRUTH))
    assert score(PREDS, "--split", "val", "--data-dir", tmp_path, "--bootstrap", "0") == 0
    assert "60 queries of highlight_val_release.jsonl" in capsys.readouterr().out


def test_a_split_that_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(download.CACHE_VARIABLE, str(tmp_path))
    assert score(PREDS, "--split", "test") == 2
    captured = capsys.readouterr().err
    assert captured.startswith("frameseg: error: highlight_test_with_gt.jsonl is not in the cache, and HF_HUB_OFFLINE ")
    assert captured.count("\n") == 1


def test_a_wrong_submission_is_said_before_anything_is_downloaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(tmp_path, "--split", "test") == 2
    assert "is a folder" in capsys.readouterr().err


# Files out


def test_one_row_per_query_in_three_formats(tmp_path: Path) -> None:
    for suffix in ("parquet", "csv", "jsonl"):
        assert score(PREDS, "--ground-truth", TRUTH, "--bootstrap", "0", "--per-query", tmp_path / f"q.{suffix}") == 0
    table = parquet.read_table(tmp_path / "q.parquet").to_pylist()
    assert [json.loads(line) for line in (tmp_path / "q.jsonl").read_text("utf-8").splitlines()] == table
    with (tmp_path / "q.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == [*table[0]]
    assert [row["short_mr_ap"] for row in rows] == [
        "" if row["short_mr_ap"] is None else str(row["short_mr_ap"]) for row in table
    ]
    recorded = {row["qid"]: row for row in read(DATA / "t01_synthetic_gt.perquery.jsonl.gz")}
    truth = {row["qid"]: row for row in read(TRUTH)}
    assert len(table) == 60
    for row in table:
        expected = recorded[row["qid"]]
        assert (row["vid"], row["query"]) == (truth[row["qid"]]["vid"], truth[row["qid"]]["query"])
        assert row["mr_ap@0.75"] == pytest.approx(expected["mr_ap"][5], abs=1e-9)
        assert row["mr_ap"] == pytest.approx(sum(expected["mr_ap"]) / 10, abs=1e-9)
        assert row["r1_iou"] == pytest.approx(expected["r1_iou"], abs=1e-9)
        assert row["hl_ap_VeryGood"] == pytest.approx(sum(expected["hl_ap"]["VeryGood"]) / 3, abs=1e-9)
        assert (row["hl_argmax"], row["hl_hit_Good"]) == (expected["hl_argmax"], expected["hl_hit"]["Good"])


def test_text_qids_keep_a_column_of_their_own(tmp_path: Path) -> None:
    rows, truth = ([{**row, "qid": f"q{row['qid']}"} for row in read(path)] for path in (PREDS, TRUTH))
    files = [write(tmp_path / "p.jsonl", rows), write(tmp_path / "t.jsonl", truth)]
    out = tmp_path / "q.parquet"
    assert score(files[0], "--ground-truth", files[1], "--bootstrap", "0", "--per-query", out) == 0
    assert parquet.read_table(out)["qid"].to_pylist()[:2] == ["q1", "q2"]


def test_columns_keep_their_type_without_any_value(tmp_path: Path) -> None:
    truth = [{key: value for key, value in row.items() if key != "query"} for row in read(TRUTH)]
    truth = [row for row in truth if all(end - start > 10 for start, end in row["relevant_windows"])]
    qids = {row["qid"] for row in truth}
    rows = [row for row in read(PREDS) if row["qid"] in qids]
    files = [write(tmp_path / "p.jsonl", rows), write(tmp_path / "t.jsonl", truth)]
    out = tmp_path / "q.parquet"
    assert score(files[0], "--ground-truth", files[1], "--bootstrap", "0", "--per-query", out) == 0
    schema = parquet.read_schema(out)
    assert [str(schema.field(name).type) for name in ("query", "short_mr_ap", "qid")] == ["string", "double", "int64"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "folder"], "--json folder is a folder; name a file in it"),
        (["--json", "p.jsonl"], "--json p.jsonl is an input: it would be overwritten"),
        (["--json", "linked.jsonl"], "--json linked.jsonl is an input"),
        (
            ["--json", "x.csv", "--per-query", "./x.csv"],
            "--json and --per-query both name x.csv",
        ),
        (["--per-query", "q.xlsx"], "expected a name that ends in .parquet or .csv or .jsonl"),
        (["--json", "p.jsonl/x.json"], "cannot write p.jsonl/x.json ("),
        (["--json", "/dev/full"], "cannot write /dev/full (No space left on device); name a place"),
        (["--bootstrap", "1"], "--bootstrap 1 gives no interval"),
        (["--data-dir", "folder"], "--data-dir is the folder to find a split in"),
        (["--compare", "a", "b"], "expected two submissions to compare (--compare A B), got 3"),
        (["--compare", "-", "-"], "expected two submissions"),
    ],
)
def test_what_cannot_be_written_or_meant_is_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    preds: Rows,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    before = write(Path("p.jsonl"), preds).read_bytes()
    Path("linked.jsonl").symlink_to("p.jsonl")
    assert score("p.jsonl", "--ground-truth", TRUTH, *words) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(r"frameseg: error: .*\n", captured.err)
    assert message in captured.err
    assert captured.out == ""
    assert Path("p.jsonl").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "linked.jsonl", "p.jsonl"]


@pytest.mark.parametrize("words", [["--bootstrap", "-1"], ["--seed", "x"], ["--seed", "1.5"], ["--split", "train"]])
def test_wrong_words_exit_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        score(PREDS, "--ground-truth", TRUTH, *words)
    assert exit_info.value.code == 2


def test_a_device_and_a_link_stay_what_they_are(tmp_path: Path) -> None:
    link, target = tmp_path / "link.json", tmp_path / "target.json"
    link.symlink_to(target)
    assert score(PREDS, "--ground-truth", TRUTH, "--bootstrap", "0", "--json", link) == 0
    assert link.is_symlink()
    assert official(result_of(target)) == EXPECTED
    assert score(PREDS, "--ground-truth", TRUTH, "--bootstrap", "0", "--json", "/dev/null") == 0
    assert not Path("/dev/null").is_file()


JUNK = [b'"', b",", b"[", b"]", b"{", b"}", b"9", b"-", b"\n", b"\0", b"\xff", b"NaN", b"1e999", b"null", b"qid"]


def damage(data: bytes, rng: random.Random) -> bytes:
    """Put in, take out, replace or double some bytes."""
    for _ in range(rng.choice([1, 2, 5, 30])):
        at = rng.randrange(len(data) + 1)
        other = rng.randrange(len(data) + 1)
        data = rng.choice(
            [
                data[:at] + rng.choice(JUNK) + data[at:],
                data[:at] + data[at + rng.choice([1, 5, 500]) :],
                data[:at] + rng.choice(JUNK) + data[at + 1 :],
                data[:at] + data[other : other + 50] + data[at:],
            ]
        )
    return data


@pytest.mark.filterwarnings("error")
def test_damaged_files_end_in_a_result_or_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(0)
    rows, truth = ("".join(json.dumps(row) + "\n" for row in read(path)[:5]).encode() for path in (PREDS, TRUTH))
    files = [tmp_path / "p", tmp_path / "t"]
    results = []
    for number in range(300):
        files[0].write_bytes(damage(rows, rng) if number % 3 else rows)
        files[1].write_bytes(truth if number % 3 else damage(truth, rng))
        words = ["--no-validate"] * (number % 2) + ["--allow-subset"] * (number % 5 == 0)
        out = tmp_path / f"out.{rng.choice(['csv', 'jsonl', 'parquet'])}"
        results.append(score(files[0], "--ground-truth", files[1], "--bootstrap", "2", "--per-query", out, *words))
        errors = re.findall("^frameseg: error: .*", capsys.readouterr().err, re.MULTILINE)
        assert len(errors) == (results[-1] == 2), number
    assert {0, 2} == set(results)


# Two submissions


def test_compare_shows_the_paired_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str], preds: Rows) -> None:
    second, out = write(tmp_path / "sorted.jsonl", preds[::-1]), tmp_path / "out.json"
    words = ["--ground-truth", TRUTH, "--bootstrap", "200", "--json", out]
    assert score("--compare", PREDS, second, *words) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"A  {PREDS}: 60 queries of gt_synthetic.jsonl.gz\nB  {second}: 60 queries of ")
    result = result_of(out)
    assert [*result] == ["A", "B", "frameseg"]
    assert official(result["A"]) == EXPECTED
    found = result["frameseg"]["differences"]
    assert [*found] == [*EXPECTED["brief"], "mIoU"]
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    for name, key in (("R1@0.7", "MR-full-R1@0.7"), ("mAP", "MR-full-mAP"), ("mAP long", "MR-long-mAP")):
        difference = found[key]
        cells = lines[name].removeprefix(name).replace("%", "").split()
        a, b = (result[letter]["brief"][key] for letter in "AB")
        shown = [f"{a:.2f}", f"{b:.2f}", *(f"{difference[end]:+.2f}" for end in ("difference", "low", "high"))]
        shown += [f"{difference[end]:.1f}" for end in ("won", "lost", "tied")]
        assert cells == [cell.replace("+0.00", "0.00").replace("-0.00", "0.00") for cell in shown]
        assert difference["difference"] == pytest.approx(b - a, abs=0.011)
        assert difference["won"] + difference["lost"] + difference["tied"] == pytest.approx(100)
    assert score(PREDS, "--compare", second, *words) == 0  # the other spelling
    assert capsys.readouterr().out == text


def test_compare_takes_the_shared_queries_of_two_subsets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], preds: Rows
) -> None:
    files = [write(tmp_path / "a.jsonl", preds[:40]), write(tmp_path / "b.jsonl", preds[20:])]
    words = ["--compare", *files, "--ground-truth", TRUTH, "--bootstrap", "20"]
    assert score(*words) == 2
    assert "a.jsonl and " in capsys.readouterr().err
    out = tmp_path / "q.parquet"
    assert score(*words, "--allow-subset", "--per-query", out) == 0
    text = capsys.readouterr().out
    assert text.count(": 20 of 60 queries of ") == 2
    assert "every interval holds 0: no difference shown" in text
    table = parquet.read_table(out).to_pydict()
    assert table["submission"] == ["A"] * 20 + ["B"] * 20
    assert table["qid"][:20] == table["qid"][20:]
    write(files[1], preds[40:])
    assert score(*words, "--allow-subset") == 2
    assert "A and B share no qid" in capsys.readouterr().err


def test_compare_without_intervals_or_with_one_task_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], preds: Rows
) -> None:
    windows_only = [{key: row[key] for key in ("qid", "pred_relevant_windows")} for row in preds]
    files = [write(tmp_path / "a.jsonl", windows_only), write(tmp_path / "b.jsonl", preds)]
    out = tmp_path / "q.jsonl"
    assert score("--compare", *files, "--ground-truth", TRUTH, "--bootstrap", "0", "--per-query", out) == 0
    text = capsys.readouterr().out
    assert "95 %" not in text
    (line,) = [line.split() for line in text.splitlines() if line.startswith("HL-mAP")]
    assert line[1] == "-"
    assert line[3:] == ["-"] * 4
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert (rows[0]["hl_argmax"], rows[0]["submission"]) == (None, "A")
    assert rows[60]["hl_argmax"] >= 0


# The process


def frameseg(*words: str | Path, **options: Any) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "import sys; from hf_frameseg.cli import main; sys.exit(main())", "score"]
    return subprocess.run([*command, *map(str, words)], text=True, timeout=120, check=False, **options)


def test_scoring_imports_no_heavy_library() -> None:
    code = (
        "import sys; from hf_frameseg.cli import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'pooch', 'requests', 'matplotlib', 'pandas'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(status)"
    )
    words = ["score", str(PREDS), "--ground-truth", str(TRUTH), "--no-validate"]
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stderr) == (0, "[]\n")


def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    out = tmp_path / "out.json"
    words = [PREDS, "--ground-truth", TRUTH, "--no-validate", "--bootstrap", "0", "--json", out]
    run = frameseg(*words, stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert (run.returncode, run.stderr) == (0, "")
    assert official(result_of(out)) == EXPECTED


def test_a_terminal_that_cannot_show_a_name(tmp_path: Path) -> None:
    path = write(tmp_path / "prédictions.jsonl", read(PREDS))
    words = [path, "--ground-truth", TRUTH, "--no-validate", "--bootstrap", "0"]
    run = frameseg(*words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (run.returncode, run.stderr) == (0, "")
    assert r"pr\xe9dictions.jsonl: 60 queries" in run.stdout


def test_two_writers_leave_one_whole_file(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = [str(word) for word in ("score", PREDS, "--ground-truth", TRUTH, "--no-validate", "--bootstrap", "0")]
    code = "import sys; from hf_frameseg.cli import main; sys.exit(max(main(sys.argv[1:]) for _ in range(20)))"
    runs = [
        subprocess.Popen([sys.executable, "-c", code, *words, "--json", str(out)], stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    assert official(result_of(out)) == EXPECTED
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


# The page

PAGE = (ROOT / "docs" / "scoring.md").read_text(encoding="utf-8")


def test_the_page_names_every_code_and_column(tmp_path: Path) -> None:
    source = "".join((ROOT / "src/hf_frameseg/metrics" / name).read_text() for name in ("validation.py", "files.py"))
    codes = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', source))
    assert len(codes) > 15
    assert [code for code in sorted(codes) if f"`{code}`" not in PAGE] == []
    out = tmp_path / "q.csv"
    assert score(PREDS, "--ground-truth", TRUTH, "--bootstrap", "0", "--per-query", out) == 0
    columns = out.read_text("utf-8").splitlines()[0].split(",")
    shown = [
        re.sub("@.*", "", re.sub("short|middle|long", "short", re.sub("Fair|VeryGood", "Good", name)))
        for name in columns
    ]
    assert [name for name in shown if f"`{name}" not in PAGE] == []


# Ground truth of other data sets


MOMENTS = [
    {"qid": f"s{number}", "query": "a knife.", "vid": "v", "duration": 30.96, "relevant_windows": [[24.3, 30.4]]}
    for number in range(3)
]
ANSWERS = [
    {
        "qid": row["qid"],
        "pred_relevant_windows": [[24.3 - shift, 30.4, 0.9], [30.96, 30.96, 0.1]],
        "pred_saliency_scores": [0.5] * 15,
    }
    for row, shift in zip(MOMENTS, (0.0, 10.0, 20.0), strict=True)  # IoU 1, 0.379 and 0.234
]


def test_moments_without_ratings_are_scored_at_any_threshold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, out = write(tmp_path / "gt.jsonl", MOMENTS), tmp_path / "out.json"
    for words in ([], ["--no-validate"]):
        submission = write(tmp_path / "p.jsonl", ANSWERS)
        assert score(submission, "--ground-truth", truth, "--r1", "0.3", "0.1", "--json", out, *words) == 0
        captured = capsys.readouterr()
        assert "no highlights: nobody rated the clips of the ground truth" in captured.out
        assert re.search(r"R1@0\.1 +R1@0\.3 +R1@0\.5 +R1@0\.7 +mAP ", captured.out)
        assert re.search(r"score +100\.00 +66\.67 +33\.33 +33\.33 ", captured.out)
        assert ("[empty-window]" in captured.err) == (not words)
        ours = result_of(out)["frameseg"]
        assert ours["R1"] == {"R1@0.1": 100.0, "R1@0.3": 66.67}
        assert ours["intervals"]["MR-full-R1@0.3"]["high"] == 100.0
        assert ours["left_out"] == {"highlights": "nobody rated the clips of the ground truth"}
    assert score("--compare", submission, submission, "--ground-truth", truth, "--r1", "0.3", "--bootstrap", "9") == 0
    assert re.search(r"R1@0\.3 +66\.67 +66\.67 +0\.00", capsys.readouterr().out)


def test_empty_windows_change_no_score(tmp_path: Path) -> None:
    truth, results = write(tmp_path / "gt.jsonl", MOMENTS), []
    for number, length in enumerate((2, 1)):
        rows = [{**row, "pred_relevant_windows": row["pred_relevant_windows"][:length]} for row in ANSWERS]
        out = tmp_path / f"{number}.json"
        assert score(write(tmp_path / "p.jsonl", rows), "--ground-truth", truth, "--json", out) == 0
        results.append(official(result_of(out)))
    assert results[0] == results[1]


@pytest.mark.parametrize("form", ["list", "mac", "gz", "table", "csv", "charades", "activitynet"])
def test_every_form_of_annotations_gives_the_same_scores(form: str, tmp_path: Path) -> None:
    rows = [{**row, "qid": number, "vid": f"v{number}"} for number, row in enumerate(MOMENTS)]
    answers = [{**row, "qid": number} for number, row in enumerate(ANSWERS)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    table = [{"video": f"{r['vid']}.mp4", "query": r["query"], "windows": r["relevant_windows"]} for r in rows]
    activitynet = {
        row["vid"]: {"duration": 30.96, "timestamps": row["relevant_windows"], "sentences": [row["query"]]}
        for row in rows
    }
    name, content = {
        "list": ("gt.json", json.dumps(rows, indent=1).encode()),
        "mac": ("gt.jsonl", lines.replace("\n", "\r").encode()),
        "gz": ("gt.jsonl", gzip.compress(lines.encode())),
        "table": ("gt.json", json.dumps([{**row, "duration": 30.96} for row in table]).encode()),
        "csv": (
            "gt.csv",
            b"video,query,start,end\n" + b"".join(b"v%d.mp4,a,24.3,30.4\n" % i for i in range(3)),
        ),
        "charades": ("charades_sta_test.txt", b"".join(b"v%d 24.3 30.4##a knife.\n" % i for i in range(3))),
        "activitynet": ("val_1.json", json.dumps(activitynet).encode()),
    }[form]
    (tmp_path / name).write_bytes(content)
    outs = [tmp_path / "0.json", tmp_path / "1.json"]
    for truth, out in zip((write(tmp_path / "plain.jsonl", rows), tmp_path / name), outs, strict=True):
        words = ["--ground-truth", truth, "--bootstrap", "0", "--json", out]
        assert score(write(tmp_path / "p.jsonl", answers), *words) == 0
    assert official(result_of(outs[0])) == official(result_of(outs[1]))


def test_highlights_without_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ratings = [[5, 1], [1, 1], [4, 2], [2, 5], [3, 1]]
    truth = write(tmp_path / "tvsum.jsonl", [{"video": "a", "query": "=q", "duration": 5, "saliency": ratings}])
    rows = [{"qid": 0, "pred_saliency_scores": [0.9, 0.8, 0.7, 0.1, 0.0], "pred_relevant_windows": [[0, 0, 1]]}]
    submission, out, table = write(tmp_path / "p.jsonl", rows), tmp_path / "out.json", tmp_path / "q.csv"
    stated = ["--rating-scale", "1", "5", "--clip-seconds", "1"]
    assert score(submission, "--ground-truth", truth, *stated, "--json", out, "--per-query", table) == 0
    # Rater 1: hit, miss, hit (median 3). Rater 2: clips 2 and 3 (median 1), at ranks 3 and 4.
    first, second = 0.5 + 0.5 * (1 / 2 + 2 / 3) / 2, 0.5 * (0 + 1 / 3) / 2 + 0.5 * (1 / 3 + 2 / 4) / 2
    assert result_of(out)["brief"] == {
        "mAP": round(50 * (first + second), 2),
        "mAP top 5": round(50 * (first + second), 2),
    }
    assert "p.jsonl: 1 video of tvsum.jsonl" in capsys.readouterr().out
    assert list(csv.DictReader(table.open()))[0]["query"] == "'=q"
    assert score(submission, "--ground-truth", truth, *stated, "--positive", "4.5", "--json", out) == 0
    assert result_of(out)["brief"]["mAP"] == round(50 * (1 + (0 + 1 / 4) / 2), 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clip-seconds", "1"], "--clip-seconds says how highlights were rated; add --rating-scale"),
        (["--rating-scale", "1", "5", "--compare", "a"], "leave out --compare"),
        (["--rating-scale", "1", "5", "--no-validate"], "leave out .* --no-validate"),
        (["--rating-scale", "5", "1"], "expected a rating scale from a lowest to a highest number"),
        (["--rating-scale", "1", "5"], "expected 2 ratings, one for each 2-second clip of 5 s, got 5 of them"),
        (["--rating-scale", "1", "5", "--clip-seconds", "1", "--raters", "20"], "expected 20 ratings for each clip"),
        (["--rating-scale", "1", "5", "--clip-seconds", "1"], "expected 5 saliency scores, one for each rated clip"),
        ([], r"has ratings and no windows; .* state --rating-scale LOWEST HIGHEST"),
        (["--r1", "1.5"], "expected IoU thresholds above 0 and up to 1, got 1.5"),
        (["--bootstrap", "1000000000"], "--bootstrap 1000000000: expected up to 100000 resamples"),
    ],
)
def test_highlights_that_cannot_be_scored_are_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = write(tmp_path / "gt.jsonl", [{"video": "a", "query": "q", "duration": 5, "saliency": [1, 2, 3, 4, 5]}])
    submission = write(tmp_path / "p.jsonl", [{"qid": 0, "pred_saliency_scores": [0.5, 0.6]}])
    assert score(submission, "--ground-truth", truth, *words) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert re.search(message, captured.err)


def test_the_files_that_failed_are_scored(shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared_dir / "faults" / "text"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    outs = [tmp_path / f"{number}.json" for number in range(2)]
    for name, out in zip(("preds", "preds_without"), outs, strict=True):
        words = ["--ground-truth", folder / "zero_length" / "gt.jsonl", "--json", out]
        assert score(folder / "zero_length" / f"{name}.jsonl", *words) == 0
    assert official(result_of(outs[0])) == official(result_of(outs[1]))
    for words in ([], ["--no-validate"]):
        moments = folder / "moments_only"
        assert score(moments / "preds.jsonl", "--ground-truth", moments / "gt.jsonl", "--r1", "0.3", *words) == 0
        assert "no highlights: nobody rated the clips of the ground truth" in capsys.readouterr().out
    formats = folder / "formats"
    assert score(formats / "p.json", "--ground-truth", formats / "charades_lighthouse.jsonl", "--json", outs[0]) == 0
    assert result_of(outs[0])["brief"]["MR-full-R1@0.7"] == 100.0
