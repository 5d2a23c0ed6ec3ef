"""The script under DeepSpeed, whose engine is stubbed: what it refuses before a training is not asked of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]
PAPER = ["--recipe=paper", "--num_frames=5", "--prompt=compact", "--lora_r=2", "--bf16=false", "--num_train_epochs=2"]


@pytest.fixture(params=[1, 2, 3], ids="zero-{}".format)
def zero_stage(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def asked(qvh: ModuleType, zero_stage: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the engine: decodes before the training and behind it, and the training."""
    asked: list[str] = []

    class Engine(qvh.SegmentationSeq2SeqTrainer):
        """Refuses what `transformers.integrations.deepspeed.deepspeed_init` (5.24) refuses."""

        def __init__(self, *, args: Any, **kwargs: Any) -> None:
            plugin, args.deepspeed_plugin = args.deepspeed_plugin, None  # accelerate would look for the library
            super().__init__(args=args, **kwargs)
            args.deepspeed_plugin = plugin

        def train(self, *args: Any, **kwargs: Any) -> Any:
            plugin, self.args.deepspeed_plugin = self.args.deepspeed_plugin, None
            asked.append("train")
            result = super().train(*args, **kwargs)
            self.args.deepspeed_plugin = plugin
            return result

        def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
            if "train" not in asked and zero_stage != 3:
                raise ValueError("ZeRO inference only makes sense with ZeRO Stage 3 - please adjust your config")
            asked.append("decode")
            return super().evaluation_loop(*args, **kwargs)

    parse = qvh.parse

    def parse_launched(argv: list[str]) -> Any:
        *others, training = parse(argv)
        training.deepspeed_plugin = SimpleNamespace(zero_stage=zero_stage)
        return *others, training

    monkeypatch.setattr(qvh, "SegmentationSeq2SeqTrainer", Engine)
    monkeypatch.setattr(qvh, "parse", parse_launched)
    return asked


def test_the_papers_recipe_trains_and_has_its_controls(
    qvh_run: Run, asked: list[str], zero_stage: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = qvh_run(tmp_path, *PAPER, "--controls=true")
    row = "base without fine-tuning"
    if zero_stage == 3:  # the parts of A and B on each process cannot be set back
        assert row not in results
        assert f"left out: {row}, which cannot be decoded in this launch" in capsys.readouterr().out
        assert asked == ["train", "decode", "decode", "decode"]
    else:
        assert row in results
        assert asked == ["train", "decode", "decode", "decode", "decode"]
    assert {"blank frames", "queries shuffled between videos", "whole video"} <= results.keys()
    assert (tmp_path / "model" / "adapter_model.safetensors").is_file()


def test_a_model_without_an_adapter_trains(
    qvh_run: Run, asked: list[str], zero_stage: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = qvh_run(tmp_path, "--controls=true")
    assert ("base without fine-tuning" in results) == (zero_stage == 3)
    assert ("left out: base without fine-tuning" in capsys.readouterr().out) == (zero_stage != 3)
    assert asked.index("train") == (1 if zero_stage == 3 else 0)
