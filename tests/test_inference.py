"""Inference on a small real video file with a tiny random model."""

from __future__ import annotations

import copy
import json
import shutil
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.batches.encoding import encode_prompts
from hf_frameseg.batches.prompts import PROMPTS
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.inference import MomentRetriever
from hf_frameseg.masks import moments_to_mask
from hf_frameseg.moments import FrameGrid
from hf_frameseg.proposals.prediction import redecode
from hf_frameseg.proposals.settings import PAPER_PROPOSALS, SCORING_PROPOSALS, ProposalSettings
from hf_frameseg.readout.beam_search import generate_frame_logits
from hf_frameseg.sample import Sample
from hf_frameseg.sharing.adapter_folder import save_adapter
from hf_frameseg.sharing.config import TINY_MODEL, FrameSegmentationConfig
from hf_frameseg.sharing.loading import load_base
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer
from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.read import VideoFrames
from hf_frameseg.video.settings import FrameSettings

QUERIES = ["a red circle", "a dog", "a blue square on a green field"]
ZERO, ONE = 48, 49


@pytest.fixture(scope="module")
def video_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 s of 10 frames per second whose brightness rises, 32 x 48 pixels."""
    import av

    path = tmp_path_factory.mktemp("videos") / "rising.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for index in range(80):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 3 * index, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def retriever(tiny_model: Any, tiny_processor: Any) -> MomentRetriever:
    return MomentRetriever(tiny_model, tiny_processor, prompt="compact", num_frames=4)


def biased(model: Any, token: int) -> Any:
    """A copy of a model that always prefers one token."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.lm_head.bias[token] += 100.0
    return model


def test_one_video_and_one_query(retriever: MomentRetriever, video_path: Path) -> None:
    prediction = retriever(video_path, "a red circle")
    assert (prediction.query, prediction.vid, prediction.qid) == ("a red circle", "rising", None)
    assert prediction.grid.num_frames == 4
    assert prediction.grid.duration_seconds == pytest.approx(8.0, abs=0.01)
    assert prediction.mask.shape == prediction.probs.shape == (4,)
    assert prediction.saliency.shape == (4,)  # clips of 2 s
    assert prediction.moments


def test_the_model_sees_the_middle_frames(retriever: MomentRetriever, video_path: Path, tiny_model: Any) -> None:
    frames = retriever.read(video_path)
    assert frames.frames.shape == (4, 32, 48, 3)
    # Centres 1, 3, 5, 7 s at 10 frames per second: brightness 30, 90, 150, 210.
    assert frames.frames.mean(axis=(1, 2, 3)) == pytest.approx([30, 90, 150, 210], abs=4)
    inputs = encode_prompts(retriever.processor, PROMPTS["compact"], QUERIES[:1], [frames.frames])
    decoded = generate_frame_logits(tiny_model, inputs, retriever.labels, num_frames=4, num_beams=2)
    prediction = retriever.predict(frames, QUERIES[:1])[0]
    assert prediction.mask.tolist() == decoded.mask[0].tolist()
    assert prediction.probs == pytest.approx(decoded.frame_logits[0].softmax(-1)[:, 1].numpy(), abs=1e-6)


def test_beams_can_be_chosen_per_call(retriever: MomentRetriever, video_path: Path) -> None:
    frames = retriever.read(video_path)
    greedy = MomentRetriever(retriever.model, retriever.processor, retriever.config, num_beams=1)
    for query in QUERIES:
        inputs = encode_prompts(retriever.processor, PROMPTS["compact"], [query], [frames.frames])
        for num_beams in (1, 3):
            decoded = generate_frame_logits(
                retriever.model, inputs, retriever.labels, num_frames=4, num_beams=num_beams
            )
            assert retriever(video_path, query, num_beams=num_beams).mask.tolist() == decoded.mask[0].tolist()
        assert greedy(video_path, query).mask.tolist() == retriever(video_path, query, num_beams=1).mask.tolist()


def test_queries_together_equal_queries_alone(retriever: MomentRetriever, video_path: Path) -> None:
    frames = retriever.read(video_path)
    alone = [retriever.predict(frames, [query])[0] for query in QUERIES]
    assert np.ptp([prediction.probs for prediction in alone], axis=0).max() > 1e-4  # the query matters
    for batch_size in (2, 8):
        retriever_of = MomentRetriever(retriever.model, retriever.processor, retriever.config, batch_size=batch_size)
        together = retriever_of.predict(frames, QUERIES)
        assert [prediction.query for prediction in together] == QUERIES
        for one, other in zip(alone, together, strict=True):
            assert other.probs == pytest.approx(one.probs, abs=1e-5)
            assert other.mask.tolist() == one.mask.tolist()
    assert retriever.predict(frames, []) == []


def test_all_ones_is_the_whole_video(tiny_model: Any, tiny_processor: Any, video_path: Path) -> None:
    retriever = MomentRetriever(biased(tiny_model, ONE), tiny_processor, prompt=PROMPTS["compact"], num_frames=4)
    prediction = retriever(video_path, "a dog")
    assert prediction.mask.all()
    (moment,) = prediction.moments
    assert (moment.start, moment.end) == (0.0, prediction.grid.duration_seconds)
    assert moment.score == pytest.approx(1.0)
    assert not prediction.fallback


def test_all_zeros_follows_the_setting(tiny_model: Any, tiny_processor: Any, video_path: Path) -> None:
    model = biased(tiny_model, ZERO)
    for empty, count in (("best_frame", 1), ("none", 0)):
        settings = ProposalSettings("runs", empty=empty)
        retriever = MomentRetriever(model, tiny_processor, prompt="compact", num_frames=4, proposals=settings)
        prediction = retriever(video_path, "a dog")
        assert not prediction.mask.any()
        assert (len(prediction.moments), prediction.fallback) == (count, bool(count))


def test_the_moments_are_what_the_model_marked_unless_candidates_are_asked_for(
    retriever: MomentRetriever, video_path: Path
) -> None:
    assert retriever.proposals == PAPER_PROPOSALS
    frames = retriever.read(video_path)
    filling = MomentRetriever(retriever.model, retriever.processor, retriever.config, proposals=SCORING_PROPOSALS)
    for marked, filled in zip(retriever.predict(frames, QUERIES), filling.predict(frames, QUERIES), strict=True):
        assert moments_to_mask(marked.moments, frames.grid).tolist() == marked.mask.tolist() or marked.fallback
        assert filled.moments[: len(marked.moments)] == marked.moments
        assert len(filled.moments) > len(marked.moments)
        assert redecode(marked, SCORING_PROPOSALS).moments == filled.moments  # without the model


def test_saved_and_loaded_is_the_same(retriever: MomentRetriever, video_path: Path, tmp_path: Path) -> None:
    retriever.save_pretrained(tmp_path)
    loaded = MomentRetriever.from_pretrained(tmp_path, device="cpu", num_beams=1)
    assert loaded.config.num_beams == 1
    loaded = MomentRetriever.from_pretrained(tmp_path)
    assert loaded.config == retriever.config
    assert type(loaded.model) is type(retriever.model)
    one, other = retriever(video_path, "a dog"), loaded(video_path, "a dog")
    assert other.probs == pytest.approx(one.probs, abs=1e-6)
    assert other.moments == one.moments


def test_a_save_that_fails_costs_nothing_and_a_save_leaves_no_old_weights(
    retriever: MomentRetriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    retriever.model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "notes.txt").write_text("mine")
    (folder / "initial_adapter.safetensors").write_text("mine")  # of a run that saved here
    (folder / "adapter_config.json").write_text("{}")  # with it the folder would be an adapter
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "model.safetensors.index.json" in before

    def full(path: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(retriever.config), "save", lambda config, path: full(path))
        with pytest.raises(OSError, match="No space left"):
            retriever.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    retriever.save_pretrained(folder)
    assert [path.name for path in folder.glob("model*.safetensors*")] == ["model.safetensors"]
    assert [(folder / name).read_text() for name in ("notes.txt", "initial_adapter.safetensors")] == ["mine", "mine"]
    assert not (folder / "adapter_config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_every_module_keeps_its_mode_and_dropout_is_off(tiny_model: Any, tiny_processor: Any, video_path: Path) -> None:
    model = copy.deepcopy(tiny_model).train()
    model.model.vision_tower.eval()  # frozen, as users do it
    before = {name: module.training for name, module in model.named_modules()}
    retriever = MomentRetriever(model, tiny_processor, prompt="compact", num_frames=4)
    modes: list[bool] = []
    model.lm_head.register_forward_hook(lambda *_: modes.append(any(module.training for module in model.modules())))
    retriever(video_path, "a dog")
    with pytest.raises(ValueError, match="blank"):
        retriever(video_path, " ")
    assert modes
    assert not any(modes)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert set(before.values()) == {True, False}


def test_threads_get_the_answers_that_they_would_get_alone(
    tiny_model: Any, tiny_processor: Any, video_path: Path
) -> None:
    model = copy.deepcopy(tiny_model)
    model.lm_head = torch.nn.Sequential(torch.nn.Dropout(0.9), model.lm_head)
    model.train()
    processor = OneAtATime(tiny_processor)
    first = MomentRetriever(model, processor, prompt="compact", num_frames=4, batch_size=1)
    second = MomentRetriever(model, processor, prompt="paper", num_frames=4)  # the same model and tokenizer
    queries = [f"{query} {number}" for number in range(2) for query in QUERIES]

    def ask(retriever: MomentRetriever) -> np.ndarray:
        frames = retriever.read(video_path)
        return np.stack([prediction.log_odds for prediction in retriever.predict(frames, queries)])

    retrievers = [first, second] * 2
    alone = [ask(retriever) for retriever in (first, second)] * 2
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads meet
    try:
        with ThreadPoolExecutor(len(retrievers)) as pool:
            together = list(pool.map(ask, retrievers))
    finally:
        sys.setswitchinterval(interval)
    for found, expected in zip(together, alone, strict=True):
        assert found.tolist() == expected.tolist()
    assert all(module.training for module in model.modules())
    assert processor.most == 1


class OneAtATime:
    """A processor that counts the threads inside it: its tokenizer's padding is a state that every call sets."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.inside, self.most = processor, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def __call__(self, **inputs: Any) -> Any:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            return self.processor(**inputs)
        finally:
            self.inside -= 1


def test_half_precision_model_gets_its_own_dtype(tiny_model: Any, tiny_processor: Any, video_path: Path) -> None:
    model = copy.deepcopy(tiny_model).to(torch.bfloat16)
    prediction = MomentRetriever(model, tiny_processor, prompt="compact", num_frames=4)(video_path, "a dog")
    assert prediction.probs.dtype == np.float64


def test_refusals_are_one_line(retriever: MomentRetriever, video_path: Path, tmp_path: Path) -> None:
    frames = retriever.read(video_path)
    other = MomentRetriever(retriever.model, retriever.processor, prompt="compact", num_frames=5)
    cases = [
        (lambda: retriever.predict(frames, "a dog"), "expected a list of queries"),
        (lambda: other.predict(frames, ["a dog"]), "expected 5 frames, got 4"),
        (lambda: retriever.predict(frames, [" "]), "blank"),
        (lambda: retriever.predict(frames, ["a dog", "x" * 100_000]), "a query of at most 4000 characters, got 100000"),
        (lambda: retriever.predict(frames, ["a \ud83ddog"]), r"a query without \\ud83d"),
        (lambda: retriever.predict(frames, ["a dog\x00"]), r"a query without \\x00"),
        (lambda: retriever.predict(frames, [None]), "a query to be a text, got None"),
        (lambda: retriever.predict(frames, ["a dog"], num_beams=10**6), "num_beams to be .* at most 256, got 1000000"),
        (lambda: retriever.predict(frames, ["a dog"], num_beams=0), "num_beams to be a whole number of at least 1"),
        (lambda: retriever.predict(frames, ["a dog"], num_beams=2.0), "num_beams to be a whole number"),
        (lambda: MomentRetriever(retriever.model, retriever.processor, batch_size=0), "batch_size of at least 1"),
        (lambda: MomentRetriever(retriever.model, retriever.processor, batch_size="8"), "batch_size of at least 1"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no frameseg_config.json"):
        MomentRetriever.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no video file"):
        retriever(tmp_path / "none.mp4", "a dog")


def test_adapter_on_a_random_decomposition_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}')
    with pytest.raises(ValueError, match="pissa_niter_4.*merge it"):
        MomentRetriever.from_pretrained(tmp_path)


def test_times_of_the_shown_frames_reach_the_prompt(tiny_model: Any, tiny_processor: Any, video_path: Path) -> None:
    retriever = MomentRetriever(tiny_model, tiny_processor, prompt="timestamps", num_frames=4)
    frames = retriever.read(video_path)
    times = [frames.times_seconds]
    inputs = encode_prompts(tiny_processor, PROMPTS["timestamps"], QUERIES[:1], [frames.frames], times)
    assert "Frame 2 at 5.0 s: " in tiny_processor.tokenizer.decode(inputs["input_ids"][0])
    decoded = generate_frame_logits(tiny_model, inputs, retriever.labels, num_frames=4, num_beams=2)
    prediction = retriever.predict(frames, QUERIES[:1])[0]
    assert prediction.probs == pytest.approx(decoded.frame_logits[0].softmax(-1)[:, 1].numpy(), abs=1e-6)


def test_the_grid_of_the_training_is_read_and_any_other_is_warned_of_once(
    tiny_model: Any, tiny_processor: Any, video_path: Path, tmp_path: Path
) -> None:
    MomentRetriever(
        biased(tiny_model, ONE), tiny_processor, prompt="compact", num_frames=4, grid_kind="uniform"
    ).save_pretrained(tmp_path)
    loaded = MomentRetriever.from_pretrained(tmp_path)
    frames = loaded.read(video_path)
    assert frames.grid == FrameGrid.uniform(frames.duration_seconds, 4)
    assert frames.times_seconds == pytest.approx([0.0, 2.6, 5.3, 7.9], abs=0.01)
    (moment,) = loaded(video_path, "a dog").moments
    assert (moment.start, moment.end) == (0.0, frames.grid.duration_seconds)
    other = MomentRetriever(tiny_model, tiny_processor, prompt="compact", num_frames=4)
    message = r"do not lie where .*; take frames.grid of this retriever's read\(\), or its part"
    with pytest.warns(UserWarning, match=message):
        (prediction,) = other.predict(frames, ["a dog"])
    assert prediction.grid == frames.grid
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.predict(frames, ["a dog"])  # said once
        loaded.predict(loaded.read(video_path, frames.grid.part(2.0, 6.0)), ["a dog"])  # a part has the pattern
    shifted = MomentRetriever(tiny_model, tiny_processor, prompt="compact", num_frames=4, grid_phase=0.25)
    assert shifted.read(video_path).times_seconds == pytest.approx([1.5, 3.5, 5.5, 7.5], abs=0.01)


PRECISIONS = {
    "float32": {},
    "mixed precision": {"bf16": True},
    "weights in bfloat16": {"bf16": True, "weights": torch.bfloat16},
    "adapter": {"lora": True},
    "adapter in mixed precision": {"bf16": True, "lora": True},
    "adapter on a base in bfloat16": {"bf16": True, "weights": torch.bfloat16, "lora": True},
}


@pytest.fixture(scope="module")
def saved_base(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in a folder, with weights so large that half precision moves masks."""
    model = copy.deepcopy(tiny_model)
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            parameter.mul_(2.0)
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
def test_the_scores_of_a_run_are_those_of_the_model_that_it_saved(
    saved_base: Path, tiny_processor: Any, tiny_rows: list[dict[str, Any]], tmp_path: Path, precision: dict[str, Any]
) -> None:
    model = load_base(saved_base, dtype=precision.get("weights", torch.float32))
    config = FrameSegmentationConfig(FrameSettings(num_frames=5), prompt="compact")
    collator = FrameSegmentationCollator(
        processor=tiny_processor, labels=BinaryLabels.from_tokenizer(tiny_processor.tokenizer), prompt="compact"
    )
    # One row at a time: sums of another shape are rounded otherwise.
    args = SegmentationSeq2SeqTrainingArguments(
        str(tmp_path / "run"), use_cpu=True, max_steps=1, learning_rate=0.01, per_device_eval_batch_size=1,
        report_to="none", disable_tqdm=True, save_strategy="no", bf16=precision.get("bf16", False),
    )  # fmt: skip
    lora = LoraConfig(r=2, target_modules=r"model\.language_model\..*proj", init_lora_weights=False)
    trainer = SegmentationSeq2SeqTrainer(
        model, args, collator, train_dataset=tiny_rows, peft_config=lora if precision.get("lora") else None
    )
    trainer.train()
    _, run_logits, _ = trainer.predict(tiny_rows).predictions
    if precision.get("lora"):
        save_adapter(trainer.model, tiny_processor, config, tmp_path / "model")
    else:
        MomentRetriever(trainer.model, tiny_processor, config).save_pretrained(tmp_path / "model")

    served = MomentRetriever.from_pretrained(tmp_path / "model")
    assert served.config.autocast == trainer.autocast == ("bfloat16" if precision.get("bf16") else None)
    for row, logits in zip(tiny_rows, run_logits, strict=True):
        prediction = served.predict(frames_of(row), [row["query"]])[0]
        assert prediction.log_odds.tolist() == (logits[:, 1].astype(float) - logits[:, 0].astype(float)).tolist()
    if precision.get("bf16"):  # else the test could not tell
        exact = MomentRetriever.from_pretrained(tmp_path / "model", autocast=None, model_kwargs={"dtype": "float32"})
        other = [exact.predict(frames_of(row), [row["query"]])[0].log_odds for row in tiny_rows]
        assert np.abs(np.array(other) - (run_logits[..., 1] - run_logits[..., 0])).max() > 0.01


def test_the_shipped_model_answers_as_recorded_whatever_its_generation_config_says(tmp_path: Path) -> None:
    grid = FrameGrid.middle(150, 25)
    noise = np.random.default_rng(0).integers(256, size=(25, 3, 32, 32, 3), dtype=np.uint8)
    frames = VideoFrames(noise[:, 1], grid.times, 150.0, grid, "none")
    queries = ["a red circle", "a blue square"]
    shipped = MomentRetriever.from_pretrained().predict(frames, queries)
    assert shipped[0].log_odds[:3] == pytest.approx([-6.220169, -6.463537, -6.474118], abs=1e-4)
    shutil.copytree(TINY_MODEL, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    hostile = {"use_cache": False, "renormalize_logits": True, "length_penalty": -5.0, "num_beams": 4, "max_length": 3}
    path.write_text(json.dumps({**json.loads(path.read_text()), **hostile}))
    found = MomentRetriever.from_pretrained(tmp_path / "model").predict(frames, queries)
    assert [one.log_odds.tolist() for one in found] == [one.log_odds.tolist() for one in shipped]
    assert [one.moments for one in found] == [one.moments for one in shipped]


def frames_of(row: dict[str, Any]) -> VideoFrames:
    """The frames of a row as a retriever would have read them."""
    sample = Sample.of(row)
    return VideoFrames(sample.pictures(), sample.times(), sample.duration_seconds, sample.grid, "none")


def test_damaged_videos_are_refused_or_kept(tiny_model: Any, tiny_processor: Any, shared_dir: Path) -> None:
    path = shared_dir / "faults" / "video" / "damaged.mp4"
    if not path.is_file():
        pytest.skip(f"no such file: {path}")
    with pytest.raises(VideoReadError, match="are damaged"):
        MomentRetriever(tiny_model, tiny_processor).read(path)
    assert MomentRetriever(tiny_model, tiny_processor, damaged="keep").read(path).damaged.any()
    with pytest.raises(ValueError, match="damaged to be one of"):
        MomentRetriever(tiny_model, tiny_processor, damaged="skip")
