"""What stands in a model's folder, read before any library reads it: nothing in it is run, followed or believed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ADAPTER_CONFIG_NAME = "adapter_config.json"
"""File that makes a folder an adapter (PEFT's name)."""

ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors"
QUANTIZATION_NAME = "base_quantization.json"
"""File of an adapter whose base was quantised when it was loaded for training."""

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_TEXT_BYTES = 64 * 2**20
"""Largest file beside the weights; the largest `tokenizer.json` in use has 34 MB."""

Shapes = Mapping[str, tuple[int, ...]]
"""Names of tensors and their sizes."""

_TEXTS = (".json", ".jinja", ".txt", ".model")
_TEMPLATES = "additional_chat_templates"  # the only folder in the folder that is read
_OBJECTS = {  # JSON files that libraries read; others in the folder are nobody's business
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("video_preprocessor_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "vocab.json", "chat_template.json", "frameseg_config.json"),
    *(ADAPTER_CONFIG_NAME, QUANTIZATION_NAME, INDEX_NAME),
}
_NOT_READ = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".gguf")
_PARTS_OF_A_RUN = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
# Keys that libraries follow to code or to files elsewhere. An attention may name a repository of kernels.
_IMPLEMENTATIONS = re.compile(r"_?(attn|experts)_implementation(_internal)?")
_PLACES = {"transformers_weights", "tokenizer_file", "vocab_file", "merges_file", "spm_file", "fast_tokenizer_files"}
_FOLLOWED = {"audio_tokenizer", "custom_generate", "kernel_config", "use_kernels"}


def check_model_folder(folder: Path) -> Shapes:
    """Check the files of a whole model, and return what its weights hold; nothing is loaded.

    Args:
        folder: Where the files are.

    Returns:
        Name and shape of every tensor in the files that will be read.

    Raises:
        ValueError: If something cannot be used, or would be followed out of the folder.
    """
    contents = check_texts(folder)
    if ADAPTER_CONFIG_NAME in contents:
        raise ValueError(
            f"expected a whole model, got an adapter ({ADAPTER_CONFIG_NAME}): load it with load_pretrained"
        )
    if "config.json" not in contents:
        raise ValueError("there is no config.json")
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _weight_files(folder, contents.get(INDEX_NAME)):
        shapes |= tensor_shapes(path)
    return shapes


def adapter_shapes(folder: Path) -> Shapes:
    """Return what the weights of an adapter hold; nothing is loaded.

    Args:
        folder: Where the files are.

    Returns:
        Name and shape of every tensor.

    Raises:
        ValueError: If there are none, or the file is cut or damaged.
    """
    if not (folder / ADAPTER_WEIGHTS_NAME).exists():
        raise ValueError(f"there is no {ADAPTER_WEIGHTS_NAME}{_instead(folder)}")
    return tensor_shapes(folder / ADAPTER_WEIGHTS_NAME)


def tensor_shapes(path: Path) -> Shapes:
    """Read names and shapes of the tensors of a safetensors file.

    Args:
        path: The file.

    Returns:
        Them, from the file's head.

    Raises:
        ValueError: If the file is cut or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"{path.name} is no file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is cut or damaged ({error}): copy or download it again") from error


def check_texts(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the JSON files that libraries read, and look at the other texts.

    Args:
        folder: The folder.

    Returns:
        The content of each JSON file by name.

    Raises:
        ValueError: If one is too large, no JSON object, or names code or other folders.
    """
    contents = {}
    for path in sorted([*folder.iterdir(), *(folder / _TEMPLATES).glob("*")]):
        if path.suffix not in _TEXTS or (path.suffix == ".json" and path.name not in _OBJECTS):
            continue
        name = str(path.relative_to(folder))
        if not path.is_file():
            raise ValueError(f"{name} is no file")
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise ValueError(f"{name} has more than {MAX_TEXT_BYTES // 2**20} MB")
        if path.suffix == ".json":
            contents[name] = _read_object(path)
            _check_keys(name, contents[name])
    return contents


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path.name} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected {path.name} to hold a JSON object, got {type(value).__name__}")
    return value


def _check_keys(name: str, content: Any) -> None:
    """Refuse keys that lead to code or to other folders."""
    for key, value in _items(content):
        if _IMPLEMENTATIONS.fullmatch(key) and any("/" in text for text in _texts(value)):
            raise ValueError(f"{name} names code to be fetched ({key}: {value!r}), which is never run here: remove it")
        if key in _PLACES and any(text != Path(text).name for text in _texts(value)):
            raise ValueError(f"{name} points out of the folder ({key}: {value!r}): remove it")
        if key in _FOLLOWED and value:
            raise ValueError(f"{name} asks for {key}, which is not supported here: remove it")


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of nested JSON with its value; without recursion, as the depth is another's choice."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _texts(value: Any) -> list[str]:
    """Return the texts in a value that is one, or a list or an object of some."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def _weight_files(folder: Path, index: Mapping[str, Any] | None) -> list[Path]:
    """Return the safetensors files that transformers reads."""
    odd = next((path.name for path in folder.iterdir() if _PARTS_OF_A_RUN.fullmatch(path.name)), None)
    if odd is not None:
        raise ValueError(f"{odd} is a part of a distributed checkpoint: save the model as a whole (save_pretrained)")
    if (folder / WEIGHTS_NAME).exists():
        return [folder / WEIGHTS_NAME]
    if index is None:
        raise ValueError(f"there is no {WEIGHTS_NAME}{_instead(folder)}")
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"expected {INDEX_NAME} to hold a weight_map of tensors and files")
    for name in names.values():
        if not isinstance(name, str) or name != Path(name).name or not name.endswith(".safetensors"):
            raise ValueError(f"{INDEX_NAME} points out of the folder, or at what is no safetensors file ({name!r})")
    return [folder / name for name in sorted(set(names.values()))]


def _instead(folder: Path) -> str:
    """Say which weights are there that are not read, and why."""
    found = sorted(path.name for path in folder.iterdir() if path.suffix in _NOT_READ)
    if not found:
        return ""
    return f", but {found[0]}: only safetensors are read, pickles can hold code; save it again with save_pretrained"
