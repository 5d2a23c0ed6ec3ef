"""Preparation and loading against what they replace and what they feed, as ratios measured side by side in one run.

    python benchmarks/data.py                  # about 10 minutes on 2 cores; videos are made once and kept in --folder
    python benchmarks/data.py --quick          # a few seconds: shows that it runs, judges nothing

The last line is one JSON object. The exit code is 1 if a promise in it is broken.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.datasets.load import load_rows
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.moments import FrameGrid
from hf_frameseg.prepared.frame_columns import JPEG_QUALITY, encode_frames, row_frames
from hf_frameseg.prepared.one_video import prepare_video
from hf_frameseg.records import read_json_lines, write_json_lines
from hf_frameseg.sharing.config import TINY_BASE
from hf_frameseg.video.index import index_video
from hf_frameseg.video.read import read_variants
from hf_frameseg.video.sampling import select_frames
from hf_frameseg.video.settings import FrameSettings
from hf_frameseg.video.worker import start_pool_process

WIDTH, HEIGHT, FPS, KEY_FRAME_DISTANCE = 640, 360, 30, 250
NUM_FRAMES = 25
QUERY = "a texture that moves to and fro"
TINY_SIZE = 64  # pixels at which the demo caches frames

# The paper's run: 11 epochs of 7,218 samples in 9 h 20 min of H100 time (arXiv 2512.12246, section IV).
PAPER_SAMPLES_PER_SECOND = 2.36
# H100 SXM, dense bfloat16, data sheet. No step reaches it, so it bounds what a loader can be asked for.
H100_FLOPS = 989e12


@dataclass(frozen=True)
class Promise:
    """A bound that a measured ratio has to keep."""

    at_least: float | None = None
    at_most: float | None = None

    def kept(self, value: float) -> bool:
        """Tell whether a measured value is within the bound."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


PROMISES = {
    "preparation_speedup": Promise(at_least=1.7),  # of two processes over the plain loop
    "builder_overhead": Promise(at_most=0.15),  # of one process over decoding and encoding alone
    "loader_over_tiny_step": Promise(at_least=1.0),
    "loader_over_4b_step": Promise(at_least=1.0),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="Where the videos are made and kept; default: a temporary folder.")
    parser.add_argument("--videos", type=int, default=24, help="How many; six are made, the others are copies.")
    parser.add_argument("--seconds", type=int, default=150, help="Length of each.")
    parser.add_argument("--size", type=int, default=384, help="Side of the cached frames in pixels.")
    parser.add_argument("--rounds", type=int, default=3, help="Repetitions; the best of each is compared.")
    parser.add_argument("--quick", action="store_true", help="Two videos of six seconds, one round, nothing judged.")
    args = parser.parse_args(argv)
    if args.quick:
        args.videos, args.seconds, args.size, args.rounds = 2, 6, 64, 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch) / "videos"
        make_data(folder, args.videos, args.seconds)
        results = {
            "settings": {**vars(args), "folder": None, "cores": len(os.sched_getaffinity(0))},
            **preparation(folder, args.size, args.rounds, Path(scratch)),
            **storage(folder, args.size, Path(scratch)),
            **loading(folder, args.size, args.quick),
        }
    results["promises"] = {name: promise.kept(results[name]) for name, promise in PROMISES.items()}
    results["judged"] = not args.quick
    print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in results.items()}))
    return int(results["judged"] and not all(results["promises"].values()))


# 1. Videos: 640 x 360, 30 frames per second, H.264 with a key frame every 250 frames --------------------------------


def make_data(folder: Path, num_videos: int, seconds: int) -> None:
    """Write videos and annotations in the layout of QVHighlights; what is there already stays."""
    videos, annotations = folder / "videos", folder / "highlight_train_release.jsonl"
    if annotations.exists() and QUERY not in annotations.read_text():
        sys.exit(f"{folder} holds another data set: choose another --folder")
    videos.mkdir(parents=True, exist_ok=True)
    paths = [videos / f"bench{number:03d}_0.0_{seconds}.0.mp4" for number in range(num_videos)]
    missing = [path for path in paths[:6] if not path.is_file()]
    say(f"making {len(missing)} videos of {seconds} s in {folder}")
    with ProcessPoolExecutor(initializer=start_pool_process, initargs=(os.getpid(),)) as pool:
        list(pool.map(make_video, missing, [seconds] * len(missing)))
    for number, path in enumerate(paths[6:]):
        if not path.is_file():
            shutil.copyfile(paths[number % 6], path)
    rows = [
        {
            "qid": number,
            "query": QUERY,
            "duration": seconds,
            "vid": path.stem,
            "relevant_windows": [[0, 4]],
            "relevant_clip_ids": [0, 1],
            "saliency_scores": [[4, 3, 2], [4, 3, 2]],
        }
        for number, path in enumerate(paths)
    ]
    write_json_lines(annotations, rows)


def make_video(path: Path, seconds: int) -> None:
    """Encode scenes of 25 s: a camera that moves over a picture with detail of all sizes."""
    import av

    rng = np.random.default_rng(int(path.name[5:8]))
    unfinished = path.with_suffix(".part")
    with av.open(str(unfinished), "w", format="mp4") as container:
        options = {"preset": "veryfast", "g": str(KEY_FRAME_DISTANCE), "crf": "26"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for start in range(0, seconds, 25):
            scene, speed, phase = textured_picture(rng), rng.uniform(0.2, 1.0), rng.uniform(0, 6.28)
            for number in range(min(25, seconds - start) * FPS):
                angle = phase + speed * number / FPS
                x, y = int(128 + 128 * np.sin(angle)), int(64 + 64 * np.cos(1.3 * angle))
                picture = np.ascontiguousarray(scene[y : y + HEIGHT, x : x + WIDTH])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    unfinished.rename(path)


def textured_picture(rng: np.random.Generator) -> np.ndarray:
    """Draw noise of four scales, as in photographs weaker where it is finer."""
    height, width = HEIGHT + 129, WIDTH + 257
    picture = np.full((height, width, 3), 128.0, dtype=np.float32)
    for cell, weight in ((128, 1.0), (32, 0.5), (8, 0.25), (2, 0.12)):
        noise = rng.integers(256, size=(height // cell + 1, width // cell + 1, 3), dtype=np.uint8)
        scaled = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        picture += weight * (np.asarray(scaled, dtype=np.float32) - 128)
    return picture.clip(0, 255).astype(np.uint8)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return read_json_lines(folder / "highlight_train_release.jsonl")


# 2. Preparation -------------------------------------------------------------------------------------------------------


def preparation(folder: Path, size: int, rounds: int, scratch: Path) -> dict[str, Any]:
    """Time the plain loop, decoding and encoding alone, and the builder with one process and two."""
    rows = rows_of(folder)
    paths = [folder / "videos" / f"{row['vid']}.mp4" for row in rows]
    grid = FrameGrid.middle(rows[0]["duration"], NUM_FRAMES)
    positions = [select_frames(index_video(path).times_seconds, grid) for path in paths]
    settings = FrameSettings(num_frames=NUM_FRAMES, frame_size=size)

    def build(num_proc: int) -> None:
        cache = Path(tempfile.mkdtemp(dir=scratch))
        load_rows("qvhighlights", folder, "train", settings, cache_dir=cache, num_proc=num_proc)
        shutil.rmtree(cache)

    contenders: dict[str, Callable[[], Any]] = {
        "plain_seconds": lambda: plain_loop(paths, positions, size, scratch),
        "plain_one_thread_seconds": lambda: plain_loop(paths, positions, size, scratch, num_threads=1),
        "bare_seconds": lambda: [prepare_video(path, grid.duration_seconds, settings) for path in paths],
        "builder_1_seconds": lambda: build(1),
        "builder_2_seconds": lambda: build(2),
    }
    best = dict.fromkeys(contenders, float("inf"))
    for number in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
            say(f"round {number + 1} of {rounds}, {name}: {time.perf_counter() - start:.2f}")
    plain = min(best["plain_seconds"], best["plain_one_thread_seconds"])
    return {
        **best,
        "preparation_speedup": plain / best["builder_2_seconds"],
        "builder_overhead": best["builder_1_seconds"] / best["bare_seconds"] - 1,
        **quality(paths[0], positions[0], grid, size),
    }


def plain_loop(paths: list[Path], positions: list[np.ndarray], size: int, scratch: Path, num_threads: int = 0) -> None:
    """Do what a first script does: `get_batch`, resize and save with Pillow. It is told which frames, for nothing."""
    import decord

    out = Path(tempfile.mkdtemp(dir=scratch))
    for path, wanted in zip(paths, positions, strict=True):
        reader = decord.VideoReader(str(path), num_threads=num_threads)
        for number, picture in enumerate(reader.get_batch(wanted.ravel()).asnumpy()):
            plain_picture(picture, size).save(out / f"{path.stem}_{number}.jpg", quality=JPEG_QUALITY)
    shutil.rmtree(out)


def plain_picture(picture: np.ndarray, size: int) -> Image.Image:
    return Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)


def quality(path: Path, positions: np.ndarray, grid: FrameGrid, size: int) -> dict[str, float]:
    """Compare the JPEGs of both with what they were made from; Pillow resizes in integers, we in float32."""
    import decord

    frames = read_variants(path, grid, frame_size=size).frames
    ours = row_frames({**encode_frames(frames, "jpeg")})
    native = decord.VideoReader(str(path)).get_batch(positions[:, 1]).asnumpy()
    resized = [plain_picture(picture, size) for picture in native]
    plain = []
    for picture in resized:
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=JPEG_QUALITY)
        plain.append(np.asarray(Image.open(buffer)))
    return {
        "psnr_db": psnr(ours, frames[:, 1]),
        "plain_psnr_db": psnr(np.stack(plain), np.stack([np.asarray(picture) for picture in resized])),
    }


def psnr(pictures: np.ndarray, originals: np.ndarray) -> float:
    error = np.square(pictures.astype(np.float64) - originals).mean()
    return float(10 * np.log10(255**2 / error))


# 3. Raw or JPEG -------------------------------------------------------------------------------------------------------


def storage(folder: Path, size: int, scratch: Path) -> dict[str, Any]:
    """Compare the size of a row and the time to read its 25 frames from a data set on disk."""
    from datasets import Dataset, load_from_disk

    rows = rows_of(folder)[:4]
    results: dict[str, Any] = {}
    for frame_format in ("raw", "jpeg"):
        settings = FrameSettings(num_frames=NUM_FRAMES, frame_size=size)
        videos = [(folder / "videos" / f"{row['vid']}.mp4", row["duration"]) for row in rows]
        prepared = [prepare_video(*video, settings, frame_format) for video in videos]
        place = scratch / f"storage_{frame_format}"
        Dataset.from_list(prepared).save_to_disk(place)
        dataset = load_from_disk(place)
        cells = [row["frames"] for row in dataset]
        sizes = [len(cell) if isinstance(cell, bytes) else sum(len(one["bytes"]) for one in cell) for cell in cells]
        results[f"{frame_format}_row_bytes"] = int(np.mean(sizes))
        results[f"{frame_format}_rows_per_second"] = 1 / seconds_of(lambda: row_frames(dataset[1]))  # noqa: B023
    results["jpeg_share_of_raw"] = results["jpeg_row_bytes"] / results["raw_row_bytes"]
    results["raw_over_jpeg_read_speed"] = results["raw_rows_per_second"] / results["jpeg_rows_per_second"]
    ratio = results["raw_over_jpeg_read_speed"]
    say(f"JPEG takes {results['jpeg_share_of_raw']:.1%} of the space of raw; raw reads {ratio:.1f} times as fast")
    return results


def seconds_of(work: Callable[[], Any], least_seconds: float = 0.5) -> float:
    """Return the best time of a call over at least this long."""
    best, end = float("inf"), time.perf_counter() + least_seconds
    while True:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() > end:
            return best


# 4. Loader and training step ----------------------------------------------------------------------------------------


def loading(folder: Path, size: int, quick: bool) -> dict[str, Any]:
    """Compare what the loader gives, with 0 to 2 workers, with what a training step takes."""
    from transformers import AutoProcessor

    import hf_frameseg.models.xgenmm  # noqa: F401  (registers xGen-MM with the Auto classes)
    from hf_frameseg.models.xgenmm import XGenMMImageProcessor, XGenMMProcessor

    processor = AutoProcessor.from_pretrained(TINY_BASE, trust_remote_code=False)
    large = XGenMMProcessor(
        image_processor=XGenMMImageProcessor(size={"height": size, "width": size}),
        tokenizer=processor.tokenizer,
        num_image_tokens=128,
        chat_template=processor.chat_template,
    )
    cases = {
        "tiny_raw": (processor, TINY_SIZE, "raw", 16),
        "tiny_jpeg": (processor, TINY_SIZE, "jpeg", 16),
        "4b_jpeg": (large, size, "jpeg", 4),
    }
    results: dict[str, Any] = {}
    for name, (chosen, side, frame_format, batch_size) in cases.items():
        rows = loader_rows(folder, side, frame_format)
        collator = collator_of(chosen)
        for workers in (0, 1) if quick else (0, 1, 2):
            key = f"loader_{name}_{workers}_workers_samples_per_second"
            results[key] = loader_speed(rows, collator, batch_size, workers, 2 if quick else 24)
            say(f"{key}: {results[key]:.1f}")
    collator = collator_of(processor)
    rows = loader_rows(folder, TINY_SIZE, "raw")
    step = training_step(collator)
    results["tiny_step_samples_per_second"] = step_speed(step, collator(rows * 2), 1 if quick else 5)
    results["wait_share_of_tiny_training"] = wait_share(step, rows, collator, 3 if quick else 20)
    results["4b_step_samples_per_second_reported"] = PAPER_SAMPLES_PER_SECOND
    results["4b_step_flops"] = step_flops()
    results["4b_step_samples_per_second_at_peak"] = H100_FLOPS / results["4b_step_flops"]
    tiny = [value for key, value in results.items() if key.startswith("loader_tiny_raw")]
    results["loader_over_tiny_step"] = max(tiny) / results["tiny_step_samples_per_second"]
    one_worker = results["loader_4b_jpeg_1_workers_samples_per_second"]
    results["loader_over_4b_step"] = one_worker / PAPER_SAMPLES_PER_SECOND
    results["workers_for_4b_step_at_peak"] = results["4b_step_samples_per_second_at_peak"] / one_worker
    return results


def collator_of(processor: Any) -> FrameSegmentationCollator:
    labels = BinaryLabels.from_tokenizer(processor.tokenizer)
    return FrameSegmentationCollator(processor=processor, labels=labels, prompt="compact", prefix_corruption=0.3)


def loader_rows(folder: Path, side: int, frame_format: str) -> list[dict[str, Any]]:
    """Prepare two videos and make eight rows of them."""
    settings = FrameSettings(num_frames=NUM_FRAMES, frame_size=side)
    rows = []
    for row in rows_of(folder)[:2]:
        columns = prepare_video(folder / "videos" / f"{row['vid']}.mp4", row["duration"], settings, frame_format)
        rows.append({**row, **columns, "duration_seconds": float(row["duration"])})
    return [{**rows[qid % 2], "qid": qid} for qid in range(8)]


def loader_speed(rows: list[dict], collator: Any, batch_size: int, workers: int, num_batches: int) -> float:
    """Return samples per second after the first batch, which waits for the workers to start."""
    wanted = [rows[number % len(rows)] for number in range(batch_size * (num_batches + 1))]
    loader = iter(DataLoader(wanted, batch_size=batch_size, num_workers=workers, collate_fn=collator))
    next(loader)
    start = time.perf_counter()
    count = sum(len(batch["input_ids"]) for batch in loader)
    return count / (time.perf_counter() - start)


def step_speed(take_step: Callable[[dict], None], batch: dict[str, torch.Tensor], num_steps: int) -> float:
    """Return samples per second of a training step, with all threads."""
    take_step(batch)
    return len(batch["input_ids"]) / min(seconds_of(lambda: take_step(batch), 0) for _ in range(num_steps))


def wait_share(take_step: Callable[[dict], None], rows: list[dict], collator: Any, num_steps: int) -> float:
    """Return the share of a training with one worker that is spent waiting for the next batch."""
    wanted = [rows[number % len(rows)] for number in range(16 * (num_steps + 2))]
    loader = iter(DataLoader(wanted, batch_size=16, num_workers=1, collate_fn=collator))
    for _ in range(2):
        take_step(next(loader))
    begin, waited = time.perf_counter(), 0.0
    for _ in range(num_steps):
        start = time.perf_counter()
        batch = next(loader)
        waited += time.perf_counter() - start
        take_step(batch)
    return waited / (time.perf_counter() - begin)


def training_step(collator: FrameSegmentationCollator) -> Callable[[dict[str, torch.Tensor]], None]:
    """Return the step of the package's trainer on the tiny base: loss, backward, optimiser."""
    from transformers import AutoModelForImageTextToText

    from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
    from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer

    model = AutoModelForImageTextToText.from_pretrained(TINY_BASE, trust_remote_code=False).train()
    with tempfile.TemporaryDirectory() as folder:
        args = SegmentationSeq2SeqTrainingArguments(folder, use_cpu=True, report_to="none", max_steps=1)
        trainer = SegmentationSeq2SeqTrainer(model, args, collator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def take(batch: dict[str, torch.Tensor]) -> None:
        trainer.compute_loss(model, batch, num_items_in_batch=torch.tensor(len(batch["input_ids"]))).backward()
        optimizer.step()
        optimizer.zero_grad()

    return take


def step_flops() -> float:
    """Count the operations of a training step of xGen-MM 4 B on one query (parameters: docs/paper-model.md).

    Two per weight and token. The vision tower runs forward only; the language model forward, forward again
    (checkpointing) and backward to its inputs (its weights are frozen); the resampler all four, its weights learn.
    Attention within the language model comes on top.
    """
    patches, latents, positions, layers, width = 729, 128, 3640, 32, 3072
    vision = 2 * 413e6 * NUM_FRAMES * patches
    resampler = 4 * 2 * 110e6 * NUM_FRAMES * latents
    language = 3 * 2 * 3.72e9 * positions
    attention = 3 * layers * 2 * positions**2 * width  # causal: half of 4 L^2 d
    return float(vision + resampler + language + attention)


def say(text: str) -> None:
    print(f"[data] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
