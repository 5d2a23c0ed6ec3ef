"""``frameseg score``: the official scores of a submission, checked first, or the difference of two."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_frameseg._text import printable
from hf_frameseg.cli.ground_truth import add_ground_truth_options, read_truth, resolve_ground_truth
from hf_frameseg.cli.score_highlights import add_highlight_options, check_highlight_options, score_highlights

if TYPE_CHECKING:
    from hf_frameseg.cli.score_report import Scored
    from hf_frameseg.metrics import ParsedSubmission, Violation

STDIN = Path("-")
LEVEL = 0.95  # of the intervals, as the tables' labels say
_MAX_DIGITS = 18

_EPILOG = """\
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


def add(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "score",
        parents=[common],
        help="score a QVHighlights submission as the official evaluator does",
        description="Check a QVHighlights submission line by line, then score it as the official evaluator does.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
        "--allow-subset", action="store_true", help="score the qids that all files share (match_number=False)"
    )
    intervals = parser.add_argument_group("intervals")
    intervals.add_argument(
        "--bootstrap",
        metavar="N",
        type=_whole_number,
        default=1000,
        help="resamples, 0 for none (default: 1000)",
    )
    intervals.add_argument("--seed", metavar="N", type=_whole_number, default=0, help="of the resamples (default: 0)")
    outputs = parser.add_argument_group("files to write")
    outputs.add_argument("--json", metavar="OUT", type=Path, help="the official dictionary, and ours under `frameseg`")
    outputs.add_argument("--per-query", metavar="OUT", type=Path, help="one row per query: .parquet, .csv or .jsonl")
    parser.set_defaults(run=_score)


def _whole_number(text: str) -> int:
    """Parse a number from 0 on."""
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, got {text!r:.80}")
    return int(text)


def _score(options: argparse.Namespace) -> None:
    """Read, check, score, write, print."""
    from hf_frameseg._files import check_outputs
    from hf_frameseg.cli.score_files import check_table
    from hf_frameseg.metrics import MAX_RESAMPLES, read_submission
    from hf_frameseg.metrics.summary import check_thresholds

    paths = _submissions(options)
    if options.bootstrap == 1:
        raise ValueError("--bootstrap 1 gives no interval; use 1000, or 0 for none")
    if options.bootstrap > MAX_RESAMPLES:
        raise ValueError(f"--bootstrap {options.bootstrap}: expected up to {MAX_RESAMPLES} resamples; use 1000")
    options.r1 = check_thresholds(options.r1)
    check_highlight_options(options)
    outputs = {"--json": options.json, "--per-query": options.per_query}
    check_table(options.per_query)
    check_outputs(outputs, [path for path in (*paths, options.ground_truth) if path not in (None, STDIN)])
    if STDIN in paths and sys.stdin is None:
        raise ValueError("standard input is closed; name a file in place of -")
    submissions = [read_submission(sys.stdin.buffer if path == STDIN else path) for path in paths]
    if options.rating_scale is not None:
        _show("\n".join(score_highlights(submissions[0], _name(paths[0]), options)))
        return
    truth_path = resolve_ground_truth(options)
    check_outputs(outputs, [truth_path])
    truth = read_truth(truth_path)
    names = [_name(path) for path in paths]
    violations = _validate(names, submissions, truth, truth_path.name, options)
    rows = [submission.rows for submission in submissions]
    if options.allow_subset and len(rows) > 1:
        rows = _shared_rows(rows)
    scored = [
        _evaluate(name, submission.sha256, kept, truth.rows, found, options)
        for name, submission, kept, found in zip(names, submissions, rows, violations, strict=True)
    ]
    _report(scored, truth, truth_path, options)


def _submissions(options: argparse.Namespace) -> list[Path]:
    """Return the one or two files that are to be scored."""
    paths = [path for path in (options.submission, *(options.compare or ())) if path is not None]
    wanted = 1 if options.compare is None else 2
    if len(paths) != wanted:
        how = "one SUBMISSION to score" if wanted == 1 else "two submissions to compare (--compare A B)"
        raise ValueError(f"expected {how}, got {len(paths)}; see frameseg score --help")
    if paths.count(STDIN) > 1:
        raise ValueError("only one submission can come from stdin (-); name a file for the other")
    return paths


def _name(path: Path) -> str:
    """Name a submission in tables and files."""
    return "stdin" if path == STDIN else str(path)


def _validate(
    names: Sequence[str],
    submissions: Sequence[ParsedSubmission],
    truth: ParsedSubmission,
    truth_name: str,
    options: argparse.Namespace,
) -> list[list[Violation] | None]:
    """Say what is wrong with the submissions; stop if it is an error and may not be scored as it is."""
    from hf_frameseg.cli.score_report import violations_text
    from hf_frameseg.metrics import validate_submission

    if options.no_validate:
        for name, submission in zip(names, submissions, strict=True):
            if submission.violations:  # lines that nobody can score
                raise ValueError(f"{name}: {submission.violations[0]}")
        return [None] * len(names)
    _check_unique(truth, truth_name)
    found = []
    for name, submission in zip(names, submissions, strict=True):
        violations = submission.violations + validate_submission(
            submission.rows, truth.rows, line_numbers=submission.line_numbers, match_number=not options.allow_subset
        )
        violations.sort(key=lambda violation: (violation.line is None, violation.line or 0))
        if violations:
            warn(violations_text(name, violations, options.all_violations))
        found.append(violations)
    wrong = [name for name, listed in zip(names, found, strict=True) if any(one.is_error for one in listed)]
    if wrong:
        raise ValueError(
            f"{' and '.join(wrong)} not scored; correct the errors above, or pass --no-validate to score what the "
            "official evaluator scores"
        )
    return found


def warn(text: str) -> None:
    """Print to stderr and leave a line free; a stderr that cannot be written is passed over.

    Args:
        text: Lines, fit to be printed.
    """
    if sys.stderr is not None:  # closed by the caller; print would take stdout instead
        with suppress(OSError):
            print(text, end="\n\n", file=sys.stderr)


def _check_unique(truth: ParsedSubmission, name: str) -> None:
    """Refuse a ground truth with two rows for one query."""
    seen: dict[Hashable, int] = {}
    for line, row in zip(truth.line_numbers, truth.rows, strict=True):
        if seen.setdefault(row["qid"], line) != line:
            raise ValueError(
                f"{printable(name)}: qid {row['qid']!r} stands in lines {seen[row['qid']]} and {line}; keep one of "
                "them, or pass --no-validate to score what the official evaluator scores"
            )


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

    try:
        per_query = evaluate_per_query(rows, truth, match_number=not options.allow_subset)
    except ValueError as error:
        raise ValueError(
            f"cannot score {name}: {error}".replace("pass match_number=False", "pass --allow-subset")
        ) from error
    left_out = tasks_left_out(rows, per_query)
    asked = any(key in row for row in rows for key in PREDICTION_KEYS)  # without any, the official result is empty
    if asked and not any(array in per_query for array in ("mr_ap", "hl_argmax")):
        reasons = "; ".join(f"no {task}: {reason}" for task, reason in left_out.items())
        raise ValueError(f"cannot score {name}: {reasons}; add predictions, or score against other annotations")
    further = {"r1_thresholds": options.r1}
    intervals = bootstrap_intervals(per_query, **_resampling(options), **further) if options.bootstrap else {}
    result = summarize_per_query(per_query)
    return Scored(name, sha256, per_query, result, intervals, violations, options.r1, left_out)


def _resampling(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of the bootstrap."""
    return {"num_resamples": options.bootstrap, "level": LEVEL, "seed": options.seed}


def _report(scored: Sequence[Scored], truth: ParsedSubmission, truth_path: Path, options: argparse.Namespace) -> None:
    """Write the files, then print: a closed pipe shall not cost a file."""
    from hf_frameseg.cli import score_files, score_report
    from hf_frameseg.metrics import paired_differences, paired_outcomes

    width = shutil.get_terminal_size().columns
    place = (truth_path.name, len({row["qid"] for row in truth.rows}), width)
    settings = {
        "ground_truth": {"file": str(truth_path), "sha256": truth.sha256},
        "allow_subset": options.allow_subset,
        "bootstrap": _resampling(options) if options.bootstrap else None,
    }
    if len(scored) == 1:
        text = score_report.scores_text(scored[0], *place)
        content = score_files.score_json(scored[0], settings)
    else:
        first, second = (one.per_query for one in scored)
        further = {"r1_thresholds": options.r1}
        differences = paired_differences(first, second, **_resampling(options), **further) if options.bootstrap else {}
        outcomes = paired_outcomes(first, second, **further)
        if not outcomes:
            raise ValueError("A and B have no task in common, so there is nothing to compare; name two with windows")
        text = score_report.comparison_text(scored, differences, outcomes, *place)
        content = score_files.comparison_json(scored, differences, outcomes, settings)
    lines = [text]
    if options.bootstrap:
        lines += ["", f"95 %: {options.bootstrap} bootstrap resamples of the queries, seed {options.seed}"]
    if options.json is not None:
        score_files.write_json(options.json, content)
        lines.append(printable(f"scores: {options.json}"))
    if options.per_query is not None:
        score_files.write_columns(options.per_query, _query_columns(scored, truth.rows))
        lines.append(printable(f"queries: {options.per_query}"))
    _show("\n".join(lines))


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


def _show(text: str) -> None:
    """Print, whatever the terminal can show."""
    if sys.stdout is None:  # closed by the caller (`>&-`)
        return
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
