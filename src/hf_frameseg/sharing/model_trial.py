"""What is tried of a model before it is loaded: an empty model of its configuration, a question to its processor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_frameseg.sharing.model_folder import Shapes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SLACK = 2  # times the weights in the files that a configuration may ask for; some files hold a shared weight once
_PACKED = 32  # weights that one stored number holds at most, in quantised files
_BUFFER_BYTES = 2**30  # of tables that a model computes itself
_MAX_FRAMES = 1000


def empty_model(folder: Path) -> PreTrainedModel:
    """Build the model of a configuration without weights.

    Args:
        folder: Where `config.json` is.

    Returns:
        The model on the device "meta".
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    import hf_frameseg.models.xgenmm  # noqa: F401 - registers xGen-MM with the Auto classes

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


def check_sizes(folder: Path, shapes: Shapes) -> None:
    """Refuse a configuration that asks for other weights than the files hold, before any is allocated.

    Args:
        folder: The model.
        shapes: The tensors in its files.

    Raises:
        ValueError: If a weight has another shape, or there are far more of them.
    """
    from transformers import GenerationConfig

    held = sum(map(math.prod, shapes.values()))
    _stop_beyond(held * _PACKED)
    model = empty_model(folder)
    quantised = getattr(model.config, "quantization_config", None) is not None
    for name, value in model.state_dict().items():
        if not quantised and shapes.get(name, value.shape) != tuple(value.shape):
            raise ValueError(f"{name} has the shape {shapes[name]} in the weights, {tuple(value.shape)} in config.json")
    asked = sum(parameter.numel() for parameter in model.parameters())
    if asked > held * (_PACKED if quantised else _SLACK):
        raise ValueError(f"config.json asks for {asked:,} weights, its files hold {held:,}")
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    if buffers > _BUFFER_BYTES:
        raise ValueError(f"config.json asks for tables of {buffers:,} bytes beside the weights")
    if (folder / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(folder)


def _stop_beyond(most: int) -> None:
    """Stop every model of this process that gets more weights than this; for a process that ends with the trial."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    asked = 0

    def count(module: Any, name: str, parameter: Any) -> None:
        nonlocal asked
        asked += 0 if parameter is None else parameter.numel()
        if asked > most:
            raise ValueError(f"config.json asks for more than {most:,} weights, its files hold far fewer")

    register_module_parameter_registration_hook(count)


def ask_processor(folder: Path, num_frames: int) -> None:
    """Load a processor and prepare a question with it.

    Only time and memory count here: what is wrong otherwise is said when a real question is asked.

    Args:
        folder: The model.
        num_frames: Pictures in the question.

    Raises:
        MemoryError: If the question takes too much memory.
        Exception: Whatever the libraries raise when the processor is loaded.
    """
    import numpy as np
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    count = max(1, min(num_frames, _MAX_FRAMES))
    content: list[dict[str, Any]] = [{"type": "text", "text": "Which frames show it?\n"}]
    for index in range(count):
        content += [{"type": "text", "text": f"Frame {index}: "}, {"type": "image"}, {"type": "text", "text": "\n"}]
    system = {"role": "system", "content": [{"type": "text", "text": "You find moments."}]}
    messages = [system, {"role": "user", "content": [*content, {"type": "text", "text": "a red circle"}]}]
    pictures = list(np.random.default_rng(0).integers(256, size=(count, 64, 64, 3), dtype=np.uint8))
    try:
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        processor(text=[text], images=[pictures], padding=True, padding_side="left", return_tensors="pt")
    except MemoryError:
        raise
    except Exception as error:
        if "memory" in str(error):  # torch says it in a RuntimeError
            raise MemoryError(str(error)) from error
