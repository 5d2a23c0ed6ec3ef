"""Proof: an objective with a head, targets and hidden states of its own, in any layout, saved in an adapter."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig

import hf_frameseg as fs

ROOT = Path(__file__).resolve().parents[2]
LORA = LoraConfig(target_modules=["language_model.layers.0.self_attn.o_proj"])


class Starts(fs.Objective):
    targets = {"starts": lambda sample: np.diff(sample.mask(), prepend=False).astype(np.float32)}
    needs_hidden_states = True

    def build(self, hidden_size):
        self.linear = torch.nn.Linear(hidden_size, 1)

    def forward(self, answer, targets):
        error = (self.linear(answer.hidden_states)[..., 0] - targets["starts"]).square() * answer.frame_valid
        return error.sum(1) / answer.frame_valid.sum(1)


def train(folder, name, batch_size, accumulation):
    """Take three steps; the head weighs nothing in the first."""
    processor, rows = fs.load_processor(folder / "base"), pickle.loads((folder / "rows.pickle").read_bytes())
    options = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation, "max_steps": 3}
    options |= {"loss_weights_start": {"lm": 1}, "loss_weights": {"lm": 0.5, "starts": 0.5}, "loss_warmup_steps": 2}
    options |= {"report_to": "none", "use_cpu": True, "optim": "sgd", "learning_rate": 0.1, "logging_steps": 1}
    args = fs.SegmentationSeq2SeqTrainingArguments(folder / name, **options, save_strategy="no", disable_tqdm=True)
    labels = fs.BinaryLabels.from_tokenizer(processor.tokenizer)
    collator = fs.FrameSegmentationCollator(processor=processor, labels=labels, prompt="compact")
    torch.manual_seed(0)
    options = {"objectives": {"starts": Starts}, "peft_config": LORA, "train_dataset": rows}
    trainer = fs.SegmentationSeq2SeqTrainer(fs.load_base(folder / "base"), args, collator, **options)
    trained = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    before = {name: value.detach().clone() for name, value in trained.items()}
    trainer.train()
    assert all((trained[name] - value).abs().max() > 1e-4 for name, value in before.items() if "lora_A" not in name)
    torch.save((trained, [line["loss_starts"] for line in trainer.state.log_history[:3]]), folder / f"{name}.pt")
    return trainer.model, processor


def test_any_layout_trains_the_same_head_and_an_adapter_brings_it_back(tmp_path, tiny_model, tiny_processor, make_row):
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(tmp_path / "base")
    rows = [make_row(qid, [[2.0 * (qid % 4), 10.0]], num_frames=3 + qid % 3) for qid in range(8)]
    (tmp_path / "rows.pickle").write_bytes(pickle.dumps(rows))
    launch = ["accelerate.commands.launch", "--config_file", str(ROOT / "examples" / "accelerate_cpu2.yaml")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", *launch, __file__, tmp_path], env=environment, check=True, timeout=300)
    train(tmp_path, "accumulated", 2, 4)
    model, processor = train(tmp_path, "whole", 8, 1)
    (expected, losses), *others = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "accumulated", "two"))
    for weights, found in others:
        assert all((value - expected[name]).abs().max() < 1e-6 for name, value in weights.items())
        np.testing.assert_allclose(found, losses, rtol=1e-5)
    config = fs.FrameSegmentationConfig(prompt="compact").changed(num_frames=5)
    fs.save_adapter(model, processor, config, tmp_path / "adapter")
    loaded = fs.load_adapter(tmp_path / "adapter", objectives={"starts": Starts})[0].frameseg_heads
    assert all(map(torch.equal, loaded.parameters(), model.frameseg_heads.parameters()))
    assert len(list(loaded.parameters())) == 2


if __name__ == "__main__":
    train(Path(sys.argv[1]), "two", 2, 2)
    torch.distributed.destroy_process_group()
