"""The reference's checkpoint: all 718 names of the full size, its config.json, its tokenizer folder, broken files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast

from hf_frameseg.models.xgenmm import XGenMMConfig, XGenMMForConditionalGeneration, XGenMMModel, XGenMMProcessor

Shapes = dict[str, tuple[int, ...]]

# As far as known: the classes and defaults of the Hub's remote code, and the values of the training logs.
HUB_CONFIG: dict[str, Any] = {
    "architectures": ["XGenMMModelForConditionalGeneration"],
    "auto_map": {
        "AutoConfig": "modeling_xgenmm.XGenMMConfig",
        "AutoModelForVision2Seq": "modeling_xgenmm.XGenMMModelForConditionalGeneration",
    },
    "model_type": "xgenmm",
    "text_config": {
        "initial_tokenizer_len": 32012,
        "model_type": "phi3",
        "sliding_window": 2047,
        "vocab_size": 32064,
        "torch_dtype": "bfloat16",
        "num_beams": 1,
        "bad_words_ids": None,
        "_attn_implementation": "flash_attention_2",
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.1",
    "vision_encoder_config": {
        "anyres_patch_sampling": True,
        "image_aspect_ratio": "anyres",
        "model_type": "xgenmm_vision_encoder",
    },
    "vision_tokenizer_config": {"model_type": "xgenmm_vision_tokenizer"},
}


def affine(name: str, out: int, inner: int | None = None) -> Shapes:
    return {f"{name}.weight": (out,) if inner is None else (out, inner), f"{name}.bias": (out,)}


def reference_shapes() -> Shapes:
    """Names and shapes of the Hub's checkpoint, written down from the recorded facts, not from the port."""
    vision: Shapes = {
        **{"embeddings.patch_embedding.weight": (1152, 3, 14, 14), "embeddings.patch_embedding.bias": (1152,)},
        "embeddings.position_embedding.weight": (729, 1152),
        **affine("post_layernorm", 1152),
        **{"head.probe": (1, 1, 1152), "head.attention.in_proj_weight": (3456, 1152)},
        **{"head.attention.in_proj_bias": (3456,), **affine("head.attention.out_proj", 1152, 1152)},
        **affine("head.layernorm", 1152),
        **affine("head.mlp.fc1", 4304, 1152),
        **affine("head.mlp.fc2", 1152, 4304),
    }
    for i in range(27):
        layer = f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            vision |= affine(f"{layer}.self_attn.{name}", 1152, 1152)
        vision |= affine(f"{layer}.layer_norm1", 1152) | affine(f"{layer}.layer_norm2", 1152)
        vision |= affine(f"{layer}.mlp.fc1", 4304, 1152) | affine(f"{layer}.mlp.fc2", 1152, 4304)
    resampler: Shapes = {"latents": (128, 1152), **affine("norm", 1152), **affine("projection", 3072, 1152)}
    for i in range(6):
        layer = f"layers.{i}"
        resampler |= affine(f"{layer}.0.norm_media", 1152) | affine(f"{layer}.0.norm_latents", 1152)
        resampler |= {f"{layer}.0.to_q.weight": (1536, 1152), f"{layer}.0.to_kv.weight": (3072, 1152)}
        resampler |= {f"{layer}.0.to_out.weight": (1152, 1536), **affine(f"{layer}.1.0", 1152)}
        resampler |= {f"{layer}.1.1.weight": (4608, 1152), f"{layer}.1.3.weight": (1152, 4608)}
    text: Shapes = {
        "model.embed_tokens.weight": (32064, 3072),
        "model.embed_tokens.additional_embedding.weight": (3, 3072),
        "model.norm.weight": (3072,),
        **affine("lm_head", 32064, 3072),
        **affine("lm_head.additional_fc", 3, 3072),
    }
    for i in range(32):
        layer = f"model.layers.{i}"
        text |= {f"{layer}.self_attn.qkv_proj.weight": (9216, 3072), f"{layer}.self_attn.o_proj.weight": (3072, 3072)}
        text |= {f"{layer}.mlp.gate_up_proj.weight": (16384, 3072), f"{layer}.mlp.down_proj.weight": (3072, 8192)}
        text |= {f"{layer}.{name}.weight": (3072,) for name in ("input_layernorm", "post_attention_layernorm")}
    parts = {"vision_encoder": vision, "vision_tokenizer": resampler, "lang_model": text}
    assert [len(part) for part in parts.values()] == [448, 71, 199]
    return {f"vlm.{part}.{name}": shape for part, shapes in parts.items() for name, shape in shapes.items()}


def count(shapes: Shapes, under: str = "") -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(under))


@pytest.fixture(scope="module")
def full_size() -> tuple[XGenMMForConditionalGeneration, dict[str, Any]]:
    """The released model without its numbers, loaded by transformers from tensors that have a shape only."""
    weights = {name: torch.empty(shape, device="meta") for name, shape in reference_shapes().items()}
    return XGenMMForConditionalGeneration.from_pretrained(
        None,
        config=XGenMMConfig.from_reference(HUB_CONFIG),
        state_dict=weights,
        device_map={"": "meta"},
        output_loading_info=True,
    )


def test_the_full_checkpoint_has_the_recorded_numbers() -> None:
    shapes = reference_shapes()
    assert len(shapes) == 718
    assert count(shapes) == 4_359_257_219
    assert count(shapes, "vlm.vision_tokenizer.") == 109_901_568
    assert count(shapes, "vlm.vision_encoder.") == 428_225_600
    assert count(shapes, "vlm.vision_encoder.head.") == 15_238_352


def test_every_name_of_the_full_checkpoint_has_its_place(full_size: tuple) -> None:
    model, info = full_size
    assert not any(info.values())
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    pooling_head, dead_rows = 15_238_352, (32064 - 32012) * (2 * 3072 + 1)
    assert num_parameters == 4_359_257_219 - pooling_head - dead_rows == 4_343_699_327
    assert sum(parameter.numel() for parameter in model.model.resampler.parameters()) == 109_901_568
    # 718 names, less the head's 11, less one of each merged pair
    assert len(model.state_dict()) == 718 - 11 - 3


@pytest.mark.parametrize("name", ["lang_model.model.layers.31.mlp.down_proj.weight", "vision_tokenizer.latents"])
def test_a_wrong_shape_of_the_full_checkpoint_is_seen(name: str) -> None:
    weights = {name: torch.empty(shape, device="meta") for name, shape in reference_shapes().items()}
    weights[f"vlm.{name}"] = weights[f"vlm.{name}"][1:]
    with pytest.raises(ValueError, match="has shape"):
        XGenMMForConditionalGeneration.from_pretrained(
            None, config=XGenMMConfig(), state_dict=weights, device_map={"": "meta"}
        )


def test_the_papers_adapter_trains_as_many_weights_as_the_paper(full_size: tuple) -> None:
    with torch.device("meta"):
        model = XGenMMForConditionalGeneration(full_size[0].config)
    model.requires_grad_(False)
    config = LoraConfig(
        r=16,
        target_modules=r"model\.language_model\..*_proj",
        modules_to_save=["resampler"],
        task_type="CAUSAL_LM",
    )
    trained = {n: p.numel() for n, p in get_peft_model(model, config).named_parameters() if p.requires_grad}
    assert sum(size for name, size in trained.items() if "lora_" in name) == 25_165_824
    assert sum(trained.values()) == 135_067_392


# config.json ----------------------------------------------------------------------------------------------------------


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def without_origin(config: XGenMMConfig) -> dict[str, Any]:
    values = config.to_dict()
    return {key: values[key] for key in values.keys() - {"transformers_version", "_name_or_path", "dtype"}}


def test_the_hubs_config_is_the_default_config(tmp_path: Path) -> None:
    loaded = AutoConfig.from_pretrained(write_config(tmp_path, HUB_CONFIG))
    assert isinstance(loaded, XGenMMConfig)
    assert without_origin(loaded) == without_origin(XGenMMConfig())
    assert loaded.dtype == torch.bfloat16
    assert loaded._attn_implementation != "flash_attention_2"


def test_numbers_of_the_hubs_config_are_taken_over() -> None:
    config = XGenMMConfig.from_reference(
        {
            "text_config": {"initial_tokenizer_len": 320, "hidden_size": 48, "num_hidden_layers": 2, "rope_theta": 5.0},
            "vision_tokenizer_config": {"num_vis_tokens": 64, "lang_embedding_dim": 3072},
        }
    )
    text = config.text_config
    assert (text.vocab_size, text.hidden_size, text.num_hidden_layers, config.image_token_id) == (323, 48, 2, 320)
    assert (text.sliding_window, text.rope_parameters["rope_theta"]) == (2047, 5.0)
    assert config.resampler_config.num_latents == 64


@pytest.mark.parametrize(
    ("part", "entry", "message"),
    [
        ("vision_encoder_config", {"model_name": "a/clip"}, "model_name must be 'google/siglip-so400m-patch14-384'"),
        ("vision_encoder_config", {"image_aspect_ratio": "pad"}, "image_aspect_ratio must be 'anyres', got 'pad'"),
        ("vision_encoder_config", {"depth": 3}, "vision_encoder_config: unknown entries depth"),
        ("vision_tokenizer_config", {"heads": 3, "ff": 1}, "vision_tokenizer_config: unknown entries ff, heads"),
        ("text_config", {"model_type": "llama"}, "text_config: model_type must be 'phi3', got 'llama'"),
        ("text_config", {"num_experts": 4}, "text_config: unknown entries num_experts"),
    ],
)
def test_unknown_entries_of_the_hubs_config_are_refused(part: str, entry: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        XGenMMConfig.from_reference({**HUB_CONFIG, part: {**HUB_CONFIG[part], **entry}})
    with pytest.raises(ValueError, match="config.json: unknown entries tower"):
        XGenMMConfig.from_reference({**HUB_CONFIG, "tower": 1})


# Files ----------------------------------------------------------------------------------------------------------------


def to_reference(model: XGenMMForConditionalGeneration, image_id: int) -> dict[str, torch.Tensor]:
    """Write a small model as the reference would: decoupled image tokens, dead rows, a pooling head."""
    weights = {}
    renamed = (
        ("model.vision_tower.", "vision_encoder."),
        ("model.resampler.", "vision_tokenizer."),
        ("model.language_model.", "lang_model.model."),
        ("lm_head.", "lang_model.lm_head."),
        (".attn.norm_", ".0.norm_"),
        (".attn.q_proj", ".0.to_q"),
        (".attn.kv_proj", ".0.to_kv"),
        (".attn.out_proj", ".0.to_out"),
        (".mlp.norm.", ".1.0."),
    )
    for key, value in model.state_dict().items():
        for own, theirs in renamed:
            key = key.replace(own, theirs)
        if key.startswith("vision_tokenizer."):
            key = key.replace(".mlp.fc1.", ".1.1.").replace(".mlp.fc2.", ".1.3.")
        weights[f"vlm.{key}"] = value.clone()
    for key, extra in (
        ("model.embed_tokens.weight", "model.embed_tokens.additional_embedding.weight"),
        ("lm_head.weight", "lm_head.additional_fc.weight"),
        ("lm_head.bias", "lm_head.additional_fc.bias"),
    ):
        base, image = weights[f"vlm.lang_model.{key}"].split([image_id, 3])
        weights[f"vlm.lang_model.{key}"] = torch.cat([base, torch.full((5, *base.shape[1:]), 9.0)])
        weights[f"vlm.lang_model.{extra}"] = image.clone()
    return {**weights, "vlm.vision_encoder.head.probe": torch.zeros(1, 1, 64)}


@pytest.fixture
def port(tiny_config: XGenMMConfig) -> XGenMMForConditionalGeneration:
    values = tiny_config.to_dict()
    config = XGenMMConfig(**{**values, "image_token_id": values["text_config"]["vocab_size"] - 3})
    return XGenMMForConditionalGeneration(config).eval()


@pytest.fixture
def reference(port: XGenMMForConditionalGeneration) -> dict[str, torch.Tensor]:
    return to_reference(port, port.config.image_token_id)


def write(folder: Path, port: XGenMMForConditionalGeneration, weights: dict[str, torch.Tensor]) -> Path:
    port.config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_saving_after_loading_writes_the_ports_layout(port: Any, reference: dict, tmp_path: Path) -> None:
    loaded = AutoModelForImageTextToText.from_pretrained(write(tmp_path, port, reference))
    torch.testing.assert_close(loaded.state_dict(), port.state_dict(), atol=0, rtol=0)
    loaded.save_pretrained(tmp_path / "clean")
    again = XGenMMForConditionalGeneration.from_pretrained(tmp_path / "clean")
    torch.testing.assert_close(again.state_dict(), port.state_dict(), atol=0, rtol=0)
    assert isinstance(AutoModel.from_pretrained(tmp_path / "clean"), XGenMMModel)
    with pytest.raises(ValueError, match="save_original_format must be False"):
        loaded.save_pretrained(tmp_path, save_original_format=True)


def test_missing_and_left_over_weights_are_listed(port: Any, reference: dict, tmp_path: Path) -> None:
    for name in ("lm_head.additional_fc.bias", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"):
        del reference[f"vlm.lang_model.{name}"]
    reference["vlm.lang_model.model.layers.1.self_attn.qkv_proj.lora_A.weight"] = torch.zeros(1)
    reference["vlm.vision_tokenizer.latents"] = torch.zeros(3, 64)
    with pytest.raises(ValueError, match="does not fit XGenMMForConditionalGeneration") as caught:
        XGenMMForConditionalGeneration.from_pretrained(write(tmp_path, port, reference))
    for part in (
        "missing lm_head.bias (in the Hub's layout lang_model.lm_head.bias with lang_model.lm_head.additional_fc.bias)",
        "missing model.language_model.layers.1.mlp.down_proj.weight;",
        "missing model.language_model.norm.weight;",
        "unexpected model.language_model.layers.1.self_attn.qkv_proj.lora_A.weight;",
        "model.resampler.latents has shape (3, 64), expected (2, 64).",
    ):
        assert part in str(caught.value)


def test_the_dropped_pooling_head_is_the_only_exception(port: Any, reference: dict, tmp_path: Path) -> None:
    reference["vlm.vision_tokenizer.head.probe"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r": unexpected model.resampler.head.probe\. Expected the layout"):
        XGenMMForConditionalGeneration.from_pretrained(write(tmp_path, port, reference))


def test_a_vocabulary_that_hides_the_image_token_is_refused(port: Any, reference: dict, tmp_path: Path) -> None:
    write(tmp_path, port, reference)
    config = XGenMMConfig.from_pretrained(tmp_path)
    config.image_token_id -= 1
    with pytest.raises(RuntimeError, match="automatic conversion of the weights"):
        XGenMMForConditionalGeneration.from_pretrained(tmp_path, config=config)


def test_a_foreign_checkpoint_is_refused(port: Any, tmp_path: Path) -> None:
    weights = {f"encoder.layers.{i}.weight": torch.zeros(1) for i in range(3)}
    with pytest.raises(ValueError, match=r"missing lm_head.bias .* unexpected encoder.layers.\{0,1,2\}.weight\."):
        XGenMMForConditionalGeneration.from_pretrained(write(tmp_path, port, weights))
    with pytest.raises(ValueError, match="Expected a config.json of model_type 'xgenmm', got 'llava'"):
        XGenMMForConditionalGeneration.from_pretrained(write_config(tmp_path, {"model_type": "llava"}))


@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_cut_file_is_refused(kept: int, port: Any, reference: dict, tmp_path: Path) -> None:
    file = write(tmp_path, port, reference) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(OSError, match="got a cut or damaged one .* download again"):
        XGenMMForConditionalGeneration.from_pretrained(tmp_path)


def test_the_processor_comes_from_the_references_folder(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Its folder has a plain tokenizer and an image processor of the remote code."""
    backend = json.loads(tiny_tokenizer.backend_tokenizer.to_str())
    added = ("<image>", "<image placeholder>", "<|endofchunk|>")
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["content"] not in added]
    (tmp_path / "tokenizer.json").write_text(json.dumps(backend))
    PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="<pad>", eos_token="<|endoftext|>"
    ).save_pretrained(tmp_path)
    text = {**HUB_CONFIG["text_config"], "initial_tokenizer_len": len(tiny_tokenizer) - 3}
    write_config(tmp_path, {**HUB_CONFIG, "text_config": {**text, "pad_token_id": 1, "eos_token_id": 2}})
    remote = {"auto_map": {"AutoImageProcessor": "image_processing.Remote"}, "image_processor_type": "Remote"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(remote))

    processor = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, XGenMMProcessor)
    ids = tiny_tokenizer.convert_tokens_to_ids
    assert [processor.tokenizer.convert_tokens_to_ids(token) for token in added] == [ids(token) for token in added]
    assert (processor.image_token_id, processor.num_image_tokens) == (len(tiny_tokenizer) - 3, 128)
    assert dict(processor.image_processor.size) == {"height": 384, "width": 384}
    processor.save_pretrained(tmp_path / "own")
    own = AutoProcessor.from_pretrained(tmp_path / "own")
    assert own(text="<image> 0", images=torch.zeros(3, 8, 8)).input_ids == [[processor.image_token_id] * 128 + [32, 48]]
