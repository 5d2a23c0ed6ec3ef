"""``frameseg verify``: what is wrong with the videos of a data set, without decoding them."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hf_frameseg.cli.data_options import add_data_options

if TYPE_CHECKING:
    from hf_frameseg.data.verification import Verification

SHOWN_PROBLEMS = 10  # of each kind and split

_EPILOG = """\
exit status:
  0  every video is there, its frames can be listed, and it lasts as long as annotated (up to 2 s)
  1  some are not
  2  the command line, a folder or an annotation file is at fault; what to do is on stderr

examples:
  frameseg verify --data-dir QVH --num-proc 8
  frameseg verify --data-dir QVH --split train --video-dir /data/videos.tar --json problems.json
"""


def add(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "verify",
        parents=[common],
        help="find missing and broken videos of a data set",
        description="Look for missing and unreadable videos and wrong durations, without decoding anything.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_options(parser)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the counts and every problem")
    parser.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    """Check, write, print."""
    from hf_frameseg.cli.data_options import builder_class, config_arguments
    from hf_frameseg.cli.score_files import check_outputs, write_json
    from hf_frameseg.data.verification import verify_videos

    check_outputs({"--json": options.json}, [])
    splits = None if options.split is None else tuple(dict.fromkeys(options.split))
    config = builder_class(options).BUILDER_CONFIG_CLASS(**config_arguments(options), splits=splits)
    verification = verify_videos(config, num_proc=options.num_proc, progress=sys.stderr.isatty())
    if options.json is not None:
        write_json(options.json, verification.to_dict())
    print("\n".join(describe(verification, shutil.get_terminal_size().columns)))
    return 1 if verification.problems else 0


def describe(verification: Verification, width: int) -> list[str]:
    r"""Return what a terminal shows: a table of counts, then some problems of each kind.

    Args:
        verification: What was found.
        width: Columns of the terminal.

    Returns:
        Lines.

    Example:
        >>> from hf_frameseg.data.verification import Verification, VideoProblem
        >>> problem = VideoProblem("val", "v7", None, "missing", "no such file in the video folder QVH/videos", 2)
        >>> print("\n".join(describe(Verification({"val": 10}, {"val": 12}, (problem,)), width=80)))
             videos  queries  missing  unreadable  duration  queries affected
        val      10       12        1           0         0                 2
        <BLANKLINE>
        val  missing     v7  no such file in the video folder QVH/videos (2 queries)
    """
    from hf_frameseg.cli.text_table import format_table
    from hf_frameseg.data.verification import PROBLEMS

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
            lines += [
                f"{split:<{wide}}  {kind:<10}  {one.vid}  {one.error} ({one.queries} {_plural('query', one.queries)})"
                for one in some[:SHOWN_PROBLEMS]
            ]
            if len(some) > SHOWN_PROBLEMS:
                lines.append(
                    f"{split:<{wide}}  {kind:<10}  and {len(some) - SHOWN_PROBLEMS} more; --json FILE lists all"
                )
    table = format_table(["", "videos", "queries", *PROBLEMS, "queries affected"], rows, width)
    return [*table, *([""] if lines else []), *lines]


def _plural(word: str, count: int) -> str:
    """Return the word for a count."""
    return word if count == 1 else f"{word.removesuffix('y')}ies"
