"""What a trained model needs besides its weights to be asked the way it was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from hf_frameseg._files import atomic_write
from hf_frameseg._numbers import is_whole
from hf_frameseg._options import split_choices
from hf_frameseg._text import printable, short
from hf_frameseg.readout import MAX_BEAMS, get_readout
from hf_frameseg.video.settings import OF_THIS_MACHINE, FrameSettings

CONFIG_NAME = "frameseg_config.json"
"""File beside the model's own files."""

MAX_MODEL_FRAMES = 1_024
"""Most frames that a model is asked about at once; each is a picture in its prompt."""

DTYPES = ("float64", "float32", "bfloat16", "float16")
"""Dtypes of weights."""

AUTOCAST_DTYPES = ("bfloat16", "float16")
"""Dtypes of mixed precision."""

_MAX_TEXT = 1_000  # characters of a name or path
_MAX_FILE_BYTES = 1_000_000
_OF_FRAMES = {field.name for field in fields(FrameSettings)}

TINY_BASE = Path(__file__).parents[1] / "assets" / "tiny_base"
"""The pretrained tiny xGen-MM of the package: knows colours, shapes and frame order, not the task."""

TINY_MODEL = Path(__file__).parents[1] / "assets" / "tiny_model"
"""The tiny base after `make demo`: answers queries such as "a red circle" about synthetic videos."""


@dataclass(frozen=True)
class FrameSegmentationConfig:
    """Describe how videos become frames and prompts: what a model was trained with.

    How answers become moments is not part of it; see `proposals.settings.ProposalSettings`.

    Args:
        frames: How a video becomes frames; a model knows the number it was trained with. The file holds the fields that
            choose frames; how files are read is up to each machine, so `save` leaves out the fields
            `video.settings.OF_THIS_MACHINE` and `load` refuses them.
        prompt: Name of a prompt in `batches.prompts.PROMPTS`, or the fields of a `PromptTemplate`.
        label_rule: Which frames counted as relevant in training, see `targets.frame_mask`.
        readout: How answers become decoded frames, a name in `readout.READOUTS`.
        num_beams: Beams of the decoding; 2 in the paper.
        base_model: For an adapter: Hub name or folder of the model it applies to. None for a whole model.
        dtype: For an adapter: the dtype of the base's weights when it was trained and scored, such as `"bfloat16"`.
            None for the one that the base is saved in; a whole model says its own in `config.json`.
        autocast: `"bfloat16"` or `"float16"` if answers were scored in mixed precision (`--bf16`, `--fp16`); None for
            the dtype of the weights. `SegmentationSeq2SeqTrainer.autocast` says it.

    Raises:
        ValueError: If a value is of another type or out of range.

    Example:
        >>> FrameSegmentationConfig().changed(num_frames=10, frame_size=(32, 48), num_beams=4).frames.frame_size
        (32, 48)
    """

    frames: FrameSettings = FrameSettings()
    prompt: str | Mapping[str, Any] = "paper"
    label_rule: str = "window"
    readout: str = "beam"
    num_beams: int = 2
    base_model: str | None = None
    dtype: str | None = None
    autocast: str | None = None

    def __post_init__(self) -> None:
        """Check every value; the texts of a prompt and the label rule are checked by the parts that own them."""
        if not isinstance(self.frames, FrameSettings):
            raise ValueError(f"expected frames to be FrameSettings(...), got {short(self.frames)}")
        _check_count("num_frames", self.frames.num_frames, MAX_MODEL_FRAMES)
        get_readout(self.readout)
        _check_count("num_beams", self.num_beams, MAX_BEAMS)
        self._check_prompt()
        for name in ("label_rule", "base_model", "dtype", "autocast"):
            value, needed = getattr(self, name), name == "label_rule"
            if (value is None and needed) or (value is not None and not _is_text(value, _MAX_TEXT)):
                raise ValueError(f"expected {name} to be a text of 1 to {_MAX_TEXT} characters, got {short(value)}")
        for name, known in (("dtype", DTYPES), ("autocast", AUTOCAST_DTYPES)):
            if getattr(self, name) not in (None, *known):
                known_or_null = f"{', '.join(known)} or null"
                raise ValueError(f"expected {name} to be one of {known_or_null}, got {short(getattr(self, name))}")

    def _check_prompt(self) -> None:
        """Refuse what is neither the name of a prompt nor fields of one."""
        is_name = isinstance(self.prompt, str) and _is_text(self.prompt, _MAX_TEXT)
        if not is_name and not (isinstance(self.prompt, Mapping) and all(isinstance(key, str) for key in self.prompt)):
            raise ValueError(f"expected prompt to be the name of one or its fields, got {short(self.prompt)}")

    def changed(self, **changes: Any) -> FrameSegmentationConfig:
        """Return this configuration with some values set differently.

        Args:
            **changes: Fields of this class, or of `FrameSettings`.

        Returns:
            A new configuration.

        Raises:
            ValueError: If a value is out of range.
        """
        of_frames, others = split_choices(changes, FrameSettings)
        frames = others.pop("frames", self.frames)
        return replace(self, frames=frames.changed(**of_frames) if of_frames else frames, **others)

    @classmethod
    def load_or_default(cls, folder: str | Path) -> FrameSegmentationConfig:
        """Read the file of a model that was trained here; the paper's settings for any other model or Hub name."""
        return cls.load(folder) if (Path(folder) / CONFIG_NAME).is_file() else cls()

    def save(self, folder: str | Path) -> Path:
        """Write `frameseg_config.json`.

        Args:
            folder: Folder of the model; made when it does not exist.

        Returns:
            Path of the file.
        """
        path = Path(folder) / CONFIG_NAME
        atomic_write(
            path, json.dumps({**asdict(self), "frames": self.frames.to_dict()}, indent=2, sort_keys=True) + "\n"
        )
        return path

    @classmethod
    def load(cls, folder: str | Path) -> FrameSegmentationConfig:
        """Read `frameseg_config.json`.

        Args:
            folder: Folder of the model.

        Returns:
            The configuration.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not JSON or has other fields than this class.
        """
        path = Path(folder) / CONFIG_NAME
        name = printable(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"no {CONFIG_NAME} in {printable(folder)}: give the folder of a model trained here, or write the file "
                "with FrameSegmentationConfig(...).save(folder)"
            )
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError(f"{name} is larger than {_MAX_FILE_BYTES} bytes: write it again with save")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            reason = printable(f"{error!s:.200}")
            raise ValueError(f"{name} is not valid JSON ({reason}): write it again with save") from None
        known = [field.name for field in fields(cls)]
        others = sorted(set(values) - set(known)) if isinstance(values, dict) else values
        if isinstance(values, dict) and "frames" not in values and (flat := sorted({*others} & _OF_FRAMES)):
            inner = json.dumps({key: values[key] for key in flat if key not in OF_THIS_MACHINE})
            raise ValueError(
                f"{name} has {', '.join(flat)} at its top, where an earlier version wrote them: put "
                f'"frames": {printable(f"{inner:.300}")} in their place'
            )
        if others or not isinstance(values, dict):
            raise ValueError(f"expected {name} to hold some of {known}, got {short(others)}: remove what else is there")
        try:
            return cls(**{**values, "frames": FrameSettings.from_dict(values.get("frames", {}))})
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def _check_count(name: str, value: Any, most: int) -> None:
    """Refuse what is no whole number from 1 up to a limit."""
    if not is_whole(value, 1, most):
        raise ValueError(f"expected {name} to be a whole number of at least 1 and at most {most}, got {short(value)}")


def _is_text(value: Any, most: int) -> bool:
    """Tell whether a value is a text that is not blank and not too long."""
    return isinstance(value, str) and bool(value.strip()) and len(value) <= most
