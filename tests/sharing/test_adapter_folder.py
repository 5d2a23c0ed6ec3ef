"""Adapters that come back: PiSSA to plain LoRA, refusals, nothing half-written."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

from hf_frameseg import _files
from hf_frameseg.inference import MomentRetriever
from hf_frameseg.sharing import adapter_folder as hub
from hf_frameseg.sharing import adapters
from hf_frameseg.sharing.adapter_repo import push_to_hub
from hf_frameseg.sharing.config import TINY_BASE, FrameSegmentationConfig
from hf_frameseg.sharing.loading import load_base, load_pretrained
from hf_frameseg.sharing.model_card import model_card
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer

sys.path.insert(0, str(Path(__file__).parents[1]))  # with importlib mode a test cannot import its neighbour otherwise
from adapter_fixtures import CONFIG, logits, lora  # noqa: E402

# ---- Training --------------------------------------------------------------------------------------------------------


def test_a_step_moves_all_that_is_trainable_and_nothing_else(trained: Any) -> None:
    moved, frozen = {}, {}
    for name, value in trained.model.named_parameters():
        (moved if value.requires_grad else frozen)[name] = not torch.equal(value, trained.before[name])
    assert {name for name, changed in moved.items() if not changed} == set()
    assert {name for name, changed in frozen.items() if changed} == set()
    kinds = {re.search(r"lora_[AB]|modules_to_save", name)[0] for name in moved}
    assert kinds == {"lora_A", "lora_B", "modules_to_save"}
    assert any("vision_tower" in name for name in frozen)


# ---- Save and load ---------------------------------------------------------------------------------------------------


def test_saved_pissa_gives_the_same_logits_on_a_new_base(trained: Any, save: Any, base: Path) -> None:
    folder = save(check_batch=trained.batch)
    expected = logits(trained.model, trained.batch)
    model, processor, config = hub.load_adapter(folder)
    assert (logits(model, trained.batch) - expected).abs().max() < 1e-4
    # the training is in it: the base alone, and the base with the untrained adapter, answer otherwise
    assert (logits(load_base(base), trained.batch) - expected).abs().max() > 1e-2
    assert config == CONFIG.changed(base_model=str(base), dtype="float32")
    assert processor.num_image_tokens == 2
    assert not model.training
    written = json.loads((folder / "adapter_config.json").read_text())
    assert (written["r"], written["init_lora_weights"], written["use_rslora"]) == (8, True, True)
    assert written["lora_alpha"] / 8**0.5 == pytest.approx(6 / 4**0.5)
    assert any("resampler" in name for name in load_file(folder / "adapter_model.safetensors"))


def test_plain_peft_loads_it_too(trained: Any, save: Any, base: Path) -> None:
    model = PeftModel.from_pretrained(load_base(base), str(save()))
    assert (logits(model, trained.batch) - logits(trained.model, trained.batch)).abs().max() < 1e-4


def test_the_start_from_its_file_is_the_same(trained: Any, save: Any, tmp_path: Path) -> None:
    one = save(initial_adapter=trained.output / adapters.SNAPSHOT_NAME)
    other = save(tmp_path / "other", initial_adapter=trained.output)
    for name, value in load_file(one / "adapter_model.safetensors").items():
        assert torch.equal(value, load_file(other / "adapter_model.safetensors")[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": False},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": True},
        {"rank_pattern": {"qkv_proj": 3}, "alpha_pattern": {"qkv_proj": 2, "o_proj": 5}},
        {"use_rslora": False, "rank_pattern": {"qkv_proj": 3}, "alpha_pattern": {"qkv_proj": 2}},
    ],
    ids=["no rsLoRA", "exact PiSSA", "OLoRA", "LoRA", "rsLoRA patterns", "patterns"],
)
def test_other_starts_and_scalings(
    changes: dict[str, Any], base: Path, tiny_processor: Any, trained: Any, tmp_path: Path
) -> None:
    model = get_peft_model(load_base(base), lora(load_base(base), **changes))
    initial = adapters.snapshot_adapter(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    hub.save_adapter(model, tiny_processor, CONFIG, tmp_path / "adapter", initial_adapter=initial)
    loaded, _, _ = hub.load_adapter(tmp_path / "adapter")
    assert (logits(loaded, trained.batch) - logits(model, trained.batch)).abs().max() < 1e-4
    rank = next(iter(loaded.peft_config.values())).r
    assert rank == (4 if changes.get("init_lora_weights") is True else 8)


def test_bfloat16_may_differ_by_its_rounding_only(
    base: Path, tiny_processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = get_peft_model(load_base(base, dtype=torch.bfloat16), lora(load_base(base)))
    initial = adapters.snapshot_adapter(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.mul_(1.2)
    state = copy.deepcopy(model.state_dict())
    hub.save_adapter(model, tiny_processor, CONFIG, tmp_path / "adapter", initial_adapter=initial)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    loaded = MomentRetriever.from_pretrained(tmp_path / "adapter", model_kwargs={"dtype": torch.bfloat16})
    assert loaded.model.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="differs from the trained model"):  # as strict as float32, if wanted
        hub.save_adapter(model, tiny_processor, CONFIG, tmp_path / "two", initial_adapter=initial, tolerance=1e-4)
    monkeypatch.setattr(hub, "plain_lora", lambda *args: untrained(*adapters.plain_lora(*args)))
    with pytest.raises(ValueError, match="more than 2 times the rounding of"):
        hub.save_adapter(model, tiny_processor, CONFIG, tmp_path / "three", initial_adapter=initial)
    monkeypatch.undo()
    late = adapters.snapshot_adapter(model)
    with pytest.raises(ValueError, match="more than 2 times the rounding of .*taken before training"):
        hub.save_adapter(model, tiny_processor, CONFIG, tmp_path / "four", initial_adapter=late)


def untrained(state: dict[str, Tensor], config: LoraConfig) -> tuple[dict[str, Tensor], LoraConfig]:
    """Return the adapter without what it learned."""
    return {name: value * ("lora_B" not in name) for name, value in state.items()}, config


def test_a_long_name(save: Any, tmp_path: Path) -> None:
    assert hub.load_adapter(save(tmp_path / ("n" * 250)))[2].base_model is not None


def test_the_trained_model_stays_as_it_is(trained: Any, save: Any) -> None:
    trained.model.train()
    trained.model.base_model.model.model.vision_tower.eval()
    modes = {name: module.training for name, module in trained.model.named_modules()}
    state = copy.deepcopy(trained.model.state_dict())
    settings = next(iter(trained.model.peft_config.values())).to_dict()
    save()
    assert {name: module.training for name, module in trained.model.named_modules()} == modes
    assert next(iter(trained.model.peft_config.values())).to_dict() == settings
    assert all(torch.equal(value, state[name]) for name, value in trained.model.state_dict().items())


def test_retriever_and_merged_model_answer_alike(trained: Any, save: Any, tmp_path: Path) -> None:
    retriever = MomentRetriever.from_pretrained(save(), num_beams=1)
    assert isinstance(retriever.model, PeftModel)
    assert retriever.config.label_rule == "saliency>0.5"
    hub.merge_and_save(tmp_path / "adapter", tmp_path / "merged")
    model, _, config = load_pretrained(tmp_path / "merged")
    assert not isinstance(model, PeftModel)
    assert config == CONFIG
    assert (logits(model, trained.batch) - logits(trained.model, trained.batch)).abs().max() < 1e-4


def test_a_base_of_the_package_is_saved_by_name(tmp_path: Path) -> None:
    model, processor, config = load_pretrained(TINY_BASE)
    model = get_peft_model(model, lora(model))
    initial = adapters.snapshot_adapter(model)
    folder = hub.save_adapter(model, processor, config, tmp_path / "adapter", initial_adapter=initial)
    assert str(TINY_BASE) not in "".join(path.read_text() for path in folder.glob("*.json"))
    assert hub.load_adapter(folder)[2].base_model == "hf_frameseg:tiny_base"


def test_training_under_autocast_is_compared_without_it(
    base: Path, collator: Any, make_row: Callable[..., dict], tiny_processor: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = load_base(base, dtype=torch.bfloat16)
    model = get_peft_model(model, lora(model, init_lora_weights=True, modules_to_save=None))
    args = SegmentationSeq2SeqTrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=3,
        learning_rate=2e-2,
        bf16=True,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = SegmentationSeq2SeqTrainer(model, args, collator, train_dataset=[make_row(1, [[0.0, 4.0]], size=16)] * 2)
    trainer.train()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    assert "_original_forward" in vars(trained)  # accelerate leaves its autocast around the unwrapped model
    wrapped = trained.forward
    folder = hub.save_adapter(trained, tiny_processor, CONFIG, tmp_path / "adapter")
    assert trained.forward == wrapped
    loaded, _, _ = hub.load_adapter(folder, dtype=torch.bfloat16)
    assert any(bool(tensor.any()) for name, tensor in loaded.named_parameters() if "lora_B" in name)
    with torch.autocast("cpu", torch.bfloat16):  # around the call too
        hub.save_adapter(trained, tiny_processor, CONFIG, tmp_path / "adapter")


def test_other_precisions_of_what_was_trained_are_compared_as_they_will_be_loaded(
    base: Path, tiny_processor: Any, tmp_path: Path
) -> None:
    model = load_base(base, dtype=torch.bfloat16)
    model = get_peft_model(model, lora(model, init_lora_weights=True))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = (parameter.data + torch.randn_like(parameter) * 0.1).to(
                torch.bfloat16
            )  # as an engine does
        elif "modules_to_save" in name:
            parameter.data = parameter.data.float()
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    hub.save_adapter(model, tiny_processor, CONFIG, tmp_path / "adapter")
    assert {name: parameter.dtype for name, parameter in model.named_parameters()} == dtypes


# ---- Resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_resumed_run_goes_back_to_its_decomposition(dtype: torch.dtype, base: Path, tmp_path: Path) -> None:
    first = get_peft_model(load_base(base, dtype=dtype), lora(load_base(base)))
    adapters.snapshot_adapter(first, tmp_path / "start.safetensors")
    second = get_peft_model(load_base(base, dtype=dtype), lora(load_base(base), init_lora_weights=True))
    restored = adapters.restore_adapter(second, tmp_path / "start.safetensors")
    tolerance = 0 if dtype == torch.float32 else 2**-7  # in bfloat16 PEFT rounds A and B after the decomposition
    for name, value in first.state_dict().items():
        assert (second.state_dict()[name] - value).abs().max() <= tolerance * value.abs().max(), name
    assert adapters.changes_base(adapters.lora_config_of(second))
    assert restored.keys() == adapters.snapshot_adapter(first).keys()


def test_another_decomposition_is_exchanged(base: Path, trained: Any) -> None:
    model = get_peft_model(load_base(base), lora(load_base(base)))
    adapters.restore_adapter(model, trained.initial)
    for name, value in trained.before.items():
        assert torch.allclose(model.get_parameter(name), value, atol=1e-6), name


# ---- Bases -----------------------------------------------------------------------------------------------------------


TOKENS = ["<moment>", "<no moment>"]


@pytest.mark.parametrize(
    "changes",
    [
        {"modules_to_save": None},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"modules_to_save": ["resampler"], "init_lora_weights": "pissa_niter_4"},
        {"modules_to_save": None, "trainable_token_indices": {"embed_tokens": [265, 266]}},
    ],
    ids=["left as drawn", "trained", "PiSSA", "trained alone"],
)
def test_added_tokens_come_along(
    changes: dict[str, Any], base: Path, trained: Any, tiny_processor: Any, tmp_path: Path
) -> None:
    processor = copy.deepcopy(tiny_processor)
    processor.tokenizer.add_tokens(TOKENS)
    torch.manual_seed(0)
    model = load_base(base)
    model.resize_token_embeddings(len(processor.tokenizer))
    model = get_peft_model(model, lora(model, **{"init_lora_weights": True, **changes}))
    initial = adapters.snapshot_adapter(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    batch = {**trained.batch, "input_ids": trained.batch["input_ids"].clone()}
    batch["input_ids"][:, -2:] = torch.tensor([265, 266])
    folder = hub.save_adapter(
        model, processor, CONFIG, tmp_path / "adapter", initial_adapter=initial, check_batch=batch
    )
    loaded, again, _ = hub.load_adapter(folder)
    assert again.tokenizer.convert_tokens_to_ids(TOKENS) == [265, 266]
    assert (logits(loaded, batch) - logits(model, batch)).abs().max() < 1e-4
    assert logits(loaded, batch).shape[-1] == 267
    hub.merge_and_save(folder, tmp_path / "merged")
    assert (logits(load_base(tmp_path / "merged"), batch) - logits(model, batch)).abs().max() < 1e-4


def test_parts_with_another_attention_than_the_whole(base: Path, tiny_processor: Any, tmp_path: Path) -> None:
    attention = {"": "eager", "vision_config": "sdpa", "text_config": "eager", "resampler_config": "sdpa"}
    model = load_base(base, attn_implementation=attention)
    model = get_peft_model(model, lora(model, init_lora_weights=True))
    asked = []

    def load(name: str, **options: Any) -> Any:
        asked.append(options["attn_implementation"])
        return load_base(name, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_frameseg.sharing.adapter_check.load_base", load)
        hub.save_adapter(model, tiny_processor, CONFIG, tmp_path / "adapter")
    assert asked == [attention]


def test_revision_and_quantisation_of_the_base_are_used_again(
    base: Path, tiny_processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import QuantoConfig

    asked = []

    def load(name: str, **options: Any) -> Any:
        asked.append({key: options.pop(key, None) for key in ("revision", "quantization_config")})
        return load_base(name, **options)

    model = load_base(base)
    model = get_peft_model(model, lora(model, init_lora_weights=True))
    model.get_base_model().config._commit_hash = "0" * 40
    model.get_base_model().config.quantization_config = QuantoConfig(weights="int4")
    monkeypatch.setattr("hf_frameseg.sharing.adapter_check.load_base", load)
    folder = hub.save_adapter(model, tiny_processor, CONFIG, tmp_path / "adapter")
    monkeypatch.setattr("hf_frameseg.sharing.loading.load_base", load)
    hub.load_adapter(folder)
    hub.load_adapter(folder, base_model=base)  # the same
    hub.load_adapter(folder, quantization_config=None)
    hub.load_adapter(folder, base_model=shutil.copytree(base, tmp_path / "copy"))
    assert [options["revision"] for options in asked] == ["0" * 40] * 4 + [None]
    found = [options["quantization_config"] for options in asked]
    assert [value and value.weights for value in found] == ["int4", "int4", "int4", None, None]


# ---- Refusals --------------------------------------------------------------------------------------------------------


def no_minus(state: dict[str, Tensor], config: LoraConfig) -> None:
    for name, value in state.items():
        if "lora_B" in name:
            value[:, 4:].neg_()


def old_scale(state: dict[str, Tensor], config: LoraConfig) -> None:
    config.lora_alpha = 6


def no_resampler(state: dict[str, Tensor], config: LoraConfig) -> None:
    for name in [name for name in state if "resampler" in name]:
        state[name] = torch.zeros_like(state[name])


def other_weight(state: dict[str, Tensor], config: LoraConfig) -> None:
    name = next(name for name in state if "lora_A" in name)
    state[name] = state[name] * 1.05


@pytest.mark.parametrize("tamper", [no_minus, old_scale, no_resampler, other_weight])
def test_a_wrong_conversion_is_refused_with_the_difference(
    tamper: Callable[..., None], save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = hub.plain_lora

    def wrong(*args: Any) -> Any:
        state, config = right(*args)
        tamper(state, config)
        return state, config

    kept = save()
    content = {path.name: path.read_bytes() for path in kept.iterdir()}
    monkeypatch.setattr(hub, "plain_lora", wrong)
    refused = tmp_path / "adapter.refused"
    for name in ("adapter.refused", "adapter.refused-2"):  # nor does a second refusal lose the first one's
        with pytest.raises(ValueError, match=rf"differs from the trained .* by \d.*kept in /.*/{name}, ") as caught:
            save()
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == content
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "adapter.refused", "adapter.refused-2"}
    assert hub.load_adapter(refused)[2].base_model is not None


def test_a_refusal_names_the_cause_it_can_see(
    base: Path, tiny_processor: Any, trained: Any, save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="initial_adapter holds the adapter as it is now.*taken before training"):
        save(initial_adapter=adapters.snapshot_adapter(trained.model))

    model = get_peft_model(load_base(base), lora(load_base(base), init_lora_weights=True))
    head = model.get_base_model().lm_head.weight
    with torch.no_grad():
        head.mul_(1.5)
    with pytest.raises(ValueError, match=r"lm_head.weight of the trained model is not that of .*modules_to_save"):
        hub.save_adapter(model, tiny_processor, CONFIG, tmp_path / "other")

    monkeypatch.setattr(hub, "plain_lora", lambda *args: untrained(*adapters.plain_lora(*args)))
    with pytest.raises(ValueError, match="no cause was found"):
        save()


def test_what_stops_the_comparison_leaves_the_adapter(
    trained: Any, save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("the Hub was not reached")

    monkeypatch.setattr("hf_frameseg.sharing.adapter_check.load_base", unreachable)
    with pytest.raises(ValueError, match=rf"ConnectionError: the Hub.*kept in {tmp_path / 'adapter.refused'}"):
        save()
    monkeypatch.undo()
    loaded, _, _ = hub.load_adapter(tmp_path / "adapter.refused")
    assert (logits(loaded, trained.batch) - logits(trained.model, trained.batch)).abs().max() < 1e-4


def test_an_interrupted_save_leaves_nothing(save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(hub, "replace_folder", broken)
        with pytest.raises(OSError, match="disk full"):
            save()
    assert list(tmp_path.iterdir()) == []
    kept = save()
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(hub, "replace_folder", broken)
            with pytest.raises(OSError, match="disk full"):
                save()
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert (kept / "adapter_model.safetensors").is_file()


def test_refusals_are_one_line(trained: Any, save: Any, base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "loop").symlink_to("loop")
    wrong_rank = {name: value[:, :2] if "lora_B" in name else value[:2] for name, value in trained.initial.items()}
    pure = load_base(base)
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: save(initial_adapter=None), ValueError, "snapshot_adapter.*before training"),
        (lambda: save(initial_adapter=wrong_rank), ValueError, "expected the initial adapter of this model"),
        (lambda: save(initial_adapter=adapters.snapshot_adapter(trained.model)), ValueError, "taken before training"),
        (lambda: save(initial_adapter=tmp_path / "no"), FileNotFoundError, "no initial adapter at"),
        (lambda: save(tmp_path / "mine"), FileExistsError, "no model of this package"),
        (lambda: save(tmp_path / "mine" / "thesis.txt"), FileExistsError, "is a file"),
        (lambda: save(tmp_path / "loop"), OSError, "links lead in a circle"),
        (lambda: hub.merge_and_save(save(), tmp_path / "loop"), OSError, "links lead in a circle"),
        (lambda: save(model=pure), ValueError, "with one LoRA adapter, got XGenMM.* with none"),
        (lambda: hub.load_adapter(base), ValueError, "without adapter_config.json"),
        (lambda: hub.load_adapter(tmp_path / "nowhere"), FileNotFoundError, "no folder"),
        (lambda: MomentRetriever.from_pretrained("owner/absent"), FileNotFoundError, "no such folder.*HF_HUB_OFFLINE"),
        (lambda: push_to_hub("me/x", base), FileNotFoundError, "without adapter_config.json, adapter_model"),
        (lambda: push_to_hub("me/x", save()), ValueError, "others do not have.*base_model='owner/name'"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert (tmp_path / "mine" / "thesis.txt").is_file()


# ---- Folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_modes_of_any_new_file(mask: int, save: Any) -> None:
    before = os.umask(mask)
    try:
        folder = save()
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o666 & ~mask}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])
def test_a_kill_at_any_step_leaves_one_of_the_two_adapters(
    exchanges: bool, save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "compare", lambda *args: None)
    if not exchanges:
        monkeypatch.setattr("hf_frameseg._files._exchange", lambda first, second: False)
    save(base_model="first/base")
    seen = set()
    for step in range(1, 8):
        pid = os.fork()
        if pid == 0:
            kill_at(step)
            save(base_model="second/base")
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        hub.fetch(tmp_path / "adapter")  # what loading does first
        content = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        seen.add((ended, content["base_model_name_or_path"]))
        save(base_model="first/base")
        assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
        if ended == 0:
            break
    assert {status for status, _ in seen} == {0, -signal.SIGKILL}
    assert {name for _, name in seen} == {"first/base", "second/base"}


def kill_at(step: int) -> None:
    """Kill this process before the given renaming, exchange or removal."""
    left = [step]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    Path.rename, shutil.rmtree = counted(Path.rename), counted(shutil.rmtree)
    _files._exchange = counted(_files._exchange)


# ---- Card ------------------------------------------------------------------------------------------------------------


def test_card_tells_scores_recipe_licence(save: Any) -> None:
    metrics = {"model": {"mAP": 35.284, "HIT@1": 56.7}, "blank frames": {"mAP": float("nan"), "R1@0.5": 3}}
    folder = save(metrics=metrics, recipe={"learning_rate": 2e-5}, dataset="QVHighlights", base_model="owner/base")
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n")
    assert "base_model: owner/base\nlicense: cc-by-nc-sa-4.0\n" in card
    assert "| model | 35.28 | 56.70 | - |\n| blank frames | - | - | 3 |" in card
    assert '"readout": "beam"' in card
    assert '"learning_rate": 2e-05' in card
    assert "CC BY-NC-SA 4.0" in card
    assert "CC BY-NC" not in model_card(CONFIG, dataset="synthetic")


def test_card_has_a_header_the_hub_reads(save: Any) -> None:
    from huggingface_hub import ModelCard

    data = ModelCard.load(save(dataset="QVHighlights", base_model="owner/base") / "README.md").data
    assert (data.base_model, data.license, data.library_name) == ("owner/base", "cc-by-nc-sa-4.0", "peft")


def test_the_snippet_of_the_card_runs(
    save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hf_frameseg.datasets.synthetic import write_dataset

    write_dataset(tmp_path / "data", progress=False, num_train_videos=1, num_val_videos=1, num_test_videos=0, fps=1)
    folder = save()
    shutil.copy(next((tmp_path / "data" / "videos").iterdir()), folder / "video.mp4")
    monkeypatch.chdir(folder)
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    exec(compile(code, "README.md", "exec"), {})
    assert " s   score " in capsys.readouterr().out


def test_text_of_others_stays_text_in_the_card() -> None:
    evil = "x\nlicense: mit\n---\n# Title <script>alert(1)</script> [a](http://b) | `c` ```\n=1+1 _d_ @all"
    config = FrameSegmentationConfig(base_model=evil, prompt="compact")
    card = model_card(config, metrics={evil: {"mAP": 1.0, evil: evil}}, recipe={evil: [evil]}, dataset=evil)
    header, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert header == model_card(CONFIG).removeprefix("---\n").partition("\n---\n")[0]
    titles = [line[:20] for line in body.splitlines() if line.startswith("#")]
    assert titles == [line[:20] for line in model_card(CONFIG).splitlines() if line.startswith("#")]
    assert len([line for line in body.splitlines() if line.startswith("```")]) == 6
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [4, 4, 4]
    outside = re.sub(r"(?ms)^```.*?^```$", "", body)
    assert not re.search(r"<|\[a\]|script|http://b|_d_|@all", re.sub(r"`[^`\n]*`", "", outside))
