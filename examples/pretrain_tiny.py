"""Make the tiny base that ships with the package: a very small xGen-MM that knows colours, shapes and frame order.

It stands for the pretrained multimodal LLM a real user starts from. It learns from still pictures drawn on the fly and
answers in words, never in digits and never about a video: the frames of one question are independent of each other, so
nothing of frame segmentation is learned here except to look at frame i when word i is due.

    python examples/pretrain_tiny.py --output_dir runs/tiny_base     # then copied to src/hf_frameseg/assets/tiny_base

Stages end on an accuracy (a gate), not on a number of steps: a base that misses a gate is not written. A stage that is
done is kept in `stages-*/`; an interrupted run goes on from there.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_frameseg.batches.prompts import PROMPTS
from hf_frameseg.datasets.synthetic import COLORS, SHAPES, query_text, random_background, render_objects
from hf_frameseg.models.xgenmm import (
    XGenMMConfig,
    XGenMMForConditionalGeneration,
    XGenMMImageProcessor,
    XGenMMProcessor,
)
from hf_frameseg.readout.evaluation_mode import evaluating
from hf_frameseg.records import read_json_lines, write_json_lines
from hf_frameseg.sharing.config import FrameSegmentationConfig
from hf_frameseg.video.settings import FrameSettings

IMAGE_SIZE = 32
MAX_FRAMES = 75
SPECIAL_TOKENS = ["<|endoftext|>", "<pad>", "<unk>", "<image>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
QUESTIONS = {  # text before and after the frames; the last two as in the compact prompt, answered in words
    "caption": ("", "Describe each frame."),
    "color": ("", "Name the color in each frame."),
    "shape": ("", "Name the shape in each frame."),
    "attribute": ("Activity: {query}\n", "Answer yes or no for each frame."),  # a red frame, a circle frame
    "match": ("Activity: {query}\n", "Answer yes or no for each frame."),  # a red circle
}


# 1. Tokenizer ---------------------------------------------------------------------------------------------------------


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer: words, single digits, punctuation, and one token for each `Frame i:`."""
    split = Regex(r"frame \d+:|\d|[a-z]+|[^\sa-z\d]")
    texts = [*COLORS, *SHAPES, *(text for question in QUESTIONS.values() for text in question)]
    texts += [part for prompt in PROMPTS.values() for part in (prompt.system or "", prompt.before, prompt.after)]
    pre_tokenizer = pre_tokenizers.Split(split, behavior="removed", invert=True)
    words = {word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(text.lower())}
    words |= {str(digit) for digit in range(10)} | {"a", "an", "the", "yes", "no", "video"}
    frames = [f"frame {index}:" for index in range(MAX_FRAMES)]
    vocabulary = [*SPECIAL_TOKENS, *frames, *sorted(words)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL_TOKENS[3:],
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


# 2. Model -------------------------------------------------------------------------------------------------------------


def build_model(tokenizer: PreTrainedTokenizerFast, rope_theta: float) -> XGenMMForConditionalGeneration:
    """Return the port with small numbers (about 0.55 M parameters).

    `initializer_range` is .1 instead of .02: at width 96 the usual value leaves the first layers nearly silent and the
    model does not leave chance within minutes.
    """
    config = XGenMMConfig(
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": 8,
        },
        resampler_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "head_dim": 16,
            "num_latents": 1,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "initializer_range": 0.1,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
            "bos_token_id": None,
            "eos_token_id": tokenizer.convert_tokens_to_ids("<|end|>"),
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": False,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=0.1,
    )
    return XGenMMForConditionalGeneration(config)


# 3. Tasks -------------------------------------------------------------------------------------------------------------


@dataclass
class TaskBatch:
    """One batch of questions: all rows have the same length, the answer is the last `answer_length` tokens."""

    input_ids: torch.Tensor
    pixel_values: torch.Tensor
    answer_length: int


class TaskMaker:
    """Draw pictures and ask about them.

    Args:
        tokenizer: Of the model.
        seed: Seed of pictures and questions.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int | list[int]) -> None:
        self.tokenizer = tokenizer
        self.difficulty = 1.0  # 0: large, clear objects in the middle; 1: as in the synthetic videos
        self.rng = np.random.default_rng(seed)
        self.colors, self.shapes = list(COLORS), list(SHAPES)

    def _objects(self, rows: int, frames: int, match: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return colour indices, shape indices (rows, frames) and the mask of frames that show the queried object.

        For `match` and `attribute` a third of the frames show the target, another third share one attribute.
        """
        rng = self.rng
        color = rng.integers(len(self.colors), size=(rows, frames))
        shape = rng.integers(len(self.shapes), size=(rows, frames))
        if match:
            target = rng.integers([len(self.colors), len(self.shapes)], size=(rows, 2))
            kind = rng.random((rows, frames))
            color = np.where(kind < 0.57, target[:, :1], color)
            shape = np.where((kind < 0.33) | ((kind >= 0.57) & (kind < 0.80)), target[:, 1:], shape)
            return color, shape, target
        return color, shape, np.stack([color[:, 0], shape[:, 0]], axis=1)

    def _pictures(self, color: np.ndarray, shape: np.ndarray) -> torch.Tensor:
        """Return (N, 3, size, size) normalised pictures."""
        count, rng = color.size, self.rng
        pictures = render_objects(
            [self.colors[i] for i in color.ravel()],
            [self.shapes[i] for i in shape.ravel()],
            rng.uniform(0.7 * (1.0 - self.difficulty), 1.0, count),
            0.5 + (0.05 + 0.15 * self.difficulty) * rng.uniform(-1.0, 1.0, (count, 2)),
            random_background(rng, count),
            IMAGE_SIZE,
            rng,
        )
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)

    def batch(self, task: str, rows: int, frames: int) -> TaskBatch:
        """Return one batch of a task of `QUESTIONS` about `frames` frames."""
        color, shape, target = self._objects(rows, frames, match=task in ("match", "attribute"))
        ids = []
        for row in range(rows):
            named = [self.colors[target[row, 0]], self.shapes[target[row, 1]]]
            kind = int(self.rng.integers(2))  # of an attribute question: 0 asks for the colour, 1 for the shape
            words = self._answer(task, color[row], shape[row], target[row], kind)
            query = query_text(named[kind], "frame") if task == "attribute" else query_text(*named)
            before, after = (part.format(query=query) for part in QUESTIONS[task])
            lines = "".join(f"Frame {index}: <image>\n" for index in range(frames))
            text = f"<|user|>\n{before}{lines}{after}<|end|>\n<|assistant|>\n{' '.join(words)}<|end|>"
            ids.append(self.tokenizer(text)["input_ids"])
        answer_length = len(words) + 1
        return TaskBatch(torch.tensor(ids), self._pictures(color, shape), answer_length)

    def _answer(self, task: str, color: np.ndarray, shape: np.ndarray, target: np.ndarray, kind: int) -> list[str]:
        """Return the words of the answer, frame after frame."""
        if task == "color":
            return [self.colors[i] for i in color]
        if task == "shape":
            return [self.shapes[i] for i in shape]
        if task == "caption":
            return [word for c, s in zip(color, shape, strict=True) for word in (self.colors[c], self.shapes[s])]
        hits = np.stack([color == target[0], shape == target[1]])
        return ["yes" if hit else "no" for hit in (hits[kind] if task == "attribute" else hits.all(axis=0))]


# 4. Training ----------------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """A mixture of (task, rows, frames) that ends when every gate (task, frames) -> accuracy is passed."""

    name: str
    mixture: list[tuple[str, int, int]]
    gates: dict[tuple[str, int], float]
    max_steps: int
    difficulty: float = 1.0


# Colours are learned within 100 steps, shapes are not learned at all for 1,000 steps when the first pictures are small,
# faint and anywhere: hence the first two stages.
STAGES = [
    Stage("clear pictures", [("caption", 128, 1)], {("caption", 1): 0.92}, 1000, difficulty=0.0),
    Stage("fainter pictures", [("caption", 128, 1)], {("caption", 1): 0.93}, 1500, difficulty=0.5),
    Stage("any pictures", [("caption", 128, 1)], {("caption", 1): 0.92}, 2000),
    # Answer word i belongs to frame i. Single captions stay in, or what was learned about shapes drowns in the colours.
    Stage(
        "name the frames",
        [("caption", 64, 1), ("caption", 24, 4), ("caption", 16, 8), ("shape", 24, 8)],
        {("caption", 8): 0.92, ("shape", 8): 0.85},
        3000,
    ),
    Stage(
        "compare with a query",
        [("attribute", 64, 1), ("attribute", 48, 4), ("match", 64, 1), ("match", 48, 4), ("caption", 16, 8)],
        {("attribute", 4): 0.90, ("match", 4): 0.90},
        5000,
    ),
    Stage(
        "25 frames",
        [
            ("color", 16, 25),
            ("shape", 16, 25),
            ("match", 48, 4),
            ("color", 16, 25),
            ("match", 32, 8),
            ("match", 24, 25),
        ],
        {("color", 25): 0.95, ("match", 25): 0.85},
        4000,
    ),
    # Shapes are what is still missing: more single pictures, and a learning rate that ends low.
    Stage(
        "sharpen",
        [("caption", 128, 1), ("match", 24, 25), ("shape", 16, 25), ("match", 24, 25)],
        {("shape", 25): 0.90, ("match", 25): 0.95},
        2400,
    ),
]
VISION_LEARNING_RATE = 1e-3  # SigLIP learns shapes more slowly at twice this
LANGUAGE_LEARNING_RATE = 2e-3


def answer_logits(model: XGenMMForConditionalGeneration, batch: TaskBatch) -> torch.Tensor:
    """Return the logits (B, A, V) that predict the answer tokens."""
    output = model(
        input_ids=batch.input_ids,
        attention_mask=torch.ones_like(batch.input_ids),
        pixel_values=batch.pixel_values,
        logits_to_keep=batch.answer_length + 1,
        use_cache=False,
    )
    return output.logits[:, :-1]


@torch.no_grad()
def accuracy(model: XGenMMForConditionalGeneration, maker: TaskMaker, task: str, frames: int) -> float:
    """Return the share of right answer words (teacher forced; the frames are independent) on new pictures."""
    right = []
    with evaluating(model):
        for _ in range(4):
            batch = maker.batch(task, 32, frames)
            guess = answer_logits(model, batch).argmax(-1)[:, :-1]
            right.append((guess == batch.input_ids[:, -batch.answer_length : -1]).float().mean().item())
    return float(np.mean(right))


def run_stage(model: XGenMMForConditionalGeneration, maker: TaskMaker, held_out: TaskMaker, stage: Stage) -> list[dict]:
    """Train one stage up to its gates and return its log; raise when `max_steps` do not suffice."""
    log: list[dict] = []
    maker.difficulty = held_out.difficulty = stage.difficulty
    language = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    vision = [*model.model.vision_tower.parameters(), *model.model.resampler.parameters()]
    parameters = [*language, *vision]
    groups = [{"params": language, "peak": LANGUAGE_LEARNING_RATE}, {"params": vision, "peak": VISION_LEARNING_RATE}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    begin = time.perf_counter()
    painter = ThreadPoolExecutor(1)  # draws the next batch while this one is learned; one thread keeps the order
    upcoming = painter.submit(maker.batch, *stage.mixture[1 % len(stage.mixture)])
    for step in range(1, stage.max_steps + 1):
        warmup = min(1.0, step / 50)
        decay = 1.0 - 0.9 * step / stage.max_steps
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * warmup * decay
        batch = upcoming.result()
        upcoming = painter.submit(maker.batch, *stage.mixture[(step + 1) % len(stage.mixture)])
        logits = answer_logits(model, batch)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.input_ids[:, -batch.answer_length :].flatten()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == stage.max_steps:
            scores = {f"{task}{frames}": accuracy(model, held_out, task, frames) for task, frames in stage.gates}
            entry = {"stage": stage.name, "step": step, "loss": round(loss.item(), 4)}
            entry |= {name: round(value, 4) for name, value in scores.items()}
            entry["seconds"] = round(time.perf_counter() - begin, 1)
            log.append(entry)
            print(json.dumps(entry), flush=True)
            if all(value >= gate for value, gate in zip(scores.values(), stage.gates.values(), strict=True)):
                return log
    raise RuntimeError(
        f"stage {stage.name!r} missed its gates {stage.gates} in {stage.max_steps} steps; try another --seed."
    )


def run_stages(
    model: XGenMMForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, seed: int, folder: Path
) -> list[dict]:
    """Train all stages; those that `folder` holds from an interrupted run are loaded instead."""
    folder.mkdir(parents=True, exist_ok=True)
    log: list[dict] = []
    for number, stage in enumerate(STAGES):
        weights, lines = folder / f"{number}.pt", folder / f"{number}.jsonl"
        if weights.exists() and lines.exists():
            model.load_state_dict(torch.load(weights))
            log += read_json_lines(lines)
            print(f"stage {stage.name!r}: loaded from {weights}", flush=True)
            continue
        # every stage has its own pictures, so that a continued run equals an undisturbed one
        maker = TaskMaker(tokenizer, [seed, number])
        entries = run_stage(model, maker, TaskMaker(tokenizer, [seed, number, 1]), stage)
        torch.save(model.state_dict(), weights)
        write_json_lines(lines, entries)
        log += entries
    return log


def main(argv: list[str] | None = None) -> None:
    """Train and write the base."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for model, processor and log")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and the pictures")
    parser.add_argument(
        "--rope_theta", type=float, default=100.0, help="RoPE base; 100 suits sequences of about 100 tokens"
    )
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, args.rope_theta)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} words")
    log = run_stages(model, tokenizer, args.seed, args.output_dir / f"stages-{args.seed}-{args.rope_theta:g}")

    image_processor = XGenMMImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    processor = XGenMMProcessor(image_processor=image_processor, tokenizer=tokenizer, num_image_tokens=1)
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    FrameSegmentationConfig(FrameSettings(frame_size=IMAGE_SIZE), prompt="compact").save(args.output_dir)
    header = {"seed": args.seed, "rope_theta": args.rope_theta}
    write_json_lines(args.output_dir / "pretrain_log.jsonl", [header, *log])


if __name__ == "__main__":
    main()
