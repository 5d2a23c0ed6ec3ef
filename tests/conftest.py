"""Shared fixtures: no network in any test, recorded references, tiny in-memory models and rows."""

from __future__ import annotations

import copy
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # with importlib mode a test cannot import its neighbours otherwise
from metric_fixtures import metric_data, read_rows, slow_reference  # noqa: E402, F401
from video_fixtures import annotation, read_number, reader, write_annotations, write_video  # noqa: E402, F401

# Before any library reads them: the Hub clients cache these at import.
os.environ["HF_HOME"] = tempfile.mkdtemp(
    prefix="hf_frameseg-tests-"
)  # neither the caches nor the token of who runs them
for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_FRAMESEG_CACHE"):
    os.environ.pop(name, None)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("MPLBACKEND", "Agg")

_LOOPBACK_HOSTS = {"localhost", "::1", "0.0.0.0"}


def _is_local(sock: socket.socket, address: Any) -> bool:
    """Tell whether a connection stays on this machine (torch's process groups and data loaders need that)."""
    if sock.family == getattr(socket, "AF_UNIX", None):
        return True
    host = str(address[0]) if isinstance(address, tuple) and address else ""
    return host in _LOOPBACK_HOSTS or host.startswith(("127.", "::ffff:127."))


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine, in session fixtures too."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            original = getattr(socket.socket, name)

            def guarded(sock: socket.socket, address: Any, original: Any = original) -> Any:
                if not _is_local(sock, address):
                    raise RuntimeError(f"tests run without network: a connection to {address!r} was refused")
                return original(sock, address)

            patch.setattr(socket.socket, name, guarded)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_home() -> Iterator[None]:
    """Remove the folder that stands in for the caches at home."""
    yield
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of recorded references beside the repository; tests that need it are skipped without it."""
    path = Path(__file__).resolve().parents[1].parent / "shared"
    if not path.is_dir():
        pytest.skip(f"recorded references not found: {path} does not exist")
    return path


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """Builder of byte-level tokenizers without merges: every text survives a round trip, id = byte value below 256."""

    def build(special_tokens: list[str], pad_token: str, eos_token: str, **kwargs: Any) -> Any:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        tokenizer = Tokenizer(models.BPE(vocab={char: byte for byte, char in bytes_to_unicode().items()}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special_tokens])
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad_token, eos_token=eos_token, **kwargs)

    return build


@pytest.fixture(scope="session")
def tiny_tokenizer(make_tokenizer: Callable[..., Any]) -> Any:
    """Byte-level tokenizer with xGen-MM's special tokens; "0" is 48, "1" is 49, 265 ids in all."""
    turns = ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    added = ["<pad>", "<image>", "<image placeholder>", "<|endofchunk|>"]
    return make_tokenizer(turns + added, pad_token="<pad>", eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def tiny_processor(tiny_tokenizer: Any) -> Any:
    """xGen-MM processor for 16 x 16 images of 2 tokens each."""
    from hf_frameseg.models.xgenmm import XGenMMImageProcessor, XGenMMProcessor

    image_processor = XGenMMImageProcessor(size={"height": 16, "width": 16})
    return XGenMMProcessor(image_processor=image_processor, tokenizer=tiny_tokenizer, num_image_tokens=2)


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: Any) -> Any:
    """Random xGen-MM of about 20 thousand weights in evaluation mode; shared, so copy.deepcopy it to change it."""
    import torch

    from hf_frameseg.models.xgenmm import XGenMMConfig, XGenMMForConditionalGeneration

    width = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = tiny_tokenizer.convert_tokens_to_ids
    config = XGenMMConfig(
        vision_config={**width, "image_size": 16, "patch_size": 8},
        resampler_config={**width, "head_dim": 8, "num_latents": 2},
        text_config={
            **width,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tiny_tokenizer),
            "pad_token_id": ids("<pad>"),
            "bos_token_id": None,
            "eos_token_id": ids("<|endoftext|>"),
            "initializer_range": 0.1,
        },
        image_token_id=ids("<image>"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return XGenMMForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def make_llava_processor(make_tokenizer: Callable[..., Any]) -> Callable[..., Any]:
    """Builder of LLaVA processors (CLIP images of 16 x 16, 4 tokens each); its tokenizer adds a start token."""

    def build(template_bos: str = "", images_first: bool = False) -> Any:
        from tokenizers.processors import TemplateProcessing
        from transformers import CLIPImageProcessor, LlavaProcessor

        special_tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        tokenizer = make_tokenizer([*special_tokens.values(), "<image>"], **special_tokens)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
        part = "{{ '<image>' if part['type'] == 'image' else part['text'] }}"
        content = "{% for part in message['content'] %}" + part + "{% endfor %}"
        if images_first:
            loop = "{% for part in message['content'] if part['type'] == 'KIND' %}" + part + "{% endfor %}"
            content = loop.replace("KIND", "image") + loop.replace("KIND", "text")
        return LlavaProcessor(
            image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
            tokenizer=tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=template_bos
            + "{% for message in messages %}"
            + content
            + "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
        )

    return build


@pytest.fixture(scope="session")
def tiny_llava_model() -> Any:
    """Random LLaVA (CLIP and Llama) for `make_llava_processor`, in evaluation mode; copy.deepcopy it to change it."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    width = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**width, image_size=16, patch_size=8),
        text_config=LlamaConfig(**width, vocab_size=260, initializer_range=0.1, pad_token_id=258),
        image_token_id=259,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlavaForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def tiny_qwen_processor(make_tokenizer: Callable[..., Any]) -> Any:
    """Qwen2-VL processor: 1 token per image of 16 x 16 or two pictures of a video, patches, `mm_token_type_ids`."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    turns = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vision = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = make_tokenizer(turns + vision, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=8, merge_size=2, min_pixels=256, max_pixels=1024),
        video_processor=Qwen2VLVideoProcessor(patch_size=8, min_pixels=256, max_pixels=1024),
        tokenizer=tokenizer,
        chat_template="{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% elif part['type'] == 'video' %}"
        "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    )


@pytest.fixture(scope="session")
def tiny_qwen_model(tiny_qwen_processor: Any) -> Any:
    """Random Qwen2-VL for `tiny_qwen_processor`, in evaluation mode; copy.deepcopy it to change it."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    tokenizer = tiny_qwen_processor.tokenizer
    token_ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in {
            "image": "<|image_pad|>",
            "video": "<|video_pad|>",
            "vision_start": "<|vision_start|>",
            "vision_end": "<|vision_end|>",
        }.items()
    }
    config = Qwen2VLConfig(
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 8},
        text_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "initializer_range": 0.1,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        **token_ids,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen2VLForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def make_row() -> Callable[..., dict[str, Any]]:
    """Builder of data set rows in the columns of datasets/qvhighlights.py, with random frames (F, 3, H, W, 3)."""

    def build(
        qid: int = 0,
        windows: list[list[float]] | None = None,
        num_frames: int = 5,
        duration_seconds: float = 10.0,
        query: str = "a red circle",
        size: int = 32,
        frames: np.ndarray | None = None,
    ) -> dict[str, Any]:
        windows = [[2.0, 6.0]] if windows is None else windows
        if frames is None:
            frames = np.random.default_rng(qid).integers(256, size=(num_frames, 3, size, size, 3), dtype=np.uint8)
        times_seconds = (np.arange(num_frames) + 0.5) * duration_seconds / num_frames
        clips = [clip for start, end in windows for clip in range(int(start // 2), int(end // 2))]
        return {
            "qid": qid,
            "query": query,
            "vid": f"video_{qid}",
            "duration_seconds": duration_seconds,
            "frames": frames.tobytes(),
            "frame_shape": list(frames.shape),
            "frame_times_seconds": [[center - 0.1, center, center + 0.1] for center in times_seconds.tolist()],
            "relevant_windows": windows,
            "relevant_clip_ids": clips,
            "saliency_scores": [[4, 3, 2] for _ in clips],
        }

    return build


@pytest.fixture
def tiny_rows(make_row: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Four rows of 5 frames over 10 s: one window, two windows, none, all."""
    return [
        make_row(11, [[2.0, 6.0]], query="a red circle"),
        make_row(12, [[0.0, 2.0], [8.0, 10.0]], query="a blue square on green"),
        make_row(13, [], query="a cross"),
        make_row(14, [[0.0, 10.0]], query="a dog that runs"),
    ]


@pytest.fixture
def make_trainer(tmp_path: Path, tiny_model: Any, tiny_processor: Any) -> Callable[..., Any]:
    """Builder: one SGD step on all rows in order unless told otherwise; frames and digits are drawn at random."""
    from hf_frameseg.batches.collator import FrameSegmentationCollator
    from hf_frameseg.digits import BinaryLabels
    from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
    from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer

    def build(train_rows: Any = None, model: Any = None, kind: Any = SegmentationSeq2SeqTrainer, **options: Any) -> Any:
        collator = FrameSegmentationCollator(
            processor=tiny_processor,
            labels=BinaryLabels(zero_id=48, one_id=49, end_ids=(259,)),
            prompt="compact",
            prefix_corruption=0.5,
        )
        names = ("data_collator", "eval_data_collator", "eval_dataset", "compute_metrics", "compute_loss_func")
        names += ("peft_config", "model_init", "callbacks", "processing_class", "objectives")
        given = {"data_collator": collator} | {name: options.pop(name) for name in names if name in options}
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 4,
            "max_steps": 1,
            "train_sampling_strategy": "sequential",
            "optim": "sgd",
            "learning_rate": 0.1,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,  # no clipping
            "logging_steps": 1,
            "save_strategy": "no",
            "loss_weights": {"lm": 0.4, "bce": 0.3, "tversky": 0.2, "generalized_dice": 0.1},
        }
        if model is None and "model_init" not in given:
            model = copy.deepcopy(tiny_model)
        return kind(
            model=model,
            args=SegmentationSeq2SeqTrainingArguments(**(defaults | options)),
            train_dataset=train_rows,
            **given,
        )

    return build


@pytest.fixture(scope="session")
def eight_rows(make_row: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Eight rows of 5 frames over 10 s with prompts of different lengths; qids 1 to 8."""
    windows = [[[0.0, 2.0]], [[2.0, 6.0]], [[0.0, 2.0], [6.0, 10.0]], [[4.0, 10.0]]] * 2
    return [make_row(qid, w, query="a red circle "[: 5 + qid]) for qid, w in enumerate(windows, start=1)]
