"""What `frameseg score` writes: the official dictionary with ours beside it, and one row per query."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_frameseg import __version__
from hf_frameseg._files import atomic_write
from hf_frameseg._text import printable
from hf_frameseg.metrics import Interval, Outcomes, count_queries, mean_iou, query_table, recall_at
from hf_frameseg.records import write_json_lines

if TYPE_CHECKING:
    from hf_frameseg.cli.score_report import Scored

TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
TEXT_COLUMNS = ("vid", "query")
_FORMULA_STARTS = ("=", "+", "-", "@")

Columns = Mapping[str, list[Any]]


def score_json(scored: Scored, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Build the official dictionary, and ours under `frameseg`."""
    intervals = {key: _ends(interval) for key, interval in scored.intervals.items()}
    return {**scored.result, "frameseg": {"version": __version__, **settings, **_ours(scored), "intervals": intervals}}


def comparison_json(
    scored: Sequence[Scored],
    differences: Mapping[str, Interval],
    outcomes: Mapping[str, Outcomes],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Build the dictionary of a comparison."""
    both = {letter: score_json(one, settings) for letter, one in zip("AB", scored, strict=True)}
    found = {
        key: asdict(outcome) | (_ends(differences[key]) if key in differences else {})
        for key, outcome in outcomes.items()
    }
    return {**both, "frameseg": {"version": __version__, **settings, "differences": found}}


def query_columns(scored: Scored, ground_truth: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Build one row per query.

    Args:
        scored: The submission.
        ground_truth: Annotation rows; `vid` and `query` come from there.

    Returns:
        Column -> values; the numbers are those of `metrics.query_table`, None where there is none.
    """
    table = {name: values.tolist() for name, values in query_table(scored.per_query).items()}
    qids = table.pop("qid")
    whole = scored.per_query["qid"].dtype.kind == "i"  # else of mixed types, which a column of a file cannot hold
    annotated = {row["qid"]: row for row in ground_truth}
    return {
        "qid": qids if whole else [_text(qid) for qid in qids],
        **{key: [_text(annotated[qid].get(key)) for qid in qids] for key in TEXT_COLUMNS},
        **{name: [_json_number(value) for value in values] for name, values in table.items()},
    }


def check_table(path: Path | None) -> None:
    """Refuse an unknown kind of table before anything is scored."""
    if path is not None and path.suffix not in TABLE_SUFFIXES:
        raise ValueError(f"--per-query {path}: expected a name that ends in {' or '.join(TABLE_SUFFIXES)}")


def publish(
    lines: Sequence[str],
    content: Mapping[str, Any],
    columns: Callable[[], Columns],
    options: argparse.Namespace,
) -> None:
    """Write the files that are asked for, then print, so that a closed pipe loses no file."""
    written = []
    if options.json is not None:
        write_json(options.json, content)
        written.append(f"scores: {options.json}")
    if options.per_query is not None:
        write_columns(options.per_query, columns())
        written.append(f"queries: {options.per_query}")
    print(*lines, *map(printable, written), sep="\n")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a dictionary in the official evaluator's form (an indent of 4)."""
    atomic_write(path, json.dumps(_finite(content), indent=4, allow_nan=False) + "\n")


def write_columns(path: Path, columns: Columns) -> None:
    """Write a table as Parquet, CSV or JSON lines, by suffix."""
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        arrays = {name: pyarrow.array(values) for name, values in columns.items()}
        for name, array in arrays.items():
            if pyarrow.types.is_null(array.type):  # a column without values has no type yet
                arrays[name] = array.cast(pyarrow.string() if name in TEXT_COLUMNS else pyarrow.float64())
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.table(arrays), buffer)
        atomic_write(path, buffer.getvalue())
        return
    rows = zip(*columns.values(), strict=True)
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_csv_cell(value) for value in row] for row in rows)
        atomic_write(path, text.getvalue())
    else:
        write_json_lines(path, (dict(zip(columns, row, strict=True)) for row in rows), ensure_ascii=False)


def _csv_cell(value: Any) -> Any:
    """Write a text so that the program that opens the table takes it for no formula and no control character."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _ours(scored: Scored) -> dict[str, Any]:
    """Describe one submission."""
    return {
        "submission": {"file": scored.name, "sha256": scored.sha256},
        "validated": scored.violations is not None,
        "violations": dict(Counter(violation.code for violation in scored.violations or ())),
        "num_queries": count_queries(scored.per_query),
        "mIoU": mean_iou(scored.per_query),
        **({"R1": recall_at(scored.per_query, scored.r1_thresholds)} if scored.r1_thresholds else {}),
        **({"left_out": dict(scored.left_out)} if scored.left_out else {}),
    }


def _ends(interval: Interval) -> dict[str, float]:
    """Leave out the score itself, which stands elsewhere."""
    return {name: value for name, value in asdict(interval).items() if name != "estimate"}


def _finite(content: Any) -> Any:
    """Replace NaN by None, at any depth."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    return _json_number(content)


def _json_number(value: Any) -> Any:
    """Replace NaN by None."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _text(value: Any) -> str | None:
    """Write a value of any type as text that every file format can hold (JSON may name half characters)."""
    return None if value is None else str(value).encode("utf-8", "backslashreplace").decode("utf-8")
