"""The port equals the reference implementation on its recorded tiny model (../shared/goldens/xgenmm)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hf_frameseg.models.xgenmm import XGenMMConfig, XGenMMForConditionalGeneration

CASES = ["case_a_1img", "case_b_3img"]
Tensors = dict[str, torch.Tensor]

KEYS = (
    ("vision_encoder.", "model.vision_tower."),
    ("vision_tokenizer.", "model.resampler."),
    ("lang_model.lm_head.", "lm_head."),
    ("lang_model.model.", "model.language_model."),
    (".0.norm_", ".attn.norm_"),
    (".0.to_q.", ".attn.q_proj."),
    (".0.to_kv.", ".attn.kv_proj."),
    (".0.to_out.", ".attn.out_proj."),
    (".1.0.", ".mlp.norm."),
    (".1.1.weight", ".mlp.fc1.weight"),
    (".1.3.weight", ".mlp.fc2.weight"),
)


def port_key(key: str) -> str:
    key = key.removeprefix("vlm.")
    for old, new in KEYS[:4]:
        if key.startswith(old):
            key = new + key.removeprefix(old)
    if key.startswith("model.resampler.layers."):
        for old, new in KEYS[4:]:
            key = key.replace(old, new)
    return key


def port_state_dict(reference: Tensors, num_base_tokens: int) -> Tensors:
    """Rename the reference's keys and merge its decoupled vocabulary."""
    ported = {port_key(key): value for key, value in reference.items() if "vision_encoder.head." not in key}
    for target, extra in (
        ("model.language_model.embed_tokens.weight", "model.language_model.embed_tokens.additional_embedding.weight"),
        ("lm_head.weight", "lm_head.additional_fc.weight"),
        ("lm_head.bias", "lm_head.additional_fc.bias"),
    ):
        ported[target] = torch.cat([ported[target][:num_base_tokens], ported.pop(extra)])
    return ported


def port_config(numbers: dict[str, Any]) -> XGenMMConfig:
    resampler = numbers["resampler"]
    return XGenMMConfig(
        vision_config=numbers["vision"],
        resampler_config={
            "hidden_size": resampler["dim"],
            "intermediate_size": resampler["dim"] * resampler["ff_mult"],
            "num_hidden_layers": resampler["depth"],
            "num_attention_heads": resampler["heads"],
            "head_dim": resampler["dim_head"],
            "num_latents": resampler["num_latents"],
            "layer_norm_eps": resampler["layer_norm_eps"],
        },
        text_config={**numbers["text"], "vocab_size": numbers["total_vocab"]},
        image_token_id=numbers["tokens"]["image"],
    )


@pytest.fixture(scope="module")
def goldens(shared_dir: Path) -> Path:
    return shared_dir / "goldens" / "xgenmm"


@pytest.fixture(scope="module")
def numbers(goldens: Path) -> dict[str, Any]:
    return json.loads((goldens / "config.json").read_text())


@pytest.fixture(scope="module")
def build(goldens: Path, numbers: dict[str, Any]) -> Callable[[str], XGenMMForConditionalGeneration]:
    weights = port_state_dict(load_file(goldens / "state_dict.safetensors"), numbers["initial_tokenizer_len"])

    def build_model(attention: str = "sdpa") -> XGenMMForConditionalGeneration:
        model = XGenMMForConditionalGeneration._from_config(port_config(numbers), attn_implementation=attention)
        model.load_state_dict(weights, strict=True)
        model.model.vision_tower.requires_grad_(False)
        return model.eval()

    return build_model


@pytest.fixture(scope="module")
def folders(goldens: Path, numbers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The recorded weights as they are, without the Hub's prefix, and as `save_pretrained` writes them."""
    reference = load_file(goldens / "state_dict.safetensors")
    layouts = {"hub": reference, "unprefixed": {key.removeprefix("vlm."): value for key, value in reference.items()}}
    folders = {}
    for name, weights in layouts.items():
        folders[name] = tmp_path_factory.mktemp(name)
        port_config(numbers).save_pretrained(folders[name])
        save_file(weights, folders[name] / "model.safetensors", metadata={"format": "pt"})
    folders["saved"] = tmp_path_factory.mktemp("saved")
    XGenMMForConditionalGeneration.from_pretrained(folders["hub"]).save_pretrained(folders["saved"])
    return folders


@pytest.fixture(params=["hub-sdpa", "saved-sdpa", "hub-eager", "saved-eager"], scope="module")
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> XGenMMForConditionalGeneration:
    layout, attention = request.param.split("-")
    model = XGenMMForConditionalGeneration.from_pretrained(folders[layout], attn_implementation=attention)
    assert model.model.language_model.config._attn_implementation == attention
    model.model.vision_tower.requires_grad_(False)
    return model


def test_every_layout_gives_the_same_weights(build: Callable, folders: dict[str, Path]) -> None:
    expected = build().state_dict()
    for folder in folders.values():
        loaded, info = XGenMMForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
        torch.testing.assert_close(loaded.state_dict(), expected, atol=0, rtol=0)
        assert not any(info.values())
    assert load_file(folders["saved"] / "model.safetensors").keys() == expected.keys()


def model_inputs(inputs: Tensors, numbers: dict[str, Any], prefix: str = "") -> Tensors:
    """Expand each image id to num_latents ids, as the processor does; all rows of these cases end up equally long."""
    counts = torch.ones(numbers["total_vocab"], dtype=torch.long)
    counts[numbers["tokens"]["image"]] = numbers["resampler"]["num_latents"]
    ids, mask = inputs[f"{prefix}input_ids"], inputs[f"{prefix}attention_mask"]
    batch = {
        "input_ids": torch.stack([row.repeat_interleave(counts[row]) for row in ids]),
        "attention_mask": torch.stack([m.repeat_interleave(counts[row]) for row, m in zip(ids, mask, strict=True)]),
        "pixel_values": inputs["pixel_values"].flatten(0, 1),
    }
    if not prefix:
        labels = [label.repeat_interleave(counts[row]) for row, label in zip(ids, inputs["labels"], strict=True)]
        batch["labels"] = torch.stack(labels)
    return batch


def load_case(goldens: Path, numbers: dict[str, Any], case: str) -> tuple[Tensors, Tensors, Tensors]:
    inputs = load_file(goldens / case / "inputs.safetensors")
    outputs = load_file(goldens / case / "outputs.safetensors")
    return model_inputs(inputs, numbers), model_inputs(inputs, numbers, "gen_"), outputs


def record(model: XGenMMForConditionalGeneration) -> tuple[Tensors, list[Any]]:
    """Catch what flows between the parts, under the reference's names."""
    caught: Tensors = {}

    def catch(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            caught[name] = getattr(output, "last_hidden_state", output)

        return hook

    def catch_embeddings(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        caught["fused_inputs_embeds"] = kwargs["inputs_embeds"]

    tower, resampler = model.model.vision_tower, model.model.resampler
    modules = {
        "vision_embeddings": tower.embeddings,
        "vision_pre_post_layernorm": tower.encoder,
        "vision_features": tower,
        "resampler_norm": resampler.norm,
        "vision_tokens": resampler,
    }
    for index, layer in enumerate(resampler.layers):
        modules |= {f"resampler_attn_{index}": layer.attn, f"resampler_block_{index}": layer}
    handles = [module.register_forward_hook(catch(name)) for name, module in modules.items()]
    handles.append(model.model.language_model.register_forward_pre_hook(catch_embeddings, with_kwargs=True))
    return caught, handles


def assert_near(actual: torch.Tensor, expected: torch.Tensor, atol: float, rtol: float = 0.0) -> None:
    torch.testing.assert_close(actual.detach(), expected, atol=atol, rtol=rtol)


@pytest.mark.parametrize("case", CASES)
def test_forward_equals_the_reference(
    model: XGenMMForConditionalGeneration, goldens: Path, numbers: dict[str, Any], case: str
) -> None:
    batch, _, expected = load_case(goldens, numbers, case)
    caught, handles = record(model)
    output = model(**batch)
    for handle in handles:
        handle.remove()

    torch.testing.assert_close(batch["attention_mask"], expected["fused_attention_mask"])
    torch.testing.assert_close(batch["labels"], expected["fused_labels"])
    assert set(caught) <= set(expected)
    real = expected["fused_attention_mask"].bool()
    for name, tensor in caught.items():
        rows = real if name == "fused_inputs_embeds" else slice(None)
        # Residual streams reach 14 here; the recorded float32 numbers are up to 2e-5 off a float64 run themselves, and
        # so is this machine's run: which kernels compute it depends on the processor.
        assert_near(tensor[rows], expected[name][rows], atol=4e-5, rtol=1e-5)
    torch.testing.assert_close(output.image_hidden_states, caught["vision_tokens"])
    assert_near(output.logits[real], expected["logits"][real], 1e-4)
    assert_near(output.loss, expected["loss"], 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_answer_logits_sit_on_the_text_axis(
    model: XGenMMForConditionalGeneration, goldens: Path, numbers: dict[str, Any], case: str
) -> None:
    batch, _, expected = load_case(goldens, numbers, case)
    num_frames = expected["answer_logits"].shape[1]
    assistant = (batch["input_ids"] == numbers["tokens"]["assistant"]).int().argmax(-1)
    positions = assistant[:, None] + torch.arange(num_frames)
    torch.testing.assert_close(assistant, expected["assistant_pos_fused"])
    digits = torch.tensor([numbers["tokens"]["zero"], numbers["tokens"]["one"]])
    del batch["labels"]
    logits = model(**batch, logits_to_keep=positions).logits
    assert_near(logits[..., digits], expected["answer_logits"], 1e-4)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_reference(
    model: XGenMMForConditionalGeneration, goldens: Path, numbers: dict[str, Any], case: str
) -> None:
    batch, _, expected = load_case(goldens, numbers, case)
    model.zero_grad()
    model(**batch).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    recorded = {port_key(key.removeprefix("grad.")): value for key, value in expected.items() if key[:5] == "grad."}
    assert len(recorded) == 5
    for name, value in recorded.items():
        assert_near(gradients[name], value, 1e-4)
    assert all(grad is None for name, grad in gradients.items() if "vision_tower" in name)


@pytest.mark.parametrize("eos", ["", "eos_"])
@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_generation_equals_the_reference(
    model: XGenMMForConditionalGeneration,
    goldens: Path,
    numbers: dict[str, Any],
    case: str,
    num_beams: int,
    eos: str,
) -> None:
    _, prompt, expected = load_case(goldens, numbers, case)
    name = f"{'greedy' if num_beams == 1 else 'beam2'}_{eos}"
    model.generation_config.eos_token_id = expected["eos_token_id_used"].tolist() if eos else None
    model.generation_config.pad_token_id = numbers["tokens"]["endoftext"]
    output = model.generate(
        **prompt,
        num_beams=num_beams,
        max_new_tokens=8,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    new_tokens = output.sequences[:, prompt["input_ids"].shape[1] :]
    torch.testing.assert_close(new_tokens, expected[f"{name}sequences"])
    assert_near(torch.stack(output.scores), expected[f"{name}scores"], 1e-4)
    if num_beams > 1:
        torch.testing.assert_close(output.beam_indices.int(), expected[f"{name}beam_indices"])
        assert_near(output.sequences_scores, expected[f"{name}sequences_scores"], 1e-4)


def swap_keys_and_values(model: XGenMMForConditionalGeneration) -> None:
    for layer in model.model.resampler.layers:
        weight = layer.attn.kv_proj.weight.data
        weight.copy_(weight.roll(len(weight) // 2, dims=0))


def use_siglip_epsilon(model: XGenMMForConditionalGeneration) -> None:
    for module in model.model.resampler.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6


def use_tanh_gelu(model: XGenMMForConditionalGeneration) -> None:
    for layer in model.model.resampler.layers:
        layer.mlp.activation_fn = nn.GELU(approximate="tanh")


def use_erf_gelu_in_siglip(model: XGenMMForConditionalGeneration) -> None:
    for layer in model.model.vision_tower.encoder.layers:
        layer.mlp.activation_fn = nn.GELU()


def drop_head_bias(model: XGenMMForConditionalGeneration) -> None:
    model.lm_head.bias.data.zero_()


def skip_post_layernorm(model: XGenMMForConditionalGeneration) -> None:
    model.model.vision_tower.post_layernorm = nn.Identity()


def read_the_penultimate_layer(model: XGenMMForConditionalGeneration) -> None:
    del model.model.vision_tower.encoder.layers[-1]


def forget_the_scale(model: XGenMMForConditionalGeneration) -> None:
    for layer in model.model.resampler.layers:
        layer.attn.scaling = 1.0


def shorten_the_window(model: XGenMMForConditionalGeneration) -> None:
    # None of the recorded prompts is longer than the real window, so 2047 itself cannot be told from none here.
    model.config.text_config.sliding_window = 12


@pytest.mark.parametrize(
    "mistake",
    [
        swap_keys_and_values,
        use_siglip_epsilon,
        use_tanh_gelu,
        use_erf_gelu_in_siglip,
        drop_head_bias,
        skip_post_layernorm,
        read_the_penultimate_layer,
        forget_the_scale,
        shorten_the_window,
    ],
)
def test_the_comparison_sees_a_wrong_detail(
    build: Callable, goldens: Path, numbers: dict[str, Any], mistake: Callable
) -> None:
    batch, _, expected = load_case(goldens, numbers, "case_b_3img")
    model = build()
    mistake(model)
    real = expected["fused_attention_mask"].bool()
    with torch.no_grad():
        error = (model(**batch).logits - expected["logits"])[real].abs().max()
    assert error > 3e-4
