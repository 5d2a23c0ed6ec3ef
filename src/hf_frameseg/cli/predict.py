"""``frameseg predict``: the moments of one video."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from hf_frameseg.moments import FramePrediction

SPARK_LEVELS = "▁▂▃▄▅▆▇█"
SPARK_COLUMNS = 100


def add(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    from hf_frameseg.decoding.settings import OWN_OPTIONS

    parser = commands.add_parser(
        "predict", parents=[common], help="find the moments of one video", description="Find the moments of one video."
    )
    parser.add_argument("video", metavar="VIDEO", type=Path, help="video file")
    parser.add_argument("queries", metavar="QUERY", nargs="+", help='sentence, e.g. "a red circle"')
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="folder or Hub name of a trained model or adapter (default: the tiny model that comes with the package)",
    )
    parser.add_argument(
        "--output", metavar="PNG", type=Path, help="write a picture; numbered if there are more queries"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the predictions in the QVHighlights format")
    parser.add_argument(
        "--num-beams", metavar="N", type=int, default=2, help="beams of the search (default: %(default)s)"
    )
    parser.add_argument(
        "--decoder",
        metavar="NAME",
        choices=tuple(OWN_OPTIONS),
        default="runs",
        help="how frames become windows: %(choices)s (default: %(default)s, what the model marked and nothing else)",
    )
    parser.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> None:
    from hf_frameseg.data.video import probe_duration

    probe_duration(options.video)  # an unreadable file is reported before a model is loaded for it
    if options.output is not None:
        from hf_frameseg._imports import require

        require("matplotlib", extra="viz")  # as above
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from hf_frameseg.config import TINY_MODEL
    from hf_frameseg.decoding.settings import ProposalSettings
    from hf_frameseg.inference import MomentRetriever
    from hf_frameseg.loading import usable

    disable_progress_bar()  # "Loading weights" says nothing to who asks about a video
    if not options.debug:
        set_verbosity_error()  # reports of several lines about a model that is refused in one
    with usable(options.model or TINY_MODEL, asked=True):
        retriever = MomentRetriever.from_pretrained(options.model, proposals=ProposalSettings(options.decoder))
    frames = retriever.read(options.video)
    with usable(options.model or TINY_MODEL, asked=True):
        predictions = retriever.predict(frames, options.queries, vid=options.video.stem, num_beams=options.num_beams)
    pictures = None
    if options.output is not None:
        from hf_frameseg.data.video import read_frames

        # again, at native size: what the model saw can be far too small to look at
        pictures = read_frames(options.video, frames.grid).frames[:, 1]  # variants are (left, middle, right)
    for number, prediction in enumerate(predictions, start=1):
        print(describe(prediction))
        if options.output is not None:
            path = options.output
            if len(predictions) > 1:
                path = path.with_stem(f"{path.stem}-{number}")
            _write_picture(prediction, pictures, path)
            print(f"  picture   {path}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            replace(prediction, qid=number, vid=options.video.stem).to_submission()
            for number, prediction in enumerate(predictions, start=1)
        ]
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _write_picture(prediction: FramePrediction, frames: np.ndarray, path: Path) -> None:
    from hf_frameseg.visualization import qualitative_figure

    figure = qualitative_figure(prediction, frames=frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def describe(prediction: FramePrediction) -> str:
    """Return what a terminal shows of a prediction: its moments as a table, its saliency as one line.

    Args:
        prediction: moments and saliency of one query.

    Returns:
        Several lines, without a newline at the end.

    Example:
        >>> import numpy as np
        >>> from hf_frameseg.moments import FrameGrid, FramePrediction, Moment
        >>> grid = FrameGrid(duration_seconds=8.0, num_frames=4)
        >>> mask, probs = np.array([False, True, True, False]), np.array([0.0, 1.0, 0.7, 0.2])
        >>> print(describe(FramePrediction(grid, mask, probs, (Moment(2.0, 6.0, 0.85),), probs, query="a red circle")))
        a red circle
          start     end       score
          00:02.0   00:06.0   0.850
          saliency  ▁█▆▂
    """
    lines = [prediction.query]
    if prediction.moments:
        lines.append("  start     end       score")
    else:
        lines.append("  no moment found")
    lines += [
        f"  {format_seconds(moment.start):<9} {format_seconds(moment.end):<9} {moment.score:.3f}"
        for moment in prediction.moments
    ]
    if prediction.fallback:
        lines.append("  (no frame was marked; this is the best-scoring frame)")
    lines.append(f"  saliency  {sparkline(prediction.saliency.tolist())}")
    return "\n".join(lines)


def format_seconds(seconds: float) -> str:
    """Return a time as ``mm:ss.s``.

    Example:
        >>> format_seconds(59.96), format_seconds(3725.04)
        ('01:00.0', '62:05.0')
    """
    tenths = round(seconds * 10)  # rounded first, or 59.96 would read 00:60.0
    return f"{tenths // 600:02d}:{tenths % 600 // 10:02d}.{tenths % 10}"


def sparkline(probs: Sequence[float], max_columns: int = SPARK_COLUMNS) -> str:
    """Draw probabilities as one line of bars; a full bar is 1, not the largest value.

    Args:
        probs: values in [0, 1], in the order of time.
        max_columns: with more values, neighbours share a column and the largest is shown.

    Returns:
        One character per column.

    Example:
        >>> sparkline([0.0, 0.5, 1.0])
        '▁▅█'
        >>> sparkline([0.0, 1.0, 0.2, 0.0], max_columns=2)
        '█▂'
    """
    per_column = -(-len(probs) // max_columns) or 1
    columns = [max(probs[start : start + per_column]) for start in range(0, len(probs), per_column)]
    top = len(SPARK_LEVELS) - 1
    return "".join(SPARK_LEVELS[min(max(int(value * top + 0.5), 0), top)] for value in columns)
