r"""Frames files: what a model said about each frame, so that windows and saliency can be made again without it.

JSON lines in UTF-8, one query each (as any file of records it may be packed by gzip, or one list):

    {"qid": 1, "vid": "a", "query": "a dog", "duration_seconds": 6.0, "mask": "011", "log_odds": [-3.5, 1.25, 0.5]}

| key | meaning |
|--|--|
| `qid` | whole number or text, once per file |
| `vid`, `query` | as in the annotations |
| `duration_seconds` | length of the video, or of the part of it that the grid covers, above 0 |
| `mask` | the decoded digits, one per frame |
| `log_odds` | `logit_1 - logit_0` of each frame along the chosen beam, unrounded |
| `probs` | foreground probabilities in [0, 1], in place of `log_odds` where only these were kept |
| `grid_times`, `grid_edges` | `times` and `edges` of the `FrameGrid`; left out for the paper's grid from 0 on |

A float is written with all its digits, so that the scores of the file are those of the decoded frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg._numbers import is_number, is_whole
from hf_frameseg._text import printable
from hf_frameseg._text_file import read_text_file
from hf_frameseg.moments import FrameGrid
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.prediction import probs_of, redecode
from hf_frameseg.proposals.settings import PAPER_PROPOSALS, ProposalSettings
from hf_frameseg.records import objects_of, write_json_lines

REQUIRED_KEYS = ("qid", "vid", "query", "duration_seconds", "mask")
VALUE_KEYS = ("log_odds", "probs")
GRID_KEYS = ("grid_times", "grid_edges")


class FramesFileError(ValueError):
    """Say in one line, with file and line number, what is wrong with a frames file."""


def write_frames_file(path: str | Path, predictions: Iterable[FramePrediction]) -> None:
    """Write a frames file.

    Args:
        path: The file; an old one is replaced when the new one is complete.
        predictions: One per query, with `qid` and `vid`. Without `log_odds` the probabilities are written.

    Raises:
        ValueError: If a prediction has no `qid` or no `vid`.
    """
    write_json_lines(path, map(_to_row, predictions))


def read_frames_file(path: str | Path, settings: ProposalSettings = PAPER_PROPOSALS) -> list[FramePrediction]:
    """Read a frames file and check every line.

    Args:
        path: The file.
        settings: How the frames become windows and saliency; `redecode` applies other settings later.

    Returns:
        One prediction per line, in file order.

    Raises:
        FileNotFoundError: If there is no such file.
        FramesFileError: If it is no file of records or a line is wrong; the message names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no frames file at {printable(path)}; check the path")
    predictions: list[FramePrediction] = []
    seen: dict[int, int] = {}
    for number, row in _rows(path):
        try:
            _check_keys(row)
            prediction = redecode(_to_prediction(row), settings)
            if prediction.qid in seen:
                raise ValueError(f"qid {prediction.qid} is also on line {seen[prediction.qid]}; keep one of them")
        except ValueError as error:
            raise FramesFileError(printable(f"{path.name}:{number}: {error}")) from None
        seen[prediction.qid] = number
        predictions.append(prediction)
    return predictions


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the objects of a file with their lines, at least one."""
    try:
        rows = objects_of(read_text_file(path))
    except ValueError as error:
        raise FramesFileError(str(error)) from None
    if not rows:
        raise FramesFileError(f"{printable(path.name)}: expected at least one query, got none; decode again")
    return rows


def _to_row(prediction: FramePrediction) -> dict[str, Any]:
    """Return the line of a prediction."""
    if prediction.qid is None or prediction.vid is None:
        raise ValueError(
            f"a line of a frames file needs qid and vid, got {prediction.qid!r} and {prediction.vid!r}; set them with "
            "dataclasses.replace"
        )
    grid = prediction.grid
    row = {
        "qid": prediction.qid if isinstance(prediction.qid, str) else int(prediction.qid),
        "vid": prediction.vid,
        "query": prediction.query,
        "duration_seconds": grid.duration_seconds,
        "mask": "".join("01"[int(value)] for value in prediction.mask),
    }
    if grid != FrameGrid.middle(grid.duration_seconds, grid.num_frames):
        row |= {"grid_times": grid.times.tolist(), "grid_edges": grid.edges.tolist()}
    if prediction.log_odds is not None:
        return {**row, "log_odds": prediction.log_odds.tolist()}
    return {**row, "probs": prediction.probs.tolist()}


def _check_keys(row: Mapping[str, Any]) -> None:
    """Refuse a line that lacks keys, or has others."""
    if missing := [key for key in REQUIRED_KEYS if key not in row]:
        raise ValueError(f"lacks {', '.join(missing)}; every line needs all of {', '.join(REQUIRED_KEYS)}")
    if sum(key in row for key in VALUE_KEYS) != 1:
        raise ValueError(f"expected either {' or '.join(VALUE_KEYS)}, one value per frame; write one of the two")
    if unknown := sorted(row.keys() - {*REQUIRED_KEYS, *VALUE_KEYS, *GRID_KEYS}):
        raise ValueError(f"unknown key {unknown[0]!r:.80}; remove or correct it")


def _to_prediction(row: Mapping[str, Any]) -> FramePrediction:
    """Return one checked line, without windows and saliency."""
    qid, mask = row["qid"], row["mask"]
    if not (isinstance(qid, str) and qid.strip()) and not is_whole(qid, -(2**63), 2**63 - 1):
        raise ValueError(f"expected qid to be a 64-bit integer or a text, got {qid!r:.80}")
    for key in ("vid", "query"):
        if not isinstance(row[key], str):
            raise ValueError(f"expected {key} to be a text, got {row[key]!r:.80}")
    if not isinstance(mask, str) or not mask or set(mask) - {"0", "1"}:
        raise ValueError(f"expected mask to be a text of 0 and 1, one per frame, got {mask!r:.80}")
    grid = _grid(row, len(mask))  # refuses more frames than a grid has
    key = next(key for key in VALUE_KEYS if key in row)
    values = _values(key, row[key], len(mask))
    return FramePrediction(
        grid=grid,
        mask=np.array([digit == "1" for digit in mask]),
        probs=probs_of(values) if key == "log_odds" else values,
        moments=(),
        saliency=np.zeros(0),
        query=row["query"],
        qid=qid,
        vid=row["vid"],
        log_odds=values if key == "log_odds" else None,
    )


def _grid(row: Mapping[str, Any], num_frames: int) -> FrameGrid:
    """Return the frame windows of a line."""
    duration = row["duration_seconds"]
    if not is_number(duration):
        raise ValueError(f"expected duration_seconds to be a finite number, got {duration!r:.80}")
    if not row.keys() & set(GRID_KEYS):
        return FrameGrid.middle(duration, num_frames)
    if missing := [key for key in GRID_KEYS if key not in row]:
        raise ValueError(f"expected {' and '.join(GRID_KEYS)} or neither, got no {missing[0]}; write both")
    times = _numbers("grid_times", row["grid_times"], num_frames, "one per digit of mask")
    edges = _numbers("grid_edges", row["grid_edges"], num_frames + 1, "one more than digits of mask")
    grid = FrameGrid(times, edges)
    if grid.duration_seconds != duration:
        raise ValueError(
            f"expected duration_seconds to be {grid.duration_seconds!r}, from the first to the last of grid_edges, got "
            f"{duration!r:.80}"
        )
    return grid


def _numbers(key: str, values: Any, count: int, which: str) -> NDArray[np.float64]:
    """Return a list of finite numbers as an array."""
    if not isinstance(values, list) or len(values) != count:
        got = f"{len(values)}" if isinstance(values, list) else f"{values!r:.80}"
        raise ValueError(f"expected {key} to be a list of {count} numbers, {which}, got {got}")
    wrong = next((index for index, value in enumerate(values) if not is_number(value)), None)
    if wrong is not None:
        overflow = "; look for an overflow in the model's output" if isinstance(values[wrong], float) else ""
        raise ValueError(f"expected {key} to be finite numbers, got {values[wrong]!r:.80} for frame {wrong}{overflow}")
    return np.array(values, dtype=np.float64)


def _values(key: str, values: Any, num_frames: int) -> NDArray[np.float64]:
    """Return one checked value per frame."""
    array = _numbers(key, values, num_frames, "one per digit of mask")
    if key == "probs" and not ((array >= 0) & (array <= 1)).all():
        frame = int(np.flatnonzero((array < 0) | (array > 1))[0])
        raise ValueError(f"expected probs in [0, 1], got {values[frame]!r} for frame {frame}; logits go into log_odds")
    return array
