"""The scorer against a reference that works query by query as the official evaluator does, in one run.

    python benchmarks/scorer.py                # about a minute on 2 cores
    python benchmarks/scorer.py --queries 50   # a second: shows that it runs, judges nothing

Both score the same seeded submission, shaped like the QVHighlights validation split, and have to agree on every number.
The reference is tests/metrics/slow_reference.py: plain loops over queries, thresholds and annotators. Memory is that of
a process of its own that reads, checks and scores the files, as `frameseg score` does. The ratio is one of CPU seconds,
which other work on the machine does not change. The last line is one JSON object. The exit code is 1 if a promise in it
is broken.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from hf_frameseg.records import write_json_lines

QUERIES = 1550  # of the validation split
PROMISES: dict[str, tuple[str, float]] = {
    "ratio": ("at least", 20.0),
    "seconds": ("below", 2.0),
    "peak_mb": ("below", 300.0),
    "import_seconds": ("below", 1.0),
    "largest_difference": ("at most", 0.011),  # one hundredth: the sums run in another order, so a half may round down
}
REFERENCE = Path(__file__).resolve().parents[1] / "tests" / "metrics" / "slow_reference.py"

# Shape of the validation split: windows per query, and lengths of which 40 % are up to 10 s and 22 % above 30 s.
WINDOW_COUNTS, WINDOW_SHARES = (1, 2, 3, 4, 5, 7, 12), (0.66, 0.18, 0.075, 0.03, 0.02, 0.025, 0.01)
SINGLE_WINDOW_CLIPS, LENGTH_SPREAD = 12, 1.0  # median of a query's only window; of its logarithm
FULL_VIDEO_SHARE = 0.97  # of the videos have 150 s

Rows = list[dict[str, Any]]


class Timing(NamedTuple):
    """How long some work took, and what it returned."""

    seconds: float
    cpu_seconds: float
    result: Any


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=QUERIES, help="How many; fewer than 1,550 judge nothing.")
    parser.add_argument("--rounds", type=int, default=5, help="Repetitions of both in turns; the middle one counts.")
    parser.add_argument("--seed", type=int, default=0, help="Of the submission.")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child is not None:
        print(json.dumps(score_files(options.child)))
        return 0
    result = measure(options.queries, options.rounds, options.seed)
    broken = [] if options.queries < QUERIES else [name for name in PROMISES if not is_kept(name, result[name])]
    print(table(result, judged=options.queries >= QUERIES))
    for name in broken:
        print(f"broken promise: {name} is {result[name]:.4g}, promised {' '.join(map(str, PROMISES[name]))}")
    print(json.dumps(result))
    return 1 if broken else 0


def measure(queries: int, rounds: int, seed: int) -> dict[str, Any]:
    """Time the import, the process that scores the files, our scorer and the reference."""
    import_seconds = min(import_time() for _ in range(rounds))
    submission, truth = make_case(queries, seed)
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (("submission", submission), ("truth", truth)):
            write_json_lines(Path(folder) / f"{name}.jsonl", rows)
        child_run = timed(lambda: run_child(Path(folder)))
        child = child_run.result

    from hf_frameseg.metrics import evaluate_submission

    reference = load_reference()
    pairs = [
        # In turns, and the mean of ten of ours, which are short: what else the machine does slows both down alike.
        (
            mean_of(10, lambda: evaluate_submission(submission, truth)),
            timed(lambda: reference.evaluate(submission, truth)),
        )
        for _ in range(rounds)
    ]
    ours, theirs = sorted(pairs, key=cpu_ratio)[rounds // 2]  # the middle round
    if child["scores"] != ours.result["brief"]:
        raise RuntimeError("the process that read the files got other scores")
    return {
        "ratio": cpu_ratio((ours, theirs)),
        "ratios": [cpu_ratio(pair) for pair in pairs],
        "seconds": ours.seconds,
        "cpu_seconds": ours.cpu_seconds,
        "reference_seconds": theirs.seconds,
        "reference_cpu_seconds": theirs.cpu_seconds,
        "process_seconds": child_run.seconds,
        "peak_mb": child["peak_mb"],
        "import_seconds": import_seconds,
        "largest_difference": largest_difference(ours.result, theirs.result),
        "queries": queries,
        "seed": seed,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpu_count": os.cpu_count(),
        "cpu": cpu_name(),
    }


def timed(work: Callable[[], Any]) -> Timing:
    """Do some work once."""
    start, cpu_start = time.perf_counter(), time.process_time()
    result = work()
    return Timing(time.perf_counter() - start, time.process_time() - cpu_start, result)


def mean_of(times: int, work: Callable[[], Any]) -> Timing:
    """Do some work several times; returns the mean of each time."""
    whole = timed(lambda: [work() for _ in range(times)])
    return Timing(whole.seconds / times, whole.cpu_seconds / times, whole.result[-1])


def cpu_ratio(pair: tuple[Timing, Timing]) -> float:
    """Return how many times as much CPU time the second one took."""
    return pair[1].cpu_seconds / pair[0].cpu_seconds


def import_time() -> float:
    """Import the metrics in a new process, without torch, and return what the import alone took."""
    code = (
        "import sys, time; start = time.perf_counter(); from hf_frameseg.metrics import evaluate_submission; "
        "print(time.perf_counter() - start, 'torch' in sys.modules)"
    )
    seconds, has_torch = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    if has_torch == "True":
        raise RuntimeError("hf_frameseg.metrics imported torch")
    return float(seconds)


def run_child(folder: Path) -> dict[str, Any]:
    """Score the files of a folder in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(folder)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def score_files(folder: Path) -> dict[str, Any]:
    """Read, check and score; returns the scores and the peak memory of this process."""
    from hf_frameseg.metrics import evaluate_submission, read_ground_truth, read_submission, validate_submission

    parsed, truth = read_submission(folder / "submission.jsonl"), read_ground_truth(folder / "truth.jsonl").rows
    found = validate_submission(parsed.rows, truth, line_numbers=parsed.line_numbers)
    if any(violation.is_error for violation in found):
        raise RuntimeError(str(found[0]))
    return {"scores": evaluate_submission(parsed.rows, truth)["brief"], "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Return the largest resident memory of this process in megabytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: Linux starts it at the size of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def load_reference() -> ModuleType:
    """Import the reference from the tests by its path."""
    spec = importlib.util.spec_from_file_location("slow_reference", REFERENCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def largest_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Compare every number of the reference with ours; a missing number differs infinitely."""
    worst = 0.0
    for key, value in theirs.items():
        if isinstance(value, dict):
            worst = max(worst, largest_difference(ours[key], value))
        elif value is None or ours[key] is None:
            worst = max(worst, 0.0 if value is ours[key] else float("inf"))
        else:
            worst = max(worst, abs(value - ours[key]))
    return worst


def make_case(queries: int, seed: int) -> tuple[Rows, Rows]:
    """Draw annotations and a submission that half knows them."""
    rng = np.random.default_rng(seed)
    submission, truth = [], []
    for qid in range(queries):
        num_clips = 75 if rng.random() < FULL_VIDEO_SHARE else int(rng.integers(60, 75))
        windows = make_windows(num_clips, rng)
        clips = [clip for start, end in windows for clip in range(start // 2, end // 2)]
        ratings = np.clip(rng.normal(2.6, 1.0, (len(clips), 1)) + rng.normal(0, 1.0, (len(clips), 3)), 0, 4).round()
        mean_rating = np.zeros(num_clips)
        mean_rating[clips] = ratings.mean(axis=1)
        truth.append(
            {
                "qid": qid,
                "query": "a sentence of about ten words says what is shown",
                "vid": f"vid{qid}_0.0_150.0",
                "duration": 2 * num_clips,
                "relevant_windows": windows,
                "relevant_clip_ids": clips,
                "saliency_scores": ratings.astype(int).tolist(),
            }
        )
        saliency = rng.normal(mean_rating, 1.5)
        submission.append(
            {
                "qid": qid,
                "pred_relevant_windows": make_predictions(windows, 2.0 * num_clips, rng),
                # Every tenth list has ties, which the reference and ours have to treat alike.
                "pred_saliency_scores": (saliency.round() if qid % 10 == 0 else saliency).tolist(),
            }
        )
    return submission, truth


def make_windows(num_clips: int, rng: np.random.Generator) -> list[list[int]]:
    """Draw windows on the 2-second grid that neither overlap nor touch."""
    count = int(rng.choice(WINDOW_COUNTS, p=WINDOW_SHARES))
    lengths = np.exp(rng.normal(np.log(SINGLE_WINDOW_CLIPS / count**0.5), LENGTH_SPREAD, count)).round().astype(int)
    lengths = np.clip(lengths, 1, (num_clips - count + 1) // count)
    free = num_clips - int(lengths.sum()) - (count - 1)
    gaps = np.diff(np.sort(rng.integers(0, free + 1, count)), prepend=0) + (np.arange(count) > 0)
    starts = np.cumsum(gaps) + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return [[2 * int(start), 2 * int(start + length)] for start, length in zip(starts, lengths, strict=True)]


def make_predictions(windows: list[list[int]], duration_seconds: float, rng: np.random.Generator) -> list[list[float]]:
    """Draw ten windows, best first: true ones with moved ends, and some that are made up."""
    drawn = []
    for index in range(10):
        ends = np.array(windows[index % len(windows)], dtype=np.float64) + rng.normal(0, 1 + index, 2)
        if index >= 2 * len(windows):
            ends = rng.uniform(0, duration_seconds, 2)
        start, end = np.sort(np.clip(ends, 0, duration_seconds))
        drawn.append([float(start), float(max(end, start + 0.5)), float(rng.random() / (1 + index))])
    return sorted(drawn, key=lambda window: -window[2])


def is_kept(name: str, value: float) -> bool:
    """Tell whether a measured value is within its promise."""
    how, bound = PROMISES[name]
    return {"at least": value >= bound, "at most": value <= bound, "below": value < bound}[how]


def table(result: dict[str, Any], judged: bool) -> str:
    """Show what was measured beside what is promised."""
    names = {
        "seconds": "our scorer, seconds",
        "cpu_seconds": "our scorer, CPU seconds",
        "reference_seconds": "the reference, seconds",
        "reference_cpu_seconds": "the reference, CPU seconds",
        "ratio": "times faster",
        "process_seconds": "process: start, read, check, score; seconds",
        "peak_mb": "peak memory of that process, MB",
        "import_seconds": "import of hf_frameseg.metrics, seconds",
        "largest_difference": "largest difference of two scores, points",
    }
    lines = [f"{result['queries']} queries, Python {result['python']}, numpy {result['numpy']}, {result['cpu']}", ""]
    for key, name in names.items():
        promise = f"  ({' '.join(map(str, PROMISES[key]))})" if judged and key in PROMISES else ""
        lines.append(f"{name:<44} {result[key]:9.3f}{promise}")
    return "\n".join(lines)


def cpu_name() -> str:
    """Name the processor as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


if __name__ == "__main__":
    sys.exit(main())
