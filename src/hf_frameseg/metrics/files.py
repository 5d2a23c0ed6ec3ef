"""Reading submission and annotation files for scoring, in all forms that `hf_frameseg.records` knows.

A file that cannot hold rows (a folder, a table, a damaged archive) raises one `ValueError` or `OSError`. A line that
holds no row comes back as a violation with its place.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hf_frameseg._text import printable, short
from hf_frameseg._text_file import EXPECTED, read_text_file
from hf_frameseg.metrics.validation import Violation
from hf_frameseg.records import Fault, read_records


@dataclass(frozen=True)
class ParsedSubmission:
    """Hold the rows of a JSON Lines file with their places.

    Args:
        rows: The lines that are JSON objects.
        line_numbers: Line of each row, counted from 1.
        violations: The lines that are no JSON objects.
        sha256: Checksum of the file as it is stored; empty if there was no file.
    """

    rows: list[dict[str, Any]]
    line_numbers: list[int]
    violations: list[Violation]
    sha256: str = ""


def read_submission(source: str | Path | BinaryIO) -> ParsedSubmission:
    r"""Read a submission file; a line that is wrong becomes a violation, and reading goes on.

    Args:
        source: Path, or a binary stream such as `sys.stdin.buffer`. One JSON object per line, or objects over several
            lines, or one list of them; plain or gzip (told by content, not by name).

    Returns:
        Rows, the line each starts in, violations, and the checksum of the file as it is stored.

    Raises:
        OSError: The file is not there or cannot be read.
        ValueError: It is empty, damaged, or no JSON at all; the message names the file and the repair.

    Example:
        >>> import io
        >>> read_submission(io.BytesIO(b'[\n{"qid": 1},\n{"qid": 2}\n]')).line_numbers
        [2, 3]
    """
    file = read_text_file(source)
    records = read_records(file)
    violations = [_violation(fault) for fault in records.faults]
    return ParsedSubmission(records.rows, records.line_numbers, violations, file.sha256)


def read_ground_truth(path: str | Path) -> ParsedSubmission:
    """Read an annotation file for scoring; its labels are checked when they are scored.

    Args:
        path: As `source` of `read_submission`.

    Returns:
        Rows, each with a qid, and what else `read_submission` gives; no violations.

    Raises:
        OSError: The file is not there or cannot be read.
        ValueError: It is no annotation file; the message names file, line and repair.
    """
    parsed = read_submission(path)
    name = printable(Path(path).name)
    for violation in parsed.violations:
        raise ValueError(f"{name}, line {violation.line}: {violation.message}; {violation.fix}")
    for line, row in zip(parsed.line_numbers, parsed.rows, strict=True):
        if not isinstance(row.get("qid"), Hashable) or row.get("qid") is None:
            raise ValueError(f"{name}, line {line}: expected an annotation with a qid, got none; add its qid")
        if "pred_relevant_windows" in row and "relevant_windows" not in row:
            raise ValueError(
                f"{name}, line {line}: expected annotations, got predictions (pred_relevant_windows); swap submission "
                "and ground truth"
            )
    if not parsed.rows:
        raise ValueError(f"{name} holds no annotation; {EXPECTED}; download it again")
    return parsed


def _violation(fault: Fault) -> Violation:
    """Describe what is no row."""
    if fault.is_json:
        message = f"expected a JSON object, got {short(fault.value)}"
        return Violation("not-an-object", message, "write one object per query", line=fault.line)
    fix = "write one JSON object per query (json.dumps)"
    return Violation("not-json", f"expected JSON, got {fault.reason}", fix, line=fault.line)
