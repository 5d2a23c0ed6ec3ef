"""The paper's recipe leaves an adapter for the original base, and goes on after an interruption as if none was."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_frameseg.datasets.synthetic import write_dataset
from hf_frameseg.sharing.adapter_folder import load_adapter
from hf_frameseg.sharing.config import FrameSegmentationConfig
from hf_frameseg.video.settings import FrameSettings

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "run_qvh.py"


@pytest.fixture
def run(tmp_path: Path, tiny_model: Any, tiny_processor: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The script with the paper's recipe on a tiny model; (output folder, steps, more options) -> its results."""
    spec = importlib.util.spec_from_file_location("run_qvh_adapter", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)
    spec.loader.exec_module(script)
    write_dataset(
        tmp_path / "data",
        progress=False,
        size_pixels=64,
        fps=1,
        num_train_videos=2,
        num_val_videos=2,
        num_test_videos=0,
    )
    tiny_model.save_pretrained(tmp_path / "base")
    tiny_processor.save_pretrained(tmp_path / "base")
    FrameSegmentationConfig(FrameSettings(num_frames=5, frame_size=16), prompt="compact").save(tmp_path / "base")

    def call(output: str, steps: int, *more: str) -> Any:
        options = {
            "recipe": "paper",
            "model_name_or_path": tmp_path / "base",
            "data_dir": tmp_path / "data",
            "cache_dir": tmp_path / "cache",
            "output_dir": tmp_path / output,
            "num_frames": 5,
            "prompt": "compact",
            "frame_format": "raw",
            "use_cpu": "true",
            "bf16": "false",
            "report_to": "none",
            "disable_tqdm": "true",
            "num_train_epochs": steps,
            "max_steps": steps,
            "save_steps": 1,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "loss_warmup_steps": 1,
            "lora_r": 4,
            "lora_dropout": 0,
            "num_figures": 0,
        }
        return script.main([*(f"--{name}={value}" for name, value in options.items()), *more])

    return call


def test_paper_recipe_leaves_an_adapter_and_resumes(run: Callable[..., Any], tmp_path: Path) -> None:
    run("whole", 2)  # with the control rows
    whole = load_adapter(tmp_path / "whole" / "model")[0].state_dict()
    written = json.loads((tmp_path / "whole" / "model" / "adapter_config.json").read_text())
    assert (written["r"], written["init_lora_weights"]) == (8, True)
    assert "queries shuffled between videos" in (tmp_path / "whole" / "model" / "README.md").read_text()

    (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "later")  # as if the run had ended after one step
    run("whole", 2, "--controls=false", "--resume_from_checkpoint=true")
    resumed = load_adapter(tmp_path / "whole" / "model")[0].state_dict()
    run("scored", 2, "--controls=false", f"--resume_from_checkpoint={tmp_path / 'whole' / 'checkpoint-2'}")
    scored = load_adapter(tmp_path / "scored" / "model")[0].state_dict()
    for name, value in resumed.items():
        assert torch.allclose(whole[name], value, atol=1e-5), name
        assert torch.allclose(scored[name], value, atol=1e-6), name
    assert (tmp_path / "scored" / "initial_adapter.safetensors").is_file()

    (tmp_path / "whole" / "initial_adapter.safetensors").unlink()
    with pytest.raises(SystemExit, match="cannot resume .*is not beside it"):
        run("whole", 3, "--controls=false", "--resume_from_checkpoint=true")
