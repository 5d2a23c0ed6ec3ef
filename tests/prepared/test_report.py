"""What a preparation finds out about videos becomes lines of a report and counts of queries."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from hf_frameseg.prepared.report import Failure, Findings, read_failures, warn_of_failures, write_failures

A, B, C = ("a", 10.0), ("b", 10.0), ("c", 10.0)
QUERIES = {"train": Counter({A: 3, B: 1, C: 1}), "val": Counter({B: 2})}


def test_failed_videos_come_first_and_damaged_ones_say_that_they_were_kept() -> None:
    found = Findings(failures={B: Failure("unreadable", (("pyav", "no"),))}, damaged={A: 0.125})
    attempts = [{"reader": "pyav", "error": "no"}]
    lost = {"vid": "b", "file": "b.mp4", "error": "unreadable", "attempts": attempts}
    kept = {"file": "a.mp4", "error": "12.5% of the chosen pictures are damaged; they were kept", "attempts": []}
    assert found.lines(QUERIES, {A: "a.mp4", B: "b.mp4"}) == [
        {"split": "train", **lost, "queries": 1},
        {"split": "train", "vid": "a", **kept, "queries": 3, "damaged_share": 0.125},
        {"split": "val", **lost, "queries": 2},
    ]
    assert Findings(failures={C: Failure("gone")}).lines(QUERIES, {})[0]["file"] is None


def test_notes_are_taken_and_leave_the_columns() -> None:
    found = Findings()
    columns = {"frames": b"1", "file_seconds": 13.0, "damaged_share": 0.0}
    for video, tolerance in ((A, 3.0), (B, 2.9)):
        assert found.without_notes(video, columns, tolerance) == {"frames": b"1"}
    assert found.without_notes(C, {**columns, "file_seconds": 11.0, "damaged_share": 0.5}, 0.0) == {"frames": b"1"}
    assert found.without_notes(C, {"frames": b"1"}, 0.0) == {"frames": b"1"}  # of an earlier version
    assert columns.keys() == {"frames", "file_seconds", "damaged_share"}
    assert (found.longer, found.damaged) == ({B: 13.0}, {C: 0.5})


def test_queries_of_longer_files_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    Findings().warn_of_longer_files(QUERIES["train"])
    assert caplog.messages == []
    Findings(longer={A: 300.0, C: 20.0}).warn_of_longer_files(QUERIES["train"])
    (message,) = caplog.messages
    assert message.startswith("2 of 3 videos (4 queries) last much longer than annotated, for example a: 300.0 s, ")


@pytest.mark.parametrize(("on_error", "what"), [("blank", "have black frames"), ("skip", "were left out")])
def test_opening_counts_what_the_report_lists(
    on_error: str, what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "failures.jsonl"
    warn_of_failures(path, on_error)
    assert caplog.messages == []
    lines = Findings({B: Failure("unreadable")}, {A: 0.5}).lines(QUERIES, {A: "a.mp4"})
    write_failures(path, lines)
    assert read_failures(path) == lines
    with caplog.at_level(logging.WARNING):
        warn_of_failures(path, on_error)
    assert caplog.messages == [
        f"videos with damaged pictures, which were kept: 1; see {path}",
        f"missing or unreadable videos: 2 (3 queries), which {what}; see {path}",
    ]
