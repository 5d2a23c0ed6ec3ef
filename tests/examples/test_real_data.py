"""The example script on annotation lines of QVHighlights, with a few small videos standing in for theirs.

The stand-ins are seconds long where the annotations say 150; `duration_tolerance_seconds` lets their last frame stand
for the rest. Annotations and videos are read where they lie; none of them is part of the repository.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_frameseg.annotations.qvhighlights import read_annotations
from hf_frameseg.datasets.load import load_rows
from hf_frameseg.inference import MomentRetriever
from hf_frameseg.metrics import evaluate_submission, validate_submission
from hf_frameseg.moments import FrameGrid
from hf_frameseg.prepared.report import FAILURES_FILE
from hf_frameseg.sharing.config import FrameSegmentationConfig
from hf_frameseg.video.read import read_frames
from hf_frameseg.video.settings import FrameSettings

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "run_qvh.py"
NUM_FRAMES = 5
STAND_INS = {  # per split: what is put in the place of the videos of its first lines; None: nothing
    "train": ["nasa_13013.mp4", "av1_video.mkv", "corrupted.mp4", "h265_video.mp4", None],
    "val": ["h264_10bits.mp4", "nasa_13013.mp4", "unordered.mov", None],
}
UNREADABLE = {"train": ["corrupted.mp4", None], "val": [None]}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("run_qvh", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "run_qvh", module)  # HfArgumentParser looks the fields' types up there
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def rows(shared_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """The first annotation lines of train and val, as many as there are stand-ins, each of another video."""
    found: dict[str, list[dict[str, Any]]] = {}
    for split, names in STAND_INS.items():
        annotated = read_annotations(shared_dir / "qvhighlights" / f"highlight_{split}_release.jsonl")
        by_vid = {row["vid"]: row for row in reversed(annotated)}
        found[split] = [row for row in annotated if by_vid[row["vid"]] is row][: len(names)]
    return found


@pytest.fixture(scope="module")
def data(shared_dir: Path, rows: dict[str, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `docs/real-data.md` describes it."""
    folder = tmp_path_factory.mktemp("qvhighlights")
    (folder / "videos").mkdir()
    for split, names in STAND_INS.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows[split])
        (folder / f"highlight_{split}_release.jsonl").write_text(lines, "utf-8")
        for row, name in zip(rows[split], names, strict=True):
            if name is not None:
                shutil.copy(shared_dir / "videos" / name, folder / "videos" / f"{row['vid']}{Path(name).suffix}")
    return folder


def run(script: ModuleType, base: Path, data: Path, folder: Path, *more: str) -> dict[str, Any]:
    options = {
        "model_name_or_path": base,
        "data_dir": data,
        "cache_dir": folder / "cache",
        "output_dir": folder / "run",
        "on_error": "skip",
        "use_cpu": "true",
        "report_to": "none",
        "disable_tqdm": "true",
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "num_figures": 1,
    }
    return script.main([*(f"--{name}={value}" for name, value in options.items()), *more])


@pytest.fixture
def tolerant(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept videos that are shorter than annotated by any length."""
    load = functools.partial(load_rows, duration_tolerance_seconds=150.0)
    monkeypatch.setattr(script, "load_rows", load)


def readable(rows: dict[str, list[dict[str, Any]]], split: str) -> list[dict[str, Any]]:
    pairs = zip(rows[split], STAND_INS[split], strict=True)
    return [row for row, name in pairs if name not in UNREADABLE[split]]


def failures(folder: Path, split: str) -> list[dict[str, Any]]:
    (report,) = (folder / "cache").glob(f"**/{split}-*/**/{FAILURES_FILE}")
    return [json.loads(line) for line in report.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def xgenmm_base(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, tiny_processor: Any) -> Path:
    folder = tmp_path_factory.mktemp("xgenmm")
    tiny_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    FrameSegmentationConfig(FrameSettings(num_frames=NUM_FRAMES, frame_size=16), prompt="paper").save(folder)
    return folder


@pytest.fixture(scope="module")
def llava_base(tmp_path_factory: pytest.TempPathFactory, tiny_llava_model: Any, make_llava_processor: Any) -> Path:
    """A model that this package does not know, without a `frameseg_config.json`."""
    folder = tmp_path_factory.mktemp("llava")
    tiny_llava_model.save_pretrained(folder)
    make_llava_processor().save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("tolerant")
def test_what_can_be_read_is_trained_on_and_scored(
    script: ModuleType, xgenmm_base: Path, data: Path, rows: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    results = run(script, xgenmm_base, data, tmp_path)
    scored = readable(rows, "val")
    lines = (tmp_path / "run" / "hl_val_submission.jsonl").read_text("utf-8").splitlines()
    submission = [json.loads(line) for line in lines]
    assert [(row["qid"], row["vid"]) for row in submission] == [(row["qid"], row["vid"]) for row in scored]
    assert [len(row["pred_saliency_scores"]) for row in submission] == [row["duration"] // 2 for row in scored]
    assert validate_submission(submission, scored) == []
    saved = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(saved) == list(results)
    assert saved["model"]["brief"] == evaluate_submission(submission, scored)["brief"]
    assert (tmp_path / "run" / "figures" / f"prediction_{scored[0]['qid']}.png").is_file()


@pytest.mark.usefixtures("tolerant")
def test_what_cannot_be_read_is_reported(
    script: ModuleType, xgenmm_base: Path, data: Path, rows: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    run(script, xgenmm_base, data, tmp_path, "--controls=false", "--num_figures=0")
    for split, names in STAND_INS.items():
        vids = {row["vid"]: name for row, name in zip(rows[split], names, strict=True) if name in UNREADABLE[split]}
        reported = failures(tmp_path, split)
        assert [failure["vid"] for failure in reported] == sorted(vids)
        for failure in reported:
            assert (failure["split"], failure["queries"]) == (split, 1)
            missing = vids[failure["vid"]] is None
            assert failure["error"].startswith("no such file in the video folder") == missing
            assert (failure["file"] is None) == missing
            assert "\n" not in failure["error"]


def test_without_the_tolerance_short_videos_are_left_out_too(
    script: ModuleType, xgenmm_base: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=r"the annotations say 150 s; .* raise duration_tolerance_seconds"):
        run(script, xgenmm_base, data, tmp_path)


def test_by_default_the_first_missing_video_stops_the_run(
    script: ModuleType, xgenmm_base: Path, data: Path, rows: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    qid = rows["train"][-1]["qid"]
    with pytest.raises(SystemExit, match=rf"qid {qid}: no video .* pass on_error='skip'"):
        run(script, xgenmm_base, data, tmp_path, "--on_error=raise")


@pytest.mark.usefixtures("tolerant")
def test_another_model_of_transformers_learns_with_an_adapter(
    script: ModuleType, llava_base: Path, data: Path, rows: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    options = [f"--num_frames={NUM_FRAMES}", "--frame_size=16", "--frame_format=raw", "--prompt=compact"]
    options += ["--lora_r=2", "--lora_modules_to_save=multi_modal_projector", "--learning_rate=0.01"]
    run(script, llava_base, data, tmp_path, "--controls=false", *options)
    weights = load_file(tmp_path / "run" / "model" / "adapter_model.safetensors")
    assert any("lora_B" in name and bool(weight.any()) for name, weight in weights.items())  # starts at 0
    assert all("language_model" in name or "multi_modal_projector" in name for name in weights)
    assert any("multi_modal_projector" in name for name in weights)

    retriever = MomentRetriever.from_pretrained(tmp_path / "run" / "model")
    asked = {"prompt": "compact", "base_model": str(llava_base), "dtype": "float32"}
    assert retriever.config == FrameSegmentationConfig(FrameSettings(num_frames=NUM_FRAMES, frame_size=16), **asked)
    submission = (tmp_path / "run" / "hl_val_submission.jsonl").read_text("utf-8").splitlines()
    row, submitted = readable(rows, "val")[1], json.loads(submission[1])
    (path,) = (data / "videos").glob(f"{row['vid']}.*")
    grid = FrameGrid.middle(row["duration"], NUM_FRAMES)
    frames = read_frames(path, grid, frame_size=16, duration_tolerance_seconds=row["duration"])
    prediction = retriever.predict(frames, [row["query"]])[0]
    assert prediction.saliency == pytest.approx(submitted["pred_saliency_scores"], abs=1e-4)


@pytest.mark.usefixtures("tolerant")
def test_a_checkpoint_is_scored_on_the_test_split(
    script: ModuleType, xgenmm_base: Path, data: Path, shared_dir: Path, tmp_path: Path
) -> None:
    annotated = read_annotations(shared_dir / "qvhighlights" / "highlight_test_with_gt.jsonl")[:2]
    folder = tmp_path / "data"
    (folder / "videos").mkdir(parents=True)
    for path in [*data.glob("*.jsonl"), *data.glob("videos/*")]:
        shutil.copy(path, folder / path.relative_to(data))
    for row in annotated:
        shutil.copy(shared_dir / "videos" / "nasa_13013.mp4", folder / "videos" / f"{row['vid']}.mp4")
    for name, rows in {"test_with_gt": annotated, "test_release": [{}]}.items():  # the second must not be looked at
        (folder / f"highlight_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    options = ["--controls=false", "--num_figures=0", "--save_steps=2"]
    run(script, xgenmm_base, folder, tmp_path, *options)
    options += ["--eval_split=test", f"--output_dir={tmp_path}/test"]
    checkpoint = tmp_path / "run" / "checkpoint-2"
    results = run(script, xgenmm_base, folder, tmp_path, *options, f"--resume_from_checkpoint={checkpoint}")
    lines = (tmp_path / "test" / "hl_test_submission.jsonl").read_text("utf-8").splitlines()
    submission = [json.loads(line) for line in lines]
    assert [row["qid"] for row in submission] == [row["qid"] for row in annotated]
    assert results["model"]["brief"] == evaluate_submission(submission, annotated)["brief"]
    trained, scored = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "test"))
    assert all(torch.equal(trained[name], scored[name]) for name in trained)  # nothing was left to train
