"""The example script in this process, with a tiny random base and a few synthetic videos."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "run_qvh.py"


@pytest.fixture(scope="module")
def qvh() -> Iterator[ModuleType]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("run_qvh", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "run_qvh", module)  # the parser looks the fields' types up there
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="session")
def qvh_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training videos, two of val."""
    from hf_frameseg.datasets.synthetic import write_dataset

    folder = tmp_path_factory.mktemp("qvh_data") / "synthetic"
    counts = {"num_train_videos": 4, "num_val_videos": 2, "num_test_videos": 1}
    return write_dataset(folder, progress=False, size_pixels=64, fps=1, **counts)


@pytest.fixture(scope="session")
def qvh_base(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, tiny_processor: Any) -> Path:
    """A tiny random xGen-MM that is asked about 5 frames."""
    from hf_frameseg.sharing.config import FrameSegmentationConfig
    from hf_frameseg.video.settings import FrameSettings

    folder = tmp_path_factory.mktemp("qvh_base")
    tiny_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    FrameSegmentationConfig(FrameSettings(num_frames=5, frame_size=16), prompt="compact").save(folder)
    return folder


@pytest.fixture(scope="session")
def qvh_options(qvh_data: Path, qvh_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments of a run of two steps without controls and pictures, but for its output folder."""
    return {
        "model_name_or_path": qvh_base,
        "data_dir": qvh_data,
        "cache_dir": tmp_path_factory.mktemp("qvh_cache"),
        "frame_format": "raw",
        "use_cpu": "true",
        "report_to": "none",
        "disable_tqdm": "true",
        "max_steps": 2,
        "save_steps": 1,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "num_figures": 0,
        "controls": "false",
    }


@pytest.fixture
def qvh_run(qvh: ModuleType, qvh_options: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """(output folder, more arguments) -> the results of the script; later arguments win."""

    def call(output: Path, *more: str) -> dict[str, Any]:
        words = [f"--{name}={value}" for name, value in qvh_options.items()]
        return qvh.main([*words, f"--output_dir={output}", *more])

    return call
