"""``frameseg verify``: what is wrong with the videos of a data set, or with what was prepared from them."""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_frameseg._options import given
from hf_frameseg._text import printable
from hf_frameseg.cli.tables import count, format_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hf_frameseg.prepared.manifest import PreparedFolder
    from hf_frameseg.prepared.verify import Verification

HELP = "look for missing and unreadable videos and wrong durations, or for damage in prepared data"
EPILOG = """\
exit status:
  0  every video is there, its frames can be listed, and it lasts as long as annotated, within the tolerance; what is
     prepared is what was written
  1  some are not, or nothing is prepared there
  2  the command line, a folder or an annotation file is at fault; what to do is on stderr

examples:
  frameseg verify --data-dir QVH --num-proc 8
  frameseg verify --data-dir QVH --split train --video-dir /data/videos.tar --json problems.json
  frameseg verify --table mine.csv --video-dir /data/videos
  frameseg verify --cache /data/cache
"""
SHOWN_PROBLEMS = 10  # of each kind and split

_DEFAULT_CACHE = Path("-")  # stands for --cache without a folder


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    from hf_frameseg.cli.data_options import add_data_options
    from hf_frameseg.cli.parser import add_settings
    from hf_frameseg.video.settings import FrameSettings

    add_data_options(parser, required=False)
    add_settings(parser, FrameSettings, "duration_tolerance_seconds", "timeout_seconds")
    parser.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        nargs="?",
        const=_DEFAULT_CACHE,
        help="compare all prepared data in this cache (default: that of `datasets`) with its checksums",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the counts and every problem")


def run(options: argparse.Namespace) -> int:
    """Check, write, print."""
    from hf_frameseg._files import check_outputs
    from hf_frameseg.cli.data_options import refuse_in_data
    from hf_frameseg.cli.score_files import write_json

    has_videos = options.data_dir is not None or options.table is not None
    if not has_videos and options.cache is None:
        raise ValueError(
            "expected --data-dir DIR or --table FILE, to verify videos, or --cache [DIR], to verify prepared data"
        )
    check_outputs({"--json": options.json}, [])
    refuse_in_data(options.json, "--json", options)
    width = shutil.get_terminal_size().columns
    report: dict[str, Any] = {}
    lines: list[str] = []
    good = True
    if has_videos:
        verification = _verify_videos(options)
        report |= verification.to_dict()
        lines += describe(verification, width)
        good = not verification.problems
    if options.cache is not None:
        prepared = _verify_cache(options.cache)
        report["prepared"] = [{**asdict(one), "folder": str(one.folder)} for one in prepared]
        lines += [*([""] if lines else []), *describe_prepared(prepared)]
        good = good and bool(prepared) and not any(one.damage for one in prepared)
    if options.json is not None:
        write_json(options.json, report)
    print("\n".join(lines))
    return 0 if good else 1


def _verify_videos(options: argparse.Namespace) -> Verification:
    """Check the videos of a data set."""
    from hf_frameseg.cli.data_options import builder_class, config_arguments
    from hf_frameseg.prepared.verify import verify_videos
    from hf_frameseg.video.settings import FrameSettings

    splits = None if options.split is None else tuple(dict.fromkeys(options.split))
    frames = FrameSettings(**given(options, FrameSettings))
    config = builder_class(options).BUILDER_CONFIG_CLASS(**config_arguments(options), splits=splits, frames=frames)
    return verify_videos(config, num_proc=options.num_proc, progress=sys.stderr.isatty())


def _verify_cache(folder: Path) -> list[PreparedFolder]:
    """Check all prepared data in a cache."""
    from hf_frameseg.prepared.manifest import check_prepared

    if folder == _DEFAULT_CACHE:
        from datasets.config import HF_DATASETS_CACHE

        folder = Path(HF_DATASETS_CACHE).expanduser()
    return list(check_prepared(folder))


def describe_prepared(prepared: Sequence[PreparedFolder]) -> list[str]:
    r"""Return what a terminal shows of prepared data: one line for each folder, and what mends it.

    Example:
        >>> from hf_frameseg.prepared.manifest import PreparedFolder
        >>> good = PreparedFolder(Path("cache/a"), 2, 3_000_000, None)
        >>> print("\n".join(describe_prepared([good, PreparedFolder(Path("cache/b"), 2, 10, "x.arrow is no file")])))
        sound    cache/a  2 files, 3.0 MB
        damaged  cache/b  x.arrow is no file
        1 of 2 prepared folders is damaged; `frameseg prepare` with the same options makes it again
    """
    if not prepared:
        return ["nothing is prepared there; `frameseg prepare` with this --cache-dir does it"]
    lines = []
    for one in prepared:
        sizes = f"{count(one.num_files, 'file')}, {one.num_bytes / 1e6:.1f} MB"
        lines.append(
            f"{'damaged' if one.damage else 'sound  '}  {printable(one.folder)}  {printable(one.damage or sizes)}"
        )
    if damaged := sum(one.damage is not None for one in prepared):
        are, them = ("is", "it") if damaged == 1 else ("are", "them")
        folders = count(len(prepared), "prepared folder")
        repair = f"`frameseg prepare` with the same options makes {them} again"
        lines.append(f"{damaged} of {folders} {are} damaged; {repair}")
    return lines


def describe(verification: Verification, width: int) -> list[str]:
    r"""Return what a terminal shows: a table of counts, then some problems of each kind.

    Example:
        >>> from hf_frameseg.prepared.verify import Verification, VideoProblem
        >>> problem = VideoProblem("val", "v7", None, "missing", "no such file in the video folder QVH/videos", 2)
        >>> print("\n".join(describe(Verification({"val": 10}, {"val": 12}, (problem,)), width=80)))
             videos  queries  missing  unreadable  duration  queries affected
        val      10       12        1           0         0                 2
        <BLANKLINE>
        val  missing     v7  no such file in the video folder QVH/videos (2 queries)
    """
    from hf_frameseg.prepared.verify import PROBLEMS

    wide = max(map(len, verification.videos), default=0)
    rows = []
    lines: list[str] = []
    for split, num_videos in verification.videos.items():
        counts = verification.counts(split)
        affected = sum(queries for _, queries in counts.values())
        numbers = [num_videos, verification.queries[split], *(videos for videos, _ in counts.values()), affected]
        rows.append([split, *map(str, numbers)])
        for kind in PROBLEMS:
            some = [one for one in verification.problems if (one.split, one.problem) == (split, kind)]
            for one in some[:SHOWN_PROBLEMS]:
                affects = count(one.queries, "query", "queries")
                lines.append(printable(f"{split:<{wide}}  {kind:<10}  {one.vid}  {one.error} ({affects})"))
            if len(some) > SHOWN_PROBLEMS:
                lines.append(
                    f"{split:<{wide}}  {kind:<10}  and {len(some) - SHOWN_PROBLEMS} more; --json FILE lists all"
                )
    table = format_table(["", "videos", "queries", *PROBLEMS, "queries affected"], rows, width)
    return [*table, *([""] if lines else []), *lines]
