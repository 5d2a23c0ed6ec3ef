"""What a trained model needs besides its weights to be asked the way it was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

CONFIG_NAME = "frameseg_config.json"
"""File beside the model's own files."""

MAX_BEAMS = 256
"""Most beams of a search; each holds the cache of a whole prompt, and 2 to 8 find what there is to find."""

TINY_BASE = Path(__file__).parent / "assets" / "tiny_base"
"""The pretrained tiny xGen-MM of the package: knows colours, shapes and frame order, not the task."""

TINY_MODEL = Path(__file__).parent / "assets" / "tiny_model"
"""The tiny base after `make demo`: answers queries such as "a red circle" about synthetic videos."""


@dataclass(frozen=True)
class FrameSegmentationConfig:
    """Describe how videos become frames and prompts: what a model was trained with.

    How answers become moments is not part of it; see `decoding.ProposalSettings`.

    Args:
        num_frames: Frames F per video; a model knows the number it was trained with.
        prompt: Name of a prompt in `data.prompts.PROMPTS`, or the fields of a `PromptTemplate`.
        label_rule: Which frames counted as relevant in training, see `labels.frame_mask`.
        num_beams: Beams of the decoding; 2 in the paper.
        frame_size: Size in pixels to which frames are squashed when they are read, before the processor's own resizing:
            None for none, a number for a square, else (height, width).
        grid_kind: Where the frames of a training video lay in time, see `moments.FrameGrid`.
        grid_phase: Their shift, see `moments.FrameGrid`.
        base_model: For an adapter: Hub name or folder of the model it applies to. None for a whole model.
        dtype: For an adapter: the dtype of the base's weights when it was trained and scored, such as `"bfloat16"`.
            None for the one that the base is saved in; a whole model says its own in `config.json`.
        autocast: `"bfloat16"` or `"float16"` if answers were scored in mixed precision (`--bf16`, `--fp16`); None for
            the dtype of the weights. `SegmentationSeq2SeqTrainer.autocast` says it.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> FrameSegmentationConfig(num_frames=10, frame_size=[32, 48]).frame_size
        (32, 48)
    """

    num_frames: int = 25
    prompt: str | Mapping[str, Any] = "paper"
    label_rule: str = "window"
    num_beams: int = 2
    frame_size: int | tuple[int, int] | None = None
    grid_kind: str = "middle"
    grid_phase: float = 0.0
    base_model: str | None = None
    dtype: str | None = None
    autocast: str | None = None

    def __post_init__(self) -> None:
        """Check the counts; texts and sizes are checked by the parts that own them."""
        for name in ("num_frames", "num_beams"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"expected {name} to be a whole number of at least 1, got {value!r}")
        if isinstance(self.frame_size, list):  # JSON knows no tuples
            object.__setattr__(self, "frame_size", tuple(self.frame_size))

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
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")
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
        if not path.is_file():
            raise FileNotFoundError(
                f"no {CONFIG_NAME} in {folder}: give the folder of a model trained here, or write the file with "
                "FrameSegmentationConfig(...).save(folder)"
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}): write it again with save") from None
        known = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or set(values) - set(known):
            raise ValueError(f"expected {path} to hold some of {known}, got {sorted(values)}: remove the others")
        return cls(**values)
