"""Beams that share one computation of the prompt against beams that each compute it, measured side by side in one run.

    python benchmarks/beam_search.py           # about a minute on 2 cores
    python benchmarks/beam_search.py --quick   # seconds: shows that it runs, judges nothing

The model is a small xGen-MM with random weights and the lengths of the paper: 25 frames of 128 tokens. The last line is
one JSON object. The exit code is 1 if a promise in it is broken or an answer differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor

from hf_frameseg.batches.encoding import encode_prompts
from hf_frameseg.batches.prompts import PROMPTS
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.models.xgenmm import (
    XGenMMConfig,
    XGenMMForConditionalGeneration,
    XGenMMImageProcessor,
    XGenMMProcessor,
)
from hf_frameseg.readout import DecodedFrames, generate_frame_logits
from hf_frameseg.sharing.config import TINY_BASE

IMAGE_SIZE = 32
QUERIES = ("a red circle", "a green cross")
PROMISES = {2: 1.4, 4: 2.0}
"""Number of beams -> how many times faster at least."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=25, help="Frames per video.")
    parser.add_argument("--image-tokens", type=int, default=128, help="Tokens per frame.")
    parser.add_argument("--width", type=int, default=256, help="Hidden size of the language model.")
    parser.add_argument("--layers", type=int, default=4, help="Its layers.")
    parser.add_argument("--rounds", type=int, default=3, help="Repetitions; the best of each is compared.")
    parser.add_argument("--quick", action="store_true", help="Few tokens, one round, nothing judged.")
    args = parser.parse_args(argv)
    if args.quick:
        args.frames, args.image_tokens, args.width, args.layers, args.rounds = 3, 4, 32, 1, 1
    model, processor = make_model(args.image_tokens, args.width, args.layers)
    inputs = make_inputs(processor, args.frames)
    labels = BinaryLabels.from_tokenizer(processor.tokenizer)

    def decode(num_beams: int, share_prompt: bool) -> DecodedFrames:
        return generate_frame_logits(model, inputs, labels, args.frames, num_beams, share_prompt=share_prompt)

    results: dict[str, Any] = {
        "settings": {**vars(args), "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__},
        "prompt_tokens": inputs["input_ids"].shape[1],
        "seconds_1_beam": min(seconds_of(lambda: decode(1, True)) for _ in range(args.rounds)),
        "same_answers": True,
    }
    for num_beams in PROMISES:
        apart, shared = (decode(num_beams, share) for share in (False, True))
        results["same_answers"] &= is_same(apart, shared)
        seconds = {True: float("inf"), False: float("inf")}
        for number in range(args.rounds):
            for share in seconds:
                seconds[share] = min(seconds[share], seconds_of(lambda: decode(num_beams, share)))  # noqa: B023
            say(f"{num_beams} beams, round {number + 1}: shared {seconds[True]:.2f} s, apart {seconds[False]:.2f} s")
        results |= {
            f"seconds_{num_beams}_beams_shared": seconds[True],
            f"seconds_{num_beams}_beams_apart": seconds[False],
            f"speedup_{num_beams}_beams": seconds[False] / seconds[True],
        }
    kept = {f"speedup_{beams}_beams": results[f"speedup_{beams}_beams"] >= least for beams, least in PROMISES.items()}
    results |= {"promises": kept, "judged": not args.quick}
    print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in results.items()}))
    return int(not results["same_answers"] or (results["judged"] and not all(kept.values())))


def make_model(image_tokens: int, width: int, layers: int) -> tuple[XGenMMForConditionalGeneration, XGenMMProcessor]:
    """Return a random model and its processor, with the tokenizer of the package's tiny base."""
    tiny = AutoProcessor.from_pretrained(TINY_BASE, trust_remote_code=False)
    tokenizer = tiny.tokenizer
    processor = XGenMMProcessor(
        image_processor=XGenMMImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        tokenizer=tokenizer,
        num_image_tokens=image_tokens,
        chat_template=tiny.chat_template,
    )
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = XGenMMConfig(
        vision_config={**vision, "image_size": IMAGE_SIZE, "patch_size": 8},
        resampler_config={**vision, "head_dim": 16, "num_latents": image_tokens},
        text_config={
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "initializer_range": 0.1,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return XGenMMForConditionalGeneration(config).eval(), processor


def make_inputs(processor: XGenMMProcessor, num_frames: int) -> Mapping[str, torch.Tensor]:
    """Return the prompts of two queries about two videos of noise."""
    rng = np.random.default_rng(0)
    shape = (num_frames, IMAGE_SIZE, IMAGE_SIZE, 3)
    frames = [rng.integers(256, size=shape, dtype=np.uint8) for _ in QUERIES]
    return encode_prompts(processor, PROMPTS["compact"], QUERIES, frames)


def is_same(first: DecodedFrames, second: DecodedFrames) -> bool:
    """Tell whether two decodes are equal up to rounding."""
    close = torch.allclose(first.frame_logits, second.frame_logits, atol=1e-4, rtol=1e-4)
    return torch.equal(first.mask, second.mask) and close


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def say(text: str) -> None:
    print(f"[beam_search] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
