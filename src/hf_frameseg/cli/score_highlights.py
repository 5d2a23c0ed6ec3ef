"""What `frameseg score --rating-scale` does: highlights of data sets without moments, as their field scores them."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_frameseg import __version__
from hf_frameseg._text import printable

if TYPE_CHECKING:
    from hf_frameseg.metrics import Interval, ParsedSubmission, Violation

COLUMNS = {"mAP": "ap", "mAP top 5": "ap_top"}
"""Column of the table -> array of `evaluate_highlights`."""


def add_highlight_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how clips were rated.

    Args:
        parser: Parser of the command.
    """
    group = parser.add_argument_group("highlights without moments (TVSum, YouTube Highlights)")
    group.add_argument(
        "--rating-scale",
        metavar=("LOWEST", "HIGHEST"),
        nargs=2,
        type=float,
        help="score clips rated on this scale",
    )
    group.add_argument("--clip-seconds", metavar="S", type=float, help="length of a rated clip (default: 2)")
    group.add_argument("--raters", metavar="N", type=int, help="raters of each clip (default: what the file has)")
    group.add_argument(
        "--positive",
        metavar="LIMIT",
        type=_limit,
        help="clips rated above it are highlights: a number, or median (of the rater; default)",
    )


def check_highlight_options(options: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Args:
        options: What the command's options were parsed into.

    Raises:
        ValueError: If one needs another, or contradicts it.
    """
    ours = ("--clip-seconds", "--raters", "--positive")
    given = [name for name in ours if getattr(options, name[2:].replace("-", "_")) is not None]
    if options.rating_scale is None and given:
        raise ValueError(f"{given[0]} says how highlights were rated; add --rating-scale LOWEST HIGHEST")
    if options.rating_scale is not None and (options.compare or options.r1 or options.split):
        raise ValueError(
            "--rating-scale scores one submission against a --ground-truth; leave out --compare, --r1, --split"
        )


def score_highlights(submission: ParsedSubmission, name: str, options: argparse.Namespace) -> list[str]:
    """Score a submission, and write the files that are asked for.

    Args:
        submission: What was read.
        name: How to call it.
        options: What the command's options were parsed into.

    Returns:
        Lines for the terminal.

    Raises:
        ValueError: If a file cannot be scored; the message names place and repair.
    """
    from hf_frameseg.annotations.forms import read_rated_clips
    from hf_frameseg.annotations.ratings import RatingScale
    from hf_frameseg.cli.score_files import write_columns, write_json
    from hf_frameseg.metrics import bootstrap_means, evaluate_highlights

    scale = RatingScale(*options.rating_scale, options.clip_seconds or 2.0, options.raters)
    truth = read_rated_clips(options.ground_truth, scale)
    _check(submission, truth, name, options)
    limit = "median" if options.positive is None else options.positive
    try:
        per_query = evaluate_highlights(
            submission.rows,
            {qid: row["ratings"] for qid, row in truth.items()},
            limit,
            match_number=not options.allow_subset,
        )
    except ValueError as error:
        raise ValueError(
            f"cannot score {name}: {error}".replace("pass match_number=False", "pass --allow-subset")
        ) from error
    scores = {column: 100 * per_query[array] for column, array in COLUMNS.items()}
    settings = {"num_resamples": options.bootstrap, "level": 0.95, "seed": options.seed}
    intervals = bootstrap_means(scores, **settings) if options.bootstrap else {}
    lines = _lines(name, options, scores, intervals, len(truth))
    if options.json is not None:
        write_json(options.json, _content(submission, name, options, scores, intervals, scale, limit))
        lines.append(printable(f"scores: {options.json}"))
    if options.per_query is not None:
        write_columns(options.per_query, _columns(per_query, truth))
        lines.append(printable(f"queries: {options.per_query}"))
    return lines


def _limit(text: str) -> float | str:
    """Parse the limit of a positive clip."""
    if text == "median":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or median, got {text!r:.80}") from None


def _check(
    submission: ParsedSubmission, truth: Mapping[Hashable, Mapping[str, Any]], name: str, options: argparse.Namespace
) -> None:
    """Say what is wrong with the submission; stop if it is an error."""
    from hf_frameseg.cli.score import warn
    from hf_frameseg.cli.score_report import violations_text
    from hf_frameseg.metrics import validate_submission

    rows = [
        {key: value for key, value in row.items() if key != "pred_relevant_windows"} if "qid" in row else row
        for row in submission.rows
    ]
    annotated = [{"qid": qid} for qid in truth]
    found: Sequence[Violation] = submission.violations + validate_submission(
        rows, annotated, line_numbers=submission.line_numbers, match_number=not options.allow_subset
    )
    if found:
        warn(violations_text(name, found, options.all_violations))
    if any(one.is_error for one in found):
        raise ValueError(f"{name} not scored; correct the errors above")


def _lines(
    name: str,
    options: argparse.Namespace,
    scores: Mapping[str, Any],
    intervals: Mapping[str, Interval],
    num_annotations: int,
) -> list[str]:
    """Show the scores."""
    from hf_frameseg.cli.tables import format_table

    rows = [["score", *(f"{values.mean():.2f}" for values in scores.values())]]
    if intervals:
        rows.append(["95 % low", *(f"{intervals[column].low:.2f}" for column in scores)])
        rows.append(["95 % high", *(f"{intervals[column].high:.2f}" for column in scores)])
    number = len(next(iter(scores.values())))
    part = "" if number == num_annotations else f"{number} of "
    videos = "video" if num_annotations == 1 else "videos"
    title = printable(f"{name}: {part}{num_annotations} {videos} of {Path(options.ground_truth).name}")
    lines = [title, "", *format_table(["", *scores], rows, shutil.get_terminal_size().columns)]
    if intervals:
        lines += ["", f"95 %: {options.bootstrap} bootstrap resamples of the videos, seed {options.seed}"]
    return lines


def _content(
    submission: ParsedSubmission,
    name: str,
    options: argparse.Namespace,
    scores: Mapping[str, Any],
    intervals: Mapping[str, Interval],
    scale: Any,
    limit: float | str,
) -> dict[str, Any]:
    """Build what `--json` holds."""
    from dataclasses import asdict

    brief = {column: float(f"{values.mean():.2f}") for column, values in scores.items()}
    how = {"rating_scale": asdict(scale), "positive": limit, "allow_subset": options.allow_subset}
    found = {column: asdict(interval) for column, interval in intervals.items()}
    source = {"submission": {"file": name, "sha256": submission.sha256}, "ground_truth": str(options.ground_truth)}
    return {"brief": brief, "frameseg": {"version": __version__, **source, **how, "intervals": found}}


def _columns(per_query: Mapping[str, Any], truth: Mapping[Hashable, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Put the videos into rows."""
    qids = per_query["qid"].tolist()
    texts = {key: [truth[qid][key] for qid in qids] for key in ("vid", "query")}
    return {"qid": qids, **texts, **{array: per_query[array].tolist() for array in COLUMNS.values()}}
