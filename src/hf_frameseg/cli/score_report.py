"""What `frameseg score` shows: violations, the scores of a submission, the difference of two."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg.cli.tables import count, count_of, format_table, interval_rows, number
from hf_frameseg.metrics import (
    HEADLINE_COLUMNS,
    MIN_RATINGS,
    Interval,
    Outcomes,
    Violation,
    count_queries,
    mean_iou,
    recall_at,
)

SHOWN_PER_CODE = 3
"""Violations of one kind that are shown before they are only counted."""

RANGES = ("full", "short", "middle", "long")

Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Scored:
    """Hold one scored submission.

    Args:
        name: What to call the file.
        sha256: Its checksum.
        per_query: What `evaluate_per_query` returned.
        result: The official dictionary.
        intervals: What `bootstrap_intervals` returned; empty without bootstrap.
        violations: What was found wrong; None if it was not validated.
        r1_thresholds: Further IoU thresholds of R1.
        left_out: What `tasks_left_out` returned.
    """

    name: str
    sha256: str
    per_query: Mapping[str, Any]
    result: Mapping[str, Any]
    intervals: Mapping[str, Interval]
    violations: Sequence[Violation] | None = ()
    r1_thresholds: Sequence[float] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    def score(self, key: str) -> float | None:
        """Return a `brief` number, R1 at a further threshold or `mIoU` in percent, None if there is none."""
        if key == "mIoU":
            return mean_iou(self.per_query)
        further = recall_at(self.per_query, self.r1_thresholds)
        return self.result["brief"].get(key, further.get(key.removeprefix("MR-full-")))

    def headline_keys(self) -> dict[str, str]:
        """Name the columns of the papers' tables, with R1 at each threshold asked for, and mIoU."""
        further = {f"R1@{limit:g}": f"MR-full-R1@{limit:g}" for limit in self.r1_thresholds}
        recalls = {name: key for name, key in {**HEADLINE_COLUMNS, **further}.items() if name.startswith("R1@")}
        in_order = sorted(recalls, key=lambda name: float(name.removeprefix("R1@")))
        return {**{name: recalls[name] for name in in_order}, **HEADLINE_COLUMNS, "mIoU": "mIoU"}


def violations_text(name: str, violations: Sequence[Violation], show_all: bool = False) -> str:
    """List violations, errors first; of many of one kind a few are shown and the others counted.

    Example:
        >>> fault = ("integer-window", "expected floats", "write floats", False)
        >>> found = [Violation(*fault, line) for line in range(1, 9)]
        >>> print(violations_text("preds.jsonl", found))
        preds.jsonl: 8 warnings
          line 1: warning: expected floats; write floats [integer-window]
          line 2: warning: expected floats; write floats [integer-window]
          line 3: warning: expected floats; write floats [integer-window]
          and 5 more [integer-window]; --all-violations shows each
    """
    errors = sum(violation.is_error for violation in violations)
    counts = [count(errors, "error"), count(len(violations) - errors, "warning")]
    lines = [f"{printable(name)}: {', '.join(one for one in counts if not one.startswith('0 '))}"]
    if show_all:
        return "\n".join([*lines, *(f"  {printable(violation)}" for violation in violations)])
    groups: dict[tuple[bool, str], list[Violation]] = {}
    for violation in violations:
        groups.setdefault((not violation.is_error, violation.code), []).append(violation)
    for (_, code), group in sorted(groups.items(), key=lambda item: item[0][0]):
        shown = group if len(group) <= SHOWN_PER_CODE + 1 else group[:SHOWN_PER_CODE]
        lines += [f"  {printable(violation)}" for violation in shown]
        if len(group) > len(shown):
            lines.append(f"  and {len(group) - len(shown)} more [{code}]; --all-violations shows each")
    return "\n".join(lines)


def scores_text(scored: Scored, ground_truth: str, num_annotations: int, width: int) -> str:
    """Show the scores of one submission."""
    lines = [_title(scored, ground_truth, num_annotations)]
    lines += _notes(scored)
    tables = [_headline_table(scored)]
    if "mr_ap" in scored.per_query:
        tables.append(_moments_table(scored))
    if "hl_argmax" in scored.per_query:
        tables.append(_highlights_table(scored))
    for header, rows in tables:
        if len(header) == 1:
            continue  # nothing was scored
        lines += ["", *format_table(header, rows, width)]
    return "\n".join(lines)


def comparison_text(
    scored: Sequence[Scored],
    differences: Mapping[str, Interval],
    outcomes: Mapping[str, Outcomes],
    ground_truth: str,
    num_annotations: int,
    width: int,
) -> str:
    """Show two submissions side by side, and what tells them apart."""
    lines = []
    for letter, one in zip("AB", scored, strict=True):
        lines.append(f"{letter}  {_title(one, ground_truth, num_annotations)}")
        lines += [f"   {note}" for note in _notes(one)]
    names = {**scored[0].headline_keys(), **{f"mAP {name}": f"MR-{name}-mAP" for name in RANGES[1:]}}
    names = {name: key for name, key in names.items() if any(one.score(key) is not None for one in scored)}
    rows = []
    for name, key in names.items():
        scores = [number(one.score(key)) for one in scored]
        rows.append([name, *scores, *_difference_cells(outcomes.get(key), differences.get(key), bool(differences))])
    interval = ["95 %\nlow", "95 %\nhigh"] if differences else []
    if rows:
        header = ["", "A", "B", "B - A", *interval, *(f"queries\n{word}" for word in ("B won", "A won", "tied"))]
        lines += ["", *format_table(header, rows, width)]
    if differences:
        clear = [name for name, key in names.items() if key in differences and _leaves_out_zero(differences[key])]
        text = f"intervals without 0: {', '.join(clear)}" if clear else "every interval holds 0: no difference shown"
        lines += ["", *textwrap.wrap(text, width)]
    return "\n".join(lines)


def _difference_cells(outcome: Outcomes | None, interval: Interval | None, with_interval: bool) -> list[str]:
    """Make the cells of one row behind A and B; dashes where only one of them was scored."""
    if outcome is None:
        return ["-"] * (6 if with_interval else 4)
    ends = [_signed(interval.low), _signed(interval.high)] if interval else []
    return [
        _signed(outcome.difference),
        *ends,
        *(number(part, 1, " %") for part in (outcome.won, outcome.lost, outcome.tied)),
    ]


def _title(scored: Scored, ground_truth: str, num_annotations: int) -> str:
    """Say what was scored on what."""
    queries = count_of(count_queries(scored.per_query)["full"], num_annotations, "query", "queries")
    how = ", not validated" if scored.violations is None else ""
    return printable(f"{scored.name}: {queries} of {ground_truth}{how}")


def _notes(scored: Scored) -> list[str]:
    """Say what was not scored, or not for every query."""
    arrays = {"moments": "mr_ap", "highlights": "hl_argmax"}
    return [
        f"{task}: {reason}" if arrays[task] in scored.per_query else f"no {task}: {reason}"
        for task, reason in scored.left_out.items()
    ]


def _headline_table(scored: Scored) -> Table:
    """Make the row of the papers' tables."""
    keys = {name: key for name, key in scored.headline_keys().items() if scored.score(key) is not None}
    rows = [["score", *(number(scored.score(key)) for key in keys.values())]]
    return ["", *keys], rows + interval_rows(scored.intervals, keys.values())


def _moments_table(scored: Scored) -> Table:
    """Make mAP and R1 by IoU and by length of the ground-truth windows."""
    parts = [scored.result[name][metric] for metric in ("MR-mAP", "MR-R1") for name in RANGES]
    rows = [[f"{float(limit):.2f}", *(number(part[limit]) for part in parts)] for limit in parts[-1]]
    rows.append(["mean", *(number(part["average"]) for part in parts[:4]), *[""] * 4])
    keys = [f"MR-{name}-mAP" for name in RANGES]
    rows += [[*row, *[""] * 4] for row in interval_rows(scored.intervals, keys)]
    counts = [str(count_queries(scored.per_query)[name]) for name in RANGES]
    rows.append(["queries", *counts, *counts])
    return ["IoU", *(f"{metric}\n{name}" for metric in ("mAP", "R1") for name in RANGES)], rows


def _highlights_table(scored: Scored) -> Table:
    """Make HL-mAP and HIT@1 by rating."""
    keys = [f"HL-min-{name}-{metric}" for metric in ("mAP", "Hit1") for name in MIN_RATINGS]
    rows = [["score", *(number(scored.score(key)) for key in keys)], *interval_rows(scored.intervals, keys)]
    return ["rating", *(f"{metric}\n{name}" for metric in ("HL-mAP", "HIT@1") for name in MIN_RATINGS)], rows


def _leaves_out_zero(interval: Interval) -> bool:
    """Tell whether a difference is clearer than chance."""
    return interval.low > 0 or interval.high < 0


def _signed(value: float) -> str:
    """Write a difference of scores."""
    text = "-" if math.isnan(value) else f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text
