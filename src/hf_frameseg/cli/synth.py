"""``frameseg synth``: a synthetic data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from hf_frameseg._text import printable


def add(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "synth",
        parents=[common],
        help="write a synthetic data set",
        description="Write a data set of synthetic H.264 videos in the layout of QVHighlights.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to fill")
    for split, default in (("train", 400), ("val", 100), ("test", 50)):
        text = f"videos of the {split} split (default: {default})"
        parser.add_argument(f"--num-{split}", metavar="N", type=int, help=text)
    parser.add_argument("--seed", metavar="N", type=int, help="seed of everything that is random (default: 0)")
    parser.add_argument("--num-proc", metavar="N", type=int, help="processes that draw and encode (default: 1)")
    parser.set_defaults(run=_synth)


def _synth(options: argparse.Namespace) -> None:
    from hf_frameseg.datasets.synthetic import write_dataset

    wanted = {
        "num_train_videos": options.num_train,
        "num_val_videos": options.num_val,
        "num_test_videos": options.num_test,
        "seed": options.seed,
        "num_proc": options.num_proc,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    write_dataset(options.out, progress=True, **given)
    print(f"data set  {printable(options.out)}")
