"""``frameseg synth``: a synthetic data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from hf_frameseg._options import given
from hf_frameseg._text import printable
from hf_frameseg.cli.parser import add_settings

HELP = "write a data set of synthetic H.264 videos in the layout of QVHighlights"
EPILOG = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    from hf_frameseg.datasets.synthetic import SyntheticSettings

    parser.add_argument("out", metavar="OUT", type=Path, help="folder to fill")
    add_settings(parser, SyntheticSettings)
    parser.add_argument(
        "--num-proc", metavar="N", type=int, default=1, help="processes that draw and encode (default: 1)"
    )


def run(options: argparse.Namespace) -> None:
    """Write, and say where."""
    from hf_frameseg.datasets.synthetic import SyntheticSettings, write_dataset

    write_dataset(options.out, num_proc=options.num_proc, progress=True, **given(options, SyntheticSettings))
    print(f"data set  {printable(options.out)}")
