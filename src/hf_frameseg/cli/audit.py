"""``frameseg audit``: what annotations allow a perfect model to score."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg.cli.ground_truth import add_split_options, resolve_ground_truth
from hf_frameseg.cli.tables import count, format_table, number

HELP = "measure what annotations allow a perfect model to score, and how balanced their labels are"
EPILOG = """\
examples:
  frameseg audit highlight_val_release.jsonl --num-frames 25 50 75 --label-rule window 'saliency>0.5'
  frameseg audit --split test --data-dir qvhighlights --output audit.png --json audit.json

docs/audit.md says what the numbers mean.
"""
BAR_COLUMNS = 30
PICTURE_SUFFIXES = (".png", ".pdf", ".svg")
ORDERS = {"by_time": "time", "by_rating": "best"}
CURVES = {"mean_rating": "mean rating", "votes": "ratings of 4, then mean"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("ground_truth", metavar="ANNOTATIONS", nargs="?", type=Path, help="annotation file of any form")
    add_split_options(source, parser, ("train", "val", "test"))
    parser.add_argument(
        "--num-frames",
        metavar="F",
        nargs="+",
        type=int,
        default=[25, 50, 75],
        help="frames a video (default: 25 50 75)",
    )
    parser.add_argument(
        "--label-rule",
        metavar="RULE",
        nargs="+",
        default=["window"],
        help="'window': a frame is 1 when its centre lies in a relevant window (default); 'saliency>0.5', in quotes: "
        "when the mean rating there, divided by 4, is above 0.5",
    )
    parser.add_argument("--output", metavar="PNG", type=Path, help="write a picture")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every number")


def run(options: argparse.Namespace) -> None:
    """Measure and print. Files are written before the text, so that a closed pipe loses none."""
    from hf_frameseg._files import check_outputs
    from hf_frameseg.annotations.forms import read_annotation_file
    from hf_frameseg.cli.score_files import write_json

    if options.output is not None:
        from hf_frameseg._imports import require

        require("matplotlib", extra="viz")  # before the work, which may take half a minute
        if options.output.suffix not in PICTURE_SUFFIXES:
            raise ValueError(f"--output {options.output}: expected a name that ends in {', '.join(PICTURE_SUFFIXES)}")
    path = resolve_ground_truth(options)
    check_outputs({"--output": options.output, "--json": options.json}, [path])
    annotations = read_annotation_file(path)
    from hf_frameseg.audit.report import audit_report

    num_frames, rules = sorted(set(options.num_frames)), list(dict.fromkeys(options.label_rule))
    report = audit_report(annotations, num_frames, rules)
    written = [""]
    if options.json is not None:
        write_json(options.json, {"file": path.name, **report})
        written.append(f"numbers  {options.json}")
    if options.output is not None:
        from hf_frameseg.visualization import audit_figure, save_figure

        save_figure(audit_figure(report, printable(path.name)), options.output)
        written.append(f"picture  {options.output}")
    print(audit_text(report, path.name, shutil.get_terminal_size().columns))
    if written[1:]:
        print(*map(printable, written), sep="\n")


def audit_text(report: Mapping[str, Any], title: str, width: int) -> str:
    r"""Show an audit on a terminal.

    Example:
        >>> from hf_frameseg.audit.report import audit_report
        >>> row = {"qid": 1, "vid": "a", "duration": 12, "relevant_windows": [[2, 6]], "relevant_clip_ids": [1, 2],
        ...        "saliency_scores": [[4, 4, 2], [4, 3, 2]]}
        >>> print("\n".join(audit_text(audit_report([row], [6]), "one.jsonl", width=80).split("\n")[:3]))
        one.jsonl
        1 query on 1 video of 12 s
        1 window of 4 s: 100.0 % short (up to 10 s), 0.0 % middle (up to 30 s), 0.0 %
    """
    statistics, settings = report["annotations"], report["settings"]
    lines = [printable(title)]
    for sentence in _sentences(statistics):
        lines += textwrap.wrap(sentence, width)
    lines += ["", "Window lengths in seconds", *_histogram(statistics["window_lengths_seconds"], width)]
    lines += ["", "Masks: the digits of a perfect answer", *_masks(settings, width)]
    lines += ["", *textwrap.wrap("Moments: what windows made from perfect masks score, %", width)]
    lines += _moments(report, width)
    if statistics["highlight_bound"] is not None:
        lines += ["", *textwrap.wrap("Highlights: what one perfect value per frame scores, %", width)]
        lines += _highlights(report, width)
    return "\n".join(lines)


def _sentences(statistics: Mapping[str, Any]) -> Iterator[str]:
    """Sum the file up."""
    videos = statistics["num_videos"]
    on_videos = "videos" if videos is None else count(videos, "video")
    queries, windows = (
        count(statistics["num_queries"], "query", "queries"),
        count(statistics["num_windows"], "window"),
    )
    yield f"{queries} on {on_videos} of {_spread(statistics['duration_seconds'])}"
    ranges = statistics["length_range_windows"]
    yield (
        f"{windows} of {_spread(statistics['window_length_seconds'])}: {_share(ranges['short'])} short (up to 10 s), "
        f"{_share(ranges['middle'])} middle (up to 30 s), {_share(ranges['long'])} long"
    )
    yield (
        f"{_share(statistics['multi_window_queries'])} of the queries have several windows, "
        f"{_share(statistics['whole_video_queries'])} cover the whole video"
    )
    yield (
        f"{_share(statistics['foreground_seconds'])} of the time is relevant: "
        f"{number(statistics['background_per_foreground'], 4)} s of background per second of foreground"
    )


def _histogram(counts: Mapping[str, int], width: int) -> Iterator[str]:
    """Draw one line per bin; the fullest bin has the longest bar."""
    total, largest = sum(counts.values()), max(counts.values())
    longest = max(1, min(BAR_COLUMNS, width - 25))
    for name, windows in counts.items():
        bar = "█" * round(longest * windows / largest)
        yield f"{name:>8} {windows:6} {_share(windows / total):>7}  {bar}".rstrip()


def _masks(settings: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Tabulate foreground, its weight and what masks lose."""
    labels = _rule_labels(settings)
    header = [labels[0], "fore-\nground", "pos_\nweight", "all\nzero", "all\none", "windows without\na frame"]
    rows = [
        [
            label,
            _share(one["foreground"]),
            number(one["pos_weight"], 4),
            str(one["num_all_zero_masks"]),
            str(one["num_all_one_masks"]),
            f"{one['num_windows_without_frame']}  {_share(one['windows_without_frame']):>6}",
        ]
        for label, one in zip(labels[1:], settings, strict=True)
    ]
    return format_table(header, rows, width)


def _moments(report: Mapping[str, Any], width: int) -> list[str]:
    """Tabulate R1 and mAP of the masks' runs, and of the annotated windows themselves."""
    labels = _rule_labels(report["settings"])
    columns = (
        "R1\n@0.5",
        "R1\n@0.7",
        *(f"mAP\n{name}" for name in ("avg", "@0.5", "@0.75", "short", "middle", "long")),
    )
    rows = []
    for label, one in zip(labels[1:], report["settings"], strict=True):
        for listing, order in ORDERS.items():
            if one["windows"][listing] is not None:
                cells = [*one["windows"][listing].values(), *one["windows_by_length"][listing].values()]
                rows.append(
                    [
                        f"{label if listing == 'by_time' else ' ' * len(label)} {order}",
                        *(number(cell, 1) for cell in cells),
                    ]
                )
    exact = report["exact_windows"]
    cells = [*exact["scores"].values(), *exact["by_length"].values()]
    rows.append([f"{'exact windows':{len(labels[0])}} time", *(number(cell, 1) for cell in cells)])
    return format_table([f"{labels[0]} order", *columns], rows, width)


def _highlights(report: Mapping[str, Any], width: int) -> list[str]:
    """Tabulate HL-mAP and HIT@1 per number of frames: the masks of all rules first, then the graded curves."""
    scores = [(way, score) for way in ("linear", "nearest") for score in ("HL-mAP", "HIT@1")]
    settings, rows = report["settings"], []
    for frames in dict.fromkeys(one["num_frames"] for one in settings):
        same = [one for one in settings if one["num_frames"] == frames]
        curves = {f"mask, {one['label_rule']}": one["highlights"]["mask"] for one in same}
        curves |= {name: same[0]["highlights"][curve] for curve, name in CURVES.items()}
        for index, (name, ways) in enumerate(curves.items()):
            rows.append(
                [f"{'' if index else frames:>4}  {name}", *(number(ways[way][score], 1) for way, score in scores)]
            )
    bound = report["annotations"]["highlight_bound"]
    rows.append(["      no ranking can pass", number(bound["HL-mAP"], 1), number(bound["HIT@1"], 1), "", ""])
    return format_table(["   F  value of a frame", *("\n".join(names) for names in scores)], rows, width)


def _rule_labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Align label rule and number of frames, the header first; a rule stands only where it changes."""
    rules = ["label rule", *(one["label_rule"] for one in settings)]
    width = max(map(len, [*rules, "exact windows"]))
    shown = [rule if index == 0 or rules[index - 1] != rule else "" for index, rule in enumerate(rules)]
    frames = ["F", *(str(one["num_frames"]) for one in settings)]
    digits = max(map(len, frames))
    return [f"{rule:{width}} {many:>{digits}}" for rule, many in zip(shown, frames, strict=True)]


def _spread(summary: Mapping[str, float]) -> str:
    """Write a range of seconds with its median, or one value."""
    if summary["min"] == summary["max"]:
        return f"{summary['min']:g} s"
    return f"{summary['min']:g}-{summary['max']:g} s (median {summary['median']:g})"


def _share(fraction: float) -> str:
    """Write a share of 1 in percent."""
    return number(100 * fraction, 1, " %")
