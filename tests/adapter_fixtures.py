"""An adapter after three steps of training, and what tests of saved adapters ask of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.batches.encoding import model_inputs
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.sharing import adapters
from hf_frameseg.sharing.adapter_folder import save_adapter
from hf_frameseg.sharing.config import FrameSegmentationConfig
from hf_frameseg.sharing.loading import load_base
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer
from hf_frameseg.video.settings import FrameSettings

CONFIG = FrameSegmentationConfig(
    FrameSettings(num_frames=5, frame_size=32), prompt="compact", label_rule="saliency>0.5", num_beams=3
)
LABELS = BinaryLabels(zero_id=48, one_id=49, end_ids=(259,))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, tiny_processor: Any) -> Path:
    """Folder of the tiny base."""
    folder = tmp_path_factory.mktemp("base")
    tiny_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder


def lora(model: torch.nn.Module, **changes: Any) -> LoraConfig:
    """Return the paper's adapter, with a smaller rank: all linear layers of the language model and the resampler."""
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    options = {"r": 4, "lora_alpha": 6, "lora_dropout": 0.025, "use_rslora": True, "task_type": "CAUSAL_LM"}
    options |= {"init_lora_weights": "pissa_niter_4", "modules_to_save": ["resampler"]}
    options["target_modules"] = [name for name in linears if name.startswith("model.language_model.")]
    return LoraConfig(**(options | changes))


@pytest.fixture(scope="module")
def collator(tiny_processor: Any) -> FrameSegmentationCollator:
    return FrameSegmentationCollator(processor=tiny_processor, labels=LABELS, prompt="compact")


@pytest.fixture(scope="module")
def trained(
    base: Path, collator: Any, make_row: Callable[..., dict], tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """A model after three steps of the paper's adapter, its start, and what it was before."""
    torch.manual_seed(0)
    model = get_peft_model(load_base(base), lora(load_base(base)))
    output = tmp_path_factory.mktemp("run")
    initial = adapters.snapshot_adapter(model, output / adapters.SNAPSHOT_NAME)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    args = SegmentationSeq2SeqTrainingArguments(
        output_dir=str(output),
        max_steps=3,
        learning_rate=2e-2,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
    )
    rows = [make_row(qid, windows, size=16) for qid, windows in enumerate([[[0.0, 4.0]], [[2.0, 6.0]]], start=1)]
    SegmentationSeq2SeqTrainer(model, args, collator, train_dataset=rows).train()
    batch = collator.for_evaluation()(rows)
    return SimpleNamespace(model=model, initial=initial, before=before, batch=batch, output=output)


def logits(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the logits at all real positions."""
    with torch.no_grad():
        found = model.eval()(**model_inputs(batch)).logits
    return found[batch["attention_mask"].bool()].float()


@pytest.fixture
def save(trained: Any, tiny_processor: Any, tmp_path: Path) -> Callable[..., Path]:
    """Builder of the saved adapter."""

    def build(folder: Path | None = None, model: Any = None, **options: Any) -> Path:
        options = {"initial_adapter": trained.initial} | options
        return save_adapter(model or trained.model, tiny_processor, CONFIG, folder or tmp_path / "adapter", **options)

    return build
