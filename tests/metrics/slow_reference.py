"""The official evaluator once more, as plain loops over plain numbers: slow, and independent of the package.

Only the order of equal overlaps, which the official code leaves to numpy, is numpy's.

Written from a description of what the official code does. It scores rows that the official code accepts, plus
queries without predicted windows (a miss).
"""

from __future__ import annotations

from typing import Any

import numpy as np

THRESHOLDS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
RANGES = {"short": (0, 10), "middle": (10, 30), "long": (30, 150)}
RATINGS = {"Fair": 2, "Good": 3, "VeryGood": 4}
NAN = float("nan")


def iou(a: list[float], b: list[float]) -> float:
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - overlap
    if union == 0:
        return NAN
    return overlap / union


def window_ap(windows: list[list[float]], truths: list[list[float]], threshold: float) -> float:
    taken: set[int] = set()
    correct = []
    for window in sorted(windows, key=lambda w: -w[2]):
        overlaps = [iou(window, truth) for truth in truths]
        # NaN before everything, then the largest overlap.
        order = sorted(range(len(truths)), key=lambda j: (overlaps[j] != overlaps[j], overlaps[j], j), reverse=True)
        near = [value for value in overlaps if not value < threshold]
        if len(near) > 1 and len(set(map(repr, near))) < len(near):
            order = np.argsort(overlaps)[::-1].tolist()  # ties are as numpy leaves them on this processor
        found = False
        for j in order:
            if overlaps[j] < threshold:
                break
            if j not in taken:
                taken.add(j)
                found = True
                break
        correct.append(found)
    precisions, recalls = [], []
    for rank in range(1, len(correct) + 1):
        precisions.append(sum(correct[:rank]) / rank)
        recalls.append(sum(correct[:rank]) / len(truths))
    area, reached = 0.0, 0.0
    for rank, recall in enumerate(recalls):
        if recall > reached:
            area += (recall - reached) * max(precisions[rank:])
            reached = recall
    return area


def first_window(windows: list[list[float]], truths: list[list[float]]) -> tuple[float, int]:
    if not windows:
        return 0.0, -1
    overlaps = [iou(windows[0], truth) for truth in truths]
    best = 0
    for j, value in enumerate(overlaps):
        if value != value:
            return 0.0, j
        if value > overlaps[best]:
            best = j
    return overlaps[best], best


def clip_ap(labels: list[bool], scores: list[float]) -> float:
    if not any(labels):
        return 0.0
    if all(labels):
        return 1.0
    best_precision: dict[float, float] = {}
    highest = 0.0
    for limit in sorted(set(scores)):  # rising limit: recall falls, the best precision so far is the interpolated one
        chosen = [label for label, score in zip(labels, scores, strict=True) if score >= limit]
        highest = max(highest, sum(chosen) / len(chosen))
        recall = sum(chosen) / sum(labels)
        if recall > 0:
            best_precision[recall] = highest
    return sum(best_precision.values()) / len(best_precision)


def percent(values: list[float]) -> float | None:
    return float(f"{100 * sum(values) / len(values):.2f}") if values else None


def score_range(queries: list[tuple[list[list[float]], list[list[float]]]]) -> dict[str, Any]:
    mean_ap = {str(t): [window_ap(windows[:10], truths, t) for windows, truths in queries] for t in THRESHOLDS}
    flat = [value for values in mean_ap.values() for value in values]
    overlaps = [first_window(windows, truths)[0] for windows, truths in queries]
    return {
        "MR-mAP": {**{t: percent(values) for t, values in mean_ap.items()}, "average": percent(flat)},
        "MR-R1": {str(t): percent([float(value >= t) for value in overlaps]) for t in THRESHOLDS},
    }


def per_annotator_labels(truth: dict[str, Any], minimum: int) -> list[list[bool]]:
    num_clips = int(truth["duration"] / 2)
    labels = [[False] * num_clips for _ in range(3)]
    for clip, ratings in zip(truth["relevant_clip_ids"], truth["saliency_scores"], strict=True):
        for annotator in range(3):
            labels[annotator][clip] = ratings[annotator] >= minimum
    return labels


def score_highlights(pairs: list[tuple[list[float], dict[str, Any]]], minimum: int) -> dict[str, float | None]:
    precisions, hits = [], []
    for scores, truth in pairs:
        labels = per_annotator_labels(truth, minimum)
        num_clips = len(labels[0])
        fitted = (scores + [0.0] * num_clips)[:num_clips]
        precisions += [clip_ap(one, fitted) for one in labels]
        best = scores.index(max(scores))
        hits.append(float(best < num_clips and any(one[best] for one in labels)))
    return {"HL-mAP": percent(precisions), "HL-Hit1": percent(hits)}


def evaluate(submission: list[dict[str, Any]], ground_truth: list[dict[str, Any]]) -> dict[str, Any]:
    """Score unique, matching qids; returns the official dictionary without `brief`."""
    truth_by_qid = {truth["qid"]: truth for truth in ground_truth}
    queries = [(row["pred_relevant_windows"], truth_by_qid[row["qid"]]["relevant_windows"]) for row in submission]
    result: dict[str, Any] = {"full": score_range(queries)}
    for name, (low, high) in RANGES.items():
        kept = [(windows, [t for t in truths if low < t[1] - t[0] <= high]) for windows, truths in queries]
        result[name] = score_range([(windows, truths) for windows, truths in kept if truths])
    pairs = [(row["pred_saliency_scores"], truth_by_qid[row["qid"]]) for row in submission]
    for name, minimum in RATINGS.items():
        result[f"HL-min-{name}"] = score_highlights(pairs, minimum)
    return result
