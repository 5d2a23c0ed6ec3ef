"""``frameseg score``: the official scores of a submission, checked first, or the difference of two."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_frameseg._text import short
from hf_frameseg.cli.ground_truth import add_ground_truth_options, read_truth, resolve_ground_truth
from hf_frameseg.cli.score_checks import checked, named, resampling_lines, resampling_of
from hf_frameseg.cli.score_highlights import add_highlight_options, check_highlight_options, score_highlights

if TYPE_CHECKING:
    from hf_frameseg.cli.score_report import Scored
    from hf_frameseg.metrics import ParsedSubmission, Violation

HELP = "check a QVHighlights submission line by line, and score it as the official evaluator does"
EPILOG = """\
exit status:
  0  scored; warnings, if any, are on stderr
  2  the command line, a file or the submission is at fault; what to do is on stderr

examples:
  frameseg score preds.jsonl --split test
  frameseg score preds.jsonl --ground-truth my_annotations.jsonl --json scores.json --per-query queries.parquet
  frameseg score --compare baseline.jsonl mine.jsonl --split val
  frameseg score preds.jsonl --ground-truth charades_sta_test.txt --r1 0.3
  frameseg score preds.jsonl --ground-truth tvsum.jsonl --rating-scale 1 5 --clip-seconds 1
"""
STDIN = Path("-")
_MAX_DIGITS = 18


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("submission", metavar="SUBMISSION", nargs="?", type=Path, help="JSON lines; - reads stdin")
    parser.add_argument(
        "--compare", metavar=("A", "B"), nargs="+", type=Path, help="score A and B and their difference: --compare A B"
    )
    parser.add_argument(
        "--r1", metavar="IOU", nargs="+", type=float, default=[], help="further thresholds of R1, such as 0.3"
    )
    add_ground_truth_options(parser)
    add_highlight_options(parser)
    checks = parser.add_argument_group("checks")
    checks.add_argument(
        "--no-validate", action="store_true", help="score whatever the official evaluator scores, with its numbers"
    )
    checks.add_argument("--all-violations", action="store_true", help="show each violation, not a few of each kind")
    checks.add_argument(
        "--allow-subset", dest="match_number", action="store_false", help="score the qids that all files share"
    )
    intervals = parser.add_argument_group("intervals")
    intervals.add_argument(
        "--bootstrap", metavar="N", type=_whole_number, default=1000, help="resamples, 0 for none (default: 1000)"
    )
    intervals.add_argument("--seed", metavar="N", type=_whole_number, default=0, help="of the resamples (default: 0)")
    outputs = parser.add_argument_group("files to write")
    outputs.add_argument("--json", metavar="OUT", type=Path, help="the official dictionary, and ours under `frameseg`")
    outputs.add_argument("--per-query", metavar="OUT", type=Path, help="one row per query: .parquet, .csv or .jsonl")


def _whole_number(text: str) -> int:
    """Parse a number from 0 on."""
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, got {text!r:.80}")
    return int(text)


def run(options: argparse.Namespace) -> None:
    """Read, check, score, write, print."""
    from hf_frameseg._files import check_outputs
    from hf_frameseg.cli.score_files import publish
    from hf_frameseg.metrics import read_submission

    paths = _check(options)
    submissions = [read_submission(sys.stdin.buffer if path == STDIN else path) for path in paths]
    names = ["stdin" if path == STDIN else str(path) for path in paths]
    if options.rating_scale is not None:
        publish(*score_highlights(names[0], submissions[0], options), options)
        return
    options.ground_truth = resolve_ground_truth(options)
    check_outputs({"--json": options.json, "--per-query": options.per_query}, [options.ground_truth])
    truth = read_truth(options.ground_truth)
    if not options.no_validate:
        _check_truth(truth, options.ground_truth.name)
    violations = checked(names, submissions, truth.rows, options)
    rows = [submission.rows for submission in submissions]
    if not options.match_number and len(rows) > 1:
        rows = _shared_rows(rows)
    scored = [
        _evaluate(name, submission.sha256, kept, truth.rows, found, options)
        for name, submission, kept, found in zip(names, submissions, rows, violations, strict=True)
    ]
    lines, content = _report(scored, truth, options)
    publish(lines, content, lambda: _query_columns(scored, truth.rows), options)


def _check(options: argparse.Namespace) -> list[Path]:
    """Refuse what cannot be asked or written; return the one or two files that are to be scored."""
    from hf_frameseg._files import check_outputs
    from hf_frameseg.cli.score_files import check_table
    from hf_frameseg.metrics import MAX_RESAMPLES
    from hf_frameseg.metrics.summary import check_thresholds

    paths = [path for path in (options.submission, *(options.compare or ())) if path is not None]
    wanted = 1 if options.compare is None else 2
    if len(paths) != wanted:
        how = "one SUBMISSION to score" if wanted == 1 else "two submissions to compare (--compare A B)"
        raise ValueError(f"expected {how}, got {len(paths)}; see frameseg score --help")
    if paths.count(STDIN) > 1:
        raise ValueError("only one submission can come from stdin (-); name a file for the other")
    if options.bootstrap == 1:
        raise ValueError("--bootstrap 1 gives no interval; use 1000, or 0 for none")
    if options.bootstrap > MAX_RESAMPLES:
        raise ValueError(f"--bootstrap {options.bootstrap}: expected up to {MAX_RESAMPLES} resamples; use 1000")
    options.r1 = check_thresholds(options.r1)
    check_highlight_options(options)
    check_table(options.per_query)
    inputs = [path for path in (*paths, options.ground_truth) if path not in (None, STDIN)]
    check_outputs({"--json": options.json, "--per-query": options.per_query}, inputs)
    if STDIN in paths and sys.stdin is None:
        raise ValueError("standard input is closed; name a file in place of -")
    return paths


def _check_truth(truth: ParsedSubmission, name: str) -> None:
    """Refuse a ground truth with two rows for one query, or with a duration that no video has."""
    from hf_frameseg._numbers import is_number

    seen: dict[Hashable, int] = {}
    otherwise = "or pass --no-validate to score what the official evaluator scores"
    for line, row in zip(truth.line_numbers, truth.rows, strict=True):
        qid, duration = row["qid"], row.get("duration")  # moments alone need no duration
        if seen.setdefault(qid, line) != line:
            repair = f"keep one of them, {otherwise}"
            raise ValueError(f"{name}: qid {qid!r} stands in lines {seen[qid]} and {line}; {repair}")
        if duration is not None and not (is_number(duration) and duration > 0):
            wrong = f"expected duration to be a number of seconds above 0, got {short(duration)}"
            raise ValueError(f"{name}:{line}: {wrong}; correct it or leave it out, {otherwise}")


def _shared_rows(submissions: Sequence[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Keep the rows whose qid both submissions have."""
    qids = [{row["qid"] for row in rows if isinstance(row.get("qid"), Hashable)} for rows in submissions]
    shared = qids[0] & qids[1]
    if not shared:
        raise ValueError("A and B share no qid, so there is nothing to compare; name two submissions for one split")
    return [
        [row for row in rows if not isinstance(row.get("qid"), Hashable) or row["qid"] in shared]
        for rows in submissions
    ]


def _evaluate(
    name: str,
    sha256: str,
    rows: list[dict[str, Any]],
    truth: list[dict[str, Any]],
    violations: list[Violation] | None,
    options: argparse.Namespace,
) -> Scored:
    """Score one submission."""
    from hf_frameseg.cli.score_report import Scored
    from hf_frameseg.metrics import bootstrap_intervals, evaluate_per_query, summarize_per_query, tasks_left_out
    from hf_frameseg.metrics.validation import PREDICTION_KEYS

    with named(name):
        per_query = evaluate_per_query(rows, truth, match_number=options.match_number)
    left_out = tasks_left_out(rows, per_query)
    asked = any(key in row for row in rows for key in PREDICTION_KEYS)  # without any, the official result is empty
    if asked and not any(array in per_query for array in ("mr_ap", "hl_argmax")):
        reasons = "; ".join(f"no {task}: {reason}" for task, reason in left_out.items())
        raise ValueError(f"cannot score {name}: {reasons}; add predictions, or score against other annotations")
    resampling = resampling_of(options)
    intervals = bootstrap_intervals(per_query, **resampling, r1_thresholds=options.r1) if resampling else {}
    result = summarize_per_query(per_query)
    return Scored(name, sha256, per_query, result, intervals, violations, options.r1, left_out)


def _report(
    scored: Sequence[Scored], truth: ParsedSubmission, options: argparse.Namespace
) -> tuple[list[str], dict[str, Any]]:
    """Return the lines to print, and what `--json` holds."""
    from hf_frameseg.cli import score_files, score_report
    from hf_frameseg.metrics import paired_differences, paired_outcomes

    resampling = resampling_of(options)
    place = (options.ground_truth.name, len({row["qid"] for row in truth.rows}), shutil.get_terminal_size().columns)
    settings = {
        "ground_truth": {"file": str(options.ground_truth), "sha256": truth.sha256},
        "allow_subset": not options.match_number,
        "bootstrap": resampling,
    }
    if len(scored) == 1:
        text, content = score_report.scores_text(scored[0], *place), score_files.score_json(scored[0], settings)
    else:
        first, second = (one.per_query for one in scored)
        outcomes = paired_outcomes(first, second, r1_thresholds=options.r1)
        if not outcomes:
            raise ValueError("A and B have no task in common, so there is nothing to compare; name two with windows")
        differences = paired_differences(first, second, **resampling, r1_thresholds=options.r1) if resampling else {}
        text = score_report.comparison_text(scored, differences, outcomes, *place)
        content = score_files.comparison_json(scored, differences, outcomes, settings)
    return [text, *resampling_lines(options, "queries")], content


def _query_columns(scored: Sequence[Scored], truth: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Put the queries of one submission into columns; those of two below each other, with the letter in front."""
    from hf_frameseg.cli.score_files import query_columns

    tables = [query_columns(one, truth) for one in scored]
    if len(tables) == 1:
        return tables[0]
    lengths = [len(table["qid"]) for table in tables]
    names = list(dict.fromkeys(name for table in tables for name in table))
    letters = [letter for letter, length in zip("AB", lengths, strict=True) for _ in range(length)]
    return {
        "submission": letters,
        **{
            name: [value for table, n in zip(tables, lengths, strict=True) for value in table.get(name, [None] * n)]
            for name in names
        },
    }
