"""Text and images for xGen-MM: one `<image>` in the text becomes as many ids as the image has tokens."""

from __future__ import annotations

import os
from typing import Any

from transformers import AddedToken, AutoTokenizer
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import MultiModalData, ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import PROCESSOR_NAME, cached_file

from .configuration_xgenmm import XGenMMConfig
from .convert_xgenmm import REFERENCE_IMAGE_TOKENS
from .image_processing_xgenmm import XGenMMImageProcessor
from .tokenization_xgenmm import check_tokenizer, is_phi3_tokenizer

# Phi-3's turns. The assistant turn of a prompt is left open and ends with the newline that Phi-3's tokenizer drops.
XGENMM_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<image>' -}}{%- else -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|end|>' -}}"
    "{%- if not loop.last or add_generation_prompt -%}{{- '\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
)


class XGenMMProcessor(ProcessorMixin):
    """Prepare text and images together, so that text positions and logits positions are the same axis.

    Batches are padded on the left and get no extra start or end token: the chat template is complete.

    Args:
        image_processor: Usually `XGenMMImageProcessor`.
        tokenizer: Must know `image_token` as one token.
        num_image_tokens: Ids per image; the model's `resampler_config.num_latents`.
        image_token: The text that stands for one image.
        chat_template: Jinja template; None takes `XGENMM_CHAT_TEMPLATE`.

    Raises:
        ValueError: If `image_token` is not one token of the tokenizer, `num_image_tokens` is below 1, or a tokenizer
            that claims to be Phi-3's breaks the rules of the released model (`check_tokenizer`).

    Call it with `text` (one or several prompts) and `images`: flat (all images in reading order) or nested (one list
    or one (F, H, W, 3) array per prompt). It returns `input_ids`, `attention_mask` (B, L) and `pixel_values`
    (N, 3, H, W), all images sample after sample.
    """

    text_kwargs = {"padding": True, "padding_side": "left", "add_special_tokens": False}

    def __init__(
        self,
        image_processor: BaseImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        num_image_tokens: int = 128,
        image_token: str = "<image>",
        chat_template: str | dict[str, str] | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template or XGENMM_CHAT_TEMPLATE)
        if num_image_tokens < 1:
            raise ValueError(
                f"num_image_tokens must be at least 1, got {num_image_tokens}: use num_latents of the model."
            )
        ids = tokenizer.encode(image_token, add_special_tokens=False)
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ValueError(
                f"The tokenizer must know {image_token!r} as one token, got ids {ids}: "
                f"tokenizer.add_special_tokens({{'additional_special_tokens': [{image_token!r}]}})."
            )
        if is_phi3_tokenizer(tokenizer):
            check_tokenizer(tokenizer)
        self.num_image_tokens = num_image_tokens
        self.image_token = image_token
        self.image_token_id = ids[0]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
        """Load from a folder or repository, the reference's too; see `ProcessorMixin.from_pretrained`.

        The reference's has a tokenizer without the image tokens and the settings of its any-resolution mode: there
        the tokens are added as its code does, and images are prepared as `XGenMMImageProcessor` does.

        Args:
            pretrained_model_name_or_path: Folder or Hub repository.
            **kwargs: As in `ProcessorMixin.from_pretrained`.
        """
        hub_keys = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        hub_kwargs = {key: kwargs[key] for key in hub_keys if key in kwargs}
        # Never left open: transformers would ask on the terminal whether the folder's code shall run.
        trust = bool(kwargs.get("trust_remote_code"))
        own = cached_file(
            pretrained_model_name_or_path, PROCESSOR_NAME, _raise_exceptions_for_missing_entries=False, **hub_kwargs
        )
        if own is not None:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        config = XGenMMConfig.from_pretrained(pretrained_model_name_or_path, **hub_kwargs)
        # legacy=True would put a space token in front of the first turn.
        tokenizer = AutoTokenizer.from_pretrained(
            pretrained_model_name_or_path, legacy=False, trust_remote_code=trust, **hub_kwargs
        )
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in REFERENCE_IMAGE_TOKENS])
        size = config.vision_config.image_size
        image_processor = XGenMMImageProcessor(size={"height": size, "width": size})
        return cls(image_processor, tokenizer, num_image_tokens=config.resampler_config.num_latents)

    def validate_inputs(self, images: Any = None, text: Any = None, **kwargs: Any) -> None:
        """Check that every prompt has as many `<image>` as images.

        Raises:
            ValueError: If the numbers differ; with nested images the prompt is named.
        """
        super().validate_inputs(images=images, text=text, **kwargs)
        if images is None or text is None or not _is_nested(images):
            return
        if len(images) != len(text):
            raise ValueError(
                f"Expected one list of images per prompt, got {len(images)} lists for {len(text)} prompts: "
                "group the images by prompt or pass them flat."
            )
        for index, (prompt, group) in enumerate(zip(text, images, strict=True)):
            count = prompt.count(self.image_token)
            if count != len(group):
                raise ValueError(
                    f"Prompt {index} has {count} {self.image_token} but {len(group)} images: write one per image."
                )

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """Return the text that stands for one image after expansion."""
        return self.image_token * self.num_image_tokens

    def _get_num_multimodal_tokens(
        self, image_sizes: list[tuple[int, int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Count the ids of images of the given (height, width); the size does not matter."""
        if image_sizes is None:
            return MultiModalData()
        counts = [self.num_image_tokens] * len(image_sizes)
        return MultiModalData(num_image_tokens=counts, num_image_patches=[1] * len(image_sizes))


def _is_nested(images: Any) -> bool:
    """Tell images grouped by prompt (lists, or arrays of one axis more than an image) from flat images."""
    return isinstance(images, list | tuple) and all(
        isinstance(group, list | tuple) or getattr(group, "ndim", 3) == 4 for group in images
    )


__all__ = ["XGENMM_CHAT_TEMPLATE", "XGenMMProcessor"]
