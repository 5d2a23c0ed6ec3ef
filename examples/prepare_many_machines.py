"""Prepare a split on many machines, with datatrove; the result is the data set that one machine would make.

Every machine sees the same data folder and the same cache folder. On this machine, two tasks at a time:

    python examples/prepare_many_machines.py --data_dir QVH --split train --cache_dir SHARED --tasks 200 --workers 2

On a Slurm cluster, from the login node; a last job puts the data set together:

    python examples/prepare_many_machines.py --data_dir QVH --split train --cache_dir SHARED --tasks 200 --workers 50 \
        --slurm_partition cpu --slurm_time 02:00:00

Without Slurm, on each machine i of n (then once without --machine, to put it together):

    python examples/prepare_many_machines.py ... --tasks 200 --workers 16 --machine i --machines n

What was killed goes on when the same command is given again: finished videos are not decoded twice.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hf_frameseg._imports import require
from hf_frameseg._options import given, options_of
from hf_frameseg.datasets.qvhighlights import QVHighlights
from hf_frameseg.prepared.settings import StorageSettings
from hf_frameseg.shards.shares import AssembleShares, DecodeShare, task_folder
from hf_frameseg.video.settings import FrameSettings

# 1. Arguments ---------------------------------------------------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="Folder with highlight_SPLIT_release.jsonl and videos/.")
    parser.add_argument("--split", required=True, help="train, val or test.")
    parser.add_argument("--cache_dir", required=True, help="Where it is made; a disk that all machines share.")
    parser.add_argument("--output_dir", help="Also write it as Parquet shards, for streaming and for the Hub.")
    for option in (*options_of(FrameSettings), *options_of(StorageSettings)):
        parser.add_argument(f"--{option.name}", **option.keywords())
    parser.add_argument("--tasks", type=int, default=8, help="Number of shares; 10 to 50 videos each.")
    parser.add_argument("--workers", type=int, default=2, help="Shares at a time, here or on Slurm.")
    parser.add_argument("--machine", type=int, help="Number of this machine, from 0, without Slurm.")
    parser.add_argument("--machines", type=int, default=1, help="How many machines there are, without Slurm.")
    parser.add_argument("--slurm_partition", help="Run on Slurm, in this partition.")
    parser.add_argument("--slurm_time", default="04:00:00", help="Time limit of a Slurm job.")
    parser.add_argument("--slurm_qos", default="normal", help="Quality of service of the Slurm jobs.")
    args = parser.parse_args(argv)
    if args.machine is not None and not 0 <= args.machine < args.machines:
        parser.error(f"expected --machine from 0 to {args.machines - 1}, got {args.machine}")
    args.data_dir, args.cache_dir = str(Path(args.data_dir).resolve()), str(Path(args.cache_dir).resolve())
    return args


def builder_options(args: argparse.Namespace) -> dict[str, Any]:
    frames = FrameSettings(**given(args, FrameSettings))
    places = {"data_dir": args.data_dir, "cache_dir": args.cache_dir}
    return {"splits": (args.split,), "frames": frames, **places, **given(args, StorageSettings)}


# 2. Who runs it -------------------------------------------------------------------------------------------------------


def run_here(args: argparse.Namespace, decode: DecodeShare, tasks: Path) -> None:
    """Run the shares of this machine, a few at a time."""
    engine = require("datatrove.executor", extra="scale")
    machine = args.machine or 0
    first, end = (number * args.tasks // args.machines for number in (machine, machine + 1))
    engine.LocalPipelineExecutor(
        [decode],
        tasks=args.tasks,
        workers=args.workers,
        logging_dir=str(tasks),
        local_tasks=end - first,
        local_rank_offset=first,
    ).run()


def run_on_slurm(args: argparse.Namespace, decode: DecodeShare, assemble: AssembleShares, tasks: Path) -> None:
    """Submit an array of shares, and a job that waits for it and puts the data set together."""
    engine = require("datatrove.executor", extra="scale")
    logs = {name: str(Path(args.cache_dir) / "slurm_logs" / name) for name in ("decode", "assemble")}
    common = {
        "partition": args.slurm_partition,
        "time": args.slurm_time,
        "qos": args.slurm_qos,
        "mem_per_cpu_gb": 4,
        "venv_path": str(Path(sys.prefix) / "bin" / "activate"),
    }
    shares = engine.SlurmPipelineExecutor(
        [decode],
        tasks=args.tasks,
        workers=args.workers,
        logging_dir=str(tasks),
        slurm_logs_folder=logs["decode"],
        job_name="decode",
        **common,
    )
    engine.SlurmPipelineExecutor(
        [assemble],
        tasks=1,
        depends=shares,
        logging_dir=logs["assemble"],
        slurm_logs_folder=logs["assemble"],
        skip_completed=False,
        job_name="assemble",
        **common,
    ).run()


# 3. All together ------------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    options = builder_options(args)
    builder = QVHighlights(**options)
    decode = DecodeShare(QVHighlights, options)
    assemble = AssembleShares(QVHighlights, options, args.split, args.output_dir)
    tasks = task_folder(builder) / str(args.tasks)  # what is done of another cut says nothing about this one
    todo = not builder.is_prepared()
    if todo and args.slurm_partition:
        run_on_slurm(args, decode, assemble, tasks)
        return
    if todo:
        run_here(args, decode, tasks)
    if args.machine is None:
        assemble()
        print(f"the data set is in {builder.cache_dir}", flush=True)


if __name__ == "__main__":
    main()
