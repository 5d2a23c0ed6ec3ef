"""A QVHighlights-shaped data set of real H.264 files, made from a seed.

Every video is a row of scenes. A scene shows one coloured shape on a noisy coloured background; how well it can be seen
rises and falls once within the scene, and the three simulated annotators follow that visibility. So the mask (is the
object there?) and the saliency (how well is it shown?) are two different things, as in QVHighlights. Distractor scenes
share the colour or the shape with the queried object: both words of a query are needed to answer it.

`render_objects` is the only place that draws; still pictures for pretraining and the frames of the videos come from it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_frameseg._files import atomic_write, atomic_writer, replace_folder
from hf_frameseg._options import setting
from hf_frameseg.moments import CLIP_SECONDS, MAX_RATING, NUM_ANNOTATORS, num_clips
from hf_frameseg.records import write_json_lines
from hf_frameseg.video.worker import check_num_processes, start_pool_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 45, 38),
    "green": (35, 160, 60),
    "blue": (45, 85, 215),
    "yellow": (240, 210, 40),
    "purple": (150, 50, 170),
    "white": (245, 245, 245),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross")
MIN_SCENE_CLIPS = 7
RADIUS_RANGE = (0.13, 0.35)  # of the picture's side, at visibility 0 and 1
OPACITY_RANGE = (0.45, 1.0)
NOISE_LEVELS = 18.0  # standard deviation of the pixel noise, in grey levels
# The same bytes every time: without the last option, x264's vectorised rate control differs from run to run (and from
# processor to processor), by a few bytes in one file of four.
ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20", "x264-params": "cpu-independent=1"}
_RENDERED_PIXELS = 2**22  # drawn at a time, in about 40 bytes each
_LARGEST = {
    "num_train_videos": 1_000_000,  # more would get the numbers of the next split
    "num_val_videos": 1_000_000,
    "num_test_videos": 1_000_000,
    "queries_per_video": 10,  # which is how a query is numbered
    "size_pixels": 4096,
    "fps": 240,
    "seed": 2**63 - 1,
}
MANIFEST = "synthetic.json"
SPLITS = ("train", "val", "test")


def query_text(color: str, shape: str) -> str:
    """Return the query for an object, e.g. ``a red circle``."""
    return f"a {color} {shape}"


def _gauge(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return a function that is below 1 inside the unit shape and grows linearly outside."""
    if shape == "circle":
        return np.hypot(u, v)
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) / 0.86
    if shape == "triangle":
        side = 0.5 * v
        slope = 0.8660254 * u
        return np.maximum(v, np.maximum(-side - slope, -side + slope)) / 0.6
    if shape == "cross":
        au, av = np.abs(u), np.abs(v)
        return np.maximum(np.minimum(au, av) / 0.3, np.maximum(au, av))
    raise ValueError(f"shape must be one of {SHAPES}, got {shape!r}.")


def render_objects(
    colors: Sequence[str],
    shapes: Sequence[str],
    visibility: np.ndarray,
    centers: np.ndarray,
    backgrounds: np.ndarray,
    size: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw N pictures, one object each.

    Args:
        colors: N keys of `COLORS`.
        shapes: N names out of `SHAPES`.
        visibility: (N,) in [0, 1]; sets radius and opacity together.
        centers: (N, 2) x and y of the object as fractions of the side.
        backgrounds: (N, 3) background colour in grey levels.
        size: side of the square picture in pixels.
        rng: source of the pixel noise.

    Returns:
        (N, size, size, 3) uint8.
    """
    count = len(colors)
    radius = RADIUS_RANGE[0] + (RADIUS_RANGE[1] - RADIUS_RANGE[0]) * visibility.astype(np.float32)
    opacity = OPACITY_RANGE[0] + (OPACITY_RANGE[1] - OPACITY_RANGE[0]) * visibility.astype(np.float32)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    u = (axis[None, None, :] - centers[:, 0].astype(np.float32)[:, None, None]) / radius[:, None, None]
    v = (axis[None, :, None] - centers[:, 1].astype(np.float32)[:, None, None]) / radius[:, None, None]
    coverage = np.empty((count, size, size), dtype=np.float32)
    shape_names = np.asarray(shapes)
    for shape in SHAPES:
        rows = np.flatnonzero(shape_names == shape)
        if len(rows):
            gauge = _gauge(shape, np.broadcast_to(u[rows], (len(rows), size, size)), v[rows])
            edge_pixels = radius[rows][:, None, None] * size  # one pixel of soft edge
            coverage[rows] = np.clip((1.0 - gauge) * edge_pixels + 0.5, 0.0, 1.0)
    alpha = (coverage * opacity[:, None, None])[..., None]
    paint = np.asarray([COLORS[color] for color in colors], dtype=np.float32)[:, None, None, :]
    picture = backgrounds.astype(np.float32)[:, None, None, :] * (1.0 - alpha) + paint * alpha
    picture += NOISE_LEVELS * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def random_background(rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """Return (count, 3) muted colours, so that every object of `COLORS` stands out."""
    return rng.uniform(70.0, 150.0, size=(count, 3))


@dataclass(frozen=True)
class Scene:
    """One object from `start_clips` to `end_clips` (half-open, 2-second clips)."""

    start_clips: int
    end_clips: int
    color: str
    shape: str
    peak_seconds: float
    width_seconds: float
    path: tuple[float, float, float, float]  # x and y at the start, x and y at the end (fractions of the side)
    background: tuple[float, float, float]

    def visibility(self, times_seconds: np.ndarray) -> np.ndarray:
        """Return how well the object is shown at these times: one bump in [0, 1] per scene."""
        return np.exp(-0.5 * ((times_seconds - self.peak_seconds) / self.width_seconds) ** 2)

    def centers(self, times_seconds: np.ndarray) -> np.ndarray:
        """Return (N, 2) positions on the straight path through the scene."""
        start, end = self.start_clips * CLIP_SECONDS, self.end_clips * CLIP_SECONDS
        share = ((times_seconds - start) / (end - start))[:, None]
        return np.asarray(self.path[:2]) * (1 - share) + np.asarray(self.path[2:]) * share


@dataclass(frozen=True)
class SyntheticVideo:
    """The script of one video; `render` shoots it."""

    vid: str
    duration_seconds: int
    scenes: tuple[Scene, ...]

    @property
    def objects(self) -> list[tuple[str, str]]:
        """Return the (colour, shape) pairs shown, without repetition, in order of appearance."""
        return list(dict.fromkeys((scene.color, scene.shape) for scene in self.scenes))

    def render(self, times_seconds: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        """Return (N, size, size, 3) uint8 frames at the given times."""
        ends = np.asarray([scene.end_clips * CLIP_SECONDS for scene in self.scenes])
        index = np.minimum(np.searchsorted(ends, times_seconds, side="right"), len(self.scenes) - 1)
        visibility = np.empty(len(times_seconds))
        centers = np.empty((len(times_seconds), 2))
        for number, scene in enumerate(self.scenes):
            rows = np.flatnonzero(index == number)
            visibility[rows] = scene.visibility(times_seconds[rows])
            centers[rows] = scene.centers(times_seconds[rows])
        chosen = [self.scenes[i] for i in index]
        return render_objects(
            [scene.color for scene in chosen],
            [scene.shape for scene in chosen],
            visibility,
            centers,
            np.asarray([scene.background for scene in chosen]),
            size,
            rng,
        )


def _pick_objects(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Draw the objects of `count` scenes: neighbours differ, later ones often share a colour, a shape or both."""
    colors, target = list(COLORS), (rng.choice(list(COLORS)), rng.choice(SHAPES))
    objects = [target]
    while len(objects) < count:
        kind = rng.random()
        if kind < 0.2:
            candidate = target
        elif kind < 0.5:
            candidate = (target[0], rng.choice(SHAPES))
        elif kind < 0.8:
            candidate = (rng.choice(colors), target[1])
        else:
            candidate = (rng.choice(colors), rng.choice(SHAPES))
        repeated = objects.count(candidate) >= 2  # 1-2 windows a query
        if candidate != objects[-1] and not repeated:
            objects.append(candidate)
    order = rng.permutation(count)
    shuffled = [objects[i] for i in order]
    neighbours_equal = any(a == b for a, b in zip(shuffled, shuffled[1:], strict=False))
    return [(str(c), str(s)) for c, s in (objects if neighbours_equal else shuffled)]


def _cut_scenes(rng: np.random.Generator, total_clips: int, count: int) -> np.ndarray:
    """Return count + 1 clip boundaries with at least `MIN_SCENE_CLIPS` between neighbours."""
    spare = total_clips - count * MIN_SCENE_CLIPS
    cuts = np.sort(rng.integers(0, spare + 1, size=count - 1))
    lengths = np.diff(np.concatenate([[0], cuts, [spare]])) + MIN_SCENE_CLIPS
    return np.concatenate([[0], np.cumsum(lengths)])


def make_video(vid: str, rng: np.random.Generator) -> SyntheticVideo:
    """Write the script of one video: 3 to 5 scenes, mostly 150 s long as in QVHighlights.

    Args:
        vid: name of the video.
        rng: source of everything random in it.
    """
    duration_seconds = 150 if rng.random() < 0.9 else int(rng.integers(60, 75)) * 2
    count = int(rng.integers(3, 6))
    bounds = _cut_scenes(rng, num_clips(duration_seconds), count)
    scenes = []
    for (color, shape), start, end in zip(_pick_objects(rng, count), bounds[:-1], bounds[1:], strict=True):
        length_seconds = float(end - start) * CLIP_SECONDS
        scenes.append(
            Scene(
                start_clips=int(start),
                end_clips=int(end),
                color=color,
                shape=shape,
                peak_seconds=float(start * CLIP_SECONDS + rng.uniform(0.15, 0.85) * length_seconds),
                width_seconds=float(rng.uniform(0.2, 0.4) * length_seconds),
                path=tuple(float(x) for x in rng.uniform(0.3, 0.7, size=4)),
                background=tuple(float(x) for x in random_background(rng)[0]),
            )
        )
    return SyntheticVideo(vid, duration_seconds, tuple(scenes))


def annotate(video: SyntheticVideo, color: str, shape: str, qid: int, rng: np.random.Generator) -> dict:
    """Return the annotation of one query, with exactly the fields of a QVHighlights line.

    Args:
        video: the script.
        color: colour of the queried object.
        shape: shape of the queried object.
        qid: number of the query.
        rng: source of the annotators' disagreement (standard deviation .35 of a grade).
    """
    shown = [scene for scene in video.scenes if (scene.color, scene.shape) == (color, shape)]
    clip_ids: list[int] = []
    scores: list[list[int]] = []
    for scene in shown:
        clips = np.arange(scene.start_clips, scene.end_clips)
        grade = MAX_RATING * scene.visibility((clips + 0.5) * CLIP_SECONDS)
        noisy = grade[:, None] + 0.35 * rng.standard_normal((len(clips), NUM_ANNOTATORS))
        clip_ids += clips.tolist()
        scores += np.clip(np.rint(noisy), 0, MAX_RATING).astype(int).tolist()
    return {
        "qid": qid,
        "query": query_text(color, shape),
        "duration": video.duration_seconds,
        "vid": video.vid,
        "relevant_clip_ids": clip_ids,
        "saliency_scores": scores,
        "relevant_windows": [[int(clip * CLIP_SECONDS) for clip in (s.start_clips, s.end_clips)] for s in shown],
    }


def write_video(path: Path, video: SyntheticVideo, size: int, fps: int, rng: np.random.Generator) -> None:
    """Encode the video as H.264 in MP4 (PyAV); the file appears under its name only when it is complete."""
    import av

    times = (np.arange(video.duration_seconds * fps) + 0.5) / fps
    together = max(_RENDERED_PIXELS // size**2, 1)
    with atomic_writer(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=ENCODER_OPTIONS)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for first in range(0, len(times), together):
            for picture in video.render(times[first : first + together], size, rng):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _make_one(task: tuple[str, int], *, out_dir: Path, seed: int, size: int, fps: int, queries: int) -> list[dict]:
    """Script, annotate and encode video number `index` of a split; independent of every other video."""
    split, index = task
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    number = SPLITS.index(split) * 1_000_000 + index
    video = make_video(f"synthetic{number:07d}_0.0_150.0", rng)
    chosen = rng.permutation(len(video.objects))[:queries]
    rows = [annotate(video, *video.objects[j], qid=number * 10 + k, rng=rng) for k, j in enumerate(chosen)]
    path = out_dir / "videos" / f"{video.vid}.mp4"
    if not path.exists():
        write_video(path, video, size, fps, rng)
    return rows


@dataclass(frozen=True)
class SyntheticSettings:
    """Everything that decides the content of a synthetic data set; written beside it as `synthetic.json`."""

    num_train_videos: int = setting(400, "videos of the train split", "N")
    num_val_videos: int = setting(100, "videos of the val split", "N")
    num_test_videos: int = setting(50, "videos of the test split", "N")
    queries_per_video: int = setting(3, "queries for each video", "N")
    size_pixels: int = setting(64, "side of the square videos", "PIXELS")
    fps: int = setting(2, "frames per second", "N")
    seed: int = setting(0, "seed of everything that is random", "N")

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least, most = 0 if name in ("seed", "num_test_videos") else 1, _LARGEST[name]
            if type(value) is not int:
                raise ValueError(f"expected {name} to be a whole number, got {value!r}")
            if value < least:
                raise ValueError(f"expected {name} to be at least {least}, got {value}")
            if value > most:
                raise ValueError(f"expected {name} to be at most {most}, got {value}")
        if self.size_pixels % 2:
            raise ValueError(f"expected size_pixels to be even for H.264 (yuv420p), got {self.size_pixels}")


def write_dataset(
    out_dir: str | Path, *, num_proc: int = 1, progress: bool = True, overwrite: bool = False, **settings: int
) -> Path:
    """Write videos and annotations in the layout of QVHighlights.

    A folder that already holds the same data set is left as it is; an interrupted run goes on with the videos missing.

    Args:
        out_dir: folder to fill with `videos/*.mp4` and `highlight_{train,val,test}_release.jsonl`.
        num_proc: processes that render and encode.
        progress: show a progress bar.
        overwrite: delete a data set of other settings that is already there.
        **settings: fields of `SyntheticSettings`.

    Returns:
        The folder.

    Raises:
        ValueError: if the folder holds a data set of other settings, or anything else, or another process writes there.
    """
    wanted = SyntheticSettings(**settings)
    check_num_processes("num_proc", num_proc)
    out_dir = Path(out_dir)
    found = _read_manifest(out_dir)
    if found is None and out_dir.exists() and any(out_dir.iterdir()):
        raise ValueError(f"{out_dir} is not empty and was not written by this command; choose another folder.")
    if found is not None and found.get("settings") != asdict(wanted):
        if not overwrite:
            raise ValueError(
                f"{out_dir} holds a synthetic data set of other settings; choose another folder or overwrite it."
            )
        new = out_dir.with_name(f".{out_dir.name}.new")  # the old one stays until this one is there
        shutil.rmtree(new, ignore_errors=True)
        write_dataset(new, num_proc=num_proc, progress=progress, **settings)
        replace_folder(new, out_dir)
        return out_dir
    if found is None or not found.get("complete"):
        _write(out_dir, wanted, num_proc, progress)
    return out_dir


def _read_manifest(out_dir: Path) -> dict | None:
    """Return what a folder says of itself, None if it says nothing."""
    try:
        found = json.loads((out_dir / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, IsADirectoryError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{out_dir / MANIFEST} is damaged; delete {out_dir} and write it again.")
    return found


def _write(out_dir: Path, wanted: SyntheticSettings, num_proc: int, progress: bool) -> None:
    """Write what is missing of a data set."""
    state = {"settings": asdict(wanted), "complete": False}
    (out_dir / "videos").mkdir(parents=True, exist_ok=True)
    with _alone_in(out_dir):
        for unfinished in [*out_dir.glob(".*.part"), *out_dir.glob("videos/.*.part")]:
            unfinished.unlink(missing_ok=True)  # of a run that was killed
        atomic_write(out_dir / MANIFEST, json.dumps(state, indent=2) + "\n")
        _write_splits(out_dir, wanted, num_proc, progress)
        atomic_write(out_dir / MANIFEST, json.dumps(state | {"complete": True}, indent=2) + "\n")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Refuse a folder in which another process writes; where there are no locks, nobody is refused."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"another process writes into {folder}; wait for it or choose another folder.") from None
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _write_splits(out_dir: Path, wanted: SyntheticSettings, num_proc: int, progress: bool) -> None:
    """Make all videos, then the three annotation files."""
    from tqdm.auto import tqdm

    counts = dict(zip(SPLITS, (wanted.num_train_videos, wanted.num_val_videos, wanted.num_test_videos), strict=True))
    tasks = [(split, index) for split in SPLITS for index in range(counts[split])]
    make = partial(
        _make_one,
        out_dir=out_dir,
        seed=wanted.seed,
        size=wanted.size_pixels,
        fps=wanted.fps,
        queries=wanted.queries_per_video,
    )
    annotations: dict[str, list[dict]] = {split: [] for split in SPLITS}
    pool = ProcessPoolExecutor(num_proc, initializer=start_pool_process, initargs=(os.getpid(),))
    try:
        results = pool.map(make, tasks, chunksize=8)
        bar = tqdm(results, total=len(tasks), desc="writing videos", unit="video", disable=not progress)
        for (split, _), rows in zip(tasks, bar, strict=True):
            annotations[split] += rows
    finally:
        pool.shutdown(cancel_futures=True)
    for split, rows in annotations.items():
        if not rows:
            continue  # nobody reads an empty annotation file
        write_json_lines(out_dir / f"highlight_{split}_release.jsonl", rows)
