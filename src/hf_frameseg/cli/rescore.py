"""``frameseg rescore``: other windows and saliency from saved frames, without the model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_frameseg._files import atomic_write, check_outputs
from hf_frameseg._text import printable
from hf_frameseg.cli.ground_truth import add_ground_truth_options, read_truth, resolve_ground_truth
from hf_frameseg.cli.messages import say
from hf_frameseg.cli.parser import add_settings
from hf_frameseg.cli.tables import format_table, number
from hf_frameseg.records import write_json_lines

if TYPE_CHECKING:
    from hf_frameseg.predictions import FramePrediction
    from hf_frameseg.proposals.settings import ProposalSettings

HELP = "rebuild windows and saliency from saved frames by one or more decoders, without the model, and score them"
EPILOG = "docs/decoders.md explains the decoders"
COMMON = ("ranking", "snap_seconds", "saliency", "saliency_values")  # fields that all decoders of a run share

_COLUMN_TITLES = {
    "R1@0.5": "R1\n@0.5",
    "R1@0.7": "R1\n@0.7",
    "mAP": "mAP\nmean",
    "mAP@0.5": "mAP\n@0.5",
    "mAP@0.75": "mAP\n@0.75",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    from hf_frameseg.proposals.settings import OWN_OPTIONS, ProposalSettings

    parser.add_argument("frames", metavar="FRAMES", type=Path, help="frames file, JSON lines")
    add_ground_truth_options(parser)
    parser.add_argument(
        "--decoder",
        metavar="NAME",
        nargs="+",
        action="extend",
        choices=tuple(OWN_OPTIONS),
        help="one or more of %(choices)s (default: all)",
    )
    add_settings(parser, ProposalSettings, *COMMON)
    parser.add_argument(
        "--allow-subset", dest="match_number", action="store_false", help="score the queries that both files hold"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every number, with the settings behind it")
    parser.add_argument(
        "--submission", metavar="FILE", type=Path, help="write the official submission file (with one --decoder)"
    )


def run(options: argparse.Namespace) -> None:
    """Read, decode again, score, write, print."""
    settings = _settings(options)
    if options.submission is not None and len(settings) != 1:
        raise ValueError(f"--submission holds the windows of one decoder, got {len(settings)}; name one with --decoder")
    from hf_frameseg.metrics import evaluate_submission
    from hf_frameseg.proposals.frames_file import read_frames_file

    ground_truth = resolve_ground_truth(options)
    check_outputs({"--json": options.json, "--submission": options.submission}, [options.frames, ground_truth])
    predictions = read_frames_file(options.frames)
    truth = read_truth(ground_truth).rows
    num_queries = _count_shared(predictions, truth, not options.match_number)
    _warn_of_durations(predictions, truth)
    results = {}
    for one, found in zip(settings, _redecoded(predictions, settings), strict=True):
        results[one.decoder] = {
            **evaluate_submission([row.to_submission() for row in found], truth, match_number=options.match_number),
            "frameseg": _made_by(options.frames, num_queries, found, one),
        }
        if options.submission is not None:
            write_json_lines(options.submission, (row.to_submission() for row in found))
    print("\n".join(describe(results)))
    if options.json is not None:
        rows = {name: {**result["brief"], **result} for name, result in results.items()}
        atomic_write(options.json, json.dumps(rows, indent=2, allow_nan=False) + "\n")
        print(f"\nnumbers     {printable(options.json)}")
    if options.submission is not None:
        print(f"\nsubmission  {printable(options.submission)}")


def _settings(options: argparse.Namespace) -> list[ProposalSettings]:
    """Return the settings of every decoder that is asked for, in their order."""
    from hf_frameseg.proposals.settings import OWN_OPTIONS, ProposalSettings

    names = list(dict.fromkeys(options.decoder or OWN_OPTIONS))
    if options.ranking is not None and not any("ranking" in OWN_OPTIONS[name] for name in names):
        raise ValueError("--ranking ranks the runs of runs and runs+fill; add one of them to --decoder or leave it out")
    common = ProposalSettings(
        "runs", **{name: value for name, value in vars(options).items() if name in COMMON and value is not None}
    )
    return [common.for_decoder(name) for name in names]


def _redecoded(
    predictions: Sequence[FramePrediction], settings: Sequence[ProposalSettings]
) -> Iterable[list[FramePrediction]]:
    """Yield the predictions of each decoder, with a progress bar where it takes long."""
    from tqdm import tqdm

    from hf_frameseg.proposals.prediction import redecode

    total = len(predictions) * len(settings)
    # disable=None: no bar where stderr is a file or a pipe.
    with tqdm(total=total, desc="rescoring", unit="query", delay=1.0, leave=False, disable=None) as bar:
        for one in settings:
            found = []
            for prediction in predictions:
                try:
                    found.append(redecode(prediction, one))
                except ValueError as error:
                    raise ValueError(f"qid {prediction.qid}: {error}") from None
                bar.update()
            yield found


def _count_shared(
    predictions: Sequence[FramePrediction], truth: Sequence[Mapping[str, Any]], allow_subset: bool
) -> int:
    """Return how many queries can be scored, or say that the files do not belong together."""
    predicted, annotated = {prediction.qid for prediction in predictions}, {row["qid"] for row in truth}
    shared = len(predicted & annotated)
    if not shared:
        raise ValueError(
            f"the frames file ({len(predicted)} queries) and the ground truth ({len(annotated)} queries) share no qid; "
            "use those of the same split"
        )
    if shared < max(len(predicted), len(annotated)) and not allow_subset:
        raise ValueError(
            f"the frames file has {len(predicted)} queries and the ground truth {len(annotated)}, {shared} of them in "
            "both; use those of the same split, or score the shared ones with --allow-subset"
        )
    return shared


def _made_by(
    path: Path, num_queries: int, predictions: Sequence[FramePrediction], settings: ProposalSettings
) -> dict[str, Any]:
    """Return what the numbers were made by."""
    from hf_frameseg import __version__

    frames = {prediction.grid.num_frames for prediction in predictions}
    return {
        "version": __version__,
        "frames_file": path.name,
        "num_queries": num_queries,
        "num_frames": frames.pop() if len(frames) == 1 else None,  # a file may mix them
        "windows_per_query": sum(len(prediction.moments) for prediction in predictions) / len(predictions),
        "proposals": settings.to_dict(),
    }


def _warn_of_durations(predictions: Sequence[FramePrediction], truth: Sequence[Mapping[str, Any]]) -> None:
    """Say when frames do not cover the video of the ground truth from its start to its end: clips are then shifted."""
    annotated = {row["qid"]: row.get("duration") for row in truth}
    other = [
        prediction.qid
        for prediction in predictions
        if isinstance(annotated.get(prediction.qid), (int, float))
        and (abs(annotated[prediction.qid] - prediction.grid.end_seconds) > 1e-6 or prediction.grid.start_seconds > 0)
    ]
    if other:
        say(
            f"frameseg: warning: {len(other)} of {len(predictions)} videos have another duration in the ground truth, "
            f"for example that of qid {other[0]}; were the frames sampled on the annotated duration?"
        )


def describe(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what a terminal shows: how windows and saliency were made, and one row per decoder.

    Example:
        >>> from hf_frameseg.proposals.settings import ProposalSettings
        >>> made_by = {"num_queries": 2, "windows_per_query": 1.5, "proposals": ProposalSettings("runs").to_dict()}
        >>> brief = {"MR-full-R1@0.5": 50.0, "MR-full-R1@0.7": 50.0, "MR-full-mAP": 41.25}
        >>> for line in describe({"runs": {"brief": brief, "frameseg": made_by}}):
        ...     print(line)
        2 queries, runs by mean-probability, saliency linear of probs
        <BLANKLINE>
                 R1           mAP                              windows
               @0.5   @0.7   mean  @0.5  @0.75  HL-mAP  HIT@1   /query
        runs  50.00  50.00  41.25     -      -       -      -      1.5
    """
    from hf_frameseg.metrics import HEADLINE_COLUMNS, headline
    from hf_frameseg.proposals.settings import OWN_OPTIONS

    made_by = [result["frameseg"] for result in results.values()]
    proposals = made_by[0]["proposals"]
    ranked = [one["proposals"] for one in made_by if "ranking" in OWN_OPTIONS[one["proposals"]["decoder"]]]
    facts = [
        f"{made_by[0]['num_queries']} queries",
        *(f"runs by {settings['ranking']}" for settings in ranked[:1]),
        *([f"windows on a grid of {proposals['snap_seconds']:g} s"] if proposals["snap_seconds"] else []),
        f"saliency {proposals['saliency']} of {proposals['saliency_values']}",
    ]
    header = ["", *(_COLUMN_TITLES.get(column, column) for column in HEADLINE_COLUMNS), "windows\n/query"]
    rows = []
    for name, result in results.items():
        cells = map(number, headline(result).values())
        rows.append([name, *cells, f"{result['frameseg']['windows_per_query']:.1f}"])
    # One table whatever the terminal: it is below 80 columns wide.
    return [", ".join(facts), "", *format_table(header, rows, width=sys.maxsize)]
