"""Going on with an earlier run: which checkpoint, whether it is of the same adapter, and how a PiSSA run starts."""

from __future__ import annotations

import copy
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from hf_frameseg.sharing.adapters import SNAPSHOT_NAME, lora_factors
from hf_frameseg.training.checkpoints import last_whole_checkpoint
from hf_frameseg.training.resume import check_same_adapter, find_checkpoint, keep_start, load_weights, start_of


def lora(**options: Any) -> LoraConfig:
    targets = r".*language_model.*\.qkv_proj"
    return LoraConfig(**({"r": 2, "target_modules": targets, "task_type": "CAUSAL_LM"} | options))


@pytest.fixture
def run(make_trainer: Any, eight_rows: list[dict[str, Any]], tmp_path: Path) -> Any:
    """(adapter or None, steps) -> a trainer that has left its checkpoints in the output folder."""

    def train(peft_config: LoraConfig | None = None, steps: int = 2, model: Any = None) -> Any:
        options = {"save_strategy": "steps", "save_steps": 1, "max_steps": steps, "do_train": True}
        trainer = make_trainer(eight_rows, model, peft_config=peft_config, **options)
        keep_start(trainer, None)
        trainer.train()
        return trainer

    return train


def test_the_newest_whole_checkpoint_is_gone_on_from(run: Any, tmp_path: Path) -> None:
    args = run().args
    said: list[str] = []
    args.resume_from_checkpoint = "true"  # as the command line gives it
    assert find_checkpoint(args, say=said.append) == tmp_path / "out" / "checkpoint-2"
    assert said == []
    (tmp_path / "out" / "checkpoint-2" / "optimizer.pt").unlink()
    assert find_checkpoint(args, say=said.append) == tmp_path / "out" / "checkpoint-1"
    folder = tmp_path / "out" / "checkpoint-2"
    assert said == [f"skipped {folder}, which is not whole: the optimiser's state is missing"]


def test_two_trainings_in_one_folder_are_refused(run: Any, tmp_path: Path) -> None:
    args = run().args
    with pytest.raises(ValueError, match="checkpoint-2 is of an earlier training: go on with it .--resume_from_"):
        find_checkpoint(args)
    args.do_train = False  # what is scored then is the base
    assert find_checkpoint(args) is None
    args.do_train, args.output_dir = True, str(tmp_path / "other")
    assert find_checkpoint(args) is None


def test_without_a_checkpoint_the_training_begins_and_scoring_is_refused(make_trainer: Any) -> None:
    args = make_trainer(do_train=True, resume_from_checkpoint="true").args
    said: list[str] = []
    assert find_checkpoint(args, say=said.append) is None
    assert said == ["there is no checkpoint to go on from: starting from the beginning"]
    args.do_train = False
    with pytest.raises(ValueError, match="holds no whole checkpoint to score"):
        find_checkpoint(args)


def test_a_checkpoint_can_be_named(run: Any, tmp_path: Path) -> None:
    args = run().args
    checkpoint = tmp_path / "out" / "checkpoint-1"
    args.resume_from_checkpoint = str(checkpoint)
    assert find_checkpoint(args) == checkpoint
    (checkpoint / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"the optimiser's state is missing \(--do_train false scores it as it is\)"):
        find_checkpoint(args)
    args.do_train = False
    assert find_checkpoint(args) == checkpoint
    (checkpoint / "model.safetensors").unlink()
    args.do_train = True
    with pytest.raises(ValueError, match=r"no checkpoint to go on from: its weights are missing$"):
        find_checkpoint(args)
    args.resume_from_checkpoint = "nowhere"
    with pytest.raises(ValueError, match="nowhere is no checkpoint to go on from: there is no such folder"):
        find_checkpoint(args)


def test_another_kind_of_model_is_refused(run: Any, tmp_path: Path) -> None:
    args = run(steps=1).args
    args.resume_from_checkpoint = "true"
    with pytest.raises(ValueError, match="checkpoint-1 holds a whole model, which does not go with --lora_r 2"):
        find_checkpoint(args, lora())
    shutil.rmtree(tmp_path / "out")
    run(lora(), steps=1)
    with pytest.raises(ValueError, match="checkpoint-1 holds an adapter, which does not go with --lora_r 0"):
        find_checkpoint(args)
    args.resume_from_checkpoint = str(tmp_path / "out" / "checkpoint-1")
    with pytest.raises(ValueError, match="which does not go with --lora_r 0"):
        find_checkpoint(args)


@pytest.mark.parametrize(
    ("options", "odd"),
    [
        ({"r": 4}, "r 2 and not 4"),
        ({"lora_alpha": 9, "use_rslora": True}, "lora_alpha 8 and not 9, use_rslora False and not True"),
        ({"modules_to_save": ["resampler"]}, "modules_to_save None and not ['resampler']"),
    ],
)
def test_another_adapter_is_refused(run: Any, tmp_path: Path, options: dict[str, Any], odd: str) -> None:
    run(lora(), steps=1)
    checkpoint = tmp_path / "out" / "checkpoint-1"
    check_same_adapter(checkpoint, lora())
    with pytest.raises(ValueError, match=re.escape(f"is of an adapter with {odd}: use the arguments it was trained")):
        check_same_adapter(checkpoint, lora(**options))


def test_the_start_of_a_pissa_adapter_is_kept_and_gone_back_to(run: Any, make_trainer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = run(lora(init_lora_weights="pissa_niter_4"), steps=1)
    checkpoint = tmp_path / "out" / "checkpoint-1"
    kept = start_of(checkpoint)
    assert kept == tmp_path / "out" / SNAPSHOT_NAME
    check_same_adapter(checkpoint, lora(init_lora_weights="pissa_niter_4"))

    again = make_trainer(peft_config=lora(), output_dir=str(tmp_path / "other"))
    initial = keep_start(again, checkpoint)
    assert (tmp_path / "other" / SNAPSHOT_NAME).is_file()  # a run that is resumed elsewhere can be resumed again
    load_weights(again, checkpoint)
    for name, value in lora_factors(trainer.model).items():
        assert torch.equal(lora_factors(again.model)[name], value)
        assert initial[name].shape == value.shape
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name

    os.truncate(kept, 100)
    with pytest.raises(ValueError, match=r"cannot resume .*: its PiSSA decomposition .* is not beside it"):
        check_same_adapter(checkpoint, lora(init_lora_weights="pissa_niter_4"))


def test_what_leaves_its_base_alone_has_no_start(make_trainer: Any, tmp_path: Path) -> None:
    assert keep_start(make_trainer(), None) is None
    assert keep_start(make_trainer(peft_config=lora()), None) is None
    assert not (tmp_path / "out" / SNAPSHOT_NAME).exists()
    assert start_of(None) is None
    (tmp_path / SNAPSHOT_NAME).write_text("of an adapter")
    assert keep_start(make_trainer(), tmp_path / "checkpoint-1") is None  # a whole model has nothing to go back to


def test_weights_and_log_of_a_checkpoint_are_taken(
    run: Any, make_trainer: Any, tiny_model: Any, tmp_path: Path
) -> None:
    trained = run()
    (tmp_path / "out" / "checkpoint-2" / "optimizer.pt").unlink()
    assert last_whole_checkpoint(tmp_path / "out")[0].name == "checkpoint-1"
    trainer = make_trainer(model=copy.deepcopy(tiny_model))
    load_weights(trainer, tmp_path / "out" / "checkpoint-2")
    for name, value in trained.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name
    assert trainer.state.global_step == 2
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2]
    (tmp_path / "out" / "checkpoint-2" / "trainer_state.json").unlink()
    load_weights(trainer, tmp_path / "out" / "checkpoint-2")
    assert trainer.state.global_step == 2
