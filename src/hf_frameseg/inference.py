"""Inference: a video file and a query in, moments and saliency out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_frameseg.batches.encoding import encode_prompts
from hf_frameseg.batches.prompt_template import PromptTemplate, check_query
from hf_frameseg.batches.prompts import get_prompt
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.moments import FrameGrid
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.prediction import to_prediction
from hf_frameseg.proposals.settings import PAPER_PROPOSALS, ProposalSettings
from hf_frameseg.readout import DecodedFrames, get_readout
from hf_frameseg.readout.evaluation_mode import evaluating, lock_of
from hf_frameseg.readout.precision import autocast_of, autocasting
from hf_frameseg.sharing.config import TINY_MODEL, FrameSegmentationConfig
from hf_frameseg.sharing.heads import HEADS_NAME, save_heads
from hf_frameseg.sharing.loading import load_pretrained
from hf_frameseg.video.read import VideoFrames, read_frames

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

_WEIGHTS = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "adapter_config.json",
    HEADS_NAME,
)

_SAME_TIME = 1e-6  # share of the duration by which rounding may move a frame


class MomentRetriever:
    """Find the moments of a video that match a sentence.

    Threads may share a retriever: videos are read at the same time, questions answered one after the other.

    Args:
        model: Any image-text-to-text model of transformers, trained with this package. It stays in its own mode, device
            and dtype; predictions are made in evaluation mode, and in the mixed precision of `config.autocast`, which
            for a model that a trainer still holds is that of the trainer.
        processor: Its processor.
        config: How the model was trained to be asked; None takes the defaults, which are the paper's.
        proposals: How windows and saliency are made of the decoded frames. The default gives the moments that the model
            marked and no others; the one for scores, `SCORING_PROPOSALS`, adds candidates up to ten.
        batch_size: Queries decoded at a time.
        **changes: Fields of `FrameSegmentationConfig`, or of `FrameSettings`, to set differently from `config`: also
            how files are read here, such as `reader` or `damaged`, which a model does not say.

    Raises:
        ValueError: If a setting is out of range, or the tokenizer merges digits.

    Example:
        Several queries about one video, read once::

            retriever = MomentRetriever.from_pretrained("runs/demo")
            frames = retriever.read("video.mp4")
            for prediction in retriever.predict(frames, ["a red circle", "a blue square"]):
                print(prediction.query, prediction.moments)
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        config: FrameSegmentationConfig | None = None,
        *,
        proposals: ProposalSettings = PAPER_PROPOSALS,
        batch_size: int = 8,
        **changes: Any,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"expected batch_size of at least 1, a whole number, got {batch_size!r}")
        if isinstance(changes.get("prompt"), PromptTemplate):
            changes["prompt"] = changes["prompt"].to_dict()
        self.model = model
        self.processor = processor
        config = config or FrameSegmentationConfig()
        if config.autocast is None:
            changes = {"autocast": autocast_of(model), **changes}
        self.config = config.changed(**changes)
        self.proposals = proposals
        self.batch_size = batch_size
        self.prompt = get_prompt(self.config.prompt)
        self.prompt.num_frames(self.config.frames.num_frames)  # refuses pictures that would be left over
        self.labels = BinaryLabels.from_tokenizer(processor.tokenizer)
        self._warned = False

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> MomentRetriever:
        """Load a model or an adapter: weights, processor and `frameseg_config.json`.

        Args:
            path: Folder written by `save_pretrained`, `save_adapter` or the training script, or `owner/name` of a Hub
                repository; None takes the tiny model of the package, which knows the synthetic videos of `frameseg
                synth` and needs no network.
            device: Where the model goes; None leaves it where it is loaded (the CPU, without a `device_map`).
            model_kwargs: Arguments of `load_pretrained` and of the model's own `from_pretrained`, such as `dtype`, or
                `base_model` for an adapter whose base lies elsewhere.
            **kwargs: Arguments of the constructor, such as `num_beams`.

        Returns:
            The retriever.

        Raises:
            FileNotFoundError: If there is no such folder or repository, or it has no `frameseg_config.json`.
            ConnectionError: If the Hub cannot be reached.
            PermissionError: If the Hub refuses the token.
            ValueError: If it holds an adapter whose base cannot be made again (`pissa_niter_*`).
        """
        model, processor, config = load_pretrained(TINY_MODEL if path is None else path, **(model_kwargs or {}))
        return cls(model if device is None else model.to(device), processor, config, **kwargs)

    def save_pretrained(self, path: str | Path) -> None:
        """Write the model, the processor and `frameseg_config.json` into one folder.

        All is written beside the folder first and moved in at the end: an error or a kill on the way costs nothing that
        was there. Weights of an older model are removed, other files stay.

        Args:
            path: The folder; made when it does not exist.
        """
        folder = Path(path).resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.partial-") as made:
            partial = Path(made)
            self.model.save_pretrained(partial)
            save_heads(self.model, partial)
            self.processor.save_pretrained(partial)
            self.config.save(partial)
            new = [file.relative_to(partial) for file in partial.rglob("*") if file.is_file()]
            for name in new:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).replace(folder / name)
        for old in [path for pattern in _WEIGHTS for path in folder.glob(pattern)]:
            if Path(old.name) not in new:  # of a model in another number of files: loaded in place of the new
                old.unlink()

    def __call__(self, video_path: str | Path, query: str, *, num_beams: int | None = None) -> FramePrediction:
        """Answer one query about one video file.

        Args:
            video_path: Any video file.
            query: The sentence to look for.
            num_beams: Beams of this decoding; None takes the configured number.

        Returns:
            Moments, mask, probabilities and saliency; `vid` is the file's name without its ending.

        Raises:
            FileNotFoundError: If there is no such file.
            VideoReadError: If the file cannot be read.
            ValueError: If the query is blank.
        """
        return self.predict(self.read(video_path), [query], vid=Path(video_path).stem, num_beams=num_beams)[0]

    def read(self, video_path: str | Path, grid: FrameGrid | None = None) -> VideoFrames:
        """Read the frames the model looks at; use them for several queries and for pictures.

        Args:
            video_path: Any video file.
            grid: The frame windows when the duration is known (from annotations), or those of a part of a long video,
                as `config.frames.grid(150).part(300, 450)` gives; None takes the file's own duration, cut as the model
                was trained.

        Returns:
            The frames (F, H, W, 3) with their times (F,).
        """
        return read_frames(video_path, grid, self.config.frames)

    def predict(
        self, frames: VideoFrames, queries: Sequence[str], *, vid: str | None = None, num_beams: int | None = None
    ) -> list[FramePrediction]:
        """Answer queries about one video.

        Args:
            frames: The video, from `read`, or one part of it (see `proposals.merge_parts`). Frames on another pattern
                than that of the training are taken too, with one warning.
            queries: Sentences to look for.
            vid: Name of the video, kept in the predictions.
            num_beams: Beams of this decoding; None takes the configured number.

        Returns:
            One prediction per query, in their order.

        Raises:
            ValueError: If `queries` is a single string, `check_query` refuses one, `num_beams` is out of
                range, or the video has another number of frames than the model was trained with.
        """
        if isinstance(queries, str):
            raise ValueError(f"expected a list of queries, got the string {queries!r}: put it into a list")
        asked = self.config.frames
        if frames.grid.num_frames != asked.num_frames:
            raise ValueError(
                f"expected {asked.num_frames} frames, got {frames.grid.num_frames}: read the video with this "
                "retriever's read()"
            )
        self._warn_of_another_pattern(frames.grid)
        if frames.frames.ndim != 4:
            raise ValueError(
                f"expected one frame a window, of shape (F, H, W, 3), got {frames.frames.shape}: read the video with "
                "this retriever's read()"
            )
        for query in queries:
            check_query(query)  # all, before the first is answered
        num_beams = self.config.num_beams if num_beams is None else replace(self.config, num_beams=num_beams).num_beams
        predictions: list[FramePrediction] = []
        for first in range(0, len(queries), self.batch_size):
            batch = queries[first : first + self.batch_size]
            predictions += self._predict_batch(frames, batch, vid, num_beams)
        return predictions

    def _warn_of_another_pattern(self, grid: FrameGrid) -> None:
        """Say once that frames lie otherwise than in training; a part of a longer video has the same pattern."""
        trained = self.config.frames.grid(grid.duration_seconds).part(grid.start_seconds, grid.end_seconds)
        far = np.abs(grid.times - trained.times).max() > _SAME_TIME * grid.duration_seconds
        if far and not self._warned:
            self._warned = True
            warnings.warn(
                "these frames do not lie where those of the training videos did, so answers may be worse; take "
                f"frames.grid of this retriever's read(), or its part(start, end) ({self.config.frames.num_frames} "
                f"frames, {self.config.frames.grid_kind}, phase {self.config.frames.grid_phase:g})",
                stacklevel=3,
            )

    def _predict_batch(
        self, frames: VideoFrames, queries: Sequence[str], vid: str | None, num_beams: int
    ) -> list[FramePrediction]:
        per_window = self.prompt.pictures_per_window
        grid, shown_at = frames.grid.merged(per_window), frames.times_seconds.reshape(-1, per_window).mean(axis=1)
        pictures, times = [frames.frames] * len(queries), [shown_at] * len(queries)
        with lock_of(self.processor.tokenizer):
            inputs = encode_prompts(self.processor, self.prompt, queries, pictures, times)
        model = self.model
        with evaluating(model), autocasting(model.device, self.config.autocast):
            decoded = get_readout(self.config.readout)(
                model,
                _to_model(inputs, model),
                self.labels,
                num_frames=grid.num_frames,
                num_beams=num_beams,
            )
        decoded = DecodedFrames.of(decoded, self.config.readout, len(queries), grid.num_frames)
        return [
            to_prediction(mask, logits, grid, self.proposals, query=query, vid=vid)
            for query, mask, logits in zip(queries, decoded.mask, decoded.frame_logits, strict=True)
        ]


def _to_model(inputs: Mapping[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Move inputs to the model's device, and pixels to its dtype."""
    return {
        key: value.to(device=model.device, dtype=model.dtype if value.is_floating_point() else None)
        for key, value in inputs.items()
    }
