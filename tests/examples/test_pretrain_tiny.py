"""The script that makes the tiny base: its tokenizer, its tasks, its gates and the size of its model."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_frameseg.batches.prompts import PROMPTS
from hf_frameseg.datasets.synthetic import COLORS, SHAPES, query_text
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.inference import MomentRetriever
from hf_frameseg.video.settings import FrameSettings

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "pretrain_tiny.py"
ASSETS_LIMIT_BYTES = 5_000_000
TASKS = [("caption", 3), ("color", 3), ("shape", 3), ("attribute", 4), ("match", 4), ("match", 25)]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("pretrain_tiny", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["pretrain_tiny"] = module  # dataclasses look the module of their fields up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["pretrain_tiny"]


@pytest.fixture(scope="module")
def tokenizer(script: ModuleType) -> Any:
    return script.build_tokenizer()


# Tokenizer


def test_a_digit_is_one_token_and_never_merges(tokenizer: Any) -> None:
    labels = BinaryLabels.from_tokenizer(tokenizer)
    assert tokenizer.convert_ids_to_tokens([*labels.digit_ids, labels.end_id]) == ["0", "1", "<|end|>"]
    assert tokenizer("0123456789")["input_ids"] == [tokenizer.convert_tokens_to_ids(digit) for digit in "0123456789"]


@pytest.mark.parametrize("index", [0, 9, 12, 74])
def test_the_name_of_a_frame_is_one_token(tokenizer: Any, index: int) -> None:
    ids = tokenizer(f"Frame {index}: <image>\n")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [f"frame {index}:", "<image>"]


@pytest.mark.parametrize("name", [name for name, prompt in PROMPTS.items() if not prompt.tells_time])
@pytest.mark.parametrize("num_frames", [1, 25, 75])
def test_every_word_of_the_prompts_is_known(tokenizer: Any, name: str, num_frames: int) -> None:
    queries = [query_text(color, shape) for color in COLORS for shape in SHAPES]
    for query in queries:
        messages = PROMPTS[name].messages(query, num_frames)
        contents = [part for message in messages for part in message["content"]]
        text = "".join(part.get("text", "<image>") for part in contents)
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert ids.count(tokenizer.convert_tokens_to_ids("<image>")) == num_frames


def test_an_unknown_word_becomes_unknown(tokenizer: Any) -> None:
    assert tokenizer("a red zebra")["input_ids"][-1] == tokenizer.unk_token_id


# Tasks


def words_of(tokenizer: Any, ids: list[int]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


def drawn_with(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Note the colour and shape of every picture that is drawn from now on."""
    drawn: list[tuple[str, str]] = []
    render = script.render_objects

    def note(colors: list[str], shapes: list[str], *rest: Any) -> np.ndarray:
        drawn.extend(zip(colors, shapes, strict=True))
        return render(colors, shapes, *rest)

    monkeypatch.setattr(script, "render_objects", note)
    return drawn


def right_answer(task: str, asked: list[str], objects: list[tuple[str, str]]) -> list[str]:
    """What a person would answer who sees the drawn objects and reads the words of the query."""
    if task == "caption":
        return [word for pair in objects for word in pair]
    if task in ("color", "shape"):
        return [color if task == "color" else shape for color, shape in objects]
    return ["yes" if set(asked) <= set(pair) else "no" for pair in objects]


@pytest.mark.parametrize(("task", "frames"), TASKS)
def test_answers_say_what_was_drawn(
    script: ModuleType, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, task: str, frames: int
) -> None:
    drawn = drawn_with(script, monkeypatch)
    rows = 16
    batch = script.TaskMaker(tokenizer, seed=1).batch(task, rows, frames)
    assert batch.pixel_values.shape == (rows * frames, 3, script.IMAGE_SIZE, script.IMAGE_SIZE)
    assert len(drawn) == rows * frames
    given = set()
    for row, ids in enumerate(batch.input_ids.tolist()):
        question = words_of(tokenizer, ids[: -batch.answer_length])
        assert question.count("<image>") == frames
        asked = question[question.index("activity") :] if "activity" in question else []
        asked = [word for word in asked if word in COLORS or word in SHAPES]
        assert len(asked) == {"match": 2, "attribute": 1}.get(task, 0)
        answer = words_of(tokenizer, ids[-batch.answer_length :])
        assert answer[-1] == "<|end|>"
        assert answer[:-1] == right_answer(task, asked, drawn[row * frames : (row + 1) * frames])
        given |= set(answer)
    if task in ("match", "attribute"):
        assert given == {"yes", "no", "<|end|>"}


def test_pictures_stand_in_the_order_of_the_answers(
    script: ModuleType, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = drawn_with(script, monkeypatch)
    maker = script.TaskMaker(tokenizer, seed=2)
    maker.difficulty = 0.0  # large, nearly opaque, in the middle
    pixels = maker.batch("caption", 8, 4).pixel_values
    middle = script.IMAGE_SIZE // 2
    centres = (pixels[:, :, middle - 1 : middle + 2, middle - 1 : middle + 2].mean(dim=(2, 3)) + 1.0) * 127.5
    paint = np.array(list(COLORS.values()), dtype=float)
    nearest = np.linalg.norm(centres.numpy()[:, None] - paint, axis=-1).argmin(axis=1)
    assert [list(COLORS)[index] for index in nearest] == [color for color, _ in drawn]


@pytest.mark.parametrize(("task", "frames"), TASKS)
def test_all_rows_of_a_batch_have_the_same_length(script: ModuleType, tokenizer: Any, task: str, frames: int) -> None:
    batch = script.TaskMaker(tokenizer, seed=3).batch(task, 12, frames)
    ids = batch.input_ids
    assert ids.dtype == torch.int64
    assert not bool((ids == tokenizer.pad_token_id).any())
    assert not bool((ids == tokenizer.unk_token_id).any())
    assert batch.answer_length == frames * (2 if task == "caption" else 1) + 1
    assert bool((ids[:, -1] == tokenizer.convert_tokens_to_ids("<|end|>")).all())
    assert bool((ids[:, -batch.answer_length - 1] == tokenizer.convert_tokens_to_ids("<|assistant|>")).all())


def test_the_seed_decides_everything(script: ModuleType, tokenizer: Any) -> None:
    def two(seed: int) -> list[Any]:
        maker = script.TaskMaker(tokenizer, seed)
        return [maker.batch("match", 4, 3), maker.batch("caption", 4, 3)]

    for first, second in zip(two(5), two(5), strict=True):
        assert torch.equal(first.input_ids, second.input_ids)
        assert torch.equal(first.pixel_values, second.pixel_values)
    assert not torch.equal(two(5)[0].pixel_values, two(6)[0].pixel_values)


# Model and gates


def test_the_model_is_small_enough_to_ship(script: ModuleType, tokenizer: Any) -> None:
    model = script.build_model(tokenizer, rope_theta=100.0)
    num_bytes = sum(parameter.numel() * 4 for parameter in model.parameters())  # float32
    assert 1_000_000 < num_bytes < ASSETS_LIMIT_BYTES
    assert model.config.text_config.rope_parameters["rope_theta"] == 100.0
    longest = tokenizer("".join(f"Frame {index}: <image>\n" for index in range(script.MAX_FRAMES)))["input_ids"]
    assert len(longest) < model.config.text_config.max_position_embeddings


@pytest.fixture
def short_stage(script: ModuleType) -> Any:
    def build(gate: float) -> Any:
        return script.Stage("one question", [("caption", 2, 1)], {("caption", 1): gate}, max_steps=1)

    return build


@pytest.fixture
def learner(script: ModuleType, tokenizer: Any) -> tuple[Any, Any, Any]:
    """A new model, the maker of its lessons and the maker of its exams."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = script.build_model(tokenizer, rope_theta=100.0)
    return model, script.TaskMaker(tokenizer, 0), script.TaskMaker(tokenizer, 1)


@pytest.fixture
def pretrain(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the script with other stages."""

    def call(folder: Path, *stages: Any) -> None:
        monkeypatch.setattr(script, "STAGES", list(stages))
        with torch.random.fork_rng():
            script.main(["--output_dir", str(folder), "--seed", "3"])

    return call


def test_a_stage_that_misses_its_gate_raises(script: ModuleType, learner: Any, short_stage: Any) -> None:
    with pytest.raises(RuntimeError, match=r"'one question' missed its gates .* in 1 steps"):
        script.run_stage(*learner, short_stage(gate=1.01))


def test_a_stage_that_passes_its_gate_has_learned_something(script: ModuleType, learner: Any, short_stage: Any) -> None:
    before = {name: parameter.clone() for name, parameter in learner[0].named_parameters()}
    (entry,) = script.run_stage(*learner, short_stage(gate=0.0))
    assert (entry["stage"], entry["step"]) == ("one question", 1)
    assert 0.0 <= entry["caption1"] <= 1.0
    assert any(not torch.equal(parameter, before[name]) for name, parameter in learner[0].named_parameters())


def test_passed_stages_write_a_base_that_loads(pretrain: Any, short_stage: Any, tmp_path: Path) -> None:
    pretrain(tmp_path, short_stage(gate=0.0))
    retriever = MomentRetriever.from_pretrained(tmp_path)
    assert (retriever.config.frames, retriever.config.prompt) == (FrameSettings(frame_size=32), "compact")
    assert (tmp_path / "model.safetensors").stat().st_size < ASSETS_LIMIT_BYTES
    log = [json.loads(line) for line in (tmp_path / "pretrain_log.jsonl").read_text().splitlines()]
    assert log[0] == {"seed": 3, "rope_theta": 100.0}
    assert [entry["stage"] for entry in log[1:]] == ["one question"]


def test_an_interrupted_pretraining_goes_on_and_ends_the_same(pretrain: Any, short_stage: Any, tmp_path: Path) -> None:
    passed, missed = short_stage(gate=0.0), short_stage(gate=1.01)
    pretrain(tmp_path / "undisturbed", passed, passed)
    with pytest.raises(RuntimeError, match="missed its gates"):
        pretrain(tmp_path / "interrupted", passed, missed)
    assert not (tmp_path / "interrupted" / "model.safetensors").exists()  # no base without all gates
    assert not (tmp_path / "interrupted" / "config.json").exists()
    pretrain(tmp_path / "interrupted", missed, passed)  # the first stage is not trained again, or it would miss
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("undisturbed", "interrupted")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
