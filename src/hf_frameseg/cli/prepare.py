"""``frameseg prepare``: decode the videos of a data set into the cache, ahead of a training."""

from __future__ import annotations

import argparse
from pathlib import Path

from hf_frameseg._text import printable
from hf_frameseg.cli.data_options import add_data_options

_EPILOG = """\
What is finished is not decoded again, whatever ended the command: start it once more. A training then finds the data
with the same --cache-dir and the same choices of frames. Data that is there is compared with its checksums, and made
again where it is damaged.

examples:
  frameseg prepare --data-dir QVH --frame-size 384 --on-error skip --num-proc 16
  frameseg prepare --data-dir QVH --split val --short-side 384 --cache-dir /data/cache
"""

_CHOICES = {
    "num_frames": (int, "F", "frames per video (default: 25)"),
    "frame_size": (int, "PIXELS", "squash frames to a square of this side (default: native size)"),
    "short_side": (int, "PIXELS", "or scale the shorter side to this, keeping the aspect ratio"),
    "frame_format": (str, "FORMAT", "jpeg or raw (default: jpeg)"),
    "grid_kind": (str, "KIND", "middle or uniform (default: middle)"),
    "grid_phase": (float, "PHASE", "shift of the frames, as a fraction of their distance (default: 0)"),
    "variant_offset_frames": (int, "N", "source frames between the variants of a frame (default: 3)"),
    "variant_offset_seconds": (float, "SECONDS", "or the seconds between them"),
    "reader": (str, "NAME", "auto, pyav, decord, torchcodec or module:function (default: auto)"),
    "timeout_seconds": (float, "SECONDS", "time that each reader has for one video (default: 120)"),
    "duration_tolerance_seconds": (float, "SECONDS", "how much shorter than annotated a file may be (default: 2)"),
    "damaged": (str, "ACTION", "pictures that FFmpeg had to patch up: raise or keep (default: raise)"),
    "on_error": (str, "ACTION", "missing or unreadable video: raise, skip or blank (default: raise)"),
}
"""Field of the config -> type, placeholder and help of its option."""


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
    for name, (kind, metavar, text) in _CHOICES.items():
        frames.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)
    parser.add_argument("--cache-dir", metavar="DIR", type=Path, help="where to keep it (default: that of `datasets`)")
    parser.set_defaults(run=_prepare)


def _prepare(options: argparse.Namespace) -> None:
    """Prepare each split, and say where it is."""
    from hf_frameseg.cli.data_options import builder_class, config_arguments
    from hf_frameseg.prepared.builder import load_split

    given = {name: getattr(options, name) for name in _CHOICES if getattr(options, name) is not None}
    cache_dir = None if options.cache_dir is None else str(options.cache_dir)
    build, fields = builder_class(options), config_arguments(options) | given
    for split in dict.fromkeys(options.split or build.BUILDER_CONFIG_CLASS(**fields).prepared_splits()):
        builder = build(cache_dir=cache_dir, splits=(split,), **fields)
        try:
            dataset = load_split(builder, split, options.num_proc, check=True)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("finished videos are kept, the same command goes on from there") from None
        print(printable(f"{split}  {len(dataset)} queries  {builder.cache_dir}"))
