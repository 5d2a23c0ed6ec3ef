"""What moments and highlights have in common when they are scored: the checks, the resamples, the errors."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hf_frameseg.cli.messages import say

if TYPE_CHECKING:
    from hf_frameseg.metrics import ParsedSubmission, Violation

LEVEL = 0.95  # of the intervals, as the tables' labels say


def checked(
    names: Sequence[str],
    submissions: Sequence[ParsedSubmission],
    truth: Sequence[Mapping[str, Any]],
    options: argparse.Namespace,
) -> list[list[Violation] | None]:
    """Report what is wrong with the submissions, and stop if there is an error that forbids scoring.

    Args:
        names: How to call them.
        submissions: What was read.
        truth: Rows of the ground truth.
        options: Options of the command.

    Returns:
        What was found in each; None for one that was not validated.

    Raises:
        ValueError: If there are errors.
    """
    from hf_frameseg.cli.score_report import violations_text
    from hf_frameseg.metrics import validate_submission

    if options.no_validate:
        for name, submission in zip(names, submissions, strict=True):
            if submission.violations:  # lines that are no JSON objects
                raise ValueError(f"{name}: {submission.violations[0]}")
        return [None] * len(names)
    found, wrong = [], []
    for name, one in zip(names, submissions, strict=True):
        violations = one.violations + validate_submission(
            one.rows, truth, line_numbers=one.line_numbers, match_number=options.match_number
        )
        violations.sort(key=lambda violation: (violation.line is None, violation.line or 0))
        if violations:
            say(*violations_text(name, violations, options.all_violations).split("\n"), "")
        if any(violation.is_error for violation in violations):
            wrong.append(name)
        found.append(violations)
    if wrong:
        other = ", or pass --no-validate to score what the official evaluator scores"
        other = other if options.rating_scale is None else ""
        raise ValueError(f"{' and '.join(wrong)} not scored; correct the errors above{other}")
    return found


@contextmanager
def named(name: str) -> Iterator[None]:
    """Name the submission in an error."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"cannot score {name}: {error}") from error


def resampling_of(options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the arguments of the bootstrap; None without one."""
    if not options.bootstrap:
        return None
    return {"num_resamples": options.bootstrap, "level": LEVEL, "seed": options.seed}


def resampling_lines(options: argparse.Namespace, of: str) -> list[str]:
    """Say where the intervals come from, if there are any."""
    if not options.bootstrap:
        return []
    return ["", f"95 %: {options.bootstrap} bootstrap resamples of the {of}, seed {options.seed}"]
