"""The tokenizer's rules, on tokenizers built in memory that keep or break them, and on the recorded prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_frameseg.models.xgenmm import XGenMMImageProcessor, XGenMMProcessor, check_tokenizer
from hf_frameseg.models.xgenmm.tokenization_xgenmm import PROBES, SPECIAL_TOKEN_IDS

# The pieces of the probes; "_" is the space.
PIECES = {
    **{"You": 3492, "_are": 526, "_a": 263, "_smart": 15040, "_video": 4863, "_retriev": 5663, "al": 16837},
    **{"_assistant": 20255, ".": 29889, "_You": 887, "_will": 674, "_receive": 7150, "_and": 322, "_human": 5199},
    **{"_activity": 6354, "_query": 2346, "_given": 2183, "_by": 491, "_the": 278, "_user": 1404, "_Return": 7106},
    **{"_frames": 16608, "_that": 393, "_matches": 7087, "_Follow": 10306, "_output": 1962, "_format": 3402},
    **{"Frame": 4308, "_": 29871, "0": 29900, "1": 29896, ":": 29901, "\n": 13, "<s>": 1, "<unk>": 0},
}
TURNS = ["<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
SPECIAL = [token for token in SPECIAL_TOKEN_IDS if token not in ("0", "1")]


def build(
    strip: bool = True, bos: bool = False, pieces: dict[str, int] | None = None, ids: dict[str, int] | None = None
) -> PreTrainedTokenizerFast:
    """Cut text into known pieces, as Phi-3's tokenizer would; each argument breaks a rule."""
    known = {piece.replace("_", "▁"): number for piece, number in {**PIECES, **(pieces or {})}.items()}
    vocab = {**known, **{token: SPECIAL_TOKEN_IDS[token] for token in SPECIAL}, **(ids or {})}
    used = set(vocab.values())
    vocab |= {f"<unused {number}>": number for number in range(32015) if number not in used}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    cut = "|".join(sorted((piece.replace(".", r"\.") for piece in known), key=len, reverse=True))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(cut), behavior="isolated")
    backend.add_special_tokens(
        [AddedToken(token, normalized=False, special=True, rstrip=strip and token in TURNS) for token in SPECIAL]
    )
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<|endoftext|>", unk_token="<unk>"
    )


def test_a_tokenizer_that_keeps_the_rules_passes() -> None:
    tokenizer = build()
    check_tokenizer(tokenizer)
    assert XGenMMProcessor(XGenMMImageProcessor(), tokenizer).image_token_id == 32012


@pytest.mark.parametrize(
    ("broken", "messages"),
    [
        (
            {"strip": False},
            ["swallow the newline", r"gives [13, 3492, 526, 263] from id 1 on, not [3492, 526, 263, 15040]"],
        ),
        ({"bos": True}, ["no start or end token is added, but a plain call gives [1, 32001, 29900"]),
        ({"pieces": {"01": 29999}}, ["every digit of the answer is one id", "gives [29999, 29896"]),
        ({"pieces": {"\nFrame": 29999}}, ["<image> keeps the space before it and the newline behind it"]),
        (
            {"ids": {"<image>": 32013, "<image placeholder>": 32012}},
            ["'<image>' has id 32013, not 32012; '<image placeholder>' has id 32012, not 32013"],
        ),
    ],
)
def test_a_tokenizer_that_breaks_a_rule_is_refused_with_its_name(broken: dict[str, Any], messages: list[str]) -> None:
    tokenizer = build(**broken)
    with pytest.raises(ValueError, match="The tokenizer is not xGen-MM's") as caught:
        check_tokenizer(tokenizer)
    for message in messages:
        assert message in str(caught.value)
    with pytest.raises(ValueError, match="The tokenizer is not xGen-MM's"):
        XGenMMProcessor(XGenMMImageProcessor(), tokenizer)


def test_another_tokenizer_is_not_checked_by_the_processor(tokenizer: PreTrainedTokenizerFast) -> None:
    assert XGenMMProcessor(XGenMMImageProcessor(), tokenizer).image_token == "<image>"
    with pytest.raises(ValueError, match="it has 14 tokens, not 32015"):
        check_tokenizer(tokenizer)


def test_the_rules_are_those_of_the_recorded_prompt(shared_dir: Path) -> None:
    golden = json.loads((shared_dir / "goldens" / "xgenmm" / "tokenizer_golden.json").read_text())
    assert golden["special_ids"] == {**SPECIAL_TOKEN_IDS, "newline": 13}
    assert golden["train_suffix_ids_rule"].startswith("one id per digit (29900/29896) then 32007, no 29871 after 32001")
    recorded = " ".join(map(str, golden["input_ids"]))
    for _, text, ids in PROBES[:2]:
        assert text in golden["text"]
        assert " ".join(map(str, ids)) in recorded
