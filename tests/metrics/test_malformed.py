"""Thousands of damaged submissions: each ends in a listed violation or a result, never in a traceback."""

from __future__ import annotations

import copy
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from hf_frameseg.metrics import evaluate_submission, read_submission, validate_submission
from hf_frameseg.metrics.files import ParsedSubmission

Rng = np.random.Generator

TRUTH = [
    {
        "qid": qid,
        "duration": duration,
        "relevant_windows": windows,
        "relevant_clip_ids": clips,
        "saliency_scores": [[4, 2, 0], [3, 3, 4], [2, 4, 4]][: len(clips)],
    }
    for qid, duration, windows, clips in (
        (1, 12, [[2, 6]], [1, 2]),
        (2, 7.5, [[0, 2], [4, 6]], [0, 2]),
        (3, 150, [[0, 150]], [0, 37, 74]),
        (40, 60, [[10, 50], [52, 58]], [5, 28]),
    )
]
VALID = [
    {
        "qid": truth["qid"],
        "query": "a red circle",
        "vid": f"vid_{truth['qid']}",
        "pred_relevant_windows": [[0.0, 5.0, 0.9], [1.5, 7.0, 0.4], [2.0, 6.0, 0.1]],
        "pred_saliency_scores": np.linspace(-1, 1, int(truth["duration"] / 2)).tolist(),
    }
    for truth in TRUTH
]

# fmt: off
JUNK = [
    None, True, False, "x", "0.5", "", "\n", -1, 0, 7, 1.5, -0.0, float("nan"), float("inf"), float("-inf"),
    1e308, -1e308, 5e-324, 2**63, 2**70, -(2**64), 10**400, int("9" * 4000), "\ud800", "é", "\u202e", "1", "1.0",
    [], {}, [[]], [{}], [1], [None], [1, 2], [1, 2, 3, 4], [[1.0, 2.0, 0.5]], {"qid": 1}, [float("nan")], ["a"],
    [[0.0, 5.0, 0.5, 1.0]] * 12, [[0, 1, 1]] * 400, {"0": [0.0, 1.0, 1.0]}, [[[0.0]], [[1.0]]], [0.5] * 500, [True] * 6,
]
# What fits no key of a row, and looks like one.
KEYS = [
    "qid ", "QID", "pred_relevant_windows\u200b", "pred_saliency", "", "q\x00id", "pred_relevant_windows", "qid",
]
TEXT_JUNK = [
    "", '"', ",", "[", "]", "{", "}", "9", "-", "\n", "\r", "\t", "\\", "\x00", "\x1f", "\ufeff", "\u2028", "１", "NaN",
    "e9999",
]
BYTE_JUNK = [
    b"\xff", b"\xfe\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\xef\xbb\xbf", b"\x1f\x8b", b"[" * 2000, b"9" * 5000,
]
# fmt: on


def pick(rng: Rng, choices: Any) -> Any:
    return choices[rng.integers(len(choices))]


def random_place(rows: list[Any], rng: Rng) -> tuple[Any, Any]:
    """Return a container at a random depth, and an index or key in it."""
    node: Any = rows
    parent, key = None, None
    while isinstance(node, (list, dict)) and len(node) and (parent is None or rng.random() < 0.7):
        parent, key = node, pick(rng, list(node) if isinstance(node, dict) else range(len(node)))
        node = node[key]
    return parent, key


def replace(parent: Any, key: Any, rng: Rng) -> None:
    parent[key] = copy.deepcopy(pick(rng, JUNK))


def delete(parent: Any, key: Any, rng: Rng) -> None:
    del parent[key]


def wrap(parent: Any, key: Any, rng: Rng) -> None:
    parent[key] = pick(rng, [[parent[key]], {"value": parent[key]}, [parent[key]] * 2])


def unwrap(parent: Any, key: Any, rng: Rng) -> None:
    if isinstance(parent[key], (list, dict)) and parent[key]:
        parent[key] = pick(rng, list(parent[key].values()) if isinstance(parent[key], dict) else parent[key])


def as_text(parent: Any, key: Any, rng: Rng) -> None:
    parent[key] = pick(rng, [str, repr, json.dumps])(parent[key])


def double(parent: Any, key: Any, rng: Rng) -> None:
    if isinstance(parent, list):
        parent.insert(int(rng.integers(len(parent) + 1)), copy.deepcopy(parent[key]))


def reverse(parent: Any, key: Any, rng: Rng) -> None:
    if isinstance(parent, list):
        parent.reverse()


def exchange(parent: Any, key: Any, rng: Rng) -> None:
    other = pick(rng, list(parent) if isinstance(parent, dict) else range(len(parent)))
    parent[key], parent[other] = parent[other], parent[key]


def rename(parent: Any, key: Any, rng: Rng) -> None:
    if isinstance(parent, dict):
        parent[pick(rng, KEYS)] = parent.pop(key)


def stretch(parent: Any, key: Any, rng: Rng) -> None:
    if isinstance(parent[key], float):
        parent[key] *= pick(rng, [-1, 0, 2, 0.5, 1e6, 1e300])
    elif isinstance(parent[key], int):
        parent[key] = int(parent[key]) * pick(rng, [-1, 0, 2, 10**6, 10**300])
    elif isinstance(parent[key], (list, str)):
        parent[key] = parent[key] * pick(rng, [0, 2, 40])


STRUCTURAL: list[Callable[[Any, Any, Rng], None]] = [
    replace, replace, delete, wrap, unwrap, as_text, double, reverse, exchange, rename, stretch,
]  # fmt: skip


def to_integers(row: dict[str, Any], rng: Rng) -> None:
    row["pred_relevant_windows"] = [[int(start), int(end) + 1, 1] for start, end, _ in row["pred_relevant_windows"]]


def past_the_end(row: dict[str, Any], rng: Rng) -> None:
    row["pred_relevant_windows"][0][1] = 1000.0 * rng.random() + 5


def invert(row: dict[str, Any], rng: Rng) -> None:
    window = pick(rng, row["pred_relevant_windows"])
    window[0], window[1] = window[1], window[0]


def invert_a_truth(row: dict[str, Any], rng: Rng) -> None:
    start, end = pick(rng, next(truth for truth in TRUTH if truth["qid"] == row["qid"])["relevant_windows"])
    row["pred_relevant_windows"].insert(0, [float(end), float(start), 2.0])  # its official IoU is 0 / 0


def many_windows(row: dict[str, Any], rng: Rng) -> None:
    row["pred_relevant_windows"] *= 30


def other_length(row: dict[str, Any], rng: Rng) -> None:
    row["pred_saliency_scores"] = rng.normal(size=rng.integers(1, 200)).tolist()


def nest_saliency(row: dict[str, Any], rng: Rng) -> None:
    row["pred_saliency_scores"] = [[score] for score in row["pred_saliency_scores"]]


SEMANTIC: list[Callable[[dict[str, Any], Rng], None]] = [
    to_integers, past_the_end, invert, invert_a_truth, many_windows, other_length, nest_saliency,
]  # fmt: skip


def damage_rows(rows: list[Any], rng: Rng) -> list[Any]:
    """Change a copy of the rows: what they mean, or what stands at one to three places, or both."""
    rows = copy.deepcopy(rows)
    kind = rng.integers(4)
    if kind < 2:
        pick(rng, SEMANTIC)(pick(rng, rows), rng)
    for _ in range(rng.integers(1, 4) if kind else 0):
        parent, key = random_place(rows, rng)
        if parent is not None:
            pick(rng, STRUCTURAL)(parent, key, rng)
    return rows


def write(rows: list[Any], rng: Rng) -> str:
    """Write rows in one of the forms that people produce, valid JSON lines more often than not."""
    form = rng.integers(25)
    if form == 0:
        return json.dumps(rows)
    if form == 1:
        return json.dumps(rows, indent=1)
    if form == 2:
        return "\n".join(map(repr, rows))
    newline = "\r\n" if form == 3 else "\n\n" if form == 4 else "\n"
    return newline.join(json.dumps(row, ensure_ascii=bool(form % 2)) for row in rows)


def damage_text(text: str, rng: Rng) -> bytes:
    """Cut, overwrite or repeat parts of a text, then perhaps of its bytes."""
    lines = text.split("\n")
    action = rng.integers(6)
    at = int(rng.integers(len(text) + 1))
    if action == 0:
        text = text[:at] + pick(rng, TEXT_JUNK) + text[at + 1 :]
    elif action == 1:
        text = text[:at]  # a write that broke off
    elif action == 2:
        lines.insert(int(rng.integers(len(lines) + 1)), pick(rng, lines))
        text = "\n".join(lines)
    elif action == 3:
        text = text.replace("\n", "", 1)
    elif action == 4:
        text = pick(rng, TEXT_JUNK) + text
    elif rng.random() < 0.3:
        return text.encode("utf-16", "surrogatepass")
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        at = int(rng.integers(len(data) + 1))
        data = data[:at] + pick(rng, BYTE_JUNK) + data[at + 1 :]
    return data


def malformed(rng: Rng) -> bytes:
    """Damage a valid submission."""
    rows = damage_rows(VALID, rng) if rng.random() < 0.85 else VALID
    text = write(rows, rng)
    return damage_text(text, rng) if rng.random() < 0.35 else text.encode("utf-8", "surrogatepass")


def outcome(data: bytes, match_number: bool) -> str:
    """Read, check and score; returns how it ended, or fails the test."""
    try:
        parsed = read_submission(io.BytesIO(data))
    except ValueError as error:
        assert_is_a_line(str(error))
        return "refused as a file"
    return end_of(parsed, match_number)


def end_of(parsed: ParsedSubmission, match_number: bool) -> str:
    """Check and score rows; returns how it ended, or fails the test."""
    found = parsed.violations + validate_submission(
        parsed.rows, TRUTH, line_numbers=parsed.line_numbers, match_number=match_number
    )
    for violation in found:
        assert_is_a_line(str(violation))
        assert violation.code
        assert violation.fix
    has_error = any(violation.is_error for violation in found)
    try:
        result = evaluate_submission(parsed.rows, TRUTH, match_number=match_number)
    except ValueError as error:
        refusal = str(error)
    else:
        assert_is_a_result(result)
        return "violation, official score" if has_error else "warning, score" if found else "score"
    assert has_error, f"no violation was listed, but scoring says: {refusal}"
    assert re.fullmatch(r"(qid |submission ).*; .*", refusal, re.DOTALL), refusal
    return "violation, no score"


def assert_is_a_line(text: str) -> None:
    """What is printed is one line that a terminal can encode, and no page."""
    text.encode("utf-8")
    assert "\n" not in text
    assert len(text) < 1000


def assert_is_a_result(result: dict[str, Any]) -> None:
    """Every number is a percentage or missing; none is NaN."""
    text = json.dumps(result, allow_nan=False)

    def check(node: Any) -> None:
        if isinstance(node, dict):
            for value in node.values():
                check(value)
        else:
            assert node is None or 0 <= node <= 100

    check(json.loads(text))


def run(number: int, seed: int) -> Counter[str]:
    """Try that many submissions; a failure names its number and shows its bytes."""
    rng, outcomes = np.random.default_rng(seed), Counter()
    for index in range(number):
        data, match_number = malformed(rng), bool(rng.integers(2))
        try:
            outcomes[outcome(data, match_number)] += 1
        except Exception as error:
            error.add_note(f"submission {index} of seed {seed}, {match_number=}: {data[:2000]!r}")
            raise
    return outcomes


OUTCOMES = {"refused as a file", "violation, no score", "violation, official score", "warning, score", "score"}


def test_the_valid_submission_is_valid() -> None:
    text = "\n".join(map(json.dumps, VALID)).encode()
    assert outcome(text, match_number=True) == "score"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("number", "seed"), [(1000, 0), pytest.param(10_000, 1, marks=pytest.mark.slow, id="10000-1")])
def test_malformed_submissions_end_in_a_violation_or_a_result(number: int, seed: int) -> None:
    outcomes = run(number, seed)
    assert outcomes.keys() == OUTCOMES
    assert min(outcomes.values()) > number / 100, outcomes  # each way out is taken often enough to be tested


class TwoLines:
    """Shows itself on two lines."""

    def __repr__(self) -> str:
        return "two\nlines"


# What no JSON file holds, but rows that Python made may.
# fmt: off
OBJECTS = [
    b"ab", bytearray(b"x"), {1, 2}, Decimal("1.5"), Decimal("nan"), Fraction(1, 3), 1j, range(3), (), (1.0, 2.0, 0.5),
    np.array(5.0), np.array([]), np.array([1.0, 2.0, 3.0]), np.array([[0.0, 2.0, 0.5]], dtype=np.float32),
    np.array([None, 1]), np.array(["a"]), np.array([True] * 6), np.ones((2, 2, 2)), np.zeros((0, 3)), TwoLines(), float,
    np.float16("inf"), np.float64("nan"), np.int64(3), np.bool_(True), np.str_("1"), np.datetime64("2020-01-01"),
]
# fmt: on


@pytest.mark.filterwarnings("error")
def test_rows_of_any_objects_end_in_a_violation_or_a_result() -> None:
    rng, outcomes = np.random.default_rng(0), Counter()
    for _ in range(600):
        rows = copy.deepcopy(VALID)
        parent, key = random_place(rows, rng)
        parent[key] = pick(rng, OBJECTS)
        parsed = ParsedSubmission(rows, [*range(1, len(rows) + 1)], [])
        outcomes[end_of(parsed, match_number=bool(rng.integers(2)))] += 1
    assert outcomes.keys() == OUTCOMES - {"refused as a file"}
