"""``frameseg prepare``: decode the videos of a data set into the cache, ahead of a training."""

from __future__ import annotations

import argparse
from pathlib import Path

from hf_frameseg._options import given
from hf_frameseg._text import printable
from hf_frameseg.cli.parser import add_settings

HELP = "decode the videos of a data set into the cache, ahead of a training"
EPILOG = """\
What is finished is not decoded again, whatever ended the command: start it once more. A training then finds the data
with the same --cache-dir and the same choices of frames. Data that is there is compared with its checksums, and made
again where it is damaged.

examples:
  frameseg prepare --data-dir QVH --frame-size 384 --on-error skip --num-proc 16
  frameseg prepare --data-dir QVH --split val --short-side 384 --cache-dir /data/cache
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    from hf_frameseg.cli.data_options import add_data_options
    from hf_frameseg.prepared.settings import StorageSettings
    from hf_frameseg.video.settings import FrameSettings

    add_data_options(parser)
    frames = parser.add_argument_group("frames")
    add_settings(frames, FrameSettings)
    add_settings(frames, StorageSettings, "frame_format", "on_error")
    parser.add_argument("--cache-dir", metavar="DIR", type=Path, help="where to keep it (default: that of `datasets`)")


def run(options: argparse.Namespace) -> None:
    """Prepare each split, and say where it is."""
    from hf_frameseg.cli.data_options import builder_class, config_arguments
    from hf_frameseg.video.settings import FrameSettings

    frames = FrameSettings(**given(options, FrameSettings))
    cache_dir = None if options.cache_dir is None else str(options.cache_dir)
    build, fields = builder_class(options), config_arguments(options) | {"frames": frames}
    for split in dict.fromkeys(options.split or build.BUILDER_CONFIG_CLASS(**fields).prepared_splits()):
        builder = build(cache_dir=cache_dir, splits=(split,), **fields)
        try:
            dataset = builder.load(split, options.num_proc, check=True)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("finished videos are kept, the same command goes on from there") from None
        print(printable(f"{split}  {len(dataset)} queries  {builder.cache_dir}"))
