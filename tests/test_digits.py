"""Tests of the labels: frames to tokens, tokens to frames, and which logits belong to which frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_frameseg.digits import BinaryLabels
from hf_frameseg.masks import mask_to_moments
from hf_frameseg.metrics import evaluate_submission
from hf_frameseg.moments import FrameGrid, num_clips
from hf_frameseg.proposals import interpolate_to_clips
from hf_frameseg.targets import clip_saliency_targets, frame_mask, graded_frame_targets

PROPERTY = settings(deadline=None, derandomize=True)
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<|end|>"]


def character_tokenizer(extra: tuple[str, ...] = tuple(SPECIAL_TOKENS), **kwargs: str) -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer with one token per character, digits included."""
    vocabulary = {token: index for index, token in enumerate(["<unk>", *extra[1:], *"0123456789abc"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>", **kwargs)


def bpe_tokenizer(merges: list[tuple[str, str]], words: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Build a byte-pair tokenizer over digits; `words` are whole words that need no merges."""
    pieces = [*SPECIAL_TOKENS, *"0123456789", *("".join(pair) for pair in merges), *(words or [])]
    vocabulary = {token: index for index, token in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", ignore_merges=words is not None))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d{1,3}"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>")


def sentencepiece_like_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer that puts one word-start token before the first digit, as Llama-2 does."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, "▁", *"0123456789"])}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>")


class TestFromTokenizer:
    def test_word_level(self) -> None:
        tokenizer = character_tokenizer()
        labels = BinaryLabels.from_tokenizer(tokenizer)
        assert tokenizer.convert_ids_to_tokens([*labels.digit_ids, labels.end_id]) == ["0", "1", "<|end|>"]

    def test_byte_pair_without_digit_merges(self) -> None:
        tokenizer = bpe_tokenizer(merges=[])
        labels = BinaryLabels.from_tokenizer(tokenizer)
        assert labels.answer_ids([0, 0, 0, 1])[:-1] == tokenizer.encode("0001", add_special_tokens=False)

    def test_word_start_token_is_not_taken_for_a_digit(self) -> None:
        tokenizer = sentencepiece_like_tokenizer()
        assert tokenizer.tokenize("01") == ["▁", "0", "1"]
        labels = BinaryLabels.from_tokenizer(tokenizer)
        assert tokenizer.convert_ids_to_tokens(labels.digit_ids) == ["0", "1"]

    @pytest.mark.parametrize(
        ("tokenizer", "text"),
        [
            pytest.param(bpe_tokenizer([("0", "0"), ("00", "0")]), "'00'", id="merges two and three"),
            pytest.param(bpe_tokenizer([], words=["000"]), "'000'", id="merges three only"),
            pytest.param(bpe_tokenizer([("0", "1")]), "'01'", id="merges a mixed pair"),
        ],
    )
    def test_merged_digits_fail_in_one_clear_line(self, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
        with pytest.raises(ValueError, match=f"expected one token per digit.*turns {text} into") as caught:
            BinaryLabels.from_tokenizer(tokenizer)
        assert "\n" not in str(caught.value)

    def test_unknown_digits_fail(self) -> None:
        core = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "1": 2}, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>")
        with pytest.raises(ValueError, match="one token per digit"):
            BinaryLabels.from_tokenizer(tokenizer)

    def test_turn_end_of_the_chat_template_wins(self) -> None:
        tokenizer = character_tokenizer(("<unk>", "</s>", "<|end|>", "<|im_end|>"))
        tokenizer.chat_template = "{{ messages }}<|im_end|>"
        assert BinaryLabels.from_tokenizer(tokenizer).end_ids == (tokenizer.get_vocab()["<|im_end|>"],)

    @pytest.mark.parametrize("token", ["<|end|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>"])
    def test_known_turn_end_without_template(self, token: str) -> None:
        tokenizer = character_tokenizer(("<unk>", "</s>", token))
        assert BinaryLabels.from_tokenizer(tokenizer).end_id == tokenizer.get_vocab()[token]

    def test_end_of_sequence_as_the_last_resort(self) -> None:
        tokenizer = character_tokenizer(("<unk>", "</s>"))
        assert BinaryLabels.from_tokenizer(tokenizer).end_id == tokenizer.eos_token_id

    def test_named_end_token(self) -> None:
        tokenizer = character_tokenizer()
        assert BinaryLabels.from_tokenizer(tokenizer, end_token="c").end_id == tokenizer.get_vocab()["c"]
        with pytest.raises(ValueError, match="end-of-turn token.*'<stop>'"):
            BinaryLabels.from_tokenizer(tokenizer, end_token="<stop>")

    def test_a_digit_cannot_end_the_answer(self) -> None:
        with pytest.raises(ValueError, match="distinct ids"):
            BinaryLabels.from_tokenizer(character_tokenizer(), end_token="1")


class TestAnswerIds:
    labels = BinaryLabels(zero_id=48, one_id=49, end_ids=(315, 2))

    @pytest.mark.parametrize("ids", [(1, 1, (2,)), (0, 1, ()), (0, 1, (1,)), (-1, 1, (2,)), (0, 1, (2, 2))])
    def test_ids_that_cannot_be_are_refused(self, ids: tuple) -> None:
        with pytest.raises(ValueError, match="distinct ids"):
            BinaryLabels(*ids)

    @PROPERTY
    @given(mask=npst.arrays(bool, st.integers(1, 80)))
    def test_mask_survives_the_round_trip(self, mask: np.ndarray) -> None:
        ids = self.labels.answer_ids(mask)
        assert len(ids) == len(mask) + 1
        assert ids[-1] == 315
        assert (self.labels.mask_from_ids(ids[:-1]) == mask).all()

    def test_mask_from_a_batch_tensor(self) -> None:
        mask = self.labels.mask_from_ids(torch.tensor([[48, 49], [49, 49]]))
        assert mask.dtype == bool
        assert mask.tolist() == [[False, True], [True, True]]

    def test_any_other_id_is_refused(self) -> None:
        with pytest.raises(ValueError, match="got id 315"):
            self.labels.mask_from_ids([48, 49, 315])

    @pytest.mark.parametrize("mask", [[0.5, 1], [[0, 1]], [0, 2]])
    def test_answers_need_a_binary_mask(self, mask: list) -> None:
        with pytest.raises(ValueError, match="0 and 1 only"):
            self.labels.answer_ids(mask)


PAD, IMAGE, TEXT, ZERO, ONE, END = range(6)
VOCABULARY = 6
FRAMES = 3
TOKENS_PER_FRAME = 4


def planted_logits(batch: int, length: int, logits_to_keep: int = 0) -> torch.Tensor:
    """Stand for a model whose logit for token v at sequence position p of sample b is 10000 b + 10 p + v."""
    sample = 10000 * torch.arange(batch)[:, None, None]
    position = 10 * torch.arange(length)[None, :, None]
    logits = (sample + position + torch.arange(VOCABULARY)).float()
    return logits[:, -logits_to_keep:]  # 0 keeps all, as in transformers


def next_token_logits(input_ids: torch.Tensor) -> torch.Tensor:
    """Stand for a model that knows the next token of its input, 5 logits above all others."""
    following = torch.roll(input_ids, -1, dims=1)
    return 5.0 * torch.nn.functional.one_hot(following, VOCABULARY)


def fused_row(mask: list[bool], query_length: int) -> tuple[list[int], int, int]:
    """Return one unpadded fused row and where its answer starts on the fused and on the unfused text axis."""
    lead, query = [TEXT] * 2, [TEXT] * query_length
    answer = [ONE if digit else ZERO for digit in mask] + [END]
    images = [IMAGE] * (FRAMES * TOKENS_PER_FRAME)
    fused_start = len(lead) + len(images) + len(query)
    return [*lead, *images, *query, *answer], fused_start, fused_start - FRAMES * (TOKENS_PER_FRAME - 1)


class TestFrameLogits:
    labels = BinaryLabels(zero_id=ZERO, one_id=ONE, end_ids=(END,))
    masks = ([True, False, True], [False, True, True])

    def padded_batch(self, side: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ids (B, L) of two rows of unequal length, and the fused and unfused answer starts."""
        rows = [fused_row(mask, length) for mask, length in zip(self.masks, (2, 7), strict=True)]
        longest = max(len(ids) for ids, _, _ in rows)
        padded, fused, unfused = [], [], []
        for ids, start, text_start in rows:
            padding = [PAD] * (longest - len(ids))
            padded.append([*padding, *ids] if side == "left" else [*ids, *padding])
            fused.append(start + (len(padding) if side == "left" else 0))
            unfused.append(text_start + (len(padding) if side == "left" else 0))
        return torch.tensor(padded), torch.tensor(fused), torch.tensor(unfused)

    def expected(self, answer_start: torch.Tensor) -> torch.Tensor:
        """Return the planted values one position before each digit."""
        return torch.tensor(
            [
                [[10000 * b + 10 * (int(start) + f - 1) + digit for digit in (ZERO, ONE)] for f in range(FRAMES)]
                for b, start in enumerate(answer_start)
            ]
        ).float()

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_reads_the_position_before_each_digit(self, side: str) -> None:
        ids, start, _ = self.padded_batch(side)
        logits = planted_logits(*ids.shape)
        frame_logits = self.labels.frame_logits(logits, start, FRAMES)
        assert frame_logits.shape == (2, FRAMES, 2)
        assert torch.equal(frame_logits, self.expected(start))

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a_model_that_knows_the_next_token_gives_the_mask(self, side: str) -> None:
        ids, start, _ = self.padded_batch(side)
        frame_logits = self.labels.frame_logits(next_token_logits(ids), start, FRAMES)
        margin = frame_logits[..., 1] - frame_logits[..., 0]
        assert torch.equal(margin, torch.where(torch.tensor(self.masks), 5.0, -5.0))

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_reading_with_the_unfused_index_gives_something_else(self, side: str) -> None:
        ids, start, text_start = self.padded_batch(side)
        assert torch.equal(start - text_start, torch.full((2,), FRAMES * (TOKENS_PER_FRAME - 1)))
        logits = next_token_logits(ids)
        wrong = self.labels.frame_logits(logits, text_start, FRAMES)  # in range: no error can catch this
        assert not torch.equal(wrong, self.labels.frame_logits(logits, start, FRAMES))
        assert torch.equal(wrong, torch.zeros_like(wrong))  # the next token there is an image or the query: no digit
        planted = planted_logits(*ids.shape)
        shift = self.labels.frame_logits(planted, start, FRAMES) - self.labels.frame_logits(planted, text_start, FRAMES)
        assert torch.equal(shift, torch.full_like(shift, 10 * FRAMES * (TOKENS_PER_FRAME - 1)))

    @pytest.mark.parametrize("kept", [FRAMES + 2, FRAMES + 5, 0])
    def test_sliced_logits_need_their_start(self, kept: int) -> None:
        ids, start, _ = self.padded_batch("left")
        length = ids.shape[1]
        logits = planted_logits(*ids.shape, logits_to_keep=kept)
        first = length - logits.shape[1]
        assert torch.equal(self.labels.frame_logits(logits, start, FRAMES, logits_start=first), self.expected(start))

    def test_fewest_logits_that_hold_the_answer(self) -> None:
        # With left padding the answer ends the row: F digits and the end token need the last F + 2 rows.
        ids, start, _ = self.padded_batch("left")
        assert (start == ids.shape[1] - FRAMES - 1).all()
        logits = planted_logits(*ids.shape, logits_to_keep=FRAMES + 1)
        with pytest.raises(ValueError, match="fused axis.*logits_start"):
            self.labels.frame_logits(logits, start, FRAMES, logits_start=ids.shape[1] - FRAMES - 1)

    def test_logits_start_per_sample(self) -> None:
        ids, start, _ = self.padded_batch("right")
        full = planted_logits(*ids.shape)
        first = start - 1
        logits = torch.stack([row[int(at) : int(at) + FRAMES] for row, at in zip(full, first, strict=True)])
        read = self.labels.frame_logits(logits, start, FRAMES, logits_start=first)
        assert torch.equal(read, self.expected(start))

    @pytest.mark.parametrize(("start", "kept"), [(0, 10), (8, 10), (50, 10)])
    def test_positions_outside_the_logits_name_the_trap(self, start: int, kept: int) -> None:
        with pytest.raises(ValueError, match="out of range.*fused axis") as caught:
            self.labels.frame_logits(planted_logits(1, kept), [start], FRAMES + 1)
        assert "\n" not in str(caught.value)

    def test_first_and_last_position_are_in_range(self) -> None:
        assert self.labels.frame_logits(planted_logits(1, 4), [1], 4).shape == (1, 4, 2)

    def test_wrong_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\(B, K, V\)"):
            self.labels.frame_logits(torch.zeros(4, 6), [1], 2)
        with pytest.raises(ValueError, match=r"answer_start of shape \(2,\)"):
            self.labels.frame_logits(planted_logits(2, 9), [3], 2)

    def test_gradient_reaches_the_read_logits_only(self) -> None:
        logits = planted_logits(2, 12).requires_grad_()
        self.labels.frame_logits(logits, [4, 6], FRAMES).sum().backward()
        touched = torch.zeros_like(logits)
        for sample, start in enumerate((4, 6)):
            touched[sample, start - 1 : start - 1 + FRAMES, ZERO : ONE + 1] = 1
        assert torch.equal(logits.grad, touched)

    @pytest.mark.parametrize("case", ["case_a_1img", "case_b_3img"])
    def test_recorded_reference(self, shared_dir: Path, case: str) -> None:
        folder = shared_dir / "goldens" / "xgenmm" / case
        outputs, inputs = load_file(folder / "outputs.safetensors"), load_file(folder / "inputs.safetensors")
        labels = BinaryLabels(zero_id=48, one_id=49, end_ids=(315,))
        frames = outputs["answer_logits"].shape[1]
        right = labels.frame_logits(outputs["logits"], outputs["assistant_pos_fused"] + 1, frames)
        assert torch.equal(right, outputs["answer_logits"])
        # What the paper's public code read: the unfused text index on the fused axis.
        unfused = labels.frame_logits(outputs["logits"], inputs["assistant_pos"] + 1, frames)
        assert torch.equal(unfused, outputs["answer_logits_reference_code_as_written"])
        assert not torch.equal(unfused, right)


@pytest.fixture(scope="module")
def validation_rows(shared_dir: Path) -> list[dict]:
    """Return the annotations of QVHighlights val."""
    path = shared_dir / "qvhighlights" / "highlight_val_release.jsonl"
    if not path.is_file():
        pytest.skip(f"annotations not found: {path} does not exist")
    return [json.loads(line) for line in path.read_text().splitlines()]


def clip_targets_of(row: dict) -> np.ndarray:
    """Return mean rating / 4 per clip of an annotation row."""
    return clip_saliency_targets(row["relevant_clip_ids"], row["saliency_scores"], num_clips(row["duration"]))


def perfect_retrieval(rows: list[dict], rule: str, num_frames: int, longest_first: bool) -> list[float]:
    """Score the moments of a model that answers exactly the labels: R1@0.5, R1@0.7, mAP, mAP@0.5, mAP@0.75."""
    submission = []
    for row in rows:
        grid = FrameGrid.middle(row["duration"], num_frames)
        mask = frame_mask(row["relevant_windows"], grid, rule, clip_targets_of(row))
        moments = mask_to_moments(mask, grid)
        if longest_first:
            moments = sorted(moments, key=lambda moment: -moment.duration_seconds)
        # The official evaluator refuses queries without a window; the recorded ceiling took the whole video.
        windows = [[m.start, m.end, m.score] for m in moments] or [[0.0, row["duration"], 1.0]]
        submission.append({"qid": row["qid"], "pred_relevant_windows": windows})
    full = evaluate_submission(submission, rows)["full"]
    average = full["MR-mAP"]
    return [full["MR-R1"]["0.5"], full["MR-R1"]["0.7"], average["average"], average["0.5"], average["0.75"]]


class TestCeilingsOnRealAnnotations:
    """A perfect answer scores what was measured for it with the official evaluator."""

    @pytest.mark.parametrize(
        ("num_frames", "scores"),
        [
            (25, [97.1, 87.5, 72.7, 89.1, 81.0]),
            (50, [99.3, 94.3, 86.3, 97.0, 89.8]),
            (75, [100.0, 100.0, 99.5, 99.7, 99.7]),
        ],
    )
    def test_window_rule(self, validation_rows: list[dict], num_frames: int, scores: list[float]) -> None:
        measured = perfect_retrieval(validation_rows, "window", num_frames, longest_first=False)
        assert measured == pytest.approx(scores, abs=0.0501)

    def test_window_rule_longest_first(self, validation_rows: list[dict]) -> None:
        measured = perfect_retrieval(validation_rows, "window", 25, longest_first=True)
        assert measured[:3] == pytest.approx([97.1, 90.0, 73.2], abs=0.0501)

    def test_saliency_rule(self, validation_rows: list[dict]) -> None:
        measured = perfect_retrieval(validation_rows, "saliency>0.5", 25, longest_first=True)
        assert measured[1:3] == pytest.approx([67.3, 53.5], abs=0.0501)

    @pytest.mark.parametrize(("graded", "scores"), [(True, [51.4, 90.8]), (False, [37.8, 67.9])])
    def test_highlights(self, validation_rows: list[dict], graded: bool, scores: list[float]) -> None:
        submission = []
        for row in validation_rows:
            grid = FrameGrid.middle(row["duration"], 25)
            frames = (
                graded_frame_targets(clip_targets_of(row), grid)
                if graded
                else frame_mask(row["relevant_windows"], grid).astype(float)
            )
            submission.append({"qid": row["qid"], "pred_saliency_scores": interpolate_to_clips(frames, grid).tolist()})
        highlights = evaluate_submission(submission, validation_rows)["HL-min-VeryGood"]
        assert [highlights["HL-mAP"], highlights["HL-Hit1"]] == pytest.approx(scores, abs=0.0501)

    def test_foreground_share(self, validation_rows: list[dict]) -> None:
        masks = [frame_mask(row["relevant_windows"], FrameGrid.middle(row["duration"], 25)) for row in validation_rows]
        foreground = np.mean(masks)
        assert (1 - foreground) / foreground == pytest.approx(2.5593, abs=5e-5)
        assert sum(mask.all() for mask in masks) == 59
        assert sum(not mask.any() for mask in masks) == 0
