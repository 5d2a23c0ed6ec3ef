"""Training, logits, generation and saving of a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText

from hf_frameseg.models.xgenmm import XGenMMConfig, XGenMMForConditionalGeneration, XGenMMModel

IMAGE, PAD = 9, 0


def make_batch(frames: tuple[int, ...] = (3, 3), words: tuple[int, ...] = (4, 4), seed: int = 0) -> dict[str, Any]:
    """Build left-padded prompts of `frames[b]` images (two ids each) and `words[b]` other ids."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for num_frames, num_words in zip(frames, words, strict=True):
        ids = torch.randint(20, 230, (num_words,), generator=generator).tolist()
        rows.append(ids[:1] + [IMAGE, IMAGE] * num_frames + ids[1:])
    length = max(map(len, rows))
    input_ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    pixel_values = torch.randn(sum(frames), 3, 32, 32, generator=generator)
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long(), "pixel_values": pixel_values}


def select_sample(batch: dict[str, Any], frames: tuple[int, ...], index: int) -> dict[str, Any]:
    """Cut one sample out of a batch, without its padding."""
    real = batch["attention_mask"][index].bool()
    images = batch["pixel_values"].split(frames)[index]
    ids = batch["input_ids"][index, real][None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": images}


def test_size_and_weight_range(tiny_config: XGenMMConfig) -> None:
    torch.manual_seed(0)
    model = XGenMMForConditionalGeneration(tiny_config)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(500_000, rel=0.01)
    drawn = {name: p.std().item() for name, p in model.named_parameters() if p.ndim > 1 and "vision_tower" not in name}
    assert {"lm_head.weight", "model.resampler.latents", "model.language_model.embed_tokens.weight"} <= set(drawn)
    for name, std in drawn.items():
        assert std == pytest.approx(0.1, rel=0.15), name
    assert model.lm_head.bias.abs().max() == 0


def test_one_step_reaches_every_parameter(tiny_model: XGenMMForConditionalGeneration) -> None:
    tiny_model.train()
    batch = make_batch()
    before = {name: p.detach().clone() for name, p in tiny_model.named_parameters()}
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == IMAGE, -100)
    first = tiny_model(**batch, labels=labels).loss
    first.backward()
    optimizer.step()
    for name, parameter in tiny_model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    assert tiny_model(**batch, labels=labels).loss < first


def test_frozen_vision_tower_keeps_no_graph(tiny_model: XGenMMForConditionalGeneration) -> None:
    batch = make_batch()
    assert tiny_model.get_image_features(batch["pixel_values"]).last_hidden_state.requires_grad
    tiny_model(**batch, labels=batch["input_ids"]).loss.backward()
    expected = {n: p.grad for n, p in tiny_model.named_parameters() if "vision_tower" not in n}
    tiny_model.model.vision_tower.requires_grad_(False)
    features = tiny_model.get_image_features(batch["pixel_values"])
    assert not features.last_hidden_state.requires_grad
    assert features.pooler_output.requires_grad

    tiny_model.zero_grad(set_to_none=True)
    tiny_model(**batch, labels=batch["input_ids"]).loss.backward()
    found = {n: p.grad for n, p in tiny_model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(found, expected)


def test_pixels_can_ask_for_gradients_through_a_frozen_tower(tiny_model: XGenMMForConditionalGeneration) -> None:
    tiny_model.requires_grad_(False)
    batch = make_batch()
    batch["pixel_values"].requires_grad_(True)
    tiny_model(**batch).logits.sum().backward()
    assert batch["pixel_values"].grad.abs().amax(dim=(1, 2, 3)).min() > 0


def test_gradient_checkpointing_changes_nothing(tiny_model: XGenMMForConditionalGeneration) -> None:
    tiny_model.train()
    batch = make_batch()

    def gradients() -> dict[str, torch.Tensor]:
        tiny_model.zero_grad(set_to_none=True)
        tiny_model(**batch, labels=batch["input_ids"], use_cache=False).loss.backward()
        return {name: p.grad for name, p in tiny_model.named_parameters()}

    expected = gradients()
    tiny_model.activation_checkpointing_enable()
    assert tiny_model.model.resampler.layers[0].gradient_checkpointing
    torch.testing.assert_close(gradients(), expected)


def test_logits_to_keep(tiny_model: XGenMMForConditionalGeneration) -> None:
    batch = make_batch()
    per_sample = torch.tensor([[1, 4], [2, 3]])
    with torch.no_grad():
        full = tiny_model(**batch).logits
        assert full.shape == (2, 10, 230)
        torch.testing.assert_close(tiny_model(**batch, logits_to_keep=3).logits, full[:, -3:])
        torch.testing.assert_close(tiny_model(**batch, logits_to_keep=torch.tensor([2, 5])).logits, full[:, [2, 5]])
        kept = tiny_model(**batch, logits_to_keep=per_sample).logits
    torch.testing.assert_close(kept, full[torch.arange(2)[:, None], per_sample])


def test_loss_is_the_shifted_mean_over_labels(tiny_model: XGenMMForConditionalGeneration) -> None:
    batch = make_batch()
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, -1], labels[1, -2:] = 7, torch.tensor([8, 11])
    with torch.no_grad():
        output = tiny_model(**batch, labels=labels)
        summed = tiny_model(**batch, labels=labels, num_items_in_batch=torch.tensor(6)).loss
    log_probs = output.logits.log_softmax(-1)
    terms = [log_probs[0, -2, 7], log_probs[1, -3, 8], log_probs[1, -2, 11]]
    torch.testing.assert_close(output.loss, -sum(terms) / 3)
    torch.testing.assert_close(summed, output.loss / 2)


def test_inputs_embeds_equal_input_ids(tiny_model: XGenMMForConditionalGeneration) -> None:
    batch = make_batch()
    embeds = tiny_model.get_input_embeddings()(batch["input_ids"])
    from_embeds = {**batch, "input_ids": None, "inputs_embeds": embeds}
    with torch.no_grad():
        torch.testing.assert_close(tiny_model(**from_embeds).logits, tiny_model(**batch).logits)
        generated = tiny_model.generate(**from_embeds, num_beams=2, max_new_tokens=3, do_sample=False)
        expected = tiny_model.generate(**batch, num_beams=2, max_new_tokens=3, do_sample=False)
    torch.testing.assert_close(generated, expected[:, batch["input_ids"].shape[1] :])


def test_frames_are_encoded_alone_and_land_in_order(tiny_model: XGenMMForConditionalGeneration) -> None:
    batch = make_batch()
    with torch.no_grad():
        tokens = tiny_model.get_image_features(batch["pixel_values"]).pooler_output
        alone = tiny_model.get_image_features(batch["pixel_values"][4:5]).pooler_output
        assert tokens.shape == (6, 2, 96)
        torch.testing.assert_close(tokens[4:5], alone)
        seen = tiny_model(**batch, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(seen[batch["input_ids"] == IMAGE], tokens.flatten(0, 1))


@pytest.mark.parametrize("frames", [(3, 3), (3, 1), (0, 2)])
@pytest.mark.parametrize("num_beams", [1, 2, 3])
def test_batched_generation_equals_sample_by_sample(
    tiny_model: XGenMMForConditionalGeneration, frames: tuple[int, int], num_beams: int
) -> None:
    batch = make_batch(frames=frames, words=(4, 6))
    arguments = {
        "num_beams": num_beams,
        "max_new_tokens": 6,
        "do_sample": False,
        "output_scores": True,
        "return_dict_in_generate": True,
    }
    together = tiny_model.generate(**batch, **arguments)
    for index in range(2):
        sample = select_sample(batch, frames, index)
        if not frames[index]:
            del sample["pixel_values"]
        alone = tiny_model.generate(**sample, **arguments)
        length = sample["input_ids"].shape[1]
        new_tokens = together.sequences[index, batch["input_ids"].shape[1] :]
        torch.testing.assert_close(new_tokens[: alone.sequences.shape[1] - length], alone.sequences[0, length:])
        rows = slice(index * num_beams, (index + 1) * num_beams)
        torch.testing.assert_close(together.scores[0][rows], alone.scores[0], atol=1e-4, rtol=1e-4)
        if num_beams > 1:
            torch.testing.assert_close(together.sequences_scores[index], alone.sequences_scores[0], atol=1e-4, rtol=0)


def test_generation_sees_the_images(tiny_model: XGenMMForConditionalGeneration) -> None:
    batch = make_batch()
    arguments = {"max_new_tokens": 1, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    scores = tiny_model.generate(**batch, **arguments).scores[0]
    batch["pixel_values"][3:] = 0
    blanked = tiny_model.generate(**batch, **arguments).scores[0]
    torch.testing.assert_close(blanked[0], scores[0])
    assert (blanked[1] - scores[1]).abs().max() > 1e-2


def test_cached_decoding_respects_the_sliding_window(tiny_config: XGenMMConfig) -> None:
    tiny_config.text_config.sliding_window = 5
    torch.manual_seed(0)
    model = XGenMMForConditionalGeneration(tiny_config).eval()
    batch = make_batch()
    output = model.generate(
        **batch,
        max_new_tokens=6,
        do_sample=False,
        suppress_tokens=[IMAGE],  # untrained weights may write it, and a full forward would want an image for it
        output_logits=True,
        return_dict_in_generate=True,
    )
    sequences = output.sequences
    mask = torch.cat([batch["attention_mask"], torch.ones(2, sequences.shape[1] - 10, dtype=torch.long)], 1)
    with torch.no_grad():
        full = model(input_ids=sequences, attention_mask=mask, pixel_values=batch["pixel_values"]).logits
        model.config.text_config.sliding_window = None
        unlimited = model(input_ids=sequences, attention_mask=mask, pixel_values=batch["pixel_values"]).logits
    torch.testing.assert_close(torch.stack(output.logits, 1), full[:, 9:-1], atol=1e-4, rtol=1e-4)
    assert (unlimited - full)[:, 9:].abs().max() > 1e-2


def test_switching_attention_reaches_all_parts(tiny_model: XGenMMForConditionalGeneration) -> None:
    batch = make_batch()
    with torch.no_grad():
        expected = tiny_model(**batch).logits
        tiny_model.set_attn_implementation("eager")
        parts = (tiny_model.model.vision_tower, tiny_model.model.resampler, tiny_model.model.language_model)
        assert [part.config._attn_implementation for part in parts] == ["eager"] * 3
        torch.testing.assert_close(tiny_model(**batch).logits, expected, atol=1e-4, rtol=1e-4)


def test_saving_and_loading(tiny_model: XGenMMForConditionalGeneration, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(loaded, XGenMMForConditionalGeneration)
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), tiny_model.state_dict())
    assert isinstance(AutoModel.from_pretrained(tmp_path), XGenMMModel)


def test_bad_calls_say_what_to_do(tiny_model: XGenMMForConditionalGeneration) -> None:
    batch = make_batch()
    with pytest.raises(ValueError, match="Expected 10 <image> ids .* for 5 images of 2 tokens, got 12"):
        tiny_model(**{**batch, "pixel_values": batch["pixel_values"][:5]})
    with pytest.raises(ValueError, match="flatten samples and frames"):
        tiny_model(**{**batch, "pixel_values": batch["pixel_values"].unflatten(0, (2, 3))})
    for size in (24, 33):  # 33 pixels give as many patches as 32
        with pytest.raises(ValueError, match=rf"images of \(3, 32, 32\) .* got \(3, {size}, {size}\): resize with"):
            tiny_model(**{**batch, "pixel_values": torch.zeros(6, 3, size, size)})
    with pytest.raises(ValueError, match="leave logits_to_keep at 0"):
        tiny_model(**batch, labels=batch["input_ids"], logits_to_keep=2)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        tiny_model(pixel_values=batch["pixel_values"])
    features = tiny_model.get_image_features(batch["pixel_values"])
    with pytest.raises(ValueError, match="pixel_values or mm_encoder_outputs, got both"):
        tiny_model(**batch, mm_encoder_outputs={"image": features})
