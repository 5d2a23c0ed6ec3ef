"""What `frameseg score --rating-scale` does: highlights of data sets without moments, as their field scores them."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_frameseg import __version__
from hf_frameseg._text import printable
from hf_frameseg.cli.parser import add_rating_options
from hf_frameseg.cli.score_checks import checked, named, resampling_lines, resampling_of
from hf_frameseg.cli.tables import count_of, format_table, interval_rows, number

if TYPE_CHECKING:
    from hf_frameseg.metrics import Interval, ParsedSubmission

COLUMNS = {"mAP": "ap", "mAP top 5": "ap_top"}
"""Column of the table -> array of `evaluate_highlights`."""


def add_highlight_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how clips were rated."""
    group = parser.add_argument_group("highlights without moments (TVSum, YouTube Highlights)")
    add_rating_options(group, "score clips rated on this scale")
    group.add_argument(
        "--raters", dest="num_raters", metavar="N", type=int, help="raters of each clip (default: what the file has)"
    )
    group.add_argument(
        "--positive",
        metavar="LIMIT",
        type=_limit,
        help="clips rated above it are highlights: a number, or median (of the rater; default)",
    )


def check_highlight_options(options: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    ours = {"--clip-seconds": options.clip_seconds, "--raters": options.num_raters, "--positive": options.positive}
    given = [name for name, value in ours.items() if value is not None]
    if options.rating_scale is None and given:
        raise ValueError(f"{given[0]} says how highlights were rated; add --rating-scale LOWEST HIGHEST")
    others = options.compare or options.r1 or options.split or options.no_validate
    if options.rating_scale is not None and others:
        raise ValueError(
            "--rating-scale scores one submission against a --ground-truth; leave out --compare, --r1, --split and "
            "--no-validate"
        )


def score_highlights(
    name: str, submission: ParsedSubmission, options: argparse.Namespace
) -> tuple[list[str], dict[str, Any], Callable[[], dict[str, list[Any]]]]:
    """Score a submission.

    Args:
        name: How to call it.
        submission: What was read.
        options: What the command's options were parsed into.

    Returns:
        Lines for the terminal, what `--json` holds, and what makes the columns of `--per-query`.

    Raises:
        ValueError: If a file cannot be scored; the message names place and repair.
    """
    from hf_frameseg.annotations.forms import read_rated_clips
    from hf_frameseg.annotations.ratings import RatingScale
    from hf_frameseg.metrics import bootstrap_means, evaluate_highlights

    scale = RatingScale(*options.rating_scale, options.clip_seconds or 2.0, options.num_raters)
    truth = read_rated_clips(options.ground_truth, scale)
    checked([name], [_without_moments(submission)], [{"qid": qid} for qid in truth], options)
    limit = "median" if options.positive is None else options.positive
    ratings = {qid: row["ratings"] for qid, row in truth.items()}
    with named(name):
        per_query = evaluate_highlights(submission.rows, ratings, limit, match_number=options.match_number)
    scores = {column: 100 * per_query[array] for column, array in COLUMNS.items()}
    resampling = resampling_of(options)
    intervals = bootstrap_means(scores, **resampling) if resampling else {}
    content = {
        "brief": {column: float(f"{values.mean():.2f}") for column, values in scores.items()},
        "frameseg": {
            "version": __version__,
            "submission": {"file": name, "sha256": submission.sha256},
            "ground_truth": str(options.ground_truth),
            "rating_scale": asdict(scale),
            "positive": limit,
            "allow_subset": not options.match_number,
            "intervals": {column: asdict(interval) for column, interval in intervals.items()},
        },
    }
    return _lines(name, options, scores, intervals, len(truth)), content, partial(_columns, per_query, truth)


def _without_moments(submission: ParsedSubmission) -> ParsedSubmission:
    """Leave out the windows, which nobody scores here."""
    kept = [{key: row[key] for key in row if key != "pred_relevant_windows"} for row in submission.rows]
    return replace(
        submission, rows=[new if "qid" in new else row for new, row in zip(kept, submission.rows, strict=True)]
    )


def _limit(text: str) -> float | str:
    """Parse the limit of a positive clip."""
    if text == "median":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or median, got {text!r:.80}") from None


def _lines(
    name: str,
    options: argparse.Namespace,
    scores: Mapping[str, Any],
    intervals: Mapping[str, Interval],
    num_annotations: int,
) -> list[str]:
    """Show the scores."""
    rows = [["score", *(number(values.mean()) for values in scores.values())], *interval_rows(intervals, scores)]
    part = count_of(len(next(iter(scores.values()))), num_annotations, "video")
    title = f"{name}: {part} of {options.ground_truth.name}"
    table = format_table(["", *scores], rows, shutil.get_terminal_size().columns)
    return [printable(title), "", *table, *resampling_lines(options, "videos")]


def _columns(per_query: Mapping[str, Any], truth: Mapping[Hashable, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Put the videos into rows."""
    qids = per_query["qid"].tolist()
    texts = {key: [truth[qid][key] for qid in qids] for key in ("vid", "query")}
    return {"qid": qids, **texts, **{array: per_query[array].tolist() for array in COLUMNS.values()}}
