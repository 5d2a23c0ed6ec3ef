"""``frameseg prepare``: decode the videos of a data set into the cache, ahead of a training."""

from __future__ import annotations

import argparse
from pathlib import Path

from hf_frameseg._options import given, options_of
from hf_frameseg._text import printable
from hf_frameseg.cli.data_options import add_data_options
from hf_frameseg.video.settings import FrameSettings

_EPILOG = """\
What is finished is not decoded again, whatever ended the command: start it once more. A training then finds the data
with the same --cache-dir and the same choices of frames. Data that is there is compared with its checksums, and made
again where it is damaged.

examples:
  frameseg prepare --data-dir QVH --frame-size 384 --on-error skip --num-proc 16
  frameseg prepare --data-dir QVH --split val --short-side 384 --cache-dir /data/cache
"""

_STORED = {
    "frame_format": ("FORMAT", "jpeg or raw (default: jpeg)"),
    "on_error": ("ACTION", "missing or unreadable video: raise, skip or blank (default: raise)"),
}
"""Field of the config beside its frames -> placeholder and help of its option."""


def add(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "prepare",
        parents=[common],
        help="decode the videos of a data set into the cache",
        description="Decode the videos of a data set into the cache, ahead of a training.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_options(parser)
    frames = parser.add_argument_group("frames")
    for option in options_of(FrameSettings):
        frames.add_argument(option.flag, type=option.type, metavar=option.metavar, help=option.shown_help)
    for name, (metavar, text) in _STORED.items():
        frames.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=text)
    parser.add_argument("--cache-dir", metavar="DIR", type=Path, help="where to keep it (default: that of `datasets`)")
    parser.set_defaults(run=_prepare)


def _prepare(options: argparse.Namespace) -> None:
    """Prepare each split, and say where it is."""
    from hf_frameseg.cli.data_options import builder_class, config_arguments

    stored = {name: getattr(options, name) for name in _STORED if getattr(options, name) is not None}
    cache_dir = None if options.cache_dir is None else str(options.cache_dir)
    frames = FrameSettings(**given(options, FrameSettings))
    build, fields = builder_class(options), config_arguments(options) | stored | {"frames": frames}
    for split in dict.fromkeys(options.split or build.BUILDER_CONFIG_CLASS(**fields).prepared_splits()):
        builder = build(cache_dir=cache_dir, splits=(split,), **fields)
        try:
            dataset = builder.load(split, options.num_proc, check=True)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("finished videos are kept, the same command goes on from there") from None
        print(printable(f"{split}  {len(dataset)} queries  {builder.cache_dir}"))
