"""Collator: every tensor of a batch by hand, reproducible draws, prefix corruption, other processors, refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.batches.encoding import drop_answers, model_inputs
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.moments import FrameGrid
from hf_frameseg.prepared.frame_columns import grid_columns

ZERO, ONE, END, PAD = 48, 49, 259, 261
LABELS = BinaryLabels(zero_id=ZERO, one_id=ONE, end_ids=(END,))


def marked_frames(num_frames: int, size: int = 16) -> np.ndarray:
    """Frames (F, 3, H, W, 3) whose every pixel is 10 * frame + variant: pixels tell what was picked."""
    values = 10 * np.arange(num_frames)[:, None] + np.arange(3)
    return np.broadcast_to(values[:, :, None, None, None], (num_frames, 3, size, size, 3)).astype(np.uint8)


def tensors_of(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return inputs and targets of a batch side by side."""
    return {**model_inputs(batch), **batch["targets"]}


def picked(batch: dict[str, torch.Tensor]) -> list[int]:
    """Return the pixel value of every image of a batch of `marked_frames` (xGen-MM scaling: v / 255 to [-1, 1])."""
    pixels = batch["pixel_values"]
    assert torch.equal(pixels.amin(dim=(1, 2, 3)), pixels.amax(dim=(1, 2, 3)))
    return ((pixels[:, 0, 0, 0] * 0.5 + 0.5) * 255).round().int().tolist()


@pytest.fixture
def rows(make_row: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Two rows of 3 and 2 frames; centres 1, 3, 5 s and 1.5, 4.5 s."""
    return [
        make_row(7, [[2.0, 6.0]], num_frames=3, duration_seconds=6.0, query="a dog", frames=marked_frames(3)),
        make_row(8, [[4.0, 6.0]], num_frames=2, duration_seconds=6.0, query="a cat naps", frames=marked_frames(2)),
    ]


@pytest.fixture
def make_collator(tiny_processor: Any) -> Callable[..., FrameSegmentationCollator]:
    def build(**kwargs: Any) -> FrameSegmentationCollator:
        return FrameSegmentationCollator(
            **{"processor": tiny_processor, "labels": LABELS, "prompt": "compact", **kwargs}
        )

    return build


def test_every_tensor_of_a_batch_of_two(make_collator: Any, rows: list[dict[str, Any]], tiny_tokenizer: Any) -> None:
    batch = make_collator(train=False)(rows)
    end = "Answer 0 or 1 for each frame.<|end|>\n<|assistant|>\n"
    first = tiny_tokenizer(
        "<|user|>\nActivity: a dog\nFrame 0: <image><image>\nFrame 1: <image><image>\nFrame 2: <image><image>\n" + end
    ).input_ids
    second = tiny_tokenizer(
        "<|user|>\nActivity: a cat naps\nFrame 0: <image><image>\nFrame 1: <image><image>\n" + end
    ).input_ids
    length = len(first) + 4
    pads = length - len(second) - 3
    assert batch["input_ids"].tolist() == [
        [*first, ZERO, ONE, ONE, END],
        [*[PAD] * pads, *second, ZERO, ONE, END],
    ]
    assert batch["attention_mask"].tolist() == [[1] * length, [0] * pads + [1] * (length - pads)]
    assert batch["targets"]["labels"].tolist() == [
        [*[-100] * (length - 4), ZERO, ONE, ONE, END],
        [*[-100] * (length - 3), ZERO, ONE, END],
    ]
    assert batch["targets"]["answer_start"].tolist() == [length - 4, length - 3]
    assert batch["targets"]["frame_targets"].tolist() == [[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]]
    assert batch["targets"]["frame_valid"].tolist() == [[True, True, True], [True, True, False]]
    assert batch["targets"]["qid"].tolist() == [7, 8]
    assert batch["pixel_values"].shape == (5, 3, 16, 16)
    assert picked(batch) == [1, 11, 21, 1, 11]  # middle variants, row after row
    assert {key: value.dtype for key, value in model_inputs(batch).items()} == {
        "input_ids": torch.int64,
        "attention_mask": torch.int64,
        "pixel_values": torch.float32,
    }
    assert {key: value.dtype for key, value in batch["targets"].items()} == {
        "labels": torch.int64,
        "answer_start": torch.int64,
        "frame_targets": torch.float32,
        "frame_valid": torch.bool,
        "qid": torch.int64,
    }


def test_pixels_are_the_processors_of_the_middle_frames(
    make_collator: Any, tiny_rows: Any, tiny_processor: Any
) -> None:
    batch = make_collator(train=False)(tiny_rows[:1])
    frames = np.frombuffer(tiny_rows[0]["frames"], dtype=np.uint8).reshape(5, 3, 32, 32, 3)
    expected = tiny_processor.image_processor(list(frames[:, 1].copy()), return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)


def test_graded_targets_leave_the_digits_alone(make_collator: Any, make_row: Any) -> None:
    row = make_row(1, [[2.0, 6.0]], num_frames=5, duration_seconds=10.0)
    row["saliency_scores"] = [[4, 4, 4], [1, 0, 2]]  # clips 1 and 2: means 4 / 4 and 1 / 4
    hard = make_collator(train=False)([row])
    graded = make_collator(train=False, graded_targets=True)([row])
    assert hard["targets"]["frame_targets"].tolist() == [[0.0, 1.0, 1.0, 0.0, 0.0]]
    assert graded["targets"]["frame_targets"].tolist() == [[0.0, 1.0, 0.25, 0.0, 0.0]]
    assert torch.equal(hard["targets"]["labels"], graded["targets"]["labels"])


def test_label_rule_changes_the_digits(make_collator: Any, make_row: Any) -> None:
    row = make_row(1, [[2.0, 6.0]], num_frames=5, duration_seconds=10.0)
    row["saliency_scores"] = [[4, 4, 4], [1, 0, 2]]
    batch = make_collator(train=False, label_rule="saliency>0.5")([row])
    assert batch["targets"]["labels"][0, -6:].tolist() == [ZERO, ONE, ZERO, ZERO, ZERO, END]
    assert batch["targets"]["frame_targets"].tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0]]


def test_prompt_alone_equals_the_batch_without_its_answers(make_collator: Any, tiny_rows: list[dict[str, Any]]) -> None:
    prompts = make_collator(train=False, with_answer=False)(tiny_rows)
    dropped = drop_answers(make_collator(train=False)(tiny_rows))
    assert sorted(prompts) == ["attention_mask", "input_ids", "pixel_values", "targets"]
    assert sorted(prompts["targets"]) == ["frame_targets", "frame_valid", "qid"]
    assert all(torch.equal(value, drop_answers(prompts)[key]) for key, value in drop_answers(prompts).items())
    assert sorted(dropped) == ["attention_mask", "input_ids", "pixel_values"]
    hidden = prompts["attention_mask"] == 0
    for key in ("attention_mask", "pixel_values"):
        assert torch.equal(prompts[key], dropped[key])
    assert torch.equal(prompts["input_ids"][~hidden], dropped["input_ids"][~hidden])


def test_rows_without_annotations_make_prompts_only(make_collator: Any, make_row: Any) -> None:
    row = make_row(5)
    del row["relevant_windows"], row["relevant_clip_ids"], row["saliency_scores"]
    batch = make_collator(train=False).without_answers()([row])
    assert batch["targets"]["qid"].tolist() == [5]
    assert batch["targets"]["frame_targets"].isnan().all()
    with pytest.raises(ValueError, match=r"column\(s\) \['relevant_windows'\]"):
        make_collator(train=False)([row])


# Targets of objectives


def test_asked_targets_are_padded_behind_the_frames(make_collator: Any, rows: list[dict[str, Any]]) -> None:
    asked = {
        "count": lambda sample: sample.mask().sum(),
        "edges": lambda sample: np.stack([sample.grid.windows[:, 0], np.ones(sample.num_frames)], axis=1),
        "labels_of": lambda sample: sample.frame_targets() + sample.qid,
    }
    plain = make_collator(train=False, label_rule="saliency>0.5", graded_targets=True)
    collator = plain.with_targets(asked)
    targets = collator(rows)["targets"]
    assert targets["count"].tolist() == [2, 1]
    assert targets["count"].dtype == torch.int64
    assert targets["edges"].tolist() == [[[0, 1], [2, 1], [4, 1]], [[0, 1], [3, 1], [0, 0]]]
    assert targets["edges"].dtype == torch.float32
    assert targets["labels_of"].tolist() == [[7.0, 7.75, 7.75], [8.0, 8.75, 0.0]]  # graded, as the collator labels
    assert plain(rows)["targets"].keys() == targets.keys() - asked.keys()
    assert collator.with_targets({"count": len}) is collator  # what it makes already
    assert "count" in collator.for_evaluation()(rows)["targets"]
    prompts = make_collator(with_answer=False).with_targets(asked)(rows)
    assert not prompts["targets"].keys() & asked.keys()


# Time


def prompt_texts(batch: dict[str, torch.Tensor], tokenizer: Any) -> list[str]:
    """Return the visible text of every row."""
    rows = zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
    return [tokenizer.decode(ids[mask]) for ids, mask in rows]


def test_the_prompt_tells_when_the_middle_pictures_are_shown(
    make_collator: Any, make_row: Any, tiny_tokenizer: Any
) -> None:
    row = make_row(7, num_frames=2, duration_seconds=6.0, frames=marked_frames(2))
    row["frame_times_seconds"] = [[1.2, 1.34, 1.5], [4.0, 4.46, 4.6]]  # late, as at a variable frame rate
    (text,) = prompt_texts(make_collator(train=False, prompt="timestamps", with_answer=False)([row]), tiny_tokenizer)
    assert "Frame 0 at 1.3 s: <image>" in text
    assert "Frame 1 at 4.5 s: <image>" in text


def test_the_prompt_tells_the_time_of_the_drawn_variant(make_collator: Any, make_row: Any, tiny_tokenizer: Any) -> None:
    row = make_row(7, num_frames=20, duration_seconds=40.0, frames=marked_frames(20))
    row["frame_times_seconds"] = [[100.0 * frame + variant for variant in range(3)] for frame in range(20)]
    batch = make_collator(prompt="timestamps", with_answer=False)([row])
    (text,) = prompt_texts(batch, tiny_tokenizer)
    drawn = [value % 10 for value in picked(batch)]
    assert set(drawn) == {0, 1, 2}
    for frame, variant in enumerate(drawn):
        assert f"Frame {frame} at {100 * frame + variant}.0 s: " in text


def test_a_row_without_times_tells_those_of_its_grid(make_collator: Any, make_row: Any, tiny_tokenizer: Any) -> None:
    collator = make_collator(prompt="timestamps", with_answer=False)
    row = make_row(7, num_frames=3, duration_seconds=6.0)
    del row["frame_times_seconds"]
    uniform = {**row, **grid_columns(FrameGrid.uniform(6.0, 3))}
    for made, times in ((row, ("1.0", "3.0", "5.0")), (uniform, ("0.0", "3.0", "6.0"))):
        (text,) = prompt_texts(collator([made]), tiny_tokenizer)
        assert all(f"Frame {frame} at {time} s: " in text for frame, time in enumerate(times))


def test_times_of_another_shape_are_refused(make_collator: Any, make_row: Any) -> None:
    row = make_row(7, num_frames=3, duration_seconds=6.0)
    row["frame_times_seconds"] = row["frame_times_seconds"][:2]
    with pytest.raises(ValueError, match=r"qid 7: expected frame_times_seconds of shape \(3, 3\)"):
        make_collator(prompt="timestamps")([row])


def test_targets_are_read_on_the_grid_of_the_row(make_collator: Any, make_row: Any) -> None:
    row = make_row(7, [[0.0, 1.5], [5.5, 6.0]], num_frames=4, duration_seconds=6.0)  # centres 0.75, 2.25, 3.75, 5.25
    others = FrameGrid.uniform(6, 4), FrameGrid.phase(6, 4, 0.25)  # 0, 2, 4, 6 and 1.125, 2.625, 4.125, 5.625
    grids = [{}, *map(grid_columns, others)]
    targets = [make_collator(train=False)([{**row, **grid}])["targets"]["frame_targets"][0].tolist() for grid in grids]
    assert targets == [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]]


# Randomness


@pytest.fixture
def marked_rows(make_row: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    return [make_row(qid, num_frames=20, duration_seconds=40.0, frames=marked_frames(20)) for qid in range(4)]


def draws(batch: dict[str, torch.Tensor]) -> tuple[list[int], list[int]]:
    """Variants of all frames and teacher-forced digits of a batch."""
    return [value % 10 for value in picked(batch)], batch["input_ids"][:, -21:].flatten().tolist()


def test_training_draws_all_variants(make_collator: Any, marked_rows: Any) -> None:
    batch = make_collator()(marked_rows)
    assert [value // 10 for value in picked(batch)] == [*range(20)] * 4
    counts = np.bincount([value % 10 for value in picked(batch)], minlength=3)
    assert counts.min() > 15  # 80 draws of three: 26.7 expected


def test_draws_depend_on_seed_epoch_and_row_only(make_collator: Any, marked_rows: Any) -> None:
    def run(batches: list[list[int]], seed: int = 0, epoch: int = 0) -> dict[int, Any]:
        collator = make_collator(seed=seed, prefix_corruption=0.5)
        collator.set_epoch(epoch)
        return {qids[0]: draws(collator([marked_rows[q] for q in qids])) for qids in batches}

    alone = run([[0], [1], [2], [3]])
    assert run([[3], [2], [1], [0]]) == alone
    variants, digits = run([[0, 1, 2, 3]])[0]
    assert variants == sum((alone[q][0] for q in range(4)), [])
    assert digits == sum((alone[q][1] for q in range(4)), [])
    assert run([[0]], epoch=1)[0][0] != alone[0][0]
    assert run([[0]], seed=1)[0][0] != alone[0][0]
    assert alone[0][0] != alone[1][0]


def test_draws_go_on_without_set_epoch_and_repeat_with_it(make_collator: Any, marked_rows: Any) -> None:
    collator, again = make_collator(), make_collator()
    first, second = draws(collator(marked_rows)), draws(collator(marked_rows))
    assert first != second
    assert [draws(again(marked_rows)), draws(again(marked_rows))] == [first, second]
    collator.set_epoch(3)
    third = draws(collator(marked_rows))
    collator.set_epoch(3)
    assert draws(collator(marked_rows)) == third


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_the_epoch_reaches_persistent_workers(context: str, make_collator: Any, marked_rows: Any) -> None:
    collator, alone = make_collator(prefix_corruption=0.5), make_collator(prefix_corruption=0.5)
    loader = DataLoader(
        marked_rows,
        batch_size=1,
        collate_fn=collator,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=context,
    )
    found, expected = [], []
    for epoch in range(11 if context == "fork" else 2):
        collator.set_epoch(epoch)
        alone.set_epoch(epoch)
        found.append([draws(batch) for batch in loader])
        expected.append([draws(alone([row])) for row in marked_rows])
    assert found == expected
    for row in range(len(marked_rows)):
        assert len({str(epoch[row]) for epoch in found}) == len(found)  # all different


def test_a_copy_has_an_epoch_of_its_own(make_collator: Any, marked_rows: Any) -> None:
    collator = make_collator()
    collator.set_epoch(1)
    other = collator.for_evaluation()
    other.train = True
    other.set_epoch(2)
    deep = copy.deepcopy(collator)
    expected = draws(collator(marked_rows))
    deep.set_epoch(5)
    assert draws(collator(marked_rows)) == expected
    assert draws(other(marked_rows)) != expected
    assert deep._epoch.is_shared()
    with pytest.raises(ValueError, match="expected an epoch of at least 0, got -1"):
        collator.set_epoch(-1)


@pytest.mark.parametrize("qid", [-7, -(2**63), 2**63 - 1, "s34-d28_0", "ü"])
def test_any_query_id_draws(qid: Any, make_collator: Any, marked_rows: Any) -> None:
    row, other = {**marked_rows[0], "qid": qid}, marked_rows[1]
    batch = make_collator()([row])
    assert list(batch["targets"]["qid"]) == [qid]
    assert draws(make_collator()([row])) == draws(make_collator()([row]))
    assert draws(make_collator()([row])) != draws(make_collator()([other]))


def test_rows_of_tensors(make_collator: Any, make_row: Any) -> None:
    row = make_row(7, [[0.0, 1.5], [4.5, 6.0]], num_frames=4, duration_seconds=6.0)
    tensors = {key: value if isinstance(value, str | bytes) else torch.tensor(value) for key, value in row.items()}
    for options in ({}, {"graded_targets": True}, {"prompt": "timestamps"}, {"num_frames": 4}):
        plain, found = (tensors_of(make_collator(train=False, **options)([some])) for some in (row, tensors))
        assert plain.keys() == found.keys()
        assert all(torch.equal(plain[key], found[key]) for key in plain)


def test_workers_draw_like_each_other_and_differ_between_epochs(make_collator: Any, marked_rows: Any) -> None:
    def epoch(num_workers: int, loader_seed: int) -> list[Any]:
        loader = DataLoader(
            marked_rows,
            batch_size=2,
            collate_fn=make_collator(),
            num_workers=num_workers,
            multiprocessing_context="fork",
            generator=torch.Generator().manual_seed(loader_seed),
        )
        return [draws(batch) for batch in loader]

    one = epoch(num_workers=1, loader_seed=0)
    assert epoch(num_workers=2, loader_seed=0) == one
    assert epoch(num_workers=1, loader_seed=1) != one


def test_global_random_states_stay_untouched(make_collator: Any, marked_rows: Any) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    make_collator(prefix_corruption=0.5)(marked_rows)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_corruption_touches_the_input_digits_only(make_collator: Any, make_row: Any) -> None:
    frames = marked_frames(20, size=2)
    rows = [make_row(q, [[10.0, 20.0]], 200, 400.0, frames=np.tile(frames, (10, 1, 1, 1, 1))) for q in range(10)]
    clean, corrupted = make_collator()(rows), make_collator(prefix_corruption=0.3)(rows)
    changed = clean["input_ids"] != corrupted["input_ids"]
    digits = clean["targets"]["labels"].ne(-100) & clean["targets"]["labels"].ne(END)
    assert not changed[~digits].any()
    # 2000 digits, each replaced with p = 0.3 by a random digit, so changed with 0.15; standard deviation 0.008.
    assert changed[digits].float().mean().item() == pytest.approx(0.15, abs=0.03)
    assert set(corrupted["input_ids"][digits].tolist()) == {ZERO, ONE}
    for key, value in tensors_of(clean).items():
        if key != "input_ids":  # the frames too: corruption does not shift the other draws
            assert torch.equal(value, tensors_of(corrupted)[key]), key


def test_no_corruption_by_default_nor_in_evaluation(make_collator: Any, marked_rows: Any) -> None:
    for collator in (make_collator(), make_collator(train=False, prefix_corruption=1.0)):
        batch = collator(marked_rows)
        answer = batch["targets"]["labels"] != -100
        assert torch.equal(batch["input_ids"][answer], batch["targets"]["labels"][answer])


def test_for_evaluation_only_leaves_training(make_collator: Any, marked_rows: Any) -> None:
    collator = make_collator(num_frames=20, prefix_corruption=0.5, seed=3)
    collator.set_epoch(2)
    evaluation = collator.for_evaluation()
    assert (evaluation.train, evaluation.num_frames, evaluation.prefix_corruption, evaluation.seed) == (
        False,
        20,
        0.5,
        3,
    )
    expected, found = tensors_of(make_collator(train=False)(marked_rows)), tensors_of(evaluation(marked_rows))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    assert collator.train


# Other processors, and models: are the digits predicted where the batch says?


@pytest.fixture(params=["xgenmm", "llava"])
def processor_and_model(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    if request.param == "xgenmm":
        return request.getfixturevalue("tiny_processor"), request.getfixturevalue("tiny_model")
    return request.getfixturevalue("make_llava_processor")(), request.getfixturevalue("tiny_llava_model")


@pytest.mark.parametrize("name", ["xgenmm", "llava", "qwen2vl"])
def test_labels_decode_to_the_digits(name: str, request: pytest.FixtureRequest, rows: list[dict[str, Any]]) -> None:
    processor = {
        "xgenmm": lambda: request.getfixturevalue("tiny_processor"),
        "llava": lambda: request.getfixturevalue("make_llava_processor")(),
        "qwen2vl": lambda: request.getfixturevalue("tiny_qwen_processor"),
    }[name]()
    labels = BinaryLabels.from_tokenizer(processor.tokenizer)
    batch = FrameSegmentationCollator(processor=processor, labels=labels, prompt="paper", prefix_corruption=0.5)(rows)
    for row, answer in enumerate(["011", "01"]):
        start = int(batch["targets"]["answer_start"][row])
        assert processor.tokenizer.decode(batch["targets"]["labels"][row, start:-1]) == answer
        assert batch["targets"]["labels"][row, -1] == batch["input_ids"][row, -1] == labels.end_id
        assert (batch["targets"]["labels"][row, :start] == -100).all()
        prompt = processor.tokenizer.decode(batch["input_ids"][row, :start])
        assert prompt.rstrip().lower().endswith(("assistant:", "assistant", "<|assistant|>"))
        images = batch["input_ids"][row] == processor.image_token_id
        assert int(images.sum()) == len(answer) * {"xgenmm": 2, "llava": 4, "qwen2vl": 1}[name]
        assert not images[start:].any()
    for key, value in batch.items():
        if key == "mm_token_type_ids":
            assert value.shape == batch["input_ids"].shape
            assert torch.equal(value == 1, batch["input_ids"] == processor.image_token_id)
    assert ("mm_token_type_ids" in batch) == (name == "qwen2vl")


def test_model_loss_is_the_loss_of_the_digits_at_their_positions(processor_and_model: Any, rows: Any) -> None:
    processor, model = processor_and_model
    labels = BinaryLabels.from_tokenizer(processor.tokenizer)
    batch = FrameSegmentationCollator(processor=processor, labels=labels, prompt="compact", train=False)(rows)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "pixel_values")}
    with torch.no_grad():
        output = model(**inputs, labels=batch["targets"]["labels"])
    logits = output.logits.double()
    assert logits.shape[:2] == batch["input_ids"].shape
    losses = []
    for row, digits in enumerate([[0, 1, 1], [0, 1]]):
        start = int(batch["targets"]["answer_start"][row])
        for frame, token in enumerate([*(labels.digit_ids[d] for d in digits), labels.end_id]):
            losses.append(-logits[row, start - 1 + frame].log_softmax(-1)[token])
    assert output.loss.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)


def test_a_digit_changes_only_what_comes_after_it(processor_and_model: Any, rows: Any) -> None:
    processor, model = processor_and_model
    labels = BinaryLabels.from_tokenizer(processor.tokenizer)
    batch = FrameSegmentationCollator(processor=processor, labels=labels, prompt="compact", train=False)(rows[:1])
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "pixel_values")}
    start, frame = int(batch["targets"]["answer_start"][0]), 1
    other = inputs["input_ids"].clone()
    other[0, start + frame] = labels.zero_id
    with torch.no_grad():
        before, after = model(**inputs).logits[0], model(**{**inputs, "input_ids": other}).logits[0]
    moved = (before - after).abs().amax(dim=-1) > 1e-6
    assert not moved[: start + frame].any()  # so the logits that predict digits 0 and 1 have not seen digit 1
    assert moved[start + frame]


# Refusals


def test_other_number_of_frames_is_refused(make_collator: Any, rows: Any) -> None:
    with pytest.raises(ValueError, match="expected 3 frames per video, the prepared data has 2") as caught:
        make_collator(num_frames=3)(rows)
    assert "\n" not in str(caught.value)
    assert make_collator(num_frames=3)(rows[:1])["targets"]["qid"].tolist() == [7]


def test_missing_column_is_refused(make_collator: Any, rows: Any) -> None:
    with pytest.raises(ValueError, match=r"column\(s\) \['frames'\].*remove_unused_columns=False") as caught:
        make_collator()([{key: value for key, value in row.items() if key != "frames"} for row in rows])
    assert "\n" not in str(caught.value)
    without = [{key: value for key, value in row.items() if key != "saliency_scores"} for row in rows]
    make_collator()(without)
    with pytest.raises(ValueError, match=r"\['saliency_scores'\]"):
        make_collator(graded_targets=True)(without)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"prefix_corruption": 1.5}, "prefix_corruption between 0 and 1, got 1.5"),
        ({"seed": -1}, "seed of at least 0"),
        ({"num_frames": 0}, "num_frames of at least 1"),
        ({"prompt": "papre"}, "unknown prompt 'papre'"),
    ],
)
def test_bad_arguments_are_refused(make_collator: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_collator(**kwargs)


# ---- Targets of objectives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda sample: np.zeros(3, int) if sample.qid == 1 else np.full(3, 0.5), torch.tensor([[0.0] * 3, [0.5] * 3])),
        (lambda sample: 0 if sample.qid == 1 else 0.5, torch.tensor([0.0, 0.5])),
        (lambda sample: sample.qid == 1 or 2, torch.tensor([1, 2])),
        (lambda sample: np.full(3, 7, np.uint16), torch.full((2, 3), 7)),
        (lambda sample: torch.full((3,), 0.5, dtype=torch.bfloat16, requires_grad=True), torch.full((2, 3), 0.5)),
    ],
)
def test_a_target_has_the_type_that_holds_all_its_rows(
    read: Any, expected: torch.Tensor, make_collator: Any, make_row: Any
) -> None:
    rows = [make_row(qid, num_frames=3) for qid in (1, 2)]
    found = make_collator().with_targets({"own": read})(rows)["targets"]["own"]
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda sample: None, "qid 1: expected the target 'own' to be an array of numbers, got None"),
        (lambda sample: "abc", "got 'abc'"),
        (lambda sample: {"a": 1}, "got {'a': 1}"),
        (lambda sample: [[1], [1], [1, 2]], "the target 'own' to be an array of numbers"),
        (lambda sample: np.ones(3, complex), "numbers are needed, not complex128"),
        (
            lambda sample: np.ones((3, sample.qid)),
            r"one shape behind the frames in all rows, got \[\(3, 1",
        ),
        (lambda sample: 1.0 if sample.qid == 1 else np.ones(3), r"one shape .* got \[\(\), \(3,\)\]"),
    ],
)
def test_targets_that_are_no_numbers_or_do_not_fit_are_named(
    read: Any, message: str, make_collator: Any, make_row: Any
) -> None:
    rows = [make_row(qid, num_frames=3) for qid in (1, 2)]
    with pytest.raises(ValueError, match=message) as caught:
        make_collator().with_targets({"own": read})(rows)
    assert "\n" not in str(caught.value)
