"""Files, names and streams that are not what they should be: one line, and nothing of them steers the terminal."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg import cli

HOSTILE = "v\x1b[2J\x07\r\n0 problems\u202e\u2028\x9b"
TRUTH = {"qid": 1, "query": "q", "vid": "v", "duration": 10, "relevant_windows": [[2, 6]]}
RATED = {**TRUTH, "relevant_clip_ids": [1, 2], "saliency_scores": [[4, 3, 2], [2, 2, 2]]}
ANSWER = {"qid": 1, "pred_relevant_windows": [[2.0, 6.0, 0.9]]}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "p.jsonl", ANSWER), write(tmp_path / "gt.jsonl", RATED)


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def in_shell(command: str, *words: object) -> subprocess.CompletedProcess[str]:
    line = f'"$0" -c "import sys; from hf_frameseg import cli; sys.exit(cli.main(sys.argv[1:]))" "$@" {command}'
    return subprocess.run(
        ["bash", "-c", line, sys.executable, *map(str, words)], capture_output=True, text=True, check=False
    )


def one_line(error: str) -> str:
    assert error.startswith("frameseg: error: ")
    assert error.endswith("\n")
    assert error[:-1].isprintable()
    return error


# Text of others


@pytest.mark.parametrize("qid", [HOSTILE, "7"])
def test_text_of_others_reaches_the_terminal_as_text(
    qid: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submission = write(tmp_path / f"{HOSTILE[:4]}.jsonl", {"qid": qid, "pred_relevant_windows": [[6.0, 2.0, 1.0]]})
    truth = write(tmp_path / f"gt{HOSTILE}.jsonl", {**RATED, "qid": HOSTILE, "query": HOSTILE, "vid": HOSTILE})
    statuses = [run("score", submission, "--ground-truth", truth), run("audit", truth)]
    statuses.append(run("score", submission, "--ground-truth", truth, "--no-validate", "--bootstrap", "9"))
    captured = capsys.readouterr()
    assert statuses == ([2, 0, 0] if qid == HOSTILE else [2, 0, 2])
    for line in (captured.out + captured.err).split("\n"):
        assert all(character.isprintable() for character in line), line
        assert not line.startswith("0 problems")


def test_a_table_for_a_spreadsheet_holds_no_formula(tmp_path: Path) -> None:
    rows = [{**RATED, "qid": n, "vid": vid} for n, vid in enumerate(("=1+1", "-2", "a\x1b[2J", "plain"))]
    answers = [{**ANSWER, "qid": n} for n in range(len(rows))]
    out = tmp_path / "q.csv"
    assert run("score", write(tmp_path / "p.jsonl", *answers), "--ground-truth", write(tmp_path / "g.jsonl", *rows),
               "--per-query", out) == 0  # fmt: skip
    assert [line.split(",")[1] for line in out.read_text().splitlines()[1:]] == ["'=1+1", "'-2", "a\\x1b[2J", "plain"]


# Files that are none


@pytest.mark.parametrize("kind", ["pipe", "loop", "folder", "/dev/zero", "deep", "bomb", "numbers"])
@pytest.mark.parametrize("command", ["score", "truth", "audit"])
def test_what_is_no_file_of_rows_is_one_line(
    kind: str, command: str, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / "odd.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "deep":
        path.write_text('{"qid": ' + "[" * 900 + "]" * 900 + "}\n")
    elif kind == "bomb":
        monkeypatch.setattr("hf_frameseg._text_file.MAX_FILE_BYTES", 2**16)
        path.write_bytes(gzip.compress(b" " * 2**20))
    elif kind == "numbers":
        path.write_text(json.dumps({**RATED, "duration": 10**300, "relevant_windows": [[0, 1e308]]}))
    else:
        path = Path(kind)
    words = {
        "score": ["score", path, "--ground-truth", files[1]],
        "truth": ["score", files[0], "--ground-truth", path],
        "audit": ["audit", path],
    }[command]
    status = run(*words)
    captured = capsys.readouterr()
    if kind == "numbers" and command == "truth":
        assert status == 0  # moments alone, against a window of any length
        return
    assert (status, captured.out) == (2, "")
    one_line(captured.err[captured.err.rindex("frameseg: error") :])
    assert "Traceback" not in captured.err


def test_a_name_that_no_file_can_have_is_one_line(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("score", "b" * 5000, "--ground-truth", files[1]) == 2
    assert one_line(capsys.readouterr().err).endswith("b: File name too long; check the path\n")


def test_ratings_of_an_endless_video_do_not_fill_the_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission = write(tmp_path / "p.jsonl", {**ANSWER, "pred_saliency_scores": [0.5] * 5})
    truth = write(tmp_path / "gt.jsonl", {**RATED, "duration": 1e12})
    assert run("score", submission, "--ground-truth", truth) == 2
    assert "for 1000000000000.0 s" in one_line(capsys.readouterr().err)


# Outputs


@pytest.mark.parametrize("option", ["--json", "--per-query", "--output"])
@pytest.mark.parametrize("kind", ["input", "link", "hard link", "loop", "full"])
def test_no_input_is_overwritten_and_a_full_disk_is_said(
    option: str, kind: str, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = option == "--output"
    source = files[1].rename(tmp_path / {"--output": "gt.png", "--json": "gt.jsonl", "--per-query": "gt.jsonl"}[option])
    before = source.read_bytes()
    out = source if kind == "input" else tmp_path / f"out{source.suffix}"
    if kind == "link":
        out.symlink_to(source)
    elif kind == "hard link":
        out.hardlink_to(source)
    elif kind == "loop":
        out.symlink_to(out)
    elif kind == "full":
        if option != "--json":
            return
        out = Path("/dev/full")
    words = ["audit", source, "--num-frames", "5"] if audit else ["score", files[0], "--ground-truth", source]
    assert run(*words, option, out) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("cannot write" if kind in ("loop", "full") else "an input") in one_line(captured.err)
    assert source.read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize("words", [["score"], ["audit"], ["--version"], ["--help"], ["score", "--help"]])
def test_a_full_standard_output_is_an_error(words: list[str], files: tuple[Path, Path]) -> None:
    if words == ["score"]:
        words = ["score", *map(str, files[:1]), "--ground-truth", str(files[1])]
    elif words == ["audit"]:
        words = ["audit", str(files[1])]
    done = in_shell("> /dev/full", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert one_line(done.stderr) == (
        "frameseg: error: cannot write to standard output (No space left on device); write it somewhere else\n"
    )


def test_closed_and_full_streams(files: tuple[Path, Path]) -> None:
    words = ["score", "-", "--ground-truth", files[1]]
    done = in_shell("<&-", *words)
    assert done.returncode == 2
    assert "standard input is closed; name a file in place of -" in one_line(done.stderr)
    for redirection in ("2>&-", "2> /dev/full"):
        done = in_shell(f"{redirection} < {files[0]}", *words)
        assert (done.returncode, done.stdout.split("\n")[0]) == (0, "stdin: 1 query of gt.jsonl"), redirection
        done = in_shell(redirection, "score", "missing", "--ground-truth", files[1])
        assert (done.returncode, done.stdout) == (2, "")


def test_two_submissions_without_a_common_task_are_not_compared(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "b.jsonl", {"qid": 1, "pred_saliency_scores": [0.5] * 5})
    assert run("score", "--compare", files[0], other, "--ground-truth", files[1]) == 2
    assert "A and B have no task in common" in one_line(capsys.readouterr().err)


def test_a_score_of_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission = write(tmp_path / "p.jsonl", {"qid": 1, "pred_saliency_scores": [0.5] * 5})
    truth = write(tmp_path / "gt.jsonl", {**RATED, "saliency_source": "window"})
    for words in ([], ["--no-validate"]):
        assert run("score", submission, "--ground-truth", truth, *words) == 2
        message = one_line(capsys.readouterr().err)
        assert "no moments: the first row has no pred_relevant_windows" in message
        assert "no highlights: nobody rated the clips of the ground truth" in message
