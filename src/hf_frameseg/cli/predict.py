"""``frameseg predict``: the moments of one video."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from hf_frameseg._files import atomic_write, check_outputs
from hf_frameseg._options import given
from hf_frameseg._text import printable
from hf_frameseg.cli.messages import say
from hf_frameseg.cli.parser import add_settings
from hf_frameseg.cli.tables import format_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from hf_frameseg.predictions import FramePrediction

HELP = "find the moments of one video"
EPILOG = None
SPARK_LEVELS = "▁▂▃▄▅▆▇█"
SPARK_COLUMNS = 100

READING = ("reader", "timeout_seconds", "damaged")
"""How a file is read, which a model does not say; how long it is annotated nobody knows here."""

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".pdf", ".svg")
"""Endings of a picture's name, which say what kind it is."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    from hf_frameseg.proposals.settings import PAPER_PROPOSALS
    from hf_frameseg.video.settings import FrameSettings

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
        "--num-beams", metavar="N", type=int, help="beams of the search (default: the number the model is saved with)"
    )
    add_settings(parser, PAPER_PROPOSALS, "decoder")
    add_settings(parser, FrameSettings, *READING)


def run(options: argparse.Namespace) -> None:
    """Check, read the video, ask the model, print and write."""
    from hf_frameseg.video.read import probe_duration
    from hf_frameseg.video.settings import FrameSettings

    # Mistakes that can be found without a model are reported before one is loaded.
    pictures = _check_options(options)
    reading = given(options, FrameSettings)
    probe_duration(options.video, timeout_seconds=FrameSettings(**reading).timeout_seconds)
    if pictures:
        from hf_frameseg._imports import require

        require("matplotlib", extra="viz")
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from hf_frameseg.inference import MomentRetriever
    from hf_frameseg.proposals.settings import PAPER_PROPOSALS, ProposalSettings
    from hf_frameseg.sharing.config import TINY_MODEL
    from hf_frameseg.sharing.loading import usable

    proposals = replace(PAPER_PROPOSALS, **given(options, ProposalSettings))
    disable_progress_bar()  # whoever asks about a video need not see "Loading weights"
    if not options.debug:
        set_verbosity_error()  # a model that is refused is reported in one line, not in several
    with usable(options.model or TINY_MODEL, asked=True):
        retriever = MomentRetriever.from_pretrained(
            options.model,
            proposals=proposals,
            model_kwargs={"heads": False},  # no readout of a command needs them, nor are their classes known here
            **reading,
        )
    frames = retriever.read(options.video)
    with usable(options.model or TINY_MODEL, asked=True):
        predictions = retriever.predict(frames, options.queries, vid=options.video.stem, num_beams=options.num_beams)
    shown = None
    if pictures:
        from hf_frameseg.video.read import read_frames

        # once more, at native size: the frames of the model may be too small to look at
        shown = read_frames(options.video, frames.grid, **reading).frames
    for prediction, picture in zip_longest(predictions, pictures):
        print(describe(prediction))
        if picture is not None:
            _write_picture(prediction, shown, picture)
            print(f"  picture   {printable(picture)}")
    if options.json is not None:
        _write_rows(predictions, options.video.stem, options.json)


def _check_options(options: argparse.Namespace) -> list[Path]:
    """Refuse what cannot be asked or written; return where the pictures go, one per query, or none."""
    from hf_frameseg.batches.prompt_template import check_query
    from hf_frameseg.sharing.config import FrameSegmentationConfig

    if options.num_beams is not None:
        FrameSegmentationConfig(num_beams=options.num_beams)
    for query in options.queries:
        check_query(query)
    pictures = []
    if options.output is not None:
        if options.output.suffix.lower() not in PICTURE_SUFFIXES:
            known = ", ".join(PICTURE_SUFFIXES)
            raise ValueError(
                f"--output {options.output} does not say what picture it is: end the name in one of {known}"
            )
        pictures = [options.output]
        if len(options.queries) > 1:
            numbers = range(1, len(options.queries) + 1)
            pictures = [options.output.with_stem(f"{options.output.stem}-{number}") for number in numbers]
        if odd := next((path for path in pictures if path.exists() and not (path.is_file() or path.is_dir())), None):
            raise ValueError(f"--output {odd} is there and is no file; name one")
    model = Path(options.model or "")
    inputs = [options.video, *(model.iterdir() if options.model and model.is_dir() else ())]
    names = (
        ["--output"] if len(pictures) == 1 else [f"--output of query {number}" for number, _ in enumerate(pictures, 1)]
    )
    check_outputs({**dict(zip(names, pictures, strict=True)), "--json": options.json}, inputs)
    return pictures


def _write_picture(prediction: FramePrediction, frames: np.ndarray, path: Path) -> None:
    from hf_frameseg.visualization import qualitative_figure, save_figure

    figure = qualitative_figure(prediction, frames=frames)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        save_figure(figure, path)
    if any("missing from font" in str(warning.message) for warning in caught):  # one for every letter
        say(f"frameseg: warning: the font lacks letters of the query in {path}")


def _write_rows(predictions: Sequence[FramePrediction], vid: str, path: Path) -> None:
    rows = [
        replace(prediction, qid=number, vid=vid).to_submission()
        for number, prediction in enumerate(predictions, start=1)
    ]
    atomic_write(path, json.dumps(rows, indent=2) + "\n")


def describe(prediction: FramePrediction) -> str:
    """Return what a terminal shows of a prediction: its moments as a table, its saliency as one line.

    Example:
        >>> import numpy as np
        >>> from hf_frameseg.moments import FrameGrid, Moment
        >>> from hf_frameseg.predictions import FramePrediction
        >>> grid = FrameGrid.middle(duration_seconds=8.0, num_frames=4)
        >>> mask, probs = np.array([False, True, True, False]), np.array([0.0, 1.0, 0.7, 0.2])
        >>> print(describe(FramePrediction(grid, mask, probs, (Moment(2.0, 6.0, 0.85),), probs, query="a red circle")))
        a red circle
          start        end  score
          00:02.0  00:06.0  0.850
          saliency  ▁█▆▂
    """
    rows = [[format_seconds(one.start), format_seconds(one.end), f"{one.score:.3f}"] for one in prediction.moments]
    table = format_table(["start", "end", "score"], rows, width=sys.maxsize) if rows else ["no moment found"]
    lines = [printable(prediction.query), *(f"  {line}" for line in table)]
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
