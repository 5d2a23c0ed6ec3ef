"""Heads on disk: beside any model, back with their objectives, and one line for what does not fit."""

from __future__ import annotations

import copy
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_frameseg.inference import MomentRetriever
from hf_frameseg.objectives import OBJECTIVES, Objective
from hf_frameseg.objectives.heads import attach_heads, heads_of
from hf_frameseg.sharing.adapter_folder import merge_and_save, save_adapter
from hf_frameseg.sharing.adapter_repo import _written_files
from hf_frameseg.sharing.config import FrameSegmentationConfig
from hf_frameseg.sharing.heads import HEADS_NAME
from hf_frameseg.sharing.loading import load_base, load_pretrained


class Head(Objective):
    """A head of any width."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.width = width

    def build(self, hidden_size: int) -> None:
        self.linear = torch.nn.Linear(hidden_size, self.width)


class Fussy(Head):
    """A head that cannot be made without a setting."""

    def __init__(self, width: int) -> None:
        super().__init__(width)


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Any, tiny_processor: Any) -> Path:
    """Return a model with a head, saved by a retriever."""
    model = copy.deepcopy(tiny_model)
    attach_heads(model, {"own": Head()})
    config = FrameSegmentationConfig(prompt="compact").changed(num_frames=5)
    MomentRetriever(model, tiny_processor, config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_head_comes_back_with_its_objective(folder: Path, tiny_model: Any) -> None:
    own = Head()
    model, _, _ = load_pretrained(folder, objectives={"own": own})
    assert model.frameseg_heads["own"] is own
    assert not own.training
    assert torch.equal(own.linear.weight, load_file(folder / HEADS_NAME)["own.linear.weight"])
    assert model.state_dict().keys() - tiny_model.state_dict().keys() == {
        "frameseg_heads.own.linear.weight",
        "frameseg_heads.own.linear.bias",
    }


def test_registered_objectives_need_not_be_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "own", Head)
    assert isinstance(load_pretrained(folder)[0].frameseg_heads["own"], Head)
    monkeypatch.setitem(OBJECTIVES, "own", Fussy)
    with pytest.raises(ValueError, match="a head of 'own', which is no objective known here"):
        load_pretrained(folder)


def test_unknown_heads_are_named_with_what_to_pass(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"a head of 'own'.* pass objectives=\{'own': \.\.\.\} with .*, or None") as e:
        load_pretrained(folder)
    assert "\n" not in str(e.value)
    model, _, _ = load_pretrained(folder, objectives={"own": None})
    assert heads_of(model) == {}
    with pytest.raises(ValueError, match="a head of 'own'"):
        MomentRetriever.from_pretrained(folder)
    assert MomentRetriever.from_pretrained(folder, model_kwargs={"objectives": {"own": Head}}).model.frameseg_heads


def test_a_head_of_another_shape_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'own' does not fit: linear.bias has shape \(3,\), expected \(2,"):
        load_pretrained(folder, objectives={"own": Head(2)})
    save_file({"own.linear.weight": torch.zeros(3, 16)}, folder / HEADS_NAME)
    with pytest.raises(ValueError, match="linear.bias has shape None"):
        load_pretrained(folder, objectives={"own": Head})
    (folder / HEADS_NAME).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is not a usable model") as caught:
        load_pretrained(folder, objectives={"own": Head})
    assert "\n" not in str(caught.value)


def test_an_earlier_head_goes_on_and_one_that_nobody_trains_stays(folder: Path, tiny_processor: Any) -> None:
    model, processor, config = load_pretrained(folder, objectives={"own": Head})
    earlier = model.frameseg_heads["own"].linear.weight.clone()
    other, again = Head(2), Head()
    attach_heads(model, {"other": other})
    assert not any(parameter.requires_grad for parameter in model.frameseg_heads["own"].parameters())
    assert all(parameter.requires_grad for parameter in other.parameters())
    attach_heads(model, {"own": again})
    assert torch.equal(again.linear.weight, earlier)
    assert list(heads_of(model)) == ["own", "other"]
    MomentRetriever(model, processor, config).save_pretrained(folder)
    assert sorted(load_file(folder / HEADS_NAME)) == [
        "other.linear.bias",
        "other.linear.weight",
        "own.linear.bias",
        "own.linear.weight",
    ]


def test_a_merged_adapter_and_a_shared_one_keep_the_head(folder: Path, tiny_processor: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    load_pretrained(folder, objectives={"own": None})[0].save_pretrained(tmp_path / "base")
    tiny_processor.save_pretrained(tmp_path / "base")
    model = get_peft_model(load_base(tmp_path / "base"), LoraConfig(target_modules=["q_proj"]))
    attach_heads(model, {"own": Head()})
    config = FrameSegmentationConfig.load(folder)
    save_adapter(model, tiny_processor, config, tmp_path / "adapter")
    assert HEADS_NAME in _written_files(tmp_path / "adapter")
    merge_and_save(tmp_path / "adapter", tmp_path / "merged", objectives={"own": Head})
    kept = load_file(tmp_path / "merged" / HEADS_NAME)
    assert torch.equal(kept["own.linear.weight"], model.frameseg_heads["own"].linear.weight)


def test_a_model_without_heads_leaves_none_of_an_older_one(folder: Path, tiny_model: Any, tiny_processor: Any) -> None:
    config = FrameSegmentationConfig.load(folder)
    MomentRetriever(tiny_model, tiny_processor, config).save_pretrained(folder)
    assert not (folder / HEADS_NAME).exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda head: {name: value * torch.nan for name, value in head.items()}, "own.linear.weight with nan or inf"),
        (lambda head: {name: value.long() for name, value in head.items()}, r"as torch.int64, expected torch.float32"),
        (lambda head: {name: value.to(torch.complex64) for name, value in head.items()}, "as torch.complex64"),
    ],
)
def test_numbers_that_no_training_leaves_are_refused(folder: Path, damage: Any, message: str) -> None:
    save_file(damage(load_file(folder / HEADS_NAME)), folder / HEADS_NAME)
    with pytest.raises(ValueError, match=message):
        load_pretrained(folder, objectives={"own": Head})


@pytest.mark.parametrize("content", [b"", pickle.dumps(Path), struct.pack("<Q", 2**60) + b"{}", None])
def test_a_damaged_file_is_refused_like_the_models_own(folder: Path, content: bytes | None) -> None:
    (folder / HEADS_NAME).unlink()
    if content is None:
        (folder / HEADS_NAME).symlink_to("nothing")
    else:
        (folder / HEADS_NAME).write_bytes(content)
    expected = f"{HEADS_NAME} is (no file|cut or damaged .*copy or download it again)"
    with pytest.raises(ValueError, match=expected) as caught:
        load_pretrained(folder, objectives={"own": Head})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["own", ["own"], {"own": "Head"}, {"own": lambda: Head()}])
def test_what_is_no_objective_is_not_blamed_on_the_model(folder: Path, given: Any) -> None:
    with pytest.raises(TypeError, match=r"expected objectives by name|'own' must be an Objective or a class of them"):
        load_pretrained(folder, objectives=given)


def test_a_command_asks_a_model_whose_heads_it_does_not_know(
    folder: Path, tmp_path: Path, write_video: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from hf_frameseg.cli import main

    assert heads_of(load_pretrained(folder, heads=False)[0]) == {}
    video = tmp_path / "video.mp4"
    write_video(video, np.arange(50) * 100)
    assert main(["predict", str(video), "a red circle", "--model", str(folder)]) == 0
    assert "a red circle" in capsys.readouterr().out
