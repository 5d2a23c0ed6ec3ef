"""What each decoder and saliency rule is worth against the paper's, on SIMULATED probability curves.

    python benchmarks/decoders.py                                                  # synthetic annotations
    python benchmarks/decoders.py --annotations QVH/highlight_val_release.jsonl   # real ones, as in docs/decoders.md

No model takes part: the curves are drawn around the annotations, so the table shows directions and not forecasts. Every
decoder sees the same curves in the same run. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_frameseg.annotations.qvhighlights import read_annotations
from hf_frameseg.datasets.synthetic import annotate, make_video
from hf_frameseg.metrics import evaluate_submission, headline
from hf_frameseg.moments import FrameGrid
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.prediction import probs_of, redecode
from hf_frameseg.proposals.settings import PAPER_PROPOSALS, ProposalSettings

STEP_SECONDS = 0.5  # of the time axis on which relevance is blurred

SETTINGS: dict[str, ProposalSettings] = {
    "runs": PAPER_PROPOSALS,
    "runs, by time": ProposalSettings("runs", ranking="time"),
    "runs, by log-odds": ProposalSettings("runs", ranking="log-odds"),
    "runs, snapped": ProposalSettings("runs", snap_seconds=2.0),
    "threshold-ladder": ProposalSettings("threshold-ladder"),
    "runs+fill": ProposalSettings("runs+fill"),
    "runs+fill, NMS .6": ProposalSettings("runs+fill", fill_nms_iou=0.6),
    "runs+fill, NMS .7": ProposalSettings("runs+fill", fill_nms_iou=0.7),
    "runs+fill, NMS .9": ProposalSettings("runs+fill", fill_nms_iou=0.9),
    "runs+fill, snapped": ProposalSettings("runs+fill", snap_seconds=2.0),
    "soft-iou": ProposalSettings("soft-iou"),
    "soft-iou, snapped": ProposalSettings("soft-iou", snap_seconds=2.0),
    "runs, saliency nearest": ProposalSettings("runs", saliency="nearest"),
    "runs, saliency box": ProposalSettings("runs", saliency="box"),
    "runs, saliency of logits": ProposalSettings("runs", saliency_values="logits"),
}
FIXED = "runs, then 9 fixed windows"
FIXED_WINDOWS = (
    (0, 1),
    (0, 1 / 2),
    (1 / 2, 1),
    (1 / 4, 3 / 4),
    (0, 1 / 3),
    (1 / 3, 2 / 3),
    (2 / 3, 1),
    (0, 1 / 4),
    (3 / 4, 1),
)
"""Shares of the video. The same for every video, so what they gain is the metric's tolerance of further windows."""


# 1. Curves ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curves:
    """How wrong a simulated model is.

    Set by hand so that `runs` at 25 frames on QVHighlights val scores near what the paper reports on test (R1@0.5 60.8,
    R1@0.7 37.4, mAP 35.3, HL-mAP 34.5, HIT@1 56.7).
    """

    gain: float = 3.0  # log-odds of a frame that is clearly relevant, or clearly not
    noise: float = 1.5  # standard deviation of the noise on the log-odds
    correlation: float = 0.7  # of the noise of neighbouring frames
    bias: float = 1.0  # standard deviation of what is added to all frames of a query
    edge_seconds: float = 3.0  # standard deviation of the error of each end of a window
    missed: float = 0.17  # share of windows that are not seen
    invented: float = 0.35  # share of queries with a window of 4 to 30 s that is not there
    blur_seconds: float = 4.0  # standard deviation of the blur


def simulate(rows: Sequence[dict], num_frames: int, kind: str, seed: int, curves: Curves) -> list[FramePrediction]:
    """Draw the curve of every query.

    Kind S blurs relevance in time, so that the curve knows where inside a frame's window a moment ends; kind H blurs
    the mask of the frames, so that it does not.
    """
    rng = np.random.default_rng(seed)
    found = []
    for row in rows:
        grid = FrameGrid.middle(row["duration"], num_frames)
        times, relevant = believed_relevance(row, rng, curves)
        centers = grid.times
        if kind == "H":
            times, relevant = centers, relevant[np.minimum((centers / STEP_SECONDS).astype(int), len(relevant) - 1)]
        weights = np.exp(-0.5 * ((centers[:, None] - times) / curves.blur_seconds) ** 2)
        blurred = weights @ relevant / weights.sum(axis=1)
        log_odds = curves.gain * (2 * blurred - 1) + curves.noise * correlated(rng, num_frames, curves.correlation)
        log_odds += curves.bias * rng.standard_normal()
        found.append(
            FramePrediction(
                grid,
                log_odds >= 0,
                probs_of(log_odds),
                (),
                np.zeros(0),
                qid=row["qid"],
                vid=row["vid"],
                log_odds=log_odds,
            )
        )
    return found


def believed_relevance(row: dict, rng: np.random.Generator, curves: Curves) -> tuple[np.ndarray, np.ndarray]:
    """Return instants of a video, and whether the simulated model takes each for relevant."""
    duration = float(row["duration"])
    times = (np.arange(round(duration / STEP_SECONDS)) + 0.5) * STEP_SECONDS
    relevant = np.zeros(len(times), dtype=bool)
    for start, end in row["relevant_windows"]:
        seen = rng.random() >= curves.missed
        start, end = np.array([start, end]) + curves.edge_seconds * rng.standard_normal(2)
        relevant |= seen & (start <= times) & (times < end)
    if rng.random() < curves.invented:
        length = rng.uniform(4, min(30, duration))
        start = rng.uniform(0, duration - length)
        relevant |= (start <= times) & (times < start + length)
    return times, relevant.astype(float)


def correlated(rng: np.random.Generator, count: int, correlation: float) -> np.ndarray:
    """Draw noise of variance 1 whose neighbours are correlated."""
    noise = rng.standard_normal(count)
    for index in range(1, count):
        noise[index] = correlation * noise[index - 1] + np.sqrt(1 - correlation**2) * noise[index]
    return noise


def synthetic_annotations(num_videos: int = 200) -> list[dict]:
    """Return annotations of the package's synthetic videos, which need not be drawn for that."""
    rng = np.random.default_rng(0)
    rows: list[dict] = []
    for number in range(num_videos):
        video = make_video(f"synthetic{number}", rng)
        rows += [annotate(video, *shown, qid=10 * number + place, rng=rng) for place, shown in enumerate(video.objects)]
    return rows


# 2. One run -----------------------------------------------------------------------------------------------------------


def score_all(rows: Sequence[dict], predictions: Sequence[FramePrediction]) -> dict[str, dict[str, float]]:
    """Return the headline numbers and the decoding time of every setting on the same curves."""
    ways: dict[str, Callable[[], list[dict]]] = {
        name: lambda settings=settings: [redecode(one, settings).to_submission() for one in predictions]
        for name, settings in SETTINGS.items()
    }
    ways[FIXED] = lambda: [with_fixed_windows(redecode(one, PAPER_PROPOSALS)) for one in predictions]
    found = {}
    for name, way in ways.items():
        started = time.process_time()  # not the clock on the wall: other processes may share the machine
        submission = way()
        seconds = time.process_time() - started
        found[name] = {**headline(evaluate_submission(submission, rows)), "ms_per_query": 1000 * seconds / len(rows)}
    return found


def with_fixed_windows(prediction: FramePrediction) -> dict[str, Any]:
    """Return the submission row of a prediction with windows below its own that do not depend on the video."""
    row, end = prediction.to_submission(), prediction.grid.duration_seconds
    lowest = min(window[2] for window in row["pred_relevant_windows"])
    row["pred_relevant_windows"] += [[a * end, b * end, lowest - 1 - n] for n, (a, b) in enumerate(FIXED_WINDOWS)]
    return row


# 3. All runs, and the table -------------------------------------------------------------------------------------------


def summarise(runs: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Return mean and standard deviation over the seeds: of the numbers of `runs`, and of the others' differences."""
    result = {}
    for name in runs[0]:
        deltas = {
            column: [run[name][column] - (0 if name == "runs" else run["runs"][column]) for run in runs]
            for column in runs[0][name]
            if column != "ms_per_query"
        }
        result[name] = {
            column: [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0]
            for column, values in deltas.items()
        }
        fastest = min(run[name]["ms_per_query"] for run in runs)
        result[name]["time_ratio"] = [fastest / min(run["runs"]["ms_per_query"] for run in runs), 0.0]
    return result


def table(summary: dict[str, dict[str, list[float]]]) -> str:
    """Return a Markdown table of the deltas."""
    columns = list(summary["runs"])
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in summary.items():
        cells = []
        for column, (mean, deviation) in row.items():
            if column == "time_ratio":
                cells.append(f"{mean:.1f}x")
            elif name == "runs":
                cells.append(f"{mean:.1f} ± {deviation:.1f}")
            else:
                cells.append(f"{mean:+.1f} ± {deviation:.1f}" if abs(mean) + deviation >= 0.05 else "0")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Simulate, score, print; return what the last line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", metavar="FILE", type=Path, help="annotation file (default: synthetic ones)")
    parser.add_argument("--num-frames", type=int, default=25)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=("S", "H"), default=["S", "H"])
    parser.add_argument("--num-queries", metavar="N", type=int, help="only the first N")
    options = parser.parse_args(argv)
    try:
        rows = synthetic_annotations() if options.annotations is None else read_annotations(options.annotations)
    except (OSError, ValueError) as error:
        raise SystemExit(f"decoders.py: error: {error}") from None
    rows = rows[: options.num_queries]
    source = "synthetic annotations" if options.annotations is None else options.annotations.name
    result: dict[str, Any] = {
        "simulated": True,
        "annotations": source,
        "num_queries": len(rows),
        "num_frames": options.num_frames,
        "seeds": options.seeds,
        "curves": asdict(Curves()),
        "settings": {name: settings.to_dict() for name, settings in SETTINGS.items()},
        "kinds": {},
    }
    for kind in options.kinds:
        runs = []
        for seed in options.seeds:
            print(f"[decoders] kind {kind}, seed {seed}", file=sys.stderr, flush=True)
            runs.append(score_all(rows, simulate(rows, options.num_frames, kind, seed, Curves())))
        result["kinds"][kind] = summarise(runs)
        seeds = ", ".join(map(str, options.seeds))
        print(f"SIMULATED curves of kind {kind} on {source}: {len(rows)} queries, ", end="")
        print(f"{options.num_frames} frames, seeds {seeds}")
        print("first row absolute, the others as differences to it; time of decoding, saliency included\n")
        print(table(result["kinds"][kind]) + "\n")
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
