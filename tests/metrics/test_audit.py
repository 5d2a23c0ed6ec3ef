"""Ceilings of a perfect model: small ones by hand, the recorded ones on the real annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg.metrics.audit import audit_annotations

WINDOW_COLUMNS = ("R1@0.5", "R1@0.7", "mAP", "mAP@0.5", "mAP@0.75")


def row(qid: int, windows: list[list[int]], duration: float = 12, ratings: tuple[int, ...] = (4, 4, 2)) -> dict:
    clips = [clip for start, end in windows for clip in range(start // 2, end // 2)]
    return {
        "qid": qid,
        "duration": duration,
        "relevant_windows": windows,
        "relevant_clip_ids": clips,
        "saliency_scores": [list(ratings) for _ in clips],
    }


def test_one_frame_per_clip_loses_nothing() -> None:
    audit = audit_annotations([row(1, [[2, 6]]), row(2, [[0, 2], [8, 12]])], num_frames=6)
    assert audit["windows"]["by_time"] == dict.fromkeys(WINDOW_COLUMNS, 100.0)
    assert audit["windows_without_frame"] == 0


def test_balance_is_counted_on_frames() -> None:
    audit = audit_annotations([row(1, [[2, 6]]), row(2, [[0, 12]]), row(3, [[0, 2], [10, 12]])], num_frames=6)
    assert audit["foreground"] == pytest.approx((2 + 6 + 2) / 18)
    assert audit["pos_weight"] == pytest.approx(8 / 10)
    assert audit["all_one_masks"] == pytest.approx(1 / 3)
    assert audit["multi_window_queries"] == pytest.approx(1 / 3)
    assert audit["all_zero_masks"] == 0


def test_a_window_between_two_frame_centres_is_lost() -> None:
    audit = audit_annotations([row(1, [[4, 6]]), row(2, [[0, 4]])], num_frames=2)  # centres at 3 s and 9 s
    assert audit["windows_without_frame"] == 0.5
    assert audit["all_zero_masks"] == 0.5
    assert audit["windows"]["by_time"]["R1@0.5"] == 50  # the whole first half stands for 0-4 s: IoU 2/3


def test_without_foreground_there_is_no_weight() -> None:
    audit = audit_annotations([row(1, [[4, 6]])], num_frames=2)
    assert audit["pos_weight"] is None
    assert audit["windows"]["by_time"]["mAP"] == 0


def test_the_label_rule_decides_the_mask() -> None:
    half_hearted = row(1, [[2, 6]], ratings=(2, 2, 1))
    assert audit_annotations([half_hearted], 6, "window")["foreground"] == pytest.approx(1 / 3)
    assert audit_annotations([half_hearted], 6, "saliency>0.5")["foreground"] == 0
    with pytest.raises(ValueError, match="label rule"):
        audit_annotations([half_hearted], 6, "nonsense")


def test_runs_are_listed_by_the_rating_of_their_clips() -> None:
    annotation = row(1, [[0, 4], [10, 12]])
    annotation["saliency_scores"] = [[1, 1, 1], [1, 1, 1], [4, 4, 4]]
    # 4 s frames: runs 0-4 s (exact) and 8-12 s (IoU 1/2)
    audit = audit_annotations([annotation], num_frames=3)["windows"]
    assert audit["by_time"]["R1@0.7"] == 100
    assert audit["by_rating"]["R1@0.7"] == 0


def test_window_lengths_fall_into_closed_upper_bins() -> None:
    rows = [row(1, [[0, 2]], 400), row(2, [[0, 4]], 400), row(3, [[0, 150]], 400), row(4, [[0, 152]], 400)]
    histogram = audit_annotations(rows, num_frames=4)["window_lengths_seconds"]
    assert {name: count for name, count in histogram.items() if count} == {"0-2": 1, "2-6": 1, "100-150": 1, ">150": 1}


RECORDED: dict[int, dict[str, Any]] = {
    10: {"by_time": (85.2, 60.1, 48.4, 75.1, 48.6), "by_rating": (86.7, 61.5, 48.5, 75.3, 48.8)},
    25: {"by_time": (97.1, 87.5, 72.7, 89.1, 81.0), "by_rating": (98.5, 92.3, 73.4, 89.3, 81.9)},
    50: {"by_time": (99.3, 94.3, 86.3, 97.0, 89.8), "by_rating": (99.7, 98.8, 87.1, 97.0, 91.2)},
    75: {"by_time": (100.0, 100.0, 99.5, 99.7, 99.7), "by_rating": (100.0, 100.0, 99.5, 99.7, 99.7)},
}
RECORDED_HIGHLIGHTS = {  # mask linear, mask nearest, mean linear, mean nearest, votes linear
    10: ((37.9, 68.3), (26.6, 41.8), (44.2, 79.2), (30.5, 54.2), (44.8, 80.7)),
    25: ((37.8, 67.9), (30.9, 47.7), (51.4, 90.8), (41.9, 73.9), (53.4, 93.6)),
    50: ((38.6, 69.4), (33.5, 48.8), (57.8, 93.9), (50.8, 83.5), (60.5, 95.6)),
    75: ((37.7, 63.4), (37.7, 63.5), (60.8, 95.7), (60.8, 95.7), (64.0, 97.7)),
}


@pytest.fixture(scope="module")
def validation_split(shared_dir: Path) -> list[dict[str, Any]]:
    path = shared_dir / "qvhighlights" / "highlight_val_release.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("num_frames", RECORDED)
def test_recorded_ceilings_on_the_validation_split(validation_split: list[dict], num_frames: int) -> None:
    audit = audit_annotations(validation_split, num_frames)
    for listing, expected in RECORDED[num_frames].items():
        assert tuple(round(audit["windows"][listing][column], 1) for column in WINDOW_COLUMNS) == expected
    ways = [("mask", "linear"), ("mask", "nearest"), ("mean_rating", "linear"), ("mean_rating", "nearest")]
    for (curve, way), expected in zip([*ways, ("votes", "linear")], RECORDED_HIGHLIGHTS[num_frames], strict=True):
        found = audit["highlights"][curve][way]
        assert (round(found["HL-mAP"], 1), round(found["HIT@1"], 1)) == expected, (curve, way)


def test_recorded_balance_of_the_validation_split(validation_split: list[dict]) -> None:
    audit = audit_annotations(validation_split, num_frames=25)
    assert audit["pos_weight"] == pytest.approx(2.5593, abs=5e-5)
    assert audit["windows_without_frame"] == pytest.approx(0.118, abs=5e-4)
    assert round(audit["all_one_masks"] * audit["num_queries"]) == 59
    assert audit["all_zero_masks"] == 0
    public_rule = audit_annotations(validation_split, num_frames=25, label_rule="saliency>0.5")
    assert public_rule["windows"]["by_rating"]["mAP"] == pytest.approx(53.5, abs=0.1)
