"""How fast each video reader is, what its process costs, and so in which order "auto" tries them.

    python benchmarks/readers.py                # about 4 minutes on 2 cores
    python benchmarks/readers.py --quick        # seconds: shows that it runs, judges nothing

Writes videos of QVHighlights' shape (150 s, 640 x 360, 29.97 frames a second, about 0.9 Mbit/s) with long and short
groups of pictures and without B-frames, and reads 25 windows x 3 variants of each at native size. The unit is the plain
loop that everybody writes: `decord.VideoReader(path).get_batch(positions)`. The readers take turns in one run. What
counts is CPU time, of the caller and of the process that decodes: videos are prepared by as many processes as there are
cores, so it decides when all are done, and other work on the machine disturbs it least. The last line is one JSON
object. The exit code is 1 if a promise in it is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import numpy as np

from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.index import VideoIndex
from hf_frameseg.video.read import read_variants
from hf_frameseg.video.readers import load_reader, reader_names
from hf_frameseg.video.settings import FrameSettings
from hf_frameseg.video.worker import thread_worker

HEIGHT, WIDTH, RATE = 360, 640, Fraction(30_000, 1001)
PLAIN = "readers:read_with_plain_decord"
HERE = "pyav, no process"
LIMIT_SECONDS = 600.0
SHARED_VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "videos"
QVHIGHLIGHTS_SHAPE = "key frame every 250"  # what x264 and so most tools write by default
SHAPES = {
    QVHIGHLIGHTS_SHAPE: {"g": "250"},
    "key frame every 30": {"g": "30"},
    "no B-frames": {"g": "250", "bf": "0"},
}


def read_with_plain_decord(index: VideoIndex, positions: np.ndarray) -> Iterator[np.ndarray]:
    """Read as a plain script does; a reader like the others, so that the rest of the work is the same."""
    import decord

    yield from decord.VideoReader(str(index.path), num_threads=1).get_batch(positions).asnumpy()


@cache
def kept_frames(num_frames: int, height: int, width: int) -> np.ndarray:
    """Return the frames of a video without the work of reading them."""
    return np.ones((num_frames, 3, height, width, 3), np.uint8)


def write_video(path: Path, seconds: float, options: dict[str, str]) -> None:
    """Encode scenes of 2 to 10 s: a camera that pans over a picture, noise, and something that moves."""
    import av

    rng = np.random.default_rng(0)
    noise = rng.integers(-3, 4, (8, HEIGHT, WIDTH, 3), dtype=np.int16)
    bitrate = {"preset": "veryfast", "b": "900k", "maxrate": "1800k", "bufsize": "3600k"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={**bitrate, **options})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        left = 0
        for number in range(round(seconds * RATE)):
            if left == 0:
                picture, left = _make_picture(rng), int(rng.integers(60, 300))
                start, speed = rng.uniform((60, 100), (140, 300)), rng.uniform(-0.6, 0.6, size=2)
                frames_shown = 0
            y, x = np.clip(start + speed * frames_shown, 0, (199, 399)).astype(int)
            frame = (picture[y : y + HEIGHT, x : x + WIDTH] + noise[number % 8]).clip(0, 255).astype(np.uint8)
            at = 2 * frames_shown % (WIDTH - 90)
            frame[100:190, at : at + 90] ^= 255
            frames_shown, left = frames_shown + 1, left - 1
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _make_picture(rng: np.random.Generator) -> np.ndarray:
    """Return a picture larger than the frame, with detail of every size as in nature (1/f)."""
    height, width = HEIGHT + 200, WIDTH + 400
    picture = np.zeros((height, width, 3))
    for size in (2, 8, 32, 128):
        blocks = rng.standard_normal((height // size + 1, width // size + 1, 3))
        picture += size**0.5 * np.kron(blocks, np.ones((size, size, 1)))[:height, :width]
    return (255 * (picture - picture.min()) / np.ptp(picture)).astype(np.int16)


def cpu_seconds(pid: int | str = "self") -> float:
    """Return the CPU time of a process with all its threads, past ones included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_costs(names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Return what a process with each reader's library costs once: seconds to start, and memory."""
    costs = {}
    for name in names:
        worker = thread_worker(load_reader, name)
        worker.close()
        start = time.perf_counter()
        worker.call(abs, -1, timeout_seconds=LIMIT_SECONDS)
        seconds = time.perf_counter() - start
        status = Path(f"/proc/{worker.pid}/status").read_text()
        megabytes = int(status.partition("VmRSS:")[2].split()[0]) / 1024
        costs[name] = {"start_seconds": round(seconds, 2), "megabytes": round(megabytes)}
        print(f"{name:12s} starts in {seconds:5.2f} s, {megabytes:5.0f} MB")
    return costs


def read_once(path: Path, name: str) -> tuple[float, float]:
    """Read a video; return CPU and wall-clock seconds. `HERE` is PyAV in this process."""
    reader, timeout_seconds = ("pyav", None) if name == HERE else (name, LIMIT_SECONDS)
    # The frames are listed in PyAV's process, then decoded in the reader's own.
    processes = ["self", *{thread_worker(load_reader, each).pid for each in ("pyav", reader)}]
    before, start = sum(map(cpu_seconds, processes)), time.perf_counter()
    read_variants(path, reader=reader, timeout_seconds=timeout_seconds)
    wall_seconds = time.perf_counter() - start
    return sum(map(cpu_seconds, processes)) - before, wall_seconds


def measure(path: Path, names: tuple[str, ...], repeats: int) -> dict[str, tuple[float, float]]:
    """Return mean CPU seconds and best wall-clock seconds of each reader, the plain loop and `HERE`."""
    every = (PLAIN, *names, HERE)
    for name in every:
        read_variants(path, reader="pyav" if name == HERE else name, timeout_seconds=LIMIT_SECONDS)  # starts processes
    runs = {name: [] for name in every}
    for _ in range(repeats):
        for name in every:
            runs[name].append(read_once(path, name))
    return {name: (np.mean([cpu for cpu, _ in times]), min(wall for _, wall in times)) for name, times in runs.items()}


def transport_cpu_seconds(repeats: int) -> float:
    """Return the CPU time that the frames of a video cost on their way from a process, 52 MB at native size."""
    worker = thread_worker(load_reader, "pyav")
    function = import_module("readers").kept_frames  # not of "__main__", which the process does not know
    call = partial(worker.call, function, FrameSettings.num_frames, HEIGHT, WIDTH, timeout_seconds=LIMIT_SECONDS)
    call()
    before = cpu_seconds() + cpu_seconds(worker.pid)
    for _ in range(repeats):
        call()
    return (cpu_seconds() + cpu_seconds(worker.pid) - before) / repeats


def measure_shapes(names: tuple[str, ...], seconds: float, repeats: int) -> dict[str, dict[str, float]]:
    """Print and return the CPU seconds of each reader for each kind of video, and the ratios."""
    print(
        f"\n{'CPU seconds, and how many times as fast as plain decord':22s}\n{'':22s}"
        + "".join(f"{name:>18s}" for name in ("plain decord", *names, HERE))
    )
    results = {}
    transport = transport_cpu_seconds(10 * repeats)
    with tempfile.TemporaryDirectory() as folder:
        for label, encoder_options in SHAPES.items():
            path = Path(folder) / f"{label}.mp4"
            write_video(path, seconds, encoder_options)
            times = measure(path, names, repeats)
            plain = times[PLAIN][0]
            cells = [f"{cpu:8.3f} {plain / max(cpu, 1e-3):5.2f}x" for cpu, _ in times.values()]
            print(f"{label:22s}" + "".join(f"{cell:>18s}" for cell in cells))
            results[label] = {
                "cpu_seconds": {name: round(float(cpu), 3) for name, (cpu, _) in times.items()},
                "wall_seconds": {name: round(wall, 3) for name, (_, wall) in times.items()},
                "times_plain_decord": {
                    name: round(float(plain / max(cpu, 1e-3)), 3) for name, (cpu, _) in times.items()
                },
                "process_overhead": round(float(transport / max(times[HERE][0], 1e-3)), 4),
            }
    return results


def try_files(folder: Path, names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Print and return what each reader makes of each file of a folder."""
    outcomes: dict[str, dict[str, str]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        outcomes[path.name] = {}
        for name in names:
            try:
                frames = read_variants(path, reader=name, timeout_seconds=LIMIT_SECONDS).frames
                outcomes[path.name][name] = "x".join(map(str, frames.shape))
            except VideoReadError:
                outcomes[path.name][name] = "refused"
        print(f"{path.name:22s}" + "".join(f"{outcome:>18s}" for outcome in outcomes[path.name].values()))
    return outcomes


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="How often each reader reads each video.")
    parser.add_argument("--seconds", type=float, default=150.0, help="Length of the videos that are written.")
    parser.add_argument("--videos", type=Path, default=SHARED_VIDEOS, help="A folder of files to try as well.")
    parser.add_argument("--readers", nargs="+", default=reader_names("auto"), help="Which ones, the default first.")
    parser.add_argument("--quick", action="store_true", help="Videos of 4 seconds, read once, nothing judged.")
    args = parser.parse_args(argv)
    if args.quick:
        args.seconds, args.repeats = 4.0, 1
    sys.path.insert(0, str(Path(__file__).parent))  # where the processes find `PLAIN`
    names = tuple(args.readers)
    results: dict[str, object] = {"judged": not args.quick, "start": start_costs(names)}
    results["shapes"] = shapes = measure_shapes(names, args.seconds, args.repeats)
    print(f"\n{'frames':22s}" + "".join(f"{name:>18s}" for name in names))
    results["files"] = try_files(args.videos, names)
    results["promises"] = {
        f"{names[0]}_is_as_fast_as_plain_decord": all(
            row["times_plain_decord"][names[0]] >= 1 for row in shapes.values()
        ),
        "a_process_costs_below_5_percent": shapes[QVHIGHLIGHTS_SHAPE]["process_overhead"] < 0.05,
    }
    print(json.dumps(results))
    return int(not args.quick and not all(results["promises"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
