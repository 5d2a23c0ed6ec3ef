"""The rules of xGen-MM's tokenizer (Phi-3's plus three image tokens), as recorded from the reference's runs."""

from __future__ import annotations

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

SPECIAL_TOKEN_IDS = {
    "<|endoftext|>": 32000,
    "<|assistant|>": 32001,
    "<|system|>": 32006,
    "<|end|>": 32007,
    "<|user|>": 32010,
    "<pad>": 32011,
    "<image>": 32012,
    "<image placeholder>": 32013,
    "<|endofchunk|>": 32014,
    "0": 29900,
    "1": 29896,
}
VOCABULARY_SIZE = 32015


def _ids(text: str) -> tuple[int, ...]:
    """Read ids separated by spaces."""
    return tuple(int(number) for number in text.split())


# (rule, text, ids). All are pieces of one logged prompt, so they hold between themselves too.
PROBES = (
    (
        "Phi-3's turn tokens swallow the newline behind them and keep the space before them",
        "<|system|>\nYou are a smart video retrieval assistant. You will receive a video and a human activity query "
        "given by the user. Return the frames that matches the activity query. Follow the output format given by the "
        "user. <|end|>\n<|user|>\n",
        _ids(
            "32006 3492 526 263 15040 4863 5663 16837 20255 29889 887 674 7150 263 4863 322 263 5199 "
            "6354 2346 2183 491 278 1404 29889 7106 278 16608 393 7087 278 6354 2346 29889 10306 278 "
            "1962 3402 2183 491 278 1404 29889 29871 32007 32010"
        ),
    ),
    (
        "<image> keeps the space before it and the newline behind it",
        "<image>\nFrame 1: <image>\n",
        _ids("32012 13 4308 29871 29896 29901 29871 32012 13"),
    ),
    (
        "every digit of the answer is one id, none stands between <|assistant|> and the first",
        "<|assistant|>\n0110<|end|>",
        _ids("32001 29900 29896 29896 29900 32007"),
    ),
)


def is_phi3_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a tokenizer claims to be Phi-3's: its end of text has Phi-3's id."""
    return tokenizer.convert_tokens_to_ids("<|endoftext|>") == SPECIAL_TOKEN_IDS["<|endoftext|>"]


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer writes the ids xGen-MM was trained on.

    `XGenMMProcessor` calls this for every tokenizer that claims to be Phi-3's.

    Args:
        tokenizer: The tokenizer of the released model, with the image tokens added.

    Raises:
        ValueError: If an id or a rule differs; the message names all that do.
    """
    problems = [
        f"{token!r} has id {found}, not {expected}"
        for token, expected in SPECIAL_TOKEN_IDS.items()
        if (found := tokenizer.convert_tokens_to_ids(token)) != expected
    ]
    if len(tokenizer) != VOCABULARY_SIZE:
        problems.append(f"it has {len(tokenizer)} tokens, not {VOCABULARY_SIZE}")
    for rule, text, expected in PROBES:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if ids != list(expected):
            problems.append(f"{rule}, but {_difference(text, ids, expected)}")
    text = PROBES[-1][1]
    plain, default = tokenizer.encode(text, add_special_tokens=False), tokenizer(text)["input_ids"]
    if default != plain:
        problems.append(f"no start or end token is added, but a plain call gives {default} for {text!r}")
    if problems:
        raise ValueError(
            f"The tokenizer is not xGen-MM's: {'; '.join(problems)}. Load it from the checkpoint's own files with "
            "XGenMMProcessor.from_pretrained (AutoTokenizer alone: legacy=False, add_bos_token=False, then add "
            "<image>, <image placeholder>, <|endofchunk|> in this order)."
        )


def _difference(text: str, ids: list[int], expected: tuple[int, ...]) -> str:
    """Say where two lists of ids part."""
    index = next((i for i, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1]), None)
    if index is None:
        index = min(len(ids), len(expected))
    return f"{text!r} gives {ids[index : index + 4]} from id {index} on, not {list(expected[index : index + 4])}"


__all__ = ["SPECIAL_TOKEN_IDS", "check_tokenizer", "is_phi3_tokenizer"]
